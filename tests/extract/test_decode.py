"""Every mode and format against pixels computed in NumPy; every damaged file against one kind of error."""

from __future__ import annotations

import contextlib
import random
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from limited import run_limited
from numpy.typing import NDArray
from PIL import Image, ImageFile

from featurebank.extract.decode import decode, upright_size
from featurebank.extract.errors import ImageError
from featurebank.extract.preprocessing import Decode

RECORD = Decode()
GENERATOR = np.random.default_rng(0)
RGB = GENERATOR.integers(0, 256, (37, 53, 3), dtype=np.uint8)
GREY16 = GENERATOR.integers(0, 65536, (37, 53), dtype=np.uint16)
GREY16[0, :3] = 0, 255, 65535
ALPHA = GENERATOR.integers(0, 256, (37, 53), dtype=np.uint8)
ALPHA[0, :2] = 0, 255


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:  # noqa: A002
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data: bytes | NDArray[Any], record: Decode = RECORD) -> NDArray[np.uint8]:
    image = decode(data, record)
    assert image.mode == "RGB"
    return np.asarray(image)


def over(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.float64]:
    share = alpha[..., None] / 255
    result: NDArray[np.float64] = np.rint(rgb * share + np.array(background) * (1 - share))
    return result


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for what Pillow itself does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)


def tiff(tags: dict[int, tuple[int, list[int]]], data: bytes, end: str = "<") -> bytes:
    """A TIFF of one strip written by hand; types of tags are 3 (16 bits) and 4 (32 bits)."""
    entries = {**tags, 273: (4, [0]), 279: (4, [len(data)])}
    first = 8 + 2 + 12 * len(entries) + 4
    packed = {tag: struct.pack(f"{end}{len(v)}{'H' if kind == 3 else 'I'}", *v) for tag, (kind, v) in entries.items()}
    packed[273] = struct.pack(f"{end}I", first + sum(len(value) for value in packed.values() if len(value) > 4))
    listed, beyond = b"", b""
    for tag in sorted(entries):
        kind, values = entries[tag]
        place = packed[tag].ljust(4, b"\0") if len(packed[tag]) <= 4 else struct.pack(f"{end}I", first + len(beyond))
        beyond += packed[tag] if len(packed[tag]) > 4 else b""
        listed += struct.pack(f"{end}HHI", tag, kind, len(values)) + place
    magic = b"II*\0" if end == "<" else b"MM\0*"
    return magic + struct.pack(f"{end}IH", 8, len(entries)) + listed + bytes(4) + beyond + data


def grey_tiff(values: NDArray[Any] | bytes, bits: int, photometric: int, *, width: int = 3, end: str = "<") -> bytes:
    tags = {256: [width], 257: [1], 258: [bits], 259: [1], 262: [photometric], 277: [1], 278: [1]}
    if not isinstance(values, bytes):
        tags[339] = [3 if values.dtype.kind == "f" else 1]
        values = values.astype(values.dtype.newbyteorder(end)).tobytes()  # type: ignore[arg-type]
    return tiff({tag: (3, value) for tag, value in tags.items()}, values, end)


def bmp(rows: bytes, *, masks: tuple[int, ...] = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)) -> bytes:
    """A V4 bitmap of one row, 32 bits a pixel: blue, green, red, alpha."""
    header = struct.pack("<IiiHHIIiiII4I", 108, len(rows) // 4, 1, 1, 32, 3, len(rows), 0, 0, 0, 0, *masks) + bytes(52)
    return b"BM" + struct.pack("<IHHI", 122 + len(rows), 0, 0, 122) + header + rows


@pytest.fixture(autouse=True)
def no_warning() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 100}, {"optimize": True}])
def test_rgb_jpeg_is_what_pillow_reads(options: dict[str, Any]) -> None:
    data = encoded(Image.fromarray(RGB), "JPEG", **options)
    with Image.open(BytesIO(data)) as file:
        np.testing.assert_array_equal(pixels(data), np.asarray(file.convert("RGB")))


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "QOI", "JPEG2000"])
def test_lossless_rgb(format: str) -> None:  # noqa: A002
    options = {"lossless": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(RGB), format, **options)), RGB)


