"""What a backbone is worth where objects are to be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from featurebank.pipelines.asking.layout import Layout
from featurebank.pipelines.asking.option import option
from featurebank.pipelines.jobs.maps.question import MapQuestion

if TYPE_CHECKING:
    from featurebank.pipelines.asking.answer import Answer
    from featurebank.pipelines.asking.cases import Answered
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.inputs import Rows
    from featurebank.pipelines.asking.results import Results
    from featurebank.pipelines.jobs.detection.job import DetectorTraining

__all__ = ["Detect"]


@dataclass(frozen=True, kw_only=True)
class Detect(MapQuestion):
    """The average precision of a detector on a backbone, frozen or tuned, and the same on other sites.

    A job: it reads images, and needs a configuration that says where they are.
    """

    name: ClassVar[str] = "detect"
    layout: ClassVar[Layout] = Layout(index=("backbone", "score"), grouped=True, rivals=False)

    head: Literal["faster", "mask", "cascade", "cascade-mask"] = option("faster", "Faster, Mask or Cascade R-CNN.")
    anchor: float = option(8.0, "Side of an anchor, in strides.", least=0.5)
    box_head: Literal["2fc", "4conv1fc"] = option("2fc", "Layers that judge a box.")
    width: int = option(1024, "Of its linear layers.", least=8)
    box_loss: Literal["l1", "giou"] = option("l1", "Of a cascade's boxes: smooth L1, or generalised overlap.")
    heads: Literal["one", "bob"] = option("one", "One kind for all backbones, or the two of Battle of the Backbones.")
    proposals: int = option(1000, "Boxes of an image that are judged; in training twice as many.", least=1)
    sampled: int = option(512, "Of them, how many of an image are trained on.", least=4)
    federated: int = option(0, "Of a cascade: judge so many classes of a batch, each on its own; LVIS: 50.", least=0)
    repeat: float = option(0.0, "Repeat images of classes that a smaller share of images shows; LVIS: .001.", least=0.0)
    agnostic: bool = option(False, "Pass over classes when detections are compared with objects.")
    least_score: float = option(0.05, "Of a detection that is scored.", least=0.0)
    detections: int = option(100, "Of an image, at most.", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("repeat", "least_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1; found {getattr(self, name):g}")
        if not self.head.startswith("cascade") and (self.box_loss, self.heads, self.federated) != ("l1", "one", 0):
            raise ValueError(
                f"box_loss giou, heads bob and federated must have a cascade; found head {self.head}: take cascade or "
                "cascade-mask"
            )

    @property
    def training(self) -> DetectorTraining:
        """All that determines the weights, besides backbone, images and seed."""
        from featurebank.pipelines.jobs.detection.heads import Shape
        from featurebank.pipelines.jobs.detection.job import DetectorTraining

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
            federated=self.federated,
        )
        return DetectorTraining(shape=shape, repeat=self.repeat, **self.of_training)

    def run(self, rows: Rows) -> Answer:
        """COCO's numbers of boxes, and of masks where there are some, of the scored set and of others."""
        from featurebank.pipelines.jobs.detection.answering import Wanted, answer

        own = ("seed", "seeds", "agnostic", "least_score", "detections", "precision", "cache_gb")
        return answer(Wanted(training=self.training, **{name: getattr(self, name) for name in own}), rows)

    def section(self, answered: Sequence[Answered], results: Results, album: Album) -> str:
        """The curves of each run, images with what was found in them, and which classes are confused."""
        from featurebank.pipelines.jobs.detection.picturing import detections_section
        from featurebank.pipelines.jobs.finetune.curves import curves_section

        pictures = detections_section(answered, results, album, agnostic=self.agnostic)
        return curves_section(answered) + pictures
