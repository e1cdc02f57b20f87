"""From an encoded file, or raw pixels, to an 8-bit RGB image.

The colours are Pillow's: embedded colour profiles are ignored, as the backbones' training recipes ignore them, CMYK is
converted without a profile, and of an animation the first frame is taken. Where Pillow would clip or drop (16-bit grey,
floats, transparency) the values are scaled or composited instead.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    QoiImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from featurebank.extract.errors import ImageError
from featurebank.extract.preprocessing import Decode

__all__ = ["FORMATS", "ORIENTATION_TAG", "VERSION", "decode", "quiet"]

VERSION = 2
"""Raised when any file's pixels change. 2: deep TIFFs whose smallest value is white, 12-bit TIFFs, transparency by one
value of PNGs that are not 8 bits deep, BMPs and ICOs whose alpha is zero everywhere."""

_PLUGINS = (
    JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin, GifImagePlugin, BmpImagePlugin, TiffImagePlugin,
    PpmImagePlugin, AvifImagePlugin, Jpeg2KImagePlugin, IcoImagePlugin, QoiImagePlugin,
)  # fmt: skip

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "QOI")
"""What is recognised, by Pillow's names. Formats that run other programs or hold no pixels (EPS, WMF, PDF) are not."""

REASON_BYTES = 96
ORIENTATION_TAG = 0x0112
"""EXIF's, of the eight ways in which an image can lie."""
BITS_TAG, PHOTOMETRIC_TAG = 258, 262
"""TIFF's: of each sample; and what its smallest value means, 0 for white, which Pillow heeds up to 8 bits."""

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _Warnings(threading.local):
    """Stands in for the ``warnings`` module inside Pillow: silent in a thread that decodes, itself everywhere else.

    A damaged EXIF block is worth a warning to Pillow and nothing to us, and a filter that turns warnings into errors
    would make a good image fail. ``warnings.catch_warnings`` changes the whole process: no use in threads.
    """

    silent = False

    def warn(self, message: Warning | str, category: type[Warning] | None = None, stacklevel: int = 1) -> None:
        if not self.silent:
            warnings.warn(message, category, stacklevel + 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)


_warnings = _Warnings()
for _module in (Image, *_PLUGINS):
    if hasattr(_module, "warnings"):
        setattr(_module, "warnings", _warnings)  # noqa: B010

# Pillow's own limit is one number for the process and warns before it raises; the record's max_pixels stands in for it.
Image.MAX_IMAGE_PIXELS = None


@contextmanager
def quiet() -> Iterator[None]:
    """Pillow warns of nothing in this thread."""
    _warnings.silent = True
    try:
        yield
    finally:
        _warnings.silent = False


def decode(data: bytes | NDArray[np.uint8], record: Decode) -> Image.Image:
    """The image as 8-bit RGB.

    16-bit grey keeps its high byte, as 16-bit colour does. 32-bit integers are read as 16-bit values (as 8-bit ones if
    none is above 255 and the file is not PNG or PGM), floats as 0..1 (as 0..255 if one is above 1); anything beyond is
    an error.

    Args:
        data: an encoded file's bytes, or raw pixels: (H, W) grey or (H, W, 3) RGB, uint8.
        record: EXIF orientation, background of transparent pixels, and the largest number of pixels. TIFF files are
            always turned upright.

    Returns:
        An image in mode ``RGB``, not attached to any file.

    Raises:
        ImageError: anything that is wrong with the data, as a reason of at most 96 bytes. No other exception, and no
            warning, leaves this function.

    >>> decode(np.zeros((2, 3), np.uint8), Decode()).size
    (3, 2)
    >>> decode(b"GIF87a", Decode())
    Traceback (most recent call last):
    featurebank.extract.errors.ImageError: not a readable image, begins with b'GIF87a'
    """
    if isinstance(data, np.ndarray):
        return _from_array(data, record)
    what = "not an image"
    with quiet():
        try:
            image = _open(data)
            what = f"unreadable {image.format}"
            _check_size(image.width, image.height, record)
            image.load()
            _scale_transparent_value(image, data)
            rgb = image if image.mode == "RGB" and "transparency" not in image.info else _to_rgb(image, record)
            # TIFF files are already upright after loading.
            return _upright(image, rgb) if record.exif and image.format != "TIFF" else rgb
        except ImageError:
            raise
        except Exception as error:  # Damaged files make Pillow's plugins raise nearly every built-in exception.
            raise ImageError(_reason(f"{what}: {str(error) or type(error).__name__}")) from error


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageError("empty file (0 bytes)")
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(_reason(f"not a readable image, begins with {bytes(data[:12])!r}")) from error


