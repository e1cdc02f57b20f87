"""The command line: ``featurebank`` and ``python -m featurebank``."""

import sys

from featurebank.store.requirements import advice


def main() -> None:
    """Runs the command line, or says which extra it needs."""
    try:
        from featurebank.pipelines.cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"error: the command line {advice(error.name or '', 'cli')}")
    run()


if __name__ == "__main__":
    main()
