"""JPEGs decoded, resized and cropped on the device: nvJPEG on a GPU, libjpeg-turbo where the device is the CPU.

nvJPEG upsamples colour differently from libjpeg-turbo, so its pixels are a preprocessing of their own
(`Decode.library`). What it is given is decided from the bytes of each image alone; Pillow decodes everything else.

Resizing is Pillow's algorithm: antialiased, weights in fixed point, 8 bits between the two passes; here as products of
matrices, which are exact wherever those of float32 are (no TF32). The horizontal pass is always the first; where Pillow
begins with the vertical one, which it may when the sides are not resized alike, pixels differ by about 1/255.

Shapes: H, W the image's or the network's height and width, C = 3 channels.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from featurebank.extract.decode import ORIENTATION_TAG, quiet
from featurebank.extract.preprocessing import Decode
from featurebank.extract.resampling import FRACTION, Placement, bands, fixed_point
from featurebank.extract.transform import Transform

__all__ = ["DeviceTransform", "Jpeg", "check_decoder", "decode_jpegs", "recognised"]

PIXELS_AT_ONCE = 64_000_000
"""Of a call to the decoder: 192 MB of decoded images, whatever their sizes."""

LOWER = 8
"""Those of the bits of a weight that are added up apart."""

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
SOS, APP1, APP14 = 0xDA, 0xE1, 0xEE
FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive, Huffman-coded."""
OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)

_ORIENT: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    2: lambda image: image.flip(2),
    3: lambda image: image.flip(1, 2),
    4: lambda image: image.flip(1),
    5: lambda image: image.transpose(1, 2),
    6: lambda image: image.rot90(-1, (1, 2)),
    7: lambda image: image.rot90(2, (1, 2)).transpose(1, 2),
    8: lambda image: image.rot90(1, (1, 2)),
}


