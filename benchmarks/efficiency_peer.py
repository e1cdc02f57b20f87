"""Against the way in which timm's benchmark.py measures throughput: the same model, size, batch, precision and threads.

Its loop: random normalised images on the device, ten steps to warm up, forty that are timed, one synchronisation a
step, the rate of all of them together. Ours is what ``featurebank efficiency`` times, pixels and their normalisation
included. Passes take turns, so that whatever else the machine does hits all alike. Ours keeps its memory in the order
of channels last; so does the reference, as timm's ``--channels-last``, and timm's default is printed beside it. Then
the p50 of two fresh processes: how well one repeats.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Sequence

import timm
import torch
from harness import alternate, environment, report

from featurebank.extract.compute import numerics
from featurebank.extract.device import resolve_device, resolve_precision
from featurebank.extract.memory import keep_freed_memory
from featurebank.pipelines.jobs.efficiency.measuring import Bench
from featurebank.pipelines.jobs.efficiency.record import Wish
from featurebank.pipelines.jobs.efficiency.rounds import child

MODELS = ("resnet50", "vit_small_patch16_224", "mobilenetv2_100")
WARM_UP, STEPS = 10, 40


def step(name: str, wish: Wish, batch: int, *, channels_last: bool) -> Callable[[], None]:
    """One step of timm's loop."""
    device, dtype = torch.device(wish.device), getattr(torch, wish.precision)
    order = torch.channels_last if channels_last else torch.contiguous_format
    model = timm.create_model(name, pretrained=False).eval().to(device=device, dtype=dtype, memory_format=order)  # type: ignore[call-overload]
    size = model.pretrained_cfg["input_size"]
    images = torch.randn((batch, *size), device=device, dtype=dtype).contiguous(memory_format=order)

    def run() -> None:
        with torch.no_grad():
            model(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def compare(name: str, wish: Wish) -> None:
    """One model: passes in turns, and the p50 of two processes."""
    batch = wish.batch or 1
    bench = Bench(wish)
    pixels = bench.pixels(batch)
    seconds = alternate(
        {
            "ours": lambda: bench.run(pixels),
            "timm, channels last": step(name, wish, batch, channels_last=True),
            "timm, its default": step(name, wish, batch, channels_last=False),
        },
        repeats=STEPS,
        warmup=WARM_UP,
    )
    rates = {case: batch * len(found) / sum(found) for case, found in seconds.items()}
    middle = {case: batch / statistics.median(found) for case, found in seconds.items()}
    threads = f", {wish.threads} threads" if wish.device == "cpu" else ""
    print(f"\n{name}, batch {batch}, {wish.device}, {wish.precision}{threads}  [{environment()}, load {load()}]")
    for case in seconds:
        print(f"{case:<20} {rates[case]:>9.2f} images/s, {middle[case]:>9.2f} by the median pass")
    both = ("ours", "timm, channels last")
    report(
        f"efficiency_peer/{name}",
        ours=rates[both[0]],
        reference=rates[both[1]],
        unit="images/s",
        bound="ratio .95 to 1.05",
        by_median=middle[both[0]] / middle[both[1]],
        default_order=rates["timm, its default"],
    )
    first, second = (1e3 * statistics.median(child(wish)["latency"]) for _ in range(2))
    print(f"p50 of two processes: {first:.2f} and {second:.2f} ms, load {load()}")
    report(
        f"efficiency_peer/{name}_again",
        ours=second,
        reference=first,
        unit="ms",
        bound="ratio .95 to 1.05 on an idle machine",
        load=os.getloadavg()[0],
    )


def load() -> str:
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=MODELS)
    args = parser.parse_args(arguments)
    device = resolve_device(args.device)
    precision = resolve_precision(args.precision, device)
    if device == "cpu":
        keep_freed_memory()
    with numerics():
        torch.set_num_threads(args.threads)
        for name in [args.only] if args.only else MODELS:
            wish = Wish(
                backbone=f"timm:{name}", device=device, precision=precision, threads=args.threads, batch=args.batch
            )
            compare(name, wish)


if __name__ == "__main__":
    main()
