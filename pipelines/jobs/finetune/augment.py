"""What changes images between one epoch and the next: crops, flips, colours, erasing.

timm and torchvision do it; here is what is asked of them.

Shapes: H, W a backbone's input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from featurebank.extract.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch
    from PIL import Image

__all__ = ["AUGMENTATIONS", "Augmentation", "changed_image", "erasing", "is_auto_augment"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How an image of the train rows is changed, drawn anew for each epoch and row.

    Attributes:
        scale: share of the image's area that a random crop keeps, from and to; ``None`` for the crop of evaluation.
        ratio: of that crop's width and height, from and to.
        interpolation: that it is resized with; ``own`` as evaluation does, ``random`` bilinear or bicubic.
        flip: probability of mirroring left and right. 0 where that changes what an image shows, such as digits.
        shift: how far an image is moved, at most, as a share of its sides; the mean colour fills the border.
        jitter: strength of changes in brightness, contrast and saturation.
        auto_augment: timm's words for RandAugment (Cubuk et al. 2020, arXiv:1909.13719), ``rand-m9-mstd0.5-inc1``.
        erase: probability of erasing a rectangle (Zhong et al. 2020, arXiv:1708.04896).
        erase_mode: what it is filled with: ``pixel`` noise, ``rand`` one colour, ``const`` the mean.
    """

    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["own", "random", "bilinear", "bicubic"] = "own"
    flip: float = 0.0
    shift: float = 0.0
    jitter: float = 0.0
    auto_augment: str = ""
    erase: float = 0.0
    erase_mode: Literal["pixel", "rand", "const"] = "pixel"


AUGMENTATIONS: Final[Mapping[str, Augmentation | None]] = {
    "none": None,
    "flip": Augmentation(flip=0.5),
    "light": Augmentation(scale=(0.7, 1.0), flip=0.5),
    "crop": Augmentation(scale=(0.08, 1.0), flip=0.5),
    "bob": Augmentation(
        scale=(0.08, 1.0), interpolation="random", flip=0.5, auto_augment="rand-m9-mstd0.5-inc1", erase=0.25
    ),
}
"""By name, as a recipe may give them."""


def is_auto_augment(words: str) -> bool:
    """Whether these are words for RandAugment that timm understands, none of which it would pass over.

    >>> is_auto_augment("rand-m9-mstd0.5-inc1"), is_auto_augment("rand-m-9")
    (True, False)
    """
    return re.fullmatch(r"rand(-(m|n|mmax|inc)\d+|-(mstd|p)\d+(\.\d+)?|-tweights)*", words) is not None


def changed_image(
    augmentation: Augmentation, preprocessing: Preprocessing, evaluated: Callable[[Image.Image], Image.Image]
) -> Callable[[Image.Image], Image.Image]:
    """What makes of a decoded image the RGB image, of W by H pixels, that is normalised.

    It draws from the global generators of ``random``, NumPy and torch. Crop, flip and RandAugment are those of timm's
    ``create_transform``, to the pixel.

    Args:
        augmentation: what is drawn.
        preprocessing: of the backbone.
        evaluated: resizes and crops as evaluation does; for augmentations without a random crop.
    """
    from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_pil_interp
    from torchvision import transforms  # type: ignore[import-untyped]

    own, size = augmentation, (preprocessing.height, preprocessing.width)
    interpolation = preprocessing.interpolation if own.interpolation == "own" else own.interpolation
    mean = preprocessing.mean if preprocessing.channels == "RGB" else preprocessing.mean[::-1]
    fill = tuple(min(255, round(255 * value)) for value in mean)
    steps: list[Any] = [evaluated]
    if own.scale is not None:
        crop: Any = RandomResizedCropAndInterpolation
        steps = [crop(size, own.scale, own.ratio, interpolation)]
    if own.flip:
        steps.append(transforms.RandomHorizontalFlip(own.flip))
    if own.shift:
        steps.append(transforms.RandomAffine(0, translate=(own.shift, own.shift), fill=fill))
    if own.auto_augment:
        options = {"translate_const": int(min(size) * 0.45), "img_mean": fill}
        if interpolation in ("nearest", "bilinear", "bicubic"):  # those that Pillow turns and shears with
            options["interpolation"] = str_to_pil_interp(interpolation)  # type: ignore[no-untyped-call]
        steps.append(_rand_augment(own.auto_augment, options))
    if own.jitter:
        steps.append(transforms.ColorJitter(own.jitter, own.jitter, own.jitter))
    composed: Callable[[Image.Image], Image.Image] = transforms.Compose(steps)
    return composed


def _rand_augment(words: str, options: dict[str, Any]) -> Callable[[Image.Image], Image.Image]:
    """Timm's RandAugment, which at its strongest keeps no bit of a colour: what Pillow 13 refuses to do."""
    from timm.data.auto_augment import posterize, rand_augment_transform

    keeping: Any = posterize

    def posterized(image: Image.Image, bits: int, **_: Any) -> Image.Image:
        kept: Image.Image = keeping(image, bits) if bits > 0 else image.point([0] * 256 * len(image.getbands()))
        return kept

    transform: Any = rand_augment_transform(words, options)
    for operation in transform.ops:
        if operation.aug_fn is posterize:
            operation.aug_fn = posterized
    return transform  # type: ignore[no-any-return]


def erasing(augmentation: Augmentation) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What erases a part of a normalised (3, H, W) tensor, in place; ``None`` where nothing is to be erased."""
    from timm.data.random_erasing import RandomErasing

    if not augmentation.erase:
        return None
    erase: Any = RandomErasing
    return erase(augmentation.erase, mode=augmentation.erase_mode, device="cpu")  # type: ignore[no-any-return]
