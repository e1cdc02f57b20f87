"""``featurebank retrieve``."""

from __future__ import annotations

import time

import typer

from featurebank.pipelines.probing import options
from featurebank.pipelines.retrieving import options as retrieve_options
from featurebank.pipelines.stores import DEFAULT_STORE, StoreOption, existing_store
from featurebank.pipelines.streams import JsonOption, console, print_json, show_messages

__all__ = ["retrieve"]


def retrieve(  # noqa: PLR0917 - one for each option
    keys: retrieve_options.Keys,
    store: StoreOption = DEFAULT_STORE,
    backbone: options.OnlyBackbones = None,
    fingerprint: options.Fingerprints = None,
    gallery: retrieve_options.Gallery = None,
    queries: retrieve_options.Queries = None,
    compare: retrieve_options.Compare = False,
    output: retrieve_options.OutputName = None,
    protocol: retrieve_options.Protocols = None,
    by: retrieve_options.By = None,
    ground_truth: retrieve_options.GroundTruth = None,
    per_class: retrieve_options.PerClass = None,
    cluster: retrieve_options.Cluster = None,
    seed: retrieve_options.Seed = None,
    force: options.Force = False,
    as_json: JsonOption = False,
    power: retrieve_options.Power = None,
    whiten: retrieve_options.Whiten = None,
    components: retrieve_options.Components = None,
    augment: retrieve_options.Augment = None,
    expand: retrieve_options.Expand = None,
    rerank: retrieve_options.Rerank = None,
    index: retrieve_options.Index = None,
    nprobe: retrieve_options.NProbe = None,
    ef_search: retrieve_options.EfSearch = None,
    depth: retrieve_options.Depth = None,
    html: retrieve_options.Html = None,
    images: retrieve_options.Images = None,
    k: retrieve_options.K = None,
) -> None:
    """Find the rows that belong together by cached features: a protocol's metrics with 95 % intervals, and a page."""
    given = {
        "output": output, "queries": queries, "protocol": protocol, "by": by, "ground_truth": ground_truth,
        "per_class": per_class, "cluster": cluster, "seed": seed, "power": power, "whiten": whiten,
        "components": components, "augment": augment, "rerank": rerank, "index": index, "nprobe": nprobe,
        "ef_search": ef_search, "depth": depth,
        "expand": retrieve_options.parse_expand(expand),
    }  # fmt: skip
    from featurebank.extract.assets import cache_dir
    from featurebank.pipelines.retrieving import comparison, display, run, selection
    from featurebank.pipelines.retrieving.comparison_table import comparison_json, render_comparisons
    from featurebank.pipelines.retrieving.pictures import plan_page
    from featurebank.pipelines.retrieving.task import build_task

    start = time.perf_counter()
    show_messages(console(stderr=True))
    found = existing_store(store)
    tuned = comparison.TUNED if compare else ()
    # Not in the store: FAISS reads whatever bytes it finds, and a store may be a stranger's.
    task = build_task({"indexes": cache_dir() / "indexes"} | {n: v for n, v in given.items() if n not in tuned})
    lookups = selection.look_up(
        found, keys, task, backbones=backbone or (), fingerprints=fingerprint or (), gallery=gallery
    )
    if compare:
        comparisons = comparison.compare(found, lookups, given, page=(html, images, k), force=force)
        if as_json:
            print_json(comparison_json(comparisons))
        else:
            render_comparisons(comparisons, console(), seconds=time.perf_counter() - start)
        if not all(one.report.ok for one in comparisons):
            raise typer.Exit(1)
        return
    selection.check_lookups(found, lookups, k=k)
    page = plan_page(found, lookups, html, images=images, k=k)
    report = run.run_lookups(found, lookups, force=force)
    written = page is not None and page.write(report)
    shown = html if written else None
    if as_json:
        print_json(display.report_json(report, task, page=shown))
    else:
        display.render_retrievals(report, task, console(), seconds=time.perf_counter() - start, page=shown)
    if not report.ok:
        raise typer.Exit(1)