def test_cmyk_jpeg_is_not_inverted() -> None:
    smooth = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1))
    cmyk = np.stack([smooth, smooth.T, 255 - smooth, smooth // 4], axis=-1)
    data = encoded(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=100, subsampling=0)
    ink = cmyk.astype(np.float64) / 255
    expected = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
    assert b"Adobe" in data
    assert np.abs(pixels(data) - expected).max() <= 4


def test_ycck_jpeg() -> None:
    smooth = np.tile(np.linspace(40, 215, 64), (64, 1))
    ycc = np.stack([smooth, np.full((64, 64), 110.0), smooth.T * 0.3 + 90, 255 - smooth / 4], axis=-1)
    # Pillow stores CMYK inverted, so these are the raw components of the file; the marker then calls them YCCK.
    stored = Image.fromarray(255 - np.rint(ycc).astype(np.uint8), "CMYK")
    data = encoded(stored, "JPEG", quality=100, subsampling=0)
    marker = data.index(b"Adobe")
    data = data[: marker + 11] + b"\x02" + data[marker + 12 :]
    y, cb, cr, k = (ycc[..., i] for i in range(4))
    # libjpeg turns YCC into inverted CMY as if it were RGB; the K component is stored inverted as it is.
    rgb = np.stack([y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)])
    inverted_cmy = 255 - np.clip(rgb, 0, 255)
    expected = np.moveaxis(inverted_cmy * k / 255, 0, -1)
    assert np.abs(pixels(data) - expected).max() <= 4


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    expected = np.repeat((GREY16 >> 8).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(GREY16), "PNG")), expected)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(GREY16), "TIFF")), expected)
    pgm = b"P5 53 37 65535\n" + GREY16.astype(">u2").tobytes()
    np.testing.assert_array_equal(pixels(pgm), expected)


def test_sixteen_bit_colour_and_grey_agree() -> None:
    rows = np.repeat(GREY16[..., None], 3, axis=2).astype(">u2")
    colour = png(53, 37, 16, 2, b"".join(b"\0" + row.tobytes() for row in rows))
    np.testing.assert_array_equal(pixels(colour), pixels(encoded(Image.fromarray(GREY16), "PNG")))


def test_dark_sixteen_bit_grey_is_black() -> None:
    assert pixels(encoded(Image.fromarray(np.full((4, 4), 200, np.uint16)), "PNG")).max() == 0