def check_decoder(library: str, device: str) -> None:
    """Decodes one JPEG on the device, where the library is one that does.

    Raises:
        ValueError: the device is no GPU, or torchcodec is missing or cannot use it.
    """
    if library == "pillow":
        return
    if not device.startswith("cuda"):
        raise ValueError(f"decoder {library} needs a CUDA device, and this run is on {device}; use decoder: pillow")
    if importlib.util.find_spec("torchcodec") is None:
        raise ValueError(f"decoder {library} needs torchcodec; install it with: pip install torchcodec")
    buffer = BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    try:
        _decoded([buffer.getvalue()], torch.device(device))
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(
            f"decoder {library} does not work on {device}; use decoder: pillow, or install a torchcodec built for this "
            f"version of torch and CUDA: {str(error)[:300]}"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """A JPEG for the device.

    Attributes:
        data: the file without its EXIF blocks, as the decoder would act on them whatever the record says.
        height: rows as encoded.
        width: columns as encoded.
        orientation: EXIF's, 1 to 8, where the record asks for it; else 1.
    """

    data: bytes
    height: int
    width: int
    orientation: int


def recognised(data: bytes | NDArray[np.uint8], record: Decode) -> Jpeg | None:
    """An image that the device can decode, or ``None`` where it is left to Pillow.

    The device takes complete, Huffman-coded, 8-bit JPEGs in grey or YCbCr of at most ``record.max_pixels``.
    """
    if isinstance(data, np.ndarray) or not data.startswith(SOI) or not data.endswith(EOI):
        return None
    segments = [*_segments(data)]
    if not segments or segments[-1][0] != SOS:
        return None
    frames = [data[first + 4 : last] for marker, first, last in segments if marker in FRAMES]
    if len(frames) != 1 or not _is_supported(frames[0], data, segments):
        return None
    height, width = int.from_bytes(frames[0][1:3]), int.from_bytes(frames[0][3:5])
    if not 0 < height * width <= record.max_pixels:
        return None
    orientation = 1
    if any(marker == APP1 for marker, _, _ in segments):
        orientation = _orientation(data) if record.exif else 1
        kept = [data[first:last] for marker, first, last in segments if marker != APP1]
        data = b"".join([SOI, *kept, data[segments[-1][2] :]])
    return Jpeg(data=data, height=height, width=width, orientation=orientation)


def _is_supported(frame: bytes, data: bytes, segments: Sequence[tuple[int, int, int]]) -> bool:
    """Eight bits, grey or YCbCr, nothing but Huffman coding."""
    if len(frame) < 6 or frame[0] != 8 or frame[5] not in (1, 3) or len(frame) != 6 + 3 * frame[5]:
        return False
    if frame[6::3] == b"RGB" or any(marker in OTHER_FRAMES for marker, _, _ in segments):
        return False
    adobe = (data[first + 4 : last] for marker, first, last in segments if marker == APP14)
    return all(content[11:12] == b"\x01" for content in adobe if content.startswith(b"Adobe"))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, first and one past the last byte of each segment up to the first scan; ends early where it is damaged."""
    at = len(SOI)
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker < 0xC0 or 0xD0 <= marker <= 0xD9 or marker == 0xFF or length < 2 or at + 2 + length > len(data):
            return
        yield marker, at, at + 2 + length
        at += 2 + length


def _orientation(data: bytes) -> int:
    with quiet():
        try:
            return int(Image.open(BytesIO(data), formats=("JPEG", "MPO")).getexif().get(ORIENTATION_TAG, 1))
        except Exception:  # An unreadable EXIF block says nothing about the pixels.
            return 1


def decode_jpegs(jpegs: Sequence[Jpeg], device: torch.device) -> Iterator[torch.Tensor | None]:
    """(3, H, W) uint8 RGB of each, upright, on the device; ``None`` of those that it cannot decode.

    As many at once as a bounded amount of memory holds; where the device's own runs out, half as many from there on.

    Raises:
        torch.OutOfMemoryError: the device has no room for a single one.
    """
    first, most = 0, PIXELS_AT_ONCE
    while first < len(jpegs):
        last, pixels = first, 0
        while last < len(jpegs) and (last == first or pixels + jpegs[last].height * jpegs[last].width <= most):
            pixels += jpegs[last].height * jpegs[last].width
            last += 1
        try:
            images = _each(jpegs[first:last], device)
        except torch.OutOfMemoryError:
            if last - first == 1:
                raise
            images = []
        if not images:
            # Only here: while the error is being handled, its traceback holds what filled the memory.
            torch.cuda.empty_cache()
            most = pixels // 2
            continue
        for jpeg in jpegs[first:last]:
            image, turn = images.pop(0), _ORIENT.get(jpeg.orientation)
            yield image if image is None or turn is None else turn(image)
        first = last


def _each(jpegs: Sequence[Jpeg], device: torch.device) -> list[torch.Tensor | None]:
    """One call for all; where one of them fails, one call for each."""
    try:
        return [*_decoded([jpeg.data for jpeg in jpegs], device)]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return [None] if len(jpegs) == 1 else [image for jpeg in jpegs for image in _each([jpeg], device)]


def _decoded(files: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
    from torchcodec.decoders import decode_jpeg  # type: ignore[attr-defined]

    # A copy that may be written to: torch warns of any other, and torchcodec's remedy is not made for threads.
    encoded = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    return list(decode_jpeg(encoded, mode="RGB", device=device))


class DeviceTransform:
    """`Transform` of an image that is on a device.

    Args:
        transform: what is to be equalled.
        device: where the images are.
    """

    def __init__(self, transform: Transform, device: torch.device) -> None:
        self._transform = transform
        self._device = device
        self._weights = lru_cache(maxsize=64)(self._weights_of)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """(H, W, 3) uint8 in the record's channel order, mirrored if it says so, of (3, H, W) uint8 RGB.

        Raises:
            ImageError: a side of the resized image would be longer than 100 million pixels.
        """
        p = self._transform.preprocessing
        (_, high, wide), (rows, columns) = image.shape, self._transform.placement(image.shape[2], image.shape[1])
        made = image[:, :, columns.first : columns.first + columns.kept] if columns.size == wide else image
        if columns.size != wide:
            source, weights = self._weights(wide, columns)
            sums = image[:, :, source].to(torch.float32) @ weights.T
            made = _eight_bits(sums[:, :, : columns.kept], sums[:, :, columns.kept :])
        if rows.size != high:
            source, weights = self._weights(high, rows)
            sums = weights @ made[:, source].to(torch.float32)
            made = _eight_bits(sums[:, : rows.kept], sums[:, rows.kept :])
        else:
            made = made[:, rows.first : rows.first + rows.kept]
        made = made.permute(1, 2, 0)
        if (rows.kept, columns.kept) != (p.height, p.width):
            canvas = torch.tensor(p.fill, dtype=torch.uint8, device=self._device).repeat(p.height, p.width, 1)
            canvas[rows.border : rows.border + rows.kept, columns.border : columns.border + columns.kept] = made
            made = canvas
        turned = [axis for axis, asked in ((1, p.flip), (2, p.channels == "BGR")) if asked]
        return made.flip(turned) if turned else made

    def _weights_of(self, length: int, to: Placement) -> tuple[slice, torch.Tensor]:
        """The pixels that have a weight, and those, (2 kept, pixels): their upper bits, and below them the lower ones.

        float32 adds up either exactly.
        """
        interpolation = self._transform.preprocessing.interpolation
        band = bands(length, to.size, interpolation, first=to.first, kept=to.kept)
        start, stop = int(band.first.min()), int(band.stop.max())
        fixed = fixed_point(band.weights)
        upper = np.rint(fixed / (1 << LOWER))
        weights = self._sent(np.concatenate([upper, fixed - upper * (1 << LOWER)]).astype(np.float32))
        width = weights.shape[1]
        columns = self._sent(np.tile(band.first - start, 2))[:, None] + torch.arange(width, device=self._device)
        # Room for the zeros of rows that end with the source.
        dense = weights.new_zeros(len(weights), stop - start + width).scatter_(1, columns, weights)
        return slice(start, stop), dense[:, : stop - start]

    def _sent(self, values: NDArray[Any]) -> torch.Tensor:
        host = torch.from_numpy(values)
        if self._device.type == "cuda":
            host = host.pin_memory()
        return host.to(self._device, non_blocking=True)


def _eight_bits(upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    sums = (upper.to(torch.int32) << LOWER) + lower.to(torch.int32) + (1 << (FRACTION - 1))
    return (sums >> FRACTION).clamp_(0, 255).to(torch.uint8)
