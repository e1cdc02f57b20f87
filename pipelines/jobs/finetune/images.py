"""Rows of images on their way into a network that is trained or scored, augmented or as extraction sees them.

Shapes: N rows, B rows of a batch, H, W a backbone's input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from featurebank.extract.datasets.contract import Split
from featurebank.extract.decode import decode
from featurebank.extract.errors import DatasetError, fault
from featurebank.extract.preprocessing import Preprocessing
from featurebank.extract.transform import Transform, normalisation
from featurebank.pipelines.jobs.finetune.augment import Augmentation, changed_image, erasing
from featurebank.pipelines.training.draws import seeded_everywhere

__all__ = ["ImageRows", "Place", "loaded"]

Place = tuple[int, int]


class ImageRows(Dataset[torch.Tensor]):
    """Some rows of a split as normalised images, each a function of the seed, the epoch and the row's id.

    Images are decoded with Pillow, also where features were extracted with another decoder.

    Args:
        split: opened.
        rows: (N,) which of its rows, in the order in which they are numbered here.
        preprocessing: of the backbone.
        augmentation: how they are changed; ``None`` for the pixels that extraction sees.
        seed: of the run.
    """

    def __init__(
        self,
        split: Split,
        rows: NDArray[np.integer[Any]],
        preprocessing: Preprocessing,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self._split, self._rows, self._seed = split, rows, seed
        self._transform = Transform(preprocessing)
        scale, shift = normalisation(preprocessing)
        self._scale, self._shift = (torch.from_numpy(values).view(3, 1, 1) for values in (scale, shift))
        self._changed = None if augmentation is None else changed_image(augmentation, preprocessing, self._evaluated)
        self._erase = None if augmentation is None else erasing(augmentation)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Place) -> torch.Tensor:
        """(3, H, W) float32, normalised, in the backbone's order of channels.

        Args:
            place: the epoch, which counts for augmentation alone, and the row, 0 … N - 1.

        Raises:
            DatasetError: the image cannot be read or decoded: which, and why.
        """
        epoch, number = place
        row = int(self._rows[number])
        image = self._decoded(row)
        if self._changed is None:
            return self._normalised(self._transform(image))
        with seeded_everywhere(self._seed, "augment", epoch, self._split.ids[row]):
            tensor = self._normalised(self._transform.ordered(np.asarray(self._changed(image))))
            return tensor if self._erase is None else self._erase(tensor)

    def __getitems__(self, places: Sequence[Place]) -> tuple[NDArray[np.int64], torch.Tensor] | DatasetError:
        """The rows' numbers, (B,), and their images, (B, 3, H, W); an error is handed over, not raised.

        Raised in another process, it would come with that process's traceback in its text.
        """
        try:
            return np.array([number for _, number in places]), torch.stack([self[place] for place in places])
        except DatasetError as error:
            return error

    def _decoded(self, row: int) -> Image.Image:
        try:
            return decode(self._split.read(row), self._transform.preprocessing.decode)
        except (OSError, ValueError) as error:
            spec, name = self._split.spec, self._split.ids[row]
            raise DatasetError(
                f"{spec.name}/{spec.split}: an image that is tuned on must be readable; found {name!r}: "
                f"{fault(error)}; mend the file, or extract the set again, which leaves it out"
            ) from error

    def _evaluated(self, image: Image.Image) -> Image.Image:
        return Image.fromarray(self._transform.pixels(image))

    def _normalised(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        pixels = np.array(pixels)  # a copy: Pillow's are read-only, and torch warns
        return torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32) * self._scale + self._shift


def loaded(
    images: ImageRows, batches: Sequence[Sequence[Place]], workers: int
) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
    """The rows' numbers and the images, (B, 3, H, W) float32, of each batch in order: the same for any ``workers``.

    Worker processes are forked. Each decodes in one thread and touches neither CUDA nor OpenMP, so it is safe beside
    this process's threads, starts at once and shares the split's memory.

    Args:
        images: the rows.
        batches: (epoch, row) of each image.
        workers: processes beside this one; 0 to read in this one.

    Raises:
        DatasetError: an image cannot be read or decoded.
    """
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context="fork" if workers else None,
        generator=torch.Generator(),  # else the seed of the workers, which none uses, is drawn from the global one
    )
    reading = iter(loader)
    try:
        for batch in reading:
            if isinstance(batch, DatasetError):
                raise batch
            yield batch
    finally:
        # Else its workers live until nothing refers to it, which a traceback that someone keeps may do for long.
        if workers:
            reading._shutdown_workers()  # type: ignore[attr-defined]


def _as_it_is(batch: Any) -> Any:
    return batch
