"""The detectors of Battle of the Backbones, a table: a row is a configuration, and ``docs/battle.md`` is made of it.

Goldblum et al. 2023, arXiv:2310.19909. ``battle.csv`` has what their configuration files say; `configuration` says it
in this package's words. ``python -m featurebank.pipelines.jobs.detection.battle --row NAME`` prints a row's.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, cast

import yaml

from featurebank.store.errors import unknown_name

__all__ = ["Battle", "configuration", "find", "markdown", "rows"]

Images = Literal["coco", "sim10k"]
Maps = Literal["stages", "plain", "diffusion"]

GPUS = 8
"""The study does not say how many it had; a batch of 16 is what its rates were made for."""
EPOCHS = 36
IN_WINDOWS = {"sam_vit_base"}
"""Plain transformers that attend within windows by themselves."""

_DATA: Mapping[Images, Mapping[str, Any]] = {
    "coco": {"datasets": [{"name": "coco", "splits": ["train", "val"]}], "of": "coco/train:val", "on": []},
    "sim10k": {
        "datasets": [
            {"name": "sim10k", "splits": ["trainval-train80", "trainval-test20"]},
            {"name": "cityscapes", "splits": ["val"]},
        ],
        "of": "sim10k/trainval-train80:trainval-test20",
        "on": ["cityscapes/val"],
    },
}
# An image of 4:3 is 1,088 x 816 on its canvas where the study has a shorter side of 800, in training of 480 to 800.
_CANVAS: Mapping[tuple[Images, Maps], Mapping[str, Any]] = {
    ("coco", "stages"): {"px": 1088, "scales": [0.6, 1.0]},
    ("coco", "plain"): {"px": 1024, "scales": [0.1, 2.0]},
    ("coco", "diffusion"): {"px": 512},
    ("sim10k", "stages"): {"px": 1024, "scales": [0.1, 2.0]},
    ("sim10k", "plain"): {"px": 1024, "scales": [0.1, 2.0]},
}


@dataclass(frozen=True, kw_only=True)
class Battle:
    """One row.

    Attributes:
        name: set, backbone and weights.
        set: what it is trained on.
        backbone: as `featurebank.extract.backbones` knows it.
        maps: of several strides; one, of a plain transformer; or of a diffusion model.
        weights: of the backbone: frozen, tuned, or tuned from a random initialisation.
        rates: that were tried.
        per_gpu: images of an update on each GPU.
        drop_path: of the backbone, where it is tuned.
        half: whether passes were in half precision.
        box_ap: COCO's AP of boxes that those who published the weights or the recipe report; ``None`` where none is.
        mask_ap: of masks.
        published_by: who reports them.
    """

    name: str
    set: Images
    backbone: str
    maps: Maps
    weights: Literal["frozen", "tuned", "random"]
    rates: tuple[float, ...]
    per_gpu: int
    drop_path: float
    half: bool
    box_ap: float | None
    mask_ap: float | None
    published_by: str


@functools.cache
def rows() -> Mapping[str, Battle]:
    """All rows by name, in the table's order.

    >>> row = rows()["coco-convnext_tiny-tuned"]
    >>> row.rates, row.drop_path
    ((8e-05, 0.0001, 0.0002, 0.0003), 0.4)
    """
    text = (importlib.resources.files("featurebank.pipelines.jobs.detection") / "battle.csv").read_text("utf-8")
    return {line["name"]: _row(line) for line in csv.DictReader(text.splitlines())}


def find(name: str) -> Battle:
    """The row of a name.

    Raises:
        UnknownNameError: no such row; the nearest spellings are listed.
    """
    if name not in rows():
        raise unknown_name("row of the battle", name, rows())
    return rows()[name]


def configuration(row: Battle, heads: Literal["one", "bob"] = "bob") -> dict[str, Any]:
    """What ``featurebank detect`` takes, as plain YAML: a detector for each rate.

    Args:
        row: which.
        heads: those of the study, which differ between plain transformers and others; or one kind for all.

    >>> configuration(rows()["sim10k-dino_vit_small-frozen"])["detect"][0]["options"]["on"]
    ['cityscapes/val']
    """
    data = _DATA[row.set]
    common: dict[str, Any] = {
        "head": "cascade-mask" if row.set == "coco" else "cascade",
        "box_head": "4conv1fc" if row.set == "coco" or row.maps == "plain" else "2fc",
        **_CANVAS[row.set, row.maps],
        "epochs": EPOCHS,
        "schedule": "step",
        "batch_size": GPUS * row.per_gpu,
        "precision": "bfloat16" if row.half else "float32",
    }
    if heads == "bob":
        giou = row.set == "coco" and row.maps != "plain"
        common |= {"heads": "bob", "box_loss": "giou" if giou else "l1"}
    if row.maps == "plain" and row.backbone not in IN_WINDOWS:
        common |= {"windowed": True}
    if row.weights != "frozen":
        common |= {"tuned": True, "layer_decay": 1.0, "drop_path": row.drop_path}
        if "resnet" in row.backbone:
            common |= {"batch_norm": "train" if row.weights == "random" else "eval"}
    if data["on"]:
        common |= {"on": data["on"]}
    return {
        "backbones": [f"{row.backbone}@random" if row.weights == "random" else row.backbone],
        "datasets": deepcopy(data["datasets"]),
        "detect": [{"of": data["of"], "options": {**deepcopy(common), "rate": rate}} for rate in row.rates],
    }


def markdown() -> str:
    """``docs/battle.md``: the table, and what of the study is told otherwise."""
    every = rows().values()
    coco, sim10k = ([row for row in every if row.set == name] for name in ("coco", "sim10k"))
    rates = sum(len(row.rates) for row in coco)
    return "\n".join([
        *_INTRODUCTION.format(coco=len(coco), runs=rates, sim10k=len(sim10k)).strip().splitlines(),
        "",
        "## COCO",
        "",
        "| row | backbone | rates | images a GPU | drop path | half | published, box / mask AP | measured here |",
        "|---|---|---|---|---|---|---|---|",
        *(f"{_cells(row)} {_published(row)} | no: needs a GPU |" for row in coco),
        "",
        "## Sim10k to Cityscapes",
        "",
        "| row | backbone | rates | images a GPU | drop path | half | measured here |",
        "|---|---|---|---|---|---|---|",
        *(f"{_cells(row)} no: needs a GPU |" for row in sim10k),
        "",
    ])  # fmt: skip


def _cells(row: Battle) -> str:
    rates = ", ".join(f"{rate:.0e}".replace("e-0", "e-") for rate in row.rates)
    drop = "" if row.weights == "frozen" or not row.drop_path else f"{row.drop_path:g}"
    return f"| `{row.name}` | `{row.backbone}` | {rates} | {row.per_gpu} | {drop} | {'yes' if row.half else ''} |"


def _published(row: Battle) -> str:
    return "" if row.box_ap is None else f"{row.box_ap} / {row.mask_ap} ({row.published_by})"


def _row(line: Mapping[str, str]) -> Battle:
    given: dict[str, Any] = dict(line)
    given["rates"] = tuple(float(rate) for rate in line["rates"].split())
    given |= {"per_gpu": int(line["per_gpu"]), "drop_path": float(line["drop_path"]), "half": line["half"] == "yes"}
    given |= {name: float(line[name]) if line[name] else None for name in ("box_ap", "mask_ap")}
    return Battle(**given)


_INTRODUCTION = """
# The detectors of Battle of the Backbones

