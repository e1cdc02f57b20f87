"""A card that is not there: values on the CPU, placement, copies and memory by CUDA's rules.

Within `pretend_cuda()`, `torch.cuda` answers as if there were one card (`pretend_cards`: several), and a tensor on
``cuda`` is an `OnCard`: a shell that says it is there, around a plain tensor with the values. Every function of torch
is seen by `_Rules`, which runs it on the plain tensors and puts a shell around what comes out. So placement is checked,
and nothing else changes:

* tensors of the CPU and of a card, or of two cards, do not meet, but for those of the CPU without dimension;
  ``.numpy()`` of a card's raises;
* a copy into pinned memory that nobody waits for arrives when an event recorded after it is waited for, not before;
  pinned memory that changes before the card has copied it is an error at the next wait;
* the card holds `Card.total` bytes; beyond them torch.OutOfMemoryError is raised. What autograd keeps is not counted.

Streams run in order, so races between them are not seen; nor is anything that compiled code would do.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Card", "OnCard", "pretend_cards", "pretend_cuda"]

CPU = torch.device("cpu")
CHOSEN = threading.local()  # the number of a thread's own card
OF_PLACE = ("device", "is_cuda", "is_cpu")
TO_HOST = ("numpy", "__array__", "__dlpack__")
PLAIN = (torch.Tensor, torch.nn.Parameter)


class OnCard(torch.Tensor):
    """A tensor of the card; ``held`` has its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, number: int) -> OnCard:
        made: OnCard = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), dtype=held.dtype, device=torch.device("cuda", number)
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"OnCard({self.held!r})"

    def record_stream(self, s: Any) -> None:
        """Nothing: there is one stream."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{func} ran outside pretend_cuda(), or from C++ that the rules do not see")


class Card:
    """The card's memory and its copies under way.

    Attributes:
        total: bytes; may be changed at any time.
        allocated: bytes of the tensors that live.
        peak: the most of them so far.
        emptied: how often the cache was emptied.
        uploads: copies out of pinned memory so far.
        received: bytes that the host has sent so far.
    """

    def __init__(self, total: int, number: int = 0) -> None:
        self.total, self.number = total, number
        self.allocated = self.peak = self.emptied = self.uploads = self.received = 0
        self._tensors: dict[int, tuple[int, int]] = {}
        self._lock = threading.RLock()
        self._pinned: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._pending: list[_Copy] = []

    def hold(self, held: torch.Tensor) -> OnCard:
        """The shell of a tensor that is on the card.

        Raises:
            torch.OutOfMemoryError: there is no room for it.
        """
        storage = held.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        with self._lock:
            shells, _ = self._tensors.get(key, (0, 0))
            if not shells and self.allocated + size > self.total:
                gc.collect()
                if self.allocated + size > self.total:
                    raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes of {self.total}")
            self._tensors[key] = (shells + 1, size)
            self.allocated += 0 if shells else size
            self.peak = max(self.peak, self.allocated)
        shell = OnCard(held, self.number)
        # The storage is kept until the shell is gone, so that no other one has its number.
        weakref.finalize(shell, self._release, key, storage).atexit = False
        return shell

    def _release(self, key: int, _: Any) -> None:
        with self._lock:
            shells, size = self._tensors.pop(key)
            if shells > 1:
                self._tensors[key] = (shells - 1, size)
            else:
                self.allocated -= size

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Remembers that the memory is pinned."""
        storage = tensor.untyped_storage()
        tensor.pinned = storage  # type: ignore[attr-defined]  # lives as long as the tensor that was pinned
        self._pinned[storage.data_ptr()] = storage
        return tensor

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned

    def copy_later(self, to: torch.Tensor, source: torch.Tensor) -> None:
        """Into pinned memory: arrives when it is waited for."""
        with self._lock:
            self._pending.append(_Copy(to=to, value=source.clone(), arrives=True))

    def watch(self, source: torch.Tensor) -> None:
        """Out of pinned memory: must be the same when it is waited for."""
        with self._lock:
            self.uploads += 1
            self._pending.append(_Copy(to=source, value=source.clone(), arrives=False))

    def under_way(self) -> list[_Copy]:
        with self._lock:
            return list(self._pending)

    def wait(self, copies: Sequence[_Copy]) -> None:
        """Lets copies arrive, in order.

        Raises:
            RuntimeError: pinned memory was written to before the card had copied it.
        """
        with self._lock:
            waited = [copy for copy in self._pending if any(copy is one for one in copies)]
            self._pending = [copy for copy in self._pending if not any(copy is one for one in waited)]
            # Under the lock: another thread that waits for the same copies goes on when they are there.
            for copy in waited:
                if copy.arrives:
                    copy.to.copy_(copy.value)
                elif not torch.equal(copy.to, copy.value):
                    raise RuntimeError("pinned memory was written to before the card had copied it")