def _check_size(width: int, height: int, record: Decode) -> None:
    if width * height > record.max_pixels:
        raise ImageError(f"{width}x{height} pixels, more than the {record.max_pixels} allowed (max_pixels)")


def _from_array(pixels: NDArray[np.uint8], record: Decode) -> Image.Image:
    grey_or_rgb = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if not grey_or_rgb or pixels.dtype != np.uint8 or pixels.size == 0:
        shape = "x".join(map(str, pixels.shape))
        raise ImageError(_reason(f"raw pixels must be uint8, HxW or HxWx3 and not empty, got {pixels.dtype} {shape}"))
    _check_size(pixels.shape[1], pixels.shape[0], record)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_rgb(image: Image.Image, record: Decode) -> Image.Image:
    """A loaded image of any mode as RGB, transparent pixels composited."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        grey = Image.fromarray(_eight_bits(image))
        if record.background is None or "transparency" not in image.info:
            return grey.convert("RGB")
        opaque = Image.fromarray(np.where(np.asarray(image) == image.info["transparency"], np.uint8(0), np.uint8(255)))
        return _composite(grey.convert("RGB"), opaque, record.background)
    if not image.has_transparency_data:
        return image.convert("RGB")
    # Through RGBA also where alpha is dropped: premultiplied modes and palettes have no other correct way to RGB.
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    alpha = rgba.getchannel("A")
    # Writers of Windows' formats leave the fourth byte zero where they mean no transparency, and viewers know it.
    unused = image.format in {"BMP", "ICO"} and not alpha.getbbox()
    if record.background is None or unused:
        return rgba.convert("RGB")
    return _composite(rgba.convert("RGB"), alpha, record.background)


def _scale_transparent_value(image: Image.Image, data: bytes) -> None:
    """Pillow scales the pixels of a PNG to 8 bits, and leaves the one value that is transparent as it is in the file.

    Of 16-bit colours only the high bytes can be compared.
    """
    value = image.info.get("transparency")
    if image.format != "PNG" or data[12:16] != b"IHDR":
        return
    depth = data[24]
    if isinstance(value, int) and image.mode == "L" and depth < 8:
        image.info["transparency"] = value * 255 // ((1 << depth) - 1)
    elif isinstance(value, tuple) and depth == 16:
        image.info["transparency"] = tuple(part >> 8 for part in value)


def _composite(rgb: Image.Image, alpha: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    canvas = Image.new("RGB", rgb.size, background)
    canvas.paste(rgb, mask=alpha)
    return canvas


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W) uint8 of an image in mode ``I``, ``F`` or ``I;16*``."""
    values: NDArray[Any] = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if tags.get(BITS_TAG) == (12,):
        values = values << 4
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= (255 if image.mode == "F" else 65535)):  # NaN fails every comparison.
        raise ImageError(f"{image.mode} pixels from {low} to {high} have no defined 8-bit range; convert the file")
    if image.mode == "F":
        values = np.rint(values * np.float32(255) if high <= 1 else values)
    elif image.mode != "I" or high > 255 or image.format in {"PNG", "PPM"}:
        values = values >> 8
    grey = values.astype(np.uint8)
    return 255 - grey if tags.get(PHOTOMETRIC_TAG) == 0 else grey


def _upright(image: Image.Image, rgb: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # An unreadable EXIF block says nothing about the pixels, which were read.
        return rgb
    method = _TRANSPOSE.get(orientation)
    return rgb if method is None else rgb.transpose(method)


def _reason(text: str) -> str:
    """At most ``REASON_BYTES`` bytes of UTF-8 on one line, which is what the store keeps of a failed row."""
    line = " ".join(text.split())
    return line.encode("utf-8", "replace")[:REASON_BYTES].decode("utf-8", "ignore")