def test_sixteen_bit_grey_with_a_transparent_value() -> None:
    rows = b"\0" + np.array([300, 40000], ">u2").tobytes()
    data = png(2, 1, 16, 0, rows, (b"tRNS", struct.pack(">H", 300)))
    assert pixels(data)[0, :, 0].tolist() == [255, 40000 >> 8]
    assert pixels(data, Decode(background=None))[0, :, 0].tolist() == [300 >> 8, 40000 >> 8]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 17, 255]], np.int32), [0, 17, 255]),
        (np.array([[0, 256, 65535]], np.int32), [0, 1, 255]),
        (np.array([[0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0, 1.4, 254.6]], np.float32), [0, 1, 255]),
    ],
)
def test_integers_and_floats(values: NDArray[Any], expected: list[int]) -> None:
    assert pixels(encoded(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    "values",
    [
        np.array([[-1]], np.int32),
        np.array([[65536]], np.int32),
        np.array([[256.0]], np.float32),
        np.array([[np.nan, 0]], np.float32),
        np.array([[-0.1]], np.float32),
        np.array([[np.inf]], np.float32),
    ],
)
def test_numbers_without_an_eight_bit_range_are_refused(values: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match="no defined 8-bit range"):
        decode(encoded(Image.fromarray(values), "TIFF"), RECORD)


@pytest.mark.parametrize(
    ("values", "bits", "photometric", "end", "expected"),
    [
        (np.array([0, 300, 65535], np.uint16), 16, 0, "<", [255, 254, 0]),
        (np.array([0, 300, 65535], np.uint16), 16, 1, "<", [0, 1, 255]),
        (np.array([0, 300, 65535], np.uint16), 16, 1, ">", [0, 1, 255]),
        (np.array([0, 0.5, 1], np.float32), 32, 0, "<", [255, 127, 0]),
        (np.array([0, 0.5, 1], np.float32), 32, 0, ">", [255, 127, 0]),
        (np.array([0, 0.5, 1], np.float32), 32, 1, "<", [0, 128, 255]),
        (np.array([0, 3, 255], np.uint8), 8, 0, "<", [255, 252, 0]),
        (b"\x05\xf0", 4, 0, "<", [255, 170, 0]),
        (b"\x1c", 2, 0, "<", [255, 170, 0]),
        (b"\x60", 1, 0, "<", [255, 0, 0]),
        (b"\x00\x08\x00\xff\xf0", 12, 1, "<", [0, 128, 255]),
    ],
)  # fmt: skip
def test_a15_the_smallest_value_of_a_tiff_is_white_or_black_as_it_says(
    values: NDArray[Any] | bytes, bits: int, photometric: int, end: str, expected: list[int]
) -> None:
    assert pixels(grey_tiff(values, bits, photometric, end=end))[0, :, 0].tolist() == expected


def test_a15_an_alpha_that_is_zero_everywhere_is_none() -> None:
    assert pixels(bmp(bytes([1, 2, 3, 0, 4, 5, 6, 0]))).tolist() == [[[3, 2, 1], [6, 5, 4]]]
    assert pixels(bmp(bytes([1, 2, 3, 0, 4, 5, 6, 255]))).tolist() == [[[255, 255, 255], [6, 5, 4]]]
    assert pixels(bmp(bytes([1, 2, 3, 0]), masks=(0, 0, 0, 0))).tolist() == [[[3, 2, 1]]]
    icon = encoded(Image.new("RGBA", (16, 16), (10, 20, 30, 0)), "ICO", bitmap_format="bmp", sizes=[(16, 16)])
    assert (pixels(icon) == (10, 20, 30)).all()
    assert (pixels(encoded(Image.new("RGBA", (16, 16), (10, 20, 30, 0)), "PNG")) == 255).all()


def test_a15_one_transparent_value_of_a_png_of_any_depth() -> None:
    for depth, row, value in ((1, 0x40, 1), (2, 0x10, 1), (4, 0x05, 5), (8, 5, 5)):
        count = max(8 // depth, 1)
        data = png(count, 1, depth, 0, bytes([0, row]), (b"tRNS", struct.pack(">H", value)))
        opaque = png(count, 1, depth, 0, bytes([0, row]))
        at = {1: 1, 2: 1, 4: 1, 8: 0}[depth]
        expected = pixels(opaque)[0, :, 0].tolist()
        assert pixels(data)[0, :, 0].tolist() == [255 if k == at else expected[k] for k in range(count)]
    rows = b"\0" + struct.pack(">6H", 0x1234, 0x2345, 0x3456, 0x3400, 0x4500, 0x5600)
    data = png(2, 1, 16, 2, rows, (b"tRNS", struct.pack(">3H", 0x1234, 0x2345, 0x3456)))
    assert pixels(data).tolist() == [[[255] * 3, [0x34, 0x45, 0x56]]]


def test_a15_a_grey_tiff_with_premultiplied_alpha() -> None:
    tags = {256: [2], 257: [1], 258: [8, 8], 259: [1], 262: [1], 277: [2], 278: [1], 338: [1]}
    data = tiff({tag: (3, value) for tag, value in tags.items()}, bytes([10, 255, 64, 128]))
    assert pixels(data, Decode(background=(0, 0, 0)))[0, :, 0].tolist() == [10, 64]


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 77)])
def test_alpha_is_composited(background: tuple[int, int, int]) -> None:
    record = Decode(background=background)
    rgba = np.dstack([RGB, ALPHA])
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(rgba), "PNG"), record), over(RGB, ALPHA, background))
    grey = np.dstack([RGB[..., 0], ALPHA])
    expected = over(np.repeat(RGB[..., :1], 3, axis=2), ALPHA, background)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(grey), "PNG"), record), expected)