class _Copy(SimpleNamespace):
    to: torch.Tensor
    value: torch.Tensor
    arrives: bool


class _Rules(TorchFunctionMode):
    def __init__(self, cards: Sequence[Card]) -> None:
        super().__init__()
        self.cards, self.card = cards, cards[0]  # the first knows of the host's memory and of copies

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        first: Any = args[0] if args else None
        if name == "__get__" and isinstance(first, OnCard) and getattr(func.__self__, "__name__", "") in OF_PLACE:
            return func(first)
        if name == "_parse_to":
            return func(*args, **kwargs)  # the arguments of Module.to, which passes them on
        if name == "_has_compatible_shallow_copy_type":
            return not any(isinstance(x, OnCard) for x in args)  # else Module.to would keep its parameters
        if name in ("pin_memory", "is_pinned") and not isinstance(first, OnCard):
            return self.card.is_pinned(first) if name == "is_pinned" else self.card.pin(first.clone())
        if name == "__deepcopy__" and isinstance(first, OnCard):
            return self._copied(first, self.cards[_number(first)])
        if name in ("to", "cuda", "cpu", "type_as"):
            return self._moved(name, first, args[1:], kwargs)
        if name == "copy_":
            return self._written(first, *args[1:], **kwargs)
        device, pinned = kwargs.get("device"), kwargs.pop("pin_memory", False)
        shells = {id(x.held): x for x in tree_leaves((args, kwargs)) if isinstance(x, OnCard)}
        on_card = bool(shells) if device is None else torch.device(device).type == "cuda"
        if on_card:
            _check(name, args, kwargs)
        card = self.cards[_number(next(iter(shells.values())) if device is None else device)] if on_card else self.card
        if device is not None:
            kwargs["device"] = _on_cpu(device)
        out = func(*_plain(args), **_plain(kwargs))
        if pinned:
            return self.card.pin(out)
        if name == "__iter__" and shells:
            return iter([card.hold(x) for x in out])
        return self._held(out, shells, card) if on_card else out

    def _held(self, out: Any, shells: dict[int, OnCard], card: Card) -> Any:
        """What comes out on the card; what was put in comes out in the same shell."""

        def held(x: Any) -> Any:
            if type(x) not in PLAIN:
                return x
            return shells[id(x)] if id(x) in shells else card.hold(x)

        return tree_map(held, out)

    def _copied(self, tensor: OnCard, card: Card) -> OnCard:
        copied = card.hold(tensor.held.detach().clone().requires_grad_(tensor.held.requires_grad))
        vars(copied).update({key: value for key, value in vars(tensor).items() if key != "held"})
        return copied

    def _moved(self, name: str, tensor: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor:
        """To one side or the other, or to another dtype on the same one."""
        was = isinstance(tensor, OnCard)
        places = [x for x in (*args, *kwargs.values()) if isinstance(x, str | torch.device | torch.Tensor)]
        goes = {"cuda": True, "cpu": False}.get(name, _is_on_card(places[0]) if places else was)
        number = _number(places[0] if places else tensor if was else "cuda") if goes else -1
        same = number == (_number(tensor) if was else -1)
        plain: torch.Tensor = _plain(tensor)
        if goes and not was and kwargs.get("non_blocking") and self.card.is_pinned(plain):
            self.card.watch(plain)
        out = plain
        if name in ("to", "type_as"):
            like: list[Any] = [x.dtype if isinstance(x, torch.Tensor) else _on_cpu(x) for x in args]
            out = plain.to(*like, **{key: _on_cpu(x) for key, x in kwargs.items()})
        if same and out is plain:
            return tensor
        if not same and out.data_ptr() == plain.data_ptr():
            out = out.clone()
        if was and not goes:
            self.card.wait(self.card.under_way())  # the host waits for all that was queued before
        self.card.received += out.nbytes if goes and not was else 0
        return self.cards[number].hold(out) if goes else out

    def _written(self, to: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        """``copy_``."""
        up, down = isinstance(to, OnCard), isinstance(source, OnCard)
        if non_blocking and down and not up and self.card.is_pinned(to):
            self.card.copy_later(to, _plain(source))
            return to
        if non_blocking and up and not down and self.card.is_pinned(source):
            self.card.watch(source)
        self.card.received += to.nbytes if up and not down else 0
        _plain(to).copy_(_plain(source))
        return to


def _check(name: str, args: Any, kwargs: Any) -> None:
    """Raises what a card would."""
    if name in TO_HOST:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it first.")
    meeting = tree_leaves((args, kwargs))
    if name in ("__getitem__", "__setitem__") and isinstance(args[0], OnCard):
        # Indices may lie on the CPU; what is assigned may too, where the index is of slices and numbers.
        by_tensor = any(isinstance(x, torch.Tensor) for x in tree_leaves(args[1]))
        meeting = [args[0], *args[2:]] if by_tensor else []
    if any(isinstance(x, torch.Generator) for x in meeting):
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({name})")
    off = any(isinstance(x, torch.Tensor) and not isinstance(x, OnCard) and x.dim() for x in meeting)
    places = {str(x.device) for x in meeting if isinstance(x, OnCard)} | ({"cpu"} if off else set())
    if len(places) > 1:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(sorted(places))}! ({name})"
        )


