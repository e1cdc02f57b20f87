"""``featurebank backbones``: the zoo as a table, one backbone in full, and ``docs/backbones.md``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from featurebank.pipelines.streams import JsonOption, console, print_json
from featurebank.pipelines.tables import titled_table

if TYPE_CHECKING:
    from featurebank.extract.backbones.zoo import ZooEntry

__all__ = ["backbones", "markdown"]

_HEAD = """\
# Backbones

Made from `extract/backbones/zoo.csv` by `python -m featurebank.pipelines.keeping.backbones`. A name is used as it is,
with `@random` or `@random:SEED` behind it for the same architecture at its random initialisation. Heads, dimension,
number of parameters and preprocessing are compared with this table whenever a network is built. Every tensor of a
checkpoint that is missing, left over or of another shape is an error, unless the table lists it.

Behind any name, `@96px` asks for images of 96 x 96 pixels, the resize before the crop in proportion, and `@flip` for
mirrored ones: `mobilenetv2@random:7@96px@flip` has them in this order. Each is a backbone of its own, with a
key of its own. Position embeddings of timm's architectures are resampled as timm does it; an architecture that takes
one size alone says so. What a side has beyond a multiple of the patch, a ViT may not see: for patches of 14 take 98,
not 96.

`@windowed`, behind the size, is a plain transformer of timm on large images, as ViTDet has it: blocks attend within
windows of 14 x 14 patches, four of them to all: `mae_vit_base@1024px@windowed`. Its weights go into timm's SAM-ViT,
every tensor accounted for: relative positions begin at zero, class token, registers and classifier are left out.
Rotary positions, gated layers and what else SAM-ViT has no place for are refused by name. What it gives is another
network's: patches do not see the class token, nor windows each other.

Whatever its source, `outputs: [cut.6]` stores what enters a network's sixth block: all below has run, nothing from
there on. Blocks are counted from 1 behind the stem, in the order in which they run; an unknown one is answered with
those there are.

Any other checkpoint, by its source:

| name | what it is |
|---|---|
| `timm:ARCHITECTURE.TAG` | timm's zoo; `checkpoint:` takes a local file, pruned ones too |
| `torchvision:MODEL/WEIGHTS` | torchvision's classification models; of those with maps `stages.3.features` too |
| `open_clip:ARCHITECTURE/TAG` | image towers, `pooled` and, projected, `embedding`; and [their texts](asking.md) |
| `diffusers:REPOSITORY?px=512&prompt=TEXT` | Stable Diffusion's encoder; `vae.1.mean`, `mid.0.mean`, `down.2.mean_t9` |
| `url:ARCHITECTURE=ADDRESS#SHA256` | a file on the web for an architecture of timm |
| `hf:FOLDER` | a folder of transformers' own networks; its code is not run; CLIP and SigLIP have `embedding`, texts |
| `tuned:NAME`, `tuned:FOLDER` | what `featurebank finetune` has made: of the store's folder `tuned`, or of any folder |
| `onnx:FILE` | a graph for onnxruntime that holds all its tensors, with its preprocessing in a JSON file beside it |
| `python:FILE.py:FUNCTION`, `python:PACKAGE.MODULE:FUNCTION` | [your own](adding-a-backbone.md) |

Weights inside packages, for machines without a model hub: PACKAGED.
"""


def backbones(
    name: Annotated[
        str | None, typer.Argument(help="A backbone: all known of it; or part of a name, a family.")
    ] = None,
    style: Annotated[str | None, typer.Option("--style", help="Only supervised, self-supervised …")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the backbones known by short names; of one, say what its weights are and expect."""
    from featurebank.extract.backbones import zoo
    from featurebank.extract.errors import search
    from featurebank.store.errors import UnknownNameError, unknown_name

    entries = list(zoo.entries().values())
    if name is not None:
        try:
            _one(name, as_json=as_json)
            return
        except UnknownNameError:
            about = {
                entry.name: (*entry.aliases, entry.reference, entry.method, entry.architecture) for entry in entries
            }
            if not (matching := search(name, about)):
                raise
            entries = [entry for entry in entries if entry.name in matching]
    if style is not None:
        known = {entry.style for entry in entries}
        if style not in known:
            raise unknown_name("style of pretraining", style, known)
        entries = [entry for entry in entries if entry.style == style]
    if as_json:
        print_json({"backbones": [_json(entry) for entry in entries]})
    else:
        _print_table(entries, console())


