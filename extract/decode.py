"""From an encoded file, or raw pixels, to an 8-bit RGB image.

The colours are Pillow's: embedded colour profiles are ignored, as the backbones' training recipes ignore them, CMYK is
converted without a profile, and of an animation the first frame is taken. Where Pillow would clip or drop (16-bit grey,
floats, transparency) the values are scaled or composited instead.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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

from featurebank.extract import in_flight
from featurebank.extract.errors import ImageError
from featurebank.extract.preprocessing import Decode
from featurebank.store.limits import REASON_BYTES

__all__ = ["FORMATS", "ORIENTATION_TAG", "VERSION", "decode", "decoded", "quiet", "upright_size"]

VERSION = 2
"""Raised when any file's pixels change. 2: deep TIFFs whose smallest value is white, 12-bit TIFFs, transparency by one
value of PNGs that are not 8 bits deep, BMPs and ICOs whose alpha is zero everywhere."""

_PLUGINS = (
    JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin, GifImagePlugin, BmpImagePlugin, TiffImagePlugin,
    PpmImagePlugin, AvifImagePlugin, Jpeg2KImagePlugin, IcoImagePlugin, QoiImagePlugin,
)  # fmt: skip

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "QOI")
"""What is recognised, by Pillow's names. Formats that run other programs or hold no pixels (EPS, WMF, PDF) are not."""

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


_ON_ITS_SIDE = frozenset({5, 6, 7, 8})
_PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"tiff:Orientation")


class _Decoding(threading.local):
    """What holds in a thread that decodes: no warnings, and a limit of pixels.

    It stands in for the ``warnings`` module inside Pillow, silent in such a thread and itself everywhere else.
    A damaged EXIF block is worth a warning to Pillow and nothing to us, and a filter that turns warnings into errors
    would make a good image fail. ``warnings.catch_warnings`` changes the whole process: no use in threads.
    """

    silent = False
    max_pixels: int | None = None

    def warn(self, message: Warning | str, category: type[Warning] | None = None, stacklevel: int = 1) -> None:
        if not self.silent:
            warnings.warn(message, category, stacklevel + 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)


_decoding = _Decoding()
for _module in (Image, *_PLUGINS):
    if hasattr(_module, "warnings"):
        setattr(_module, "warnings", _decoding)  # noqa: B010

_check_bomb = Image._decompression_bomb_check


def _check_pixels(size: tuple[int, int], **options: Any) -> None:
    """Stands in for Pillow's check, which compares with one number for the process, in threads that decode.

    Pillow makes it wherever a file states a size that will be allocated: of an icon's images, a canvas, a tile.
    """
    if not _decoding.silent:
        _check_bomb(size, **options)
    elif _decoding.max_pixels is not None and size[0] * size[1] > _decoding.max_pixels:
        raise ImageError(f"{size[0]}x{size[1]} pixels, more than the {_decoding.max_pixels} allowed (max_pixels)")


Image._decompression_bomb_check = _check_pixels

BYTES_PER_PIXEL = 12
"""While an image is decoded: itself, its RGB, and what a decoder holds beside it."""
TILE_TAGS = 322, 323
MAX_TILE = 1 << 24
"""Pixels of a TIFF's tile, which is decoded whole however small the image is."""
START_OF_SCAN = b"\xff\xda"
MAX_SCANNED = 10_000_000_000
"""Pixels of all scans of a progressive JPEG, of which one of 14 bytes passes over the whole image: some ten seconds."""
MAX_ROWS = 1 << 24
"""Pillow holds an address a row."""
STRIP = 1 << 20
"""Pixels of a strip, where a conversion needs several copies of what it converts."""


@contextmanager
def quiet(max_pixels: int | None = None) -> Iterator[None]:
    """Pillow warns of nothing in this thread, and refuses more than these pixels; ``None`` for no limit."""
    _decoding.silent, _decoding.max_pixels = True, max_pixels
    try:
        yield
    finally:
        _decoding.silent, _decoding.max_pixels = False, None


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
    with decoded(data, record) as image:
        return image


@contextmanager
def decoded(data: bytes | NDArray[np.uint8], record: Decode) -> Iterator[Image.Image]:
    """As `decode`, for threads: waits where the images of all threads would fill the memory, until this block ends."""
    if isinstance(data, np.ndarray):
        yield _from_array(data, record)
        return
    with in_flight.images.share() as share:
        yield _decoded(data, record, share)