def test_alpha_can_be_dropped() -> None:
    record = Decode(background=None)
    rgba = encoded(Image.fromarray(np.dstack([RGB, ALPHA])), "PNG")
    np.testing.assert_array_equal(pixels(rgba, record), RGB)


@pytest.mark.parametrize("transparency", [3, bytes([255, 0, 128, 255])])
def test_palette_with_transparency(transparency: int | bytes) -> None:
    palette = np.array([[10, 20, 30], [200, 0, 0], [0, 200, 0], [9, 9, 9]], np.uint8)
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    alphas = np.array([255, 255, 255, 0] if transparency == 3 else [255, 0, 128, 255], np.uint8)
    data = encoded(image, "PNG", transparency=transparency)
    np.testing.assert_array_equal(pixels(data), over(palette[indices], alphas[indices], (255, 255, 255)))
    np.testing.assert_array_equal(pixels(data, Decode(background=None)), palette[indices])


def test_palette_grey_and_bilevel_without_transparency() -> None:
    palette = np.array([[10, 20, 30], [200, 0, 0]], np.uint8)
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 2
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    np.testing.assert_array_equal(pixels(encoded(image, "PNG")), palette[indices])
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(ALPHA), "PNG"))[..., 1], ALPHA)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(indices == 1), "PNG"))[..., 2], indices * 255)


def test_a_transparent_colour_in_rgb() -> None:
    rgb = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    data = encoded(Image.fromarray(rgb), "PNG", transparency=(1, 2, 3))
    assert pixels(data).tolist() == [[[255, 255, 255], [4, 5, 6]]]
    assert pixels(data, Decode(background=None)).tolist() == rgb.tolist()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation(format: str) -> None:  # noqa: A002
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert (pixels(data) == (250, 0, 0)).all()


TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation(orientation: int, format: str) -> None:  # noqa: A002
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    plain = pixels(encoded(Image.fromarray(RGB), format, **options))
    data = encoded(Image.fromarray(RGB), format, exif=exif, **options)
    np.testing.assert_array_equal(pixels(data), TURNS.get(orientation, TURNS[1])(plain))
    if format != "TIFF":
        np.testing.assert_array_equal(pixels(data, Decode(exif=False)), plain)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage!", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\1\2\3", b"MM\0*\0\0"]
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_is_ignored(exif: bytes, format: str) -> None:  # noqa: A002
    image = Image.fromarray(RGB)
    np.testing.assert_array_equal(pixels(encoded(image, format, exif=exif)), pixels(encoded(image, format)))


def test_one_pixel() -> None:
    for format_ in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
        assert decode(encoded(Image.new("RGB", (1, 1), (8, 8, 8)), format_), RECORD).size == (1, 1)


def test_a_hundred_megapixels_are_decoded_and_more_than_allowed_are_not() -> None:
    data = encoded(Image.new("L", (10_000, 10_000), 7), "PNG")
    image = decode(data, RECORD)
    assert image.size == (10_000, 10_000)
    assert image.getpixel((9_999, 9_999)) == (7, 7, 7)
    with pytest.raises(ImageError, match="10000x10000 pixels, more than the 99999999 allowed"):
        decode(data, Decode(max_pixels=99_999_999))


def test_a_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(ImageError, match="100000x100000 pixels"):
        decode(png(100_000, 100_000, 8, 2, b""), RECORD)


def icon(*images: bytes) -> bytes:
    """An ICO whose table says 16 x 16 of each."""
    table, at = b"", 6 + 16 * len(images)
    for image in images:
        table += struct.pack("<4B2H2I", 16, 16, 0, 0, 1, 32, len(image), at)
        at += len(image)
    return struct.pack("<3H", 0, 1, len(images)) + table + b"".join(images)


