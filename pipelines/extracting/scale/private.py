"""A cluster of this machine that belongs to one user: every connection needs its certificate, and no page is served.

Loopback is no boundary between the users of a machine. Whoever reaches a scheduler or worker of Dask runs code as the
user who started it, and the web pages of both tell what is going on.
"""

from __future__ import annotations

from typing import Any

from distributed import Nanny, Scheduler, Security, SpecCluster, Worker

__all__ = ["PrivateScheduler", "PrivateWorker", "private_cluster"]


class PrivateScheduler(Scheduler):
    """A scheduler without web pages; Dask would serve them at port 8787 even without a dashboard."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Does nothing."""


class PrivateWorker(Worker):
    """A worker without web pages."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Does nothing."""


def private_cluster(workers: int, **options: Any) -> SpecCluster:
    """Processes of this machine that speak TLS with a certificate made now, in memory, for this cluster alone.

    Args:
        workers: how many.
        options: of each worker's nanny.
    """
    security = Security.temporary()  # type: ignore[no-untyped-call]
    shared = {"host": "127.0.0.1", "protocol": "tls://", "security": security}
    worker = {
        "cls": Nanny,
        "options": {**shared, "nthreads": 1, "worker_class": PrivateWorker, "dashboard": False, **options},
    }
    scheduler = {"cls": PrivateScheduler, "options": {**shared, "port": 0, "dashboard": False}}
    return SpecCluster(  # type: ignore[no-untyped-call]
        workers=dict.fromkeys(range(workers), worker),
        worker=worker,
        scheduler=scheduler,
        security=security,
        silence_logs=options.get("silence_logs", False),
    )