def upright_size(data: bytes | NDArray[np.uint8]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of an image as it is stored, and as `decode` turns it upright, without decoding its pixels.

    Raises:
        ImageError: it is no image that can be read.
    """
    if isinstance(data, np.ndarray):
        return (data.shape[0], data.shape[1]), (data.shape[0], data.shape[1])
    with quiet(Decode().max_pixels):
        try:
            image = _open(data)
            size = (image.height, image.width)
        except ImageError:
            raise
        except Exception as error:  # As in `_decoded`.
            raise ImageError(_reason(f"not an image: {str(error) or type(error).__name__}")) from error
        # Pillow looks for a PNG's orientation behind all of its pixels.
        if image.format == "TIFF" or (image.format == "PNG" and not any(mark in data for mark in _PNG_EXIF)):
            return size, size
        try:
            turned = image.getexif().get(ORIENTATION_TAG, 1) in _ON_ITS_SIDE
        except Exception:  # As in `_upright`.
            turned = False
    return size, size[::-1] if turned else size


def _decoded(data: bytes, record: Decode, share: in_flight.Share) -> Image.Image:
    what = "not an image"
    with quiet(record.max_pixels):
        try:
            image = _open(data)
            what = f"unreadable {image.format}"
            _check_header(image, data)
            share.take(image.width * image.height * BYTES_PER_PIXEL)
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


def _check_header(image: Image.Image, data: bytes) -> None:
    """What Pillow's own checks leave out: the number of rows, scans, and tiles that are large for their image."""
    if image.height > MAX_ROWS:
        raise ImageError(f"{image.width}x{image.height} pixels, more than {MAX_ROWS} rows")
    scans = data.count(START_OF_SCAN) if image.info.get("progressive") else 1
    if scans * image.width * image.height > MAX_SCANNED:
        raise ImageError(f"{scans} scans of {image.width}x{image.height} pixels, more than {MAX_SCANNED} pixels in all")
    tags = getattr(image, "tag_v2", {})
    width, height = (int(tags.get(tag, 0)) for tag in TILE_TAGS)
    if width * height > max(MAX_TILE, image.width * image.height):
        raise ImageError(f"tiles of {width}x{height} pixels, more than {MAX_TILE} and than the image")


def _from_array(pixels: NDArray[np.uint8], record: Decode) -> Image.Image:
    grey_or_rgb = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if not grey_or_rgb or pixels.dtype != np.uint8 or pixels.size == 0:
        shape = "x".join(map(str, pixels.shape))
        raise ImageError(_reason(f"raw pixels must be uint8, HxW or HxWx3 and not empty, got {pixels.dtype} {shape}"))
    with quiet(record.max_pixels):
        _check_pixels((pixels.shape[1], pixels.shape[0]))
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return image if image.mode == "RGB" else image.convert("RGB")


def _to_rgb(image: Image.Image, record: Decode) -> Image.Image:
    """A loaded image of any mode as RGB, transparent pixels composited."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        convert = _grey(image, record)
    elif not image.has_transparency_data:
        return image.convert("RGB")
    else:
        # Writers of Windows' formats leave the fourth byte zero where they mean no transparency, and viewers know it.
        unused = image.format in {"BMP", "ICO"} and image.mode == "RGBA" and image.getchannel("A").getbbox() is None
        background = None if unused else record.background
        convert = partial(_without_alpha, background=background)
    rgb = Image.new("RGB", image.size)
    for strip, top in _strips(image):
        rgb.paste(convert(strip), (0, top))
    return rgb


def _strips(image: Image.Image) -> Iterator[tuple[Image.Image, int]]:
    """The image in parts of whole rows, and the first row of each; what is made of one costs little memory."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        whole = bottom - top == image.height
        yield image if whole else image.crop((0, top, image.width, bottom)), top


def _without_alpha(image: Image.Image, *, background: tuple[int, int, int] | None) -> Image.Image:
    # Through RGBA also where alpha is dropped: premultiplied modes and palettes have no other correct way to RGB.
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    rgb = rgba.convert("RGB")
    return rgb if background is None else _composite(rgb, rgba.getchannel("A"), background)


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


def _grey(image: Image.Image, record: Decode) -> Callable[[Image.Image], Image.Image]:
    """What makes RGB of a part of an image in mode ``I``, ``F`` or ``I;16*``, by the range of all of it."""
    tags = getattr(image, "tag_v2", {})
    shift = 4 if tags.get(BITS_TAG) == (12,) else 0
    ranges = np.array([(values.min(), values.max()) for values in (np.asarray(part) for part, _ in _strips(image))])
    low, high = ranges[:, 0].min(), ranges[:, 1].max()
    if not (low >= 0 and high <= (255 if image.mode == "F" else 65535)):  # NaN fails every comparison.
        raise ImageError(f"{image.mode} pixels from {low} to {high} have no defined 8-bit range; convert the file")
    deep = image.mode != "I" or high > 255 or image.format in {"PNG", "PPM"}
    transparent = None if record.background is None else image.info.get("transparency")

    def convert(part: Image.Image) -> Image.Image:
        values: NDArray[Any] = np.asarray(part)
        if image.mode == "F":
            grey = np.rint(values * np.float32(255) if high <= 1 else values).astype(np.uint8)
        else:
            grey = (values << shift >> 8 if deep else values).astype(np.uint8)
        if tags.get(PHOTOMETRIC_TAG) == 0:
            grey = 255 - grey
        rgb = Image.fromarray(grey).convert("RGB")
        if transparent is None or record.background is None:
            return rgb
        opaque = Image.fromarray(np.where(values == transparent, np.uint8(0), np.uint8(255)))
        return _composite(rgb, opaque, record.background)

    return convert


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