Made from `pipelines/jobs/detection/battle.csv` by `python -m featurebank.pipelines.jobs.detection.battle`. A row is a
configuration, with a detector for each of its rates:

<!-- not run: needs COCO -->
```sh
python -m featurebank.pipelines.jobs.detection.battle --row coco-convnext_tiny-frozen > run.yaml
featurebank detect run.yaml
```

The study (Goldblum et al. 2023, arXiv:2310.19909) trains Cascade Mask R-CNN on COCO, and Cascade R-CNN on Sim10k that
is scored on Cityscapes, on each backbone: frozen, tuned, and for some architectures tuned from random weights. Its code
has 221 files for COCO, of which 59 differ in more than the rate. Three of those are parts of others and one differs
from its like in a comment alone: that leaves **{coco} detectors**, with their rates {runs} runs. For Sim10k there are
56, at one rate; here are the {sim10k} that freeze all of a backbone or nothing.

**No number here was measured by this project, and none is the study's**, whose tables were not to be had. Published
values are from those who published the weights or the recipe, with other recipes than the study's: ConvNeXt
(arXiv:2201.03545; rates by layer), ViTDet (arXiv:2203.16527; 100 epochs, a batch of 64), mmdetection's list of models
(36 epochs at several scales). They say what a run should come near to.

As the study has it: heads, overlaps and shares of a cascade's stages, norms, the loss of boxes, 36 epochs with the
rate divided by ten after 27 and 33, AdamW with a weight decay of .05, drop path, weights, rates, plain transformers in
windows with four global blocks, on images of large-scale jitter. `--heads one` has one kind of heads for all backbones
in place of its two.

Otherwise than the study:

- Batches are eight times a GPU's images: how many GPUs it had is not said.
- Canvases are square, 1,088 pixels where it has a shorter side of 800. At several scales it also cuts out a part of
  every second image first; that is left out.
- Half precision is bfloat16, with boxes and scores in float32. Gradients are clipped at 10. The warm-up is a twentieth
  of the epochs, not 1,000 steps.
- Boxes are the same for all classes, regions are sampled once, and one mask head learns from the first stage, as in
  detectron2; there each class has its own boxes, each stage samples and has a mask head. Batch norms of heads are
  those of each process.
- Stable Diffusion's middle level, of stride 64, is a pooled one here.
- MoCo v3's small transformer has its twelve attention heads; the study builds it with six, into which the weights fit.
- Random networks with batch norms learn their statistics; those of the study do so on COCO alone. On Sim10k some of its
  ResNets keep the first stage, random or not: these six are left out.
- On Sim10k its plain transformers are trained by SGD at 1e-4, as their files change the rate of an optimiser that they
  do not replace; here all are trained by AdamW. A fifth of Sim10k is kept to be scored too. Its one class is `car`, a
  line of the answer.
"""


def _print() -> Iterator[str]:
    import argparse

    parser = argparse.ArgumentParser(description="A row's configuration as YAML; without one, docs/battle.md.")
    parser.add_argument("--row", help="Its name.")
    parser.add_argument("--heads", choices=("one", "bob"), default="bob", help="One kind for all, or the study's two.")
    given = parser.parse_args()
    if given.row is None:
        yield markdown()
    else:
        own = configuration(find(given.row), cast("Any", given.heads))
        yield yaml.safe_dump(own, sort_keys=False, default_flow_style=None, width=120)


if __name__ == "__main__":
    import sys

    sys.stdout.writelines(_print())