def markdown() -> str:
    """``docs/backbones.md``: every backbone of the zoo, in its order."""
    from featurebank.extract.backbones import zoo
    from featurebank.extract.backbones.packaged import ENTRIES

    entries = zoo.entries().values()
    lines = [
        _HEAD.replace("PACKAGED", ", ".join(f"`{name}`" for name in ENTRIES)),
        f"| {' | '.join(_COLUMNS)} |",
        f"|{'---|' * len(_COLUMNS)}",
        *(f"| {' | '.join(cell(entry) for cell in _COLUMNS.values())} |" for entry in entries),
        "",
        "## Other names of the same checkpoints",
        "",
        *(f"- `{entry.name}`: {', '.join(f'`{a}`' for a in entry.aliases)}" for entry in entries if entry.aliases),
    ]
    return "\n".join(lines) + "\n"


def _one(name: str, *, as_json: bool) -> None:
    from featurebank.extract.backbones import describe, zoo

    entry = zoo.find(name.partition("@")[0])
    facts = {**describe(name)} if entry is None else _json(entry)
    if as_json:
        print_json({"name": name, **facts})
        return
    out = console()
    out.print(entry.name if entry else name, style="bold", soft_wrap=True)
    for label, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        if text and label != "name":
            out.print(Text.assemble((f"  {label:<13}", "dim"), f" {text}"), soft_wrap=True)


def _json(entry: ZooEntry) -> dict[str, Any]:
    record = entry.preprocessing
    given = {key: value for key, value in vars(entry).items() if key != "preprocessing"}
    return {
        **given,
        "aliases": list(entry.aliases),
        "px": record.height,
        "resize": _resize(entry),
        "mean": list(record.mean),
        "std": list(record.std),
    }


def _print_table(entries: Sequence[ZooEntry], out: Console) -> None:
    table = titled_table(f"{len(entries)} backbones", "name", "style", "method", "data", "px", "dim", "params")
    for entry in entries:
        size = str(entry.preprocessing.height)
        cells = (entry.name, entry.style, entry.method, entry.data, size, str(entry.dimension), _millions(entry))
        table.add_row(*cells)
    out.print(table)
    out.print("  featurebank backbones NAME: its weights, preprocessing and paper", soft_wrap=True, highlight=False)


def _resize(entry: ZooEntry) -> str:
    record = entry.preprocessing
    how = {"shorter": "shorter side", "longer": "longer side", "exact": "both sides", "none": "none"}[record.resize]
    return f"{how} {record.resize_height}, {record.interpolation}"


def _place(checkpoint: str) -> str:
    return f"[{checkpoint.rpartition('/')[2]}]({checkpoint})" if "://" in checkpoint else f"`{checkpoint}`"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _millions(entry: ZooEntry) -> str:
    return f"{entry.parameters / 1e6:.1f} M"


_COLUMNS: Mapping[str, Callable[[ZooEntry], str]] = {
    "name": lambda e: f"`{e.name}`",
    "reference": lambda e: f"`{e.reference}`",
    "checkpoint": lambda e: _place(e.checkpoint),
    "style": lambda e: e.style,
    "method": lambda e: e.method,
    "data": lambda e: e.data,
    "px": lambda e: str(e.preprocessing.height),
    "resize": _resize,
    "mean": lambda e: _numbers(e.preprocessing.mean),
    "std": lambda e: _numbers(e.preprocessing.std),
    "pooled": lambda e: e.pooling,
    "dimension": lambda e: str(e.dimension),
    "heads": lambda e: e.heads,
    "parameters": _millions,
    "licence": lambda e: e.licence,
    "paper": lambda e: f"[{e.paper}](https://arxiv.org/abs/{e.paper})",
}


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
