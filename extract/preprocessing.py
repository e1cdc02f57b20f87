"""What happens to an image before a backbone sees it, as one frozen record that is part of the key.

Shapes: B batch, H height, W width, C = 3 channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Decode", "Interpolation", "Library", "Preprocessing"]

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Library = Literal["pillow", "nvjpeg"]
ResizeMode = Literal["shorter", "exact", "longer", "none"]


@dataclass(frozen=True, kw_only=True)
class Decode:
    """How bytes become an 8-bit RGB image. Backbones that agree on it share one decode.

    Attributes:
        library: the decoder, and what resizes. ``pillow``: Pillow does both. ``nvjpeg``: 8-bit grey and YCbCr JPEGs are
            decoded by nvJPEG on the GPU and resized there, see `featurebank.extract.gpu_jpeg`; Pillow does the rest.
        exif: whether the EXIF orientation is applied.
        background: what transparent pixels are composited on, 8-bit RGB; ``None`` drops the alpha channel.
        max_pixels: images with more pixels than this are recorded as failed, never decoded. Decoding takes about 12
            bytes a pixel; the default is where Pillow, too, calls an image a decompression bomb.
    """

    library: Library = "pillow"
    exif: bool = True
    background: tuple[int, int, int] | None = (255, 255, 255)
    max_pixels: int = 178_956_970


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, centre crop, mirroring and normalisation, equal to what the weights expect.

    A pixel value ``p`` in 0..255 of channel ``c`` becomes ``(p / 255 - mean[c]) / std[c]``, in float32.

    Attributes:
        height: rows of the network's input.
        width: columns of the network's input.
        resize: ``shorter``: the shorter side becomes ``resize_height`` (equal to ``resize_width``), as torchvision's
            ``Resize(int)``; ``exact``: both sides are set, as ``Resize((h, w))``; ``longer``: as timm's
            ``ResizeKeepRatio(longest=1)``; ``none``: left as it is.
        resize_height: rows asked of the resize.
        resize_width: columns asked of the resize.
        interpolation: the resampling filter, with antialiasing as Pillow does it.
        margins: how an odd margin around the crop is shared: ``round`` (half to even) as in torchvision, timm and
            open_clip, ``floor`` as in transformers.
        fill: 8-bit RGB value of the border where the crop is larger than the resized image.
        mean: per channel, in units of 1/255 times the pixel value, in the order of ``channels``.
        std: as ``mean``.
        channels: order in which the network takes them.
        flip: whether what was resized and cropped is mirrored, left to right.
        decode: how the bytes become an image.
    """

    height: int
    width: int
    resize: ResizeMode = "shorter"
    resize_height: int
    resize_width: int
    interpolation: Interpolation
    margins: Literal["round", "floor"] = "round"
    fill: tuple[int, int, int] = (0, 0, 0)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: Literal["RGB", "BGR"] = "RGB"
    flip: bool = False
    decode: Decode = Decode()
