"""What is asked alike of all that stands behind the maps of a backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from featurebank.pipelines.asking.layout import Layout
from featurebank.pipelines.asking.option import option
from featurebank.pipelines.asking.question import Question

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Case
    from featurebank.pipelines.jobs.workshop import Workshop

__all__ = ["MapQuestion"]

LARGEST = 4.0
"""Of an image on the canvas, in shares of what fits."""


@dataclass(frozen=True, kw_only=True)
class MapQuestion(Question):
    """A job that trains something behind the maps of a backbone on a square canvas, see `MapJob`."""

    job: ClassVar[bool] = True
    layout: ClassVar[Layout] = Layout(grouped=True)

    tuned: bool = option(False, "Train the backbone too; without it, it stays as it is.")
    cached: bool = option(True, "Extract a frozen backbone's maps once, and train on them.")
    cache_gb: float = option(8.0, "The most that cached maps may take.", hashed=False, least=0.0)
    px: int = option(800, "Side of the canvas that an image is fitted into.", least=32)
    strides: tuple[int, ...] = option((4, 8, 16, 32), "A stride of the backbone's maps that are used.", flag="--stride")
    windowed: bool = option(False, "A plain transformer attends within windows, but for four blocks (ViTDet).")
    channels: int = option(256, "Of what stands behind the maps.", least=8)
    epochs: int = option(12, "Passes over the train images.", least=1)
    batch_size: int = option(4, "Images of an update.", least=1)
    rate: float = option(2e-4, "The learning rate, AdamW's.", least=0.0)
    schedule: Literal["cosine", "step"] = option("cosine", "Of the rate; step divides it by ten after 27/36 and 33/36.")
    layer_decay: float = option(0.8, "With tuned: each layer's rate in shares of the next one's.", least=0.0)
    drop_path: float = option(0.0, "With tuned: how likely the last block is left out, less before.", least=0.0)
    batch_norm: Literal["fixed", "eval", "train"] = option(
        "fixed", "With tuned: the backbone's batch norms stay, learn weights alone (eval), or all (train)."
    )
    flip: float = option(0.5, "How likely an image is mirrored; 0 where left and right matter.", least=0.0)
    scales: tuple[float, float] = option(
        (1.0, 1.0),
        "Least and largest size of an image, drawn, in shares of what fits; other than 1, nothing is cached.",
    )
    seeds: tuple[int, ...] = option((0,), "Of a run; numbers are the mean over all.", flag="--run-seed")
    on: tuple[str, ...] = option((), "Another set to score too, DATASET or DATASET/SPLIT.", metavar="KEY", role=True)
    precision: Literal["float32", "bfloat16"] = option("float32", "Of passes.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be different numbers, at least one; found {self.seeds}")
        if not self.strides or any(stride not in {4, 8, 16, 32} for stride in self.strides):
            raise ValueError(f"strides must be of 4, 8, 16, 32; found {self.strides}")
        if self.px % 32:
            raise ValueError(f"px must be a multiple of 32; found {self.px}")
        for name in ("flip", "layer_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1; found {getattr(self, name):g}")
        if not 0 < self.scales[0] <= self.scales[1] <= LARGEST:
            raise ValueError(
                f"scales must be two numbers above 0 and at most {LARGEST:g}, the smaller first; found {self.scales}"
            )
        if not self.tuned and (self.drop_path or self.batch_norm != "fixed"):
            raise ValueError("drop_path must be 0, and batch_norm fixed, without tuned; set tuned: true")

    def read_beside(self, case: Case, workshop: Workshop | None) -> dict[str, Any]:
        """The objects of each set."""
        places = [entry.place for entry in case.every]
        return {} if workshop is None else {"objects": [workshop.objects_digest(place) for place in places]}

    @property
    def of_training(self) -> dict[str, Any]:
        """What of `Training` these options say; all but the shape."""
        from featurebank.pipelines.training.phase import Phase

        return {
            "side": self.px,
            "frozen": not self.tuned,
            "cached": self.cached and not self.tuned,
            "flip": self.flip,
            "scales": self.scales,
            "phase": Phase(
                rate=self.rate,
                epochs=self.epochs,
                warmup_epochs=0.05 * self.epochs,
                schedule=self.schedule,
                steps=(27 / 36, 33 / 36),
            ),
            "batch_size": self.batch_size,
            "layer_decay": self.layer_decay,
            "clip": 10.0,
            "drop_path": self.drop_path,
            "batch_norm": self.batch_norm,
            "windowed": self.windowed,
        }
