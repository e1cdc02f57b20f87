"""``featurebank ood``."""

from __future__ import annotations

import time
from typing import Any

import typer

from featurebank.pipelines.ood import options as ood_options
from featurebank.pipelines.probing import options
from featurebank.pipelines.stores import DEFAULT_STORE, StoreOption, existing_store
from featurebank.pipelines.streams import JsonOption, console, print_json, show_messages

__all__ = ["ood"]


def ood(  # noqa: PLR0917 - one for each option
    id_key: ood_options.InKey = None,
    ood_keys: ood_options.OutKeys = None,
    near: ood_options.NearKeys = None,
    id_classes: ood_options.IdClasses = None,
    shifted: ood_options.ShiftedKeys = None,
    validation: ood_options.ValidationKey = None,
    scores: ood_options.Names = None,
    head: ood_options.Heads = None,
    text: ood_options.Texts = None,
    store: StoreOption = DEFAULT_STORE,
    backbone: options.OnlyBackbones = None,
    fingerprint: options.Fingerprints = None,
    output: options.OutputName = None,
    draws: ood_options.IntervalDraws = None,
    seed: options.Seed = None,
    device: options.Device = None,
    force: options.Force = False,
    as_json: JsonOption = False,
    benchmark: ood_options.BenchmarkName = None,
    data: ood_options.Data = None,
    lists: ood_options.Lists = None,
    html: ood_options.Page = None,
    images: ood_options.Images = None,
) -> None:
    """Tell in-distribution rows from others by every post-hoc score of cached features, best score first."""
    from featurebank.pipelines.extracting.display import live
    from featurebank.pipelines.ood import display, run

    start = time.perf_counter()
    err = console(stderr=True)
    show_messages(err)
    opened: dict[str, Any] = {}
    if benchmark is None:
        keys = ood_options.parse_keys(
            id_key,
            ood=ood_keys,
            near=near,
            shifted=shifted,
            tuning=validation,
            id_classes=id_classes,
            data=data,
            lists=lists,
        )
        found = existing_store(store)
    else:
        ood_options.check_benchmark(id_key, ood_keys, near, shifted, validation, id_classes)
        with live(err) as observer:
            keys, found, opened = run.prepare(
                benchmark, store, backbone or (), data=data, lists=lists, device=device, observer=observer
            )
    given = {"scores": scores, "head": head, "text": text, "output": output, "draws": draws, "seed": seed}
    report = run.run_ood(
        found,
        keys,
        {**given, "device": device},
        backbones=backbone or (),
        fingerprints=fingerprint or (),
        html=html,
        images=images or (),
        opened=opened,
        force=force,
    )
    if as_json:
        print_json(display.report_json(report))
    else:
        display.render_ood(report, console(), seconds=time.perf_counter() - start)
    if not report.ok:
        raise typer.Exit(1)
