"""The forward pass: 8-bit pixels in, stored values out, in one call that knows precision, compilation and memory.

Shapes: B batch, H, W the network's input, C = 3 channels.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from featurebank.extract.agreement import Kept, agreement, lower
from featurebank.extract.assets import cache_dir
from featurebank.extract.key import LEAST_AGREEMENT, Precision, StoredType
from featurebank.extract.packing import packed as pack
from featurebank.extract.packing import unpacked
from featurebank.extract.transform import normalisation

if TYPE_CHECKING:
    from featurebank.extract.backbones.contract import BackboneSpec, Network

__all__ = ["PACK_FROM_ROWS", "PixelsToFeatures", "Runner", "can_pack", "is_out_of_memory"]

log = logging.getLogger("featurebank")

PACK_FROM_ROWS = 256
"""Laying a network out costs a second at most, three passes of a few images among it."""

PACKED_IMAGES = 4
"""What packed and eager features are compared on."""


class PixelsToFeatures(nn.Module):
    """Normalisation in float32, the network in its own precision, outputs in the stored dtype.

    Args:
        network: in float32; changed in place.
        spec: says what the weights expect.
        precision: of the network's arithmetic.
        dtype: of the outputs.
        kept: what of the network stays in float32 all the same.

    Attributes:
        tried: what could have been kept to its agreement with float32, where that was measured.
    """

    def __init__(
        self, network: Network, spec: BackboneSpec, precision: Precision, dtype: StoredType, kept: Kept = "nothing"
    ) -> None:
        super().__init__()
        self.kept = kept
        self.tried: Mapping[Kept, float] = {}
        self.scale: torch.Tensor
        self.shift: torch.Tensor
        scale, shift = normalisation(spec.preprocessing)
        self.register_buffer("scale", torch.from_numpy(scale).view(1, 3, 1, 1).clone(), persistent=False)
        self.register_buffer("shift", torch.from_numpy(shift).view(1, 3, 1, 1).clone(), persistent=False)
        # A float32 beginning takes images that were not rounded.
        self.compute = getattr(torch, precision) if kept == "nothing" else torch.float32
        self.stored = getattr(torch, dtype)
        assert isinstance(network, nn.Module)  # noqa: S101 - narrows the type, the contract says so
        blank = torch.zeros(1, 3, spec.preprocessing.height, spec.preprocessing.width)
        lower(network, getattr(torch, precision), kept, blank)
        self.network = network.to(memory_format=torch.channels_last)
        self.eval().requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, H, W, C) uint8 to one tensor (B, ...) per output."""
        images = pixels.permute(0, 3, 1, 2).to(torch.float32).mul_(self.scale).add_(self.shift)
        outputs = self.network(images.to(self.compute))
        return {name: value.to(self.stored) for name, value in outputs.items()}


class Runner:
    """One backbone on one device.

    A pass never holds more than ``batch_size`` images; when memory runs out that number is halved for good and the
    images are passed again. Halves nest, so rows stay where they are. Calls from several threads are safe.

    Args:
        module: what to run; moved to the device.
        device: ``cpu``, ``cuda``, ``cuda:1`` …
        batch_size: the most images a pass.
        compiled: whether to compile; falls back to eager, with a warning, where that fails.
        packed: whether to lay the network out for oneDNN, see `featurebank.extract.packing`; as with ``compiled``.

    Attributes:
        beside: the same network on further devices.
    """

    def __init__(
        self, module: PixelsToFeatures, *, device: str, batch_size: int, compiled: bool, packed: bool = False
    ) -> None:
        self.device = torch.device(device)
        self.module = module.to(self.device)
        self.batch_size = batch_size
        self.beside: tuple[Runner, ...] = ()
        self.compiled = self.packed = False
        self.note = ""
        self._call: Callable[[torch.Tensor], dict[str, torch.Tensor]] = self.module
        self._lock = threading.Lock()
        if compiled and getattr(module.network, "compiles", True):
            self._compile()
        elif compiled:
            self.note = "this network cannot be compiled, running eagerly"
        elif packed and getattr(module.network, "compiles", True):
            self._pack()

    def __call__(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, H, W, C) uint8 to one tensor (B, ...) per output, on the device."""
        parts: list[dict[str, torch.Tensor]] = []
        start = 0
        while start < len(pixels):
            size = self.batch_size
            part = self._fitting(pixels[start : start + size], size)
            if part is None:
                # Only here: while the error is being handled, its traceback holds what filled the memory.
                self._halve(size)
                continue
            parts.append(part)
            start += size
        if len(parts) == 1:
            return parts[0]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _fitting(self, pixels: torch.Tensor, size: int) -> dict[str, torch.Tensor] | None:
        """One pass, or ``None`` where memory ran out and fewer images may fit."""
        try:
            return self._pass(pixels, size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or size == 1:
                raise
        return None

    def _pass(self, pixels: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
        # Compiled code tells tensors made in inference mode from others, so the input is always made outside.
        n = len(pixels)
        images = pixels.to(self.device, non_blocking=True)
        if (self.compiled or self.packed) and n < size:
            images = torch.cat([images, images.new_zeros((size - n, *images.shape[1:]))])
        with torch.inference_mode():
            outputs = self._call(images)
        return outputs if len(images) == n else {name: value[:n] for name, value in outputs.items()}

    def _halve(self, size: int) -> None:
        with self._lock:
            if self.batch_size == size:
                self.batch_size = size // 2
                self.note = f"out of memory at {size} images: the batch is {size // 2} from here on"
                log.warning("%s", self.note)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _compile(self) -> None:
        sample = self._sample(self.batch_size)
        eager = self(sample)
        # What was compiled once is read the next time, in a fifth of the time; its name has torch's version and the
        # processor's instructions.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))
        from torch._inductor.async_compile import shutdown_compile_workers

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # All networks share this module's forward, and so, unless isolated, one limit of compilations.
                self._call = torch.compile(  # type: ignore[call-overload]  # lacks the flag in torch 2.15
                    self.module, dynamic=False, isolate_recompiles=True, options={"freezing": True}
                )
                compiled = self(sample)
        except Exception as error:
            self._use_eager(f"compilation failed, running eagerly: {str(error).splitlines()[0][:200]}")
            return
        finally:
            shutdown_compile_workers()
        self.compiled = self._agree("compiled", eager, compiled)

    def _pack(self) -> None:
        sample = self._sample(min(self.batch_size, PACKED_IMAGES))
        eager = self(sample)
        try:
            if not pack(self.module, sample[:1], self.batch_size):
                return
            again = self(sample)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._use_eager(f"oneDNN cannot lay it out, running eagerly: {str(error).splitlines()[0][:200]}")
            return
        self.packed = self._agree("packed", eager, again)

    def _sample(self, images: int) -> torch.Tensor:
        spec = self.module.network.spec.preprocessing
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (images, spec.height, spec.width, 3), dtype=torch.uint8, generator=generator)

    def _agree(self, how: str, eager: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
        """Whether features are the eager ones, within what is allowed; if not, eagerly it goes on."""
        if (cosine := agreement(eager, other)) >= LEAST_AGREEMENT:
            return True
        self._use_eager(f"{how} features differ from eager ones (cosine {cosine:.5f}), running eagerly")
        return False

    def _use_eager(self, note: str) -> None:
        unpacked(self.module)
        self._call = self.module
        self.note = note
        log.warning("%s", note)


def can_pack(device: str) -> bool:
    """Whether networks can be laid out for oneDNN there."""
    return device == "cpu" and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return "DefaultCPUAllocator" in text and "memory" in text
