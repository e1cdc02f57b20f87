"""All that is random in training, as a function of a seed, a purpose and numbers: no state, so none to save.

What is drawn for a row or a step is the same whatever was drawn before it, by however many processes.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from typing import SupportsIndex

import numpy as np

__all__ = ["seed_of", "seeded_everywhere"]


def seed_of(seed: int, purpose: str, *numbers: SupportsIndex | str) -> int:
    """A seed of 64 bits, the same on every machine: BLAKE2b of the arguments as JSON.

    Args:
        seed: of the whole run.
        purpose: what is drawn, such as ``augment``; draws for other purposes are independent.
        numbers: which draw: a step, or an epoch and a row's id.

    >>> seed_of(0, "order", 3)
    12509629750883714479
    """
    names = [number if isinstance(number, str) else index(number) for number in numbers]
    text = json.dumps([int(seed), purpose, *names]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


@contextmanager
def seeded_everywhere(seed: int, purpose: str, *numbers: SupportsIndex | str) -> Iterator[None]:
    """Within it, the global generators of ``random``, NumPy and torch are seeded by `seed_of`; then they are as before.

    Of torch, the CPU's generator and that of the current CUDA device, where this process uses one.
    """
    import torch

    own = seed_of(seed, purpose, *numbers)
    on_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 (the one timm draws from)
    before_cuda = torch.cuda.get_rng_state() if on_cuda else None
    random.seed(own)
    np.random.seed([own >> 32, own & 0xFFFFFFFF])  # noqa: NPY002
    torch.default_generator.manual_seed(own)
    if on_cuda:
        torch.cuda.manual_seed(own)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
        if before_cuda is not None:
            torch.cuda.set_rng_state(before_cuda)
