"""What a backbone is worth where objects are to be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from featurebank.pipelines.asking.layout import Layout
from featurebank.pipelines.asking.option import option
from featurebank.pipelines.asking.question import Question

if TYPE_CHECKING:
    from featurebank.pipelines.asking.answer import Answer
    from featurebank.pipelines.asking.cases import Answered, Case
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.inputs import Rows
    from featurebank.pipelines.asking.results import Results
    from featurebank.pipelines.jobs.detection.job import DetectorTraining
    from featurebank.pipelines.jobs.workshop import Workshop

__all__ = ["Detect"]

LARGEST = 4.0
"""Of an image on the canvas, in shares of what fits."""


@dataclass(frozen=True, kw_only=True)
class Detect(Question):
    """The average precision of a detector on a backbone, frozen or tuned, and the same on other sites.

    A job: it reads images, and needs a configuration that says where they are.
    """

    job: ClassVar[bool] = True
    name: ClassVar[str] = "detect"
    layout: ClassVar[Layout] = Layout(index=("backbone", "score"), grouped=True)

    head: Literal["faster", "mask", "cascade", "cascade-mask"] = option("faster", "Faster, Mask or Cascade R-CNN.")
    tuned: bool = option(False, "Train the backbone too; without it, it stays as it is.")
    cached: bool = option(True, "Extract a frozen backbone's maps once, and train on them.")
    cache_gb: float = option(8.0, "The most that cached maps may take.", hashed=False, least=0.0)
    px: int = option(800, "Side of the canvas that an image is fitted into.", least=32)
    strides: tuple[int, ...] = option((4, 8, 16, 32), "A stride of the backbone's maps that are used.", flag="--stride")
    windowed: bool = option(False, "A plain transformer attends within windows, but for four blocks (ViTDet).")
    channels: int = option(256, "Of the pyramid.", least=8)
    anchor: float = option(8.0, "Side of an anchor, in strides.", least=0.5)
    box_head: Literal["2fc", "4conv1fc"] = option("2fc", "Layers that judge a box.")
    width: int = option(1024, "Of its linear layers.", least=8)
    box_loss: Literal["l1", "giou"] = option("l1", "Of a cascade's boxes: smooth L1, or generalised overlap.")
    heads: Literal["one", "bob"] = option("one", "One kind for all backbones, or the two of Battle of the Backbones.")
    proposals: int = option(1000, "Boxes of an image that are judged; in training twice as many.", least=1)
    sampled: int = option(512, "Of them, how many of an image are trained on.", least=4)
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
    repeat: float = option(0.0, "Repeat images of classes that a smaller share of images shows; LVIS: .001.", least=0.0)
    seeds: tuple[int, ...] = option((0,), "Of a run; numbers are the mean over all.", flag="--run-seed")
    on: tuple[str, ...] = option((), "Another set to score too, DATASET or DATASET/SPLIT.", metavar="KEY", role=True)
    agnostic: bool = option(False, "Pass over classes when detections are compared with objects.")
    least_score: float = option(0.05, "Of a detection that is scored.", least=0.0)
    detections: int = option(100, "Of an image, at most.", least=1)
    precision: Literal["float32", "bfloat16"] = option("float32", "Of passes.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be different numbers, at least one; found {self.seeds}")
        if not self.strides or any(stride not in {4, 8, 16, 32} for stride in self.strides):
            raise ValueError(f"strides must be of 4, 8, 16, 32; found {self.strides}")
        if self.px % 32:
            raise ValueError(f"px must be a multiple of 32; found {self.px}")
        for name in ("flip", "layer_decay", "repeat", "least_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1; found {getattr(self, name):g}")
        if not 0 < self.scales[0] <= self.scales[1] <= LARGEST:
            raise ValueError(
                f"scales must be two numbers above 0 and at most {LARGEST:g}, the smaller first; found {self.scales}"
            )
        if not self.tuned and (self.drop_path or self.batch_norm != "fixed"):
            raise ValueError("drop_path must be 0, and batch_norm fixed, without tuned; set tuned: true")
        if not self.head.startswith("cascade") and (self.box_loss, self.heads) != ("l1", "one"):
            raise ValueError(
                f"box_loss giou and heads bob must have a cascade; found head {self.head}: take cascade or cascade-mask"
            )

    @property
    def training(self) -> DetectorTraining:
        """All that determines the weights, besides backbone, images and seed."""
        from featurebank.pipelines.jobs.detection.heads import Shape
        from featurebank.pipelines.jobs.detection.job import DetectorTraining
        from featurebank.pipelines.training.phase import Phase

        shape = Shape(
            head=self.head,
            channels=self.channels,
            strides=tuple(sorted(self.strides)),
            anchor=self.anchor,
            box_head=self.box_head,
            width=self.width,
            box_loss=self.box_loss,
            heads=self.heads,
            proposals=self.proposals,
            sampled=self.sampled,
        )
        return DetectorTraining(
            shape=shape,
            side=self.px,
            windowed=self.windowed,
            frozen=not self.tuned,
            cached=self.cached and not self.tuned,
            flip=self.flip,
            scales=self.scales,
            repeat=self.repeat,
            phase=Phase(
                rate=self.rate,
                epochs=self.epochs,
                warmup_epochs=0.05 * self.epochs,
                schedule=self.schedule,
                steps=(27 / 36, 33 / 36),
            ),
            batch_size=self.batch_size,
            layer_decay=self.layer_decay,
            clip=10.0,
            drop_path=self.drop_path,
            batch_norm=self.batch_norm,
        )

    def run(self, rows: Rows) -> Answer:
        """COCO's numbers of boxes, and of masks where there are some, of the scored set and of others."""
        from featurebank.pipelines.jobs.detection.answering import Wanted, answer

        own = ("seed", "seeds", "agnostic", "least_score", "detections", "precision", "cache_gb")
        return answer(Wanted(training=self.training, **{name: getattr(self, name) for name in own}), rows)

    def read_beside(self, case: Case, workshop: Workshop | None) -> dict[str, Any]:
        """The objects of each set."""
        places = [entry.place for entry in case.every]
        return {} if workshop is None else {"objects": [workshop.objects_digest(place) for place in places]}

    def section(self, answered: Sequence[Answered], results: Results, album: Album) -> str:
        """The curves of each run, images with what was found in them, and which classes are confused."""
        from featurebank.pipelines.jobs.detection.picturing import detections_section
        from featurebank.pipelines.jobs.finetune.curves import curves_section

        pictures = detections_section(answered, results, album, agnostic=self.agnostic)
        return curves_section(answered) + pictures
