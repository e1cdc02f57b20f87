"""``featurebank probe``."""

from __future__ import annotations

import time

import typer

from featurebank.pipelines.probing import options
from featurebank.pipelines.stores import DEFAULT_STORE, StoreOption, existing_store
from featurebank.pipelines.streams import JsonOption, console, print_json, show_messages

__all__ = ["probe"]


def probe(  # noqa: PLR0917 - one for each option
    keys: options.Keys,
    store: StoreOption = DEFAULT_STORE,
    task: options.Tasks = None,
    backbone: options.OnlyBackbones = None,
    fingerprint: options.Fingerprints = None,
    output: options.OutputName = None,
    compare: options.Compare = False,
    group: options.Group = None,
    seed: options.Seed = None,
    device: options.Device = None,
    force: options.Force = False,
    as_json: JsonOption = False,
    protocol: options.Protocols = None,
    cs: options.CS = None,
    k: options.K = None,
    temperature: options.Temperatures = None,
    shots: options.Shots = None,
    fraction: options.Fractions = None,
    draws: options.Draws = None,
    text: options.Text = None,
    logit_scale: options.LogitScale = None,
    missing: options.Missing = None,
    target: options.Targets = None,
    train_masks: options.TrainMasks = None,
    test_masks: options.TestMasks = None,
    grid: options.Grid = None,
    ignore_index: options.IgnoreIndex = None,
    epochs: options.Epochs = None,
    on: options.On = None,
    own_head: options.OwnHead = False,
    classes: options.Classes = None,
) -> None:
    """Ask cached features a question: tables with 95 % intervals; what is known already is not computed again."""
    given = {
        "output": output, "seed": seed, "device": device, "protocol": protocol, "cs": cs, "k": k,
        "temperature": temperature, "shots": shots, "fraction": fraction, "draws": draws, "text": text,
        "logit_scale": logit_scale, "missing": missing, "target": target, "train_masks": train_masks,
        "test_masks": test_masks, "grid": grid, "ignore_index": ignore_index, "epochs": epochs, "on": on,
        "own_head": own_head, "classes": classes,
    }  # fmt: skip
    from featurebank.pipelines.probing import analysis, display, run
    from featurebank.pipelines.probing.selection import select

    start = time.perf_counter()
    show_messages(console(stderr=True))
    tasks = run.build_tasks(task or run.DEFAULT_TASKS, options.as_settings(given))
    found = existing_store(store)
    fitted = any(one.reads_train for one in tasks)
    selection = select(found, keys, backbones=backbone or (), fingerprints=fingerprint or (), train=fitted)
    analysis.check_analysis(selection.pairs, tasks, comparison=compare, column=group)
    report = run.run_probes(found, selection, tasks, force=force)
    comparisons = analysis.compare(found, report.probed, seed=seed or 0, force=force) if compare else []
    groups = analysis.group(found, report.probed, group, force=force) if group else []
    if as_json:
        print_json(display.report_json(report, comparisons=comparisons, groups=groups))
    else:
        seconds = time.perf_counter() - start
        display.render_probes(report, console(), seconds=seconds, comparisons=comparisons, groups=groups)
    if not report.ok:
        raise typer.Exit(1)