def _is_on_card(x: Any) -> bool:
    return isinstance(x, OnCard) if isinstance(x, torch.Tensor) else torch.device(x).type == "cuda"


def _number(x: Any) -> int:
    """Of the card that a tensor is on, or that a place names: without an index the thread's own."""
    index = x.device.index if isinstance(x, torch.Tensor) else torch.device(x).index
    return getattr(CHOSEN, "number", 0) if index is None else index


def _plain(values: Any) -> Any:
    """The same arguments without shells."""
    return tree_map(lambda x: x.held if isinstance(x, OnCard) else x, values)


def _on_cpu(x: Any) -> Any:
    """A place, or anything else; the card becomes the CPU."""
    return CPU if isinstance(x, str | torch.device) and _is_on_card(x) else x


class _Event:
    """Of the one stream there is."""

    def __init__(self, card: Card, **_: Any) -> None:
        self._card = card
        self._before: list[_Copy] = []

    def record(self, *_: Any) -> None:
        self._before = self._card.under_way()

    def synchronize(self) -> None:
        self._card.wait(self._before)

    def wait(self, *_: Any) -> None:
        """Streams run in order."""

    def query(self) -> bool:
        return not any(copy is one for copy in self._card.under_way() for one in self._before)

    def elapsed_time(self, _: Any) -> float:
        return 1.0


def _answers(cards: Sequence[Card]) -> dict[str, Any]:
    """What `torch.cuda` says of the cards."""
    card = cards[0]

    def at(*device: Any) -> Card:
        return cards[_number("cuda" if not device or device[0] is None else device[0])]

    stream = SimpleNamespace(
        synchronize=lambda: card.wait(card.under_way()), wait_stream=lambda _: None, wait_event=lambda _: None
    )

    def emptied() -> None:
        card.emptied += 1

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: len(cards),
        "current_device": lambda: _number("cuda"),
        "set_device": lambda device: setattr(CHOSEN, "number", _number(device)),
        "get_device_name": lambda *_: "a pretended card",
        "get_device_capability": lambda *_: (9, 0),
        "get_device_properties": lambda *d: SimpleNamespace(total_memory=at(*d).total, uuid="pretended"),
        "is_bf16_supported": lambda *_, **__: True,
        "mem_get_info": lambda *d: (at(*d).total - at(*d).allocated, at(*d).total),
        "memory_allocated": lambda *d: at(*d).allocated,
        "memory_reserved": lambda *d: at(*d).allocated,
        "max_memory_allocated": lambda *_: card.peak,
        "reset_peak_memory_stats": lambda *_: setattr(card, "peak", card.allocated),
        "empty_cache": emptied,
        "synchronize": lambda *_: stream.synchronize(),
        "current_stream": lambda *_: stream,
        "stream": lambda _: nullcontext(),
        "Stream": lambda *_, **__: stream,
        "Event": lambda **settings: _Event(card, **settings),
        "manual_seed": lambda _: None,
        "manual_seed_all": lambda _: None,
        "get_rng_state": lambda *_: torch.zeros(1, dtype=torch.uint8),
        "set_rng_state": lambda *_: None,
    }


@contextmanager
def pretend_cuda(total: int = 8 << 30) -> Iterator[Card]:
    """One card of so many bytes, for this thread and those that start within."""
    with pretend_cards(1, total) as (card,):
        yield card


@contextmanager
def pretend_cards(count: int, total: int = 8 << 30) -> Iterator[list[Card]]:
    """Several cards of so many bytes, for this thread and those that start within."""
    cards = [Card(total, number) for number in range(count)]
    run = threading.Thread.run

    def ruled(thread: threading.Thread) -> None:
        with _Rules(cards):
            run(thread)

    with (
        mock.patch.multiple(torch.cuda, **_answers(cards)),
        # What optimisers ask before a step.
        mock.patch.object(torch.accelerator, "current_stream", return_value=mock.Mock(is_capturing=bool)),
        mock.patch.object(threading.Thread, "run", ruled),
        _Rules(cards),
    ):
        yield cards