def tiled(side: int) -> bytes:
    tags = {256: [64], 257: [64], 258: [8], 259: [8], 262: [1], 277: [1], 322: [side], 323: [side]}
    return tiff({tag: (4 if tag > 300 else 3, value) for tag, value in tags.items()}, zlib.compress(bytes(64)))


HUGE_PNG = png(40_000, 40_000, 8, 6, b"")
HUGE_DIB = struct.pack("<IiiHHII", 40, 30_000, 60_000, 1, 32, 0, 0) + bytes(16)
BOMBS = {
    "icon, PNG": (icon(HUGE_PNG), "40000x40000 pixels, more than the 178956970 allowed"),
    "icon, bitmap": (icon(HUGE_DIB), "30000x60000 pixels, more than"),
    "icon, old bitmap": (icon(struct.pack("<IHHHH", 12, 60_000, 60_000, 1, 24)), "60000x60000 pixels, more than"),
    "WebP, extended": (
        b"RIFF\xff\xff\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0" * 2, "16384x16384 pixels, more than"
    ),
    "WebP, lossless": (
        b"RIFF\xff\xff\0\0WEBPVP8L\xff\0\0\0\x2f\xff\xff\xff\x0f" + bytes(20), "16384x16384 pixels, more than"
    ),
    "WebP, lossy": (
        b"RIFF\xff\xff\0\0WEBPVP8 \xff\0\0\0\0\0\0\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(20), "16383x16383 pixels, more"
    ),
    "GIF": (
        b"GIF89a\x0a\0\x0a\0\0\0\0!\xf9\4\x08\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2", "65535x65535 pixels, more than the"
    ),
    "TIFF": (tiled(32_768), "tiles of 32768x32768 pixels, more than 16777216 and than the image"),
    "rows": (png(1, 20_000_000, 8, 2, b""), "1x20000000 pixels, more than 16777216 rows"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "reason"), BOMBS.values(), ids=BOMBS)
def test_c7_bombs_are_refused_by_what_they_state(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode(data, RECORD)


def test_c7_scans_that_pass_over_the_image_again_and_again_are_refused() -> None:
    """14 bytes each: 50 kB of them took ten seconds for four megapixels."""
    whole = encoded(Image.new("RGB", (2000, 2000), (10, 20, 30)), "JPEG", progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="2610 scans of 2000x2000 pixels, more than 10000000000 pixels in all"):
        decode(whole[:-2] + scan * 2600 + whole[-2:], RECORD)
    assert decode(whole[:-2] + scan * 3 + whole[-2:], RECORD).size == (2000, 2000)


def test_c7_pillows_own_limit_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert RECORD.max_pixels == 2 * Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for format_ in ("PNG", "JPEG", "TIFF"):
        assert decode(encoded(Image.fromarray(RGB), format_), RECORD).size == (53, 37)
    with pytest.raises(Image.DecompressionBombError), Image.open(BytesIO(encoded(Image.fromarray(RGB), "PNG"))):
        pass


BARE = """
data = sys.stdin.buffer.read() if sys.argv[2] == "-" else open(sys.argv[2], "rb").read()
print(decode(data, Decode()).size)
"""


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "F"])
def test_c7_a_decode_takes_the_bytes_that_are_counted(mode: str, tmp_path: Path) -> None:
    """12 a pixel, of which there are 16 million; transparency took 17."""
    file = tmp_path / "image"
    Image.new(mode, (4000, 4000)).save(file, "TIFF" if mode == "F" else "PNG")
    imports = "from featurebank.extract.decode import decode\nfrom featurebank.extract.preprocessing import Decode\n"
    encoded_bytes = file.stat().st_size
    allowed = (4000 * 4000 * 12 + 2 * encoded_bytes >> 20) + 32
    assert run_limited(BARE, file, imports=imports, megabytes=allowed) == "(4000, 4000)\n"


