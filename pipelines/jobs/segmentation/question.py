"""``featurebank segment``: segmenters on backbones, trained on images with masks, and their overlaps with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from featurebank.pipelines.asking.option import option
from featurebank.pipelines.jobs.maps.question import MapQuestion

if TYPE_CHECKING:
    from featurebank.pipelines.asking.answer import Answer
    from featurebank.pipelines.asking.cases import Answered, Case
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.inputs import Rows
    from featurebank.pipelines.asking.results import Results
    from featurebank.pipelines.jobs.workshop import Workshop

__all__ = ["Segment"]


@dataclass(frozen=True, kw_only=True)
class Segment(MapQuestion):
    """Mean IoU, Dice and pixel accuracy of a segmenter that is trained on the train images.

    A job: it reads images, and needs a configuration that says where they are.
    """

    name: ClassVar[str] = "segment"
    primary: ClassVar[str] = "miou"

    head: Literal["fcn", "upernet"] = option("fcn", "A fully convolutional network, or a light UPerNet.")
    px: int = option(512, "Side of the canvas that an image is fitted into.", least=32)
    channels: int = option(128, "Of what stands behind the maps.", least=8)
    epochs: int = option(30, "Passes over the train images.", least=1)
    batch_size: int = option(8, "Images of an update.", least=1)
    rate: float = option(1e-3, "The learning rate, AdamW's.", least=0.0)
    fraction: float = option(1.0, "The share of the train images that is used.", least=0.0)
    masks: str = option("", "PNGs with a class a pixel, such as masks/{split}/{stem}.png; without, made of objects.")
    classes: tuple[str, ...] = option((), "With masks: what the numbers in them are called, from 0 on.", flag="--class")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1; found {self.fraction:g}")
        if bool(self.masks) != bool(self.classes):
            raise ValueError("masks and classes must come together: the files, and what the numbers in them are called")

    def run(self, rows: Rows) -> Answer:
        """The overlaps on the scored set and on others."""
        from featurebank.pipelines.jobs.maps.job import Training
        from featurebank.pipelines.jobs.segmentation.answering import Wanted, answer
        from featurebank.pipelines.jobs.segmentation.network import Shape

        shape = Shape(head=self.head, channels=self.channels, strides=tuple(sorted(self.strides)))
        own = ("seed", "seeds", "fraction", "masks", "classes", "precision", "cache_gb")
        training = Training(shape=shape, **self.of_training)
        return answer(Wanted(training=training, **{name: getattr(self, name) for name in own}), rows)

    def read_beside(self, case: Case, workshop: Workshop | None) -> dict[str, Any]:
        """The masks of each set, or its objects."""
        from featurebank.extract.datasets.mask_files import MaskFiles

        if not self.masks or workshop is None:
            return super().read_beside(case, workshop)
        splits = [workshop.images_of(entry.place) for entry in case.every]
        return {"masks": [MaskFiles(split, self.masks, self.classes).annotations_digest() for split in splits]}

    def section(self, answered: Sequence[Answered], results: Results, album: Album) -> str:
        """The curves of each run, images with their classes drawn, and which classes are confused."""
        from featurebank.pipelines.jobs.finetune.curves import curves_section
        from featurebank.pipelines.jobs.segmentation.picturing import segments_section

        return curves_section(answered) + segments_section(answered, results, album)