def test_c7_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rgba = np.dstack([RGB, ALPHA])
    palette = Image.fromarray(RGB).quantize(16)
    files = [
        encoded(Image.fromarray(rgba), "PNG"),
        encoded(Image.fromarray(rgba[..., 2:]), "PNG"),
        encoded(palette, "PNG", transparency=3),
        encoded(Image.fromarray(RGB), "PNG", transparency=tuple(RGB[5, 5].tolist())),
        encoded(Image.fromarray(GREY16), "PNG"),
        encoded(Image.fromarray(GREY16.astype(np.float32) / 300), "TIFF"),
        encoded(Image.fromarray(GREY16.astype(np.int32) // 256), "TIFF"),
    ]
    whole = [pixels(data) for data in files]
    monkeypatch.setattr("featurebank.extract.decode.STRIP", 100)
    for data, expected in zip(files, whole, strict=True):
        np.testing.assert_array_equal(pixels(data), expected)


def damaged() -> list[Any]:
    photo = Image.fromarray(np.kron(RGB, np.ones((4, 4, 1), np.uint8)))
    cases = {"empty": b"", "text": b"not an image\n", "zeros": bytes(5000), "html": b"<!DOCTYPE html><html></html>"}
    for format_ in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "AVIF", "QOI", "PPM"):
        whole = encoded(photo, format_)
        cases |= {f"{format_}-head": whole[:20], f"{format_}-half": whole[: len(whole) // 2]}
    cases["JPEG-most"] = encoded(photo, "JPEG")[:-200]
    cases["PNG-checksum"] = encoded(photo, "PNG").replace(b"IDAT", b"IDAU", 1)
    cases["EPS"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    return [pytest.param(data, id=name) for name, data in cases.items()]


@pytest.mark.parametrize("data", damaged())
def test_damaged_files_are_image_errors(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data, RECORD)
    reason = str(caught.value)
    assert reason
    assert len(reason.encode()) <= 96
    assert "\n" not in reason
    assert " at 0x" not in reason, "an address would make every run's reason different"


def test_noise_in_files_never_raises_anything_else() -> None:
    image = Image.fromarray(RGB)
    dice = random.Random(0)  # noqa: S311
    exif = Image.Exif()
    exif[0x0112] = 6
    for format_ in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "ICO"):
        whole = encoded(image, format_, **({"exif": exif} if format_ in {"JPEG", "PNG", "WEBP", "TIFF"} else {}))
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(dice.randint(1, 6)):
                data[dice.randrange(min(len(data), 400))] = dice.randrange(256)
            with contextlib.suppress(ImageError):
                assert decode(bytes(data), Decode(max_pixels=10**6)).mode == "RGB"


def test_raw_pixels() -> None:
    np.testing.assert_array_equal(pixels(RGB), RGB)
    np.testing.assert_array_equal(pixels(RGB[::2, ::-1]), RGB[::2, ::-1])
    np.testing.assert_array_equal(pixels(ALPHA), np.repeat(ALPHA[..., None], 3, axis=2))


@pytest.mark.parametrize(
    "raw",
    [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.float32), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)],
)
def test_other_raw_pixels_are_refused(raw: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match="raw pixels must be uint8"):
        decode(raw, RECORD)


def test_threads_that_do_not_decode_keep_their_warnings() -> None:
    from PIL import TiffImagePlugin

    heard: list[bool] = []
    silenced: Any = TiffImagePlugin

    def listen() -> None:
        with pytest.warns(UserWarning, match="heard"):
            silenced.warnings.warn("heard")
        heard.append(True)

    decode(encoded(Image.fromarray(RGB), "TIFF"), RECORD)
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [True]


def test_truncated_files_are_not_completed() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_size_is_known_without_the_pixels(form: str, orientation: int) -> None:
    exif, file = Image.Exif(), BytesIO()
    exif[0x0112] = orientation
    Image.new("RGB", (32, 20)).save(file, form, exif=exif)
    data = file.getvalue()
    image = decode(data, Decode())
    assert upright_size(data)[1] == (image.height, image.width)
    assert upright_size(np.zeros((4, 5, 3), np.uint8)) == ((4, 5), (4, 5))


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40), b"II*\0" + b"\xff" * 30])
def test_the_size_of_what_is_no_image(data: bytes) -> None:
    with pytest.raises(ImageError):
        upright_size(data)
