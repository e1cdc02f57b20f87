"""A network laid out for oneDNN, without a compiler: weights in its order, and what follows a layer in the same pass.

In plain PyTorch every convolution on a CPU puts its weights into oneDNN's order anew, and a batch norm or an activation
behind it reads and writes all of memory once more. Both are known before the first image.

Shapes: B batch, H, W the network's input, C = 3 channels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["packed", "unpacked"]

Post = tuple[str, list[float], str]
"""What oneDNN does to a result before it writes it: a name, numbers, an algorithm."""

NOTHING: Post = ("none", [], "")
AFTER: Mapping[type[nn.Module], Post] = {
    nn.ReLU: ("relu", [], ""),
    nn.ReLU6: ("hardtanh", [0.0, 6.0], ""),
    nn.SiLU: ("swish", [], ""),
    nn.Hardswish: ("hardswish", [], ""),
}
SAME, NORM_AND_ACT = "Conv2dSame", "BatchNormAct2d"  # timm's, by name: not every network is timm's


@dataclass
class _Call:
    """A module that was called, with the operators that ran before it began and when it had ended."""

    module: nn.Module
    given: torch.Tensor
    made: torch.Tensor
    began: int
    ended: int


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What happened in a pass: the calls of modules, and which operators took which tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Call] = []
        self.taken: dict[int, list[int]] = defaultdict(list)
        self.alive: list[torch.Tensor] = []
        self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        for tensor in _tensors((args, kwargs or {})):
            self.taken[id(tensor)].append(self.operators)
            self.alive.append(tensor)  # so that no later tensor has its id
        self.operators += 1
        return func(*args, **(kwargs or {}))

    def next_to(self, call: _Call) -> _Call | None:
        """The module without hooks that takes what another made, if nothing else ever does.

        What comes after a change in place takes the changed tensor, so that does no harm.
        """
        for then in self.calls:
            if then.given is call.made and then is not call:
                takers = [index for index in self.taken[id(call.made)] if index >= call.ended]
                late = () if then.made is call.made else [index for index in takers if index >= then.ended]
                alone = not late and all(index >= then.began for index in takers)
                return then if alone and not then.module._forward_pre_hooks else None
        return None


def _tensors(of: Any) -> Iterator[torch.Tensor]:
    if isinstance(of, torch.Tensor):
        yield of
    elif isinstance(of, Mapping):
        yield from (tensor for value in of.values() for tensor in _tensors(value))
    elif isinstance(of, list | tuple):
        yield from (tensor for value in of for tensor in _tensors(value))


def packed(module: nn.Module, pixels: torch.Tensor, batch: int) -> int:
    """Has convolutions and linear layers of a module compute with weights that oneDNN has laid out; how many.

    Only the layers' ``forward`` changes, on the instance: weights, names and hooks stay. A batch norm or an activation
    is taken into the layer before it where nothing else uses what lies between.

    Args:
        module: takes pixels, on a CPU, in eval mode.
        pixels: (1, H, W, C) of any content, sent through to see what follows what.
        batch: how many images a pass will have.

    Raises:
        Exception: oneDNN cannot do what it was asked; `unpacked` gives the module back as it was.
    """
    seen = _passed(module, pixels)
    made = 0
    for call in seen.calls:
        if type(call.module) is nn.Conv2d or _is(call.module, SAME):
            made += _pack_convolution(call, seen, batch)
        elif type(call.module) is nn.Linear and call.module.weight.dtype == torch.bfloat16:
            _pack_linear(call, seen, batch)
            made += 1
    return made


def unpacked(module: nn.Module) -> None:
    """Takes back what `packed` did."""
    for part in module.modules():
        if isinstance(part.__dict__.get("forward"), _Own):
            del part.forward


def _passed(module: nn.Module, pixels: torch.Tensor) -> _Seen:
    seen = _Seen()
    began: dict[nn.Module, int] = {}

    def enter(part: nn.Module, given: Any) -> None:
        del given
        began[part] = seen.operators

    def leave(part: nn.Module, given: Any, made: Any) -> None:
        if given and isinstance(given[0], torch.Tensor) and isinstance(made, torch.Tensor):
            seen.calls.append(_Call(part, given[0], made, began[part], seen.operators))
            seen.alive += [given[0], made]

    with torch.no_grad(), _hooked(module, enter, leave), seen:
        outputs = module(pixels)
    for tensor in _tensors(outputs):
        seen.taken[id(tensor)].append(seen.operators)
    times = Counter(call.module for call in seen.calls)
    seen.calls = [call for call in seen.calls if times[call.module] == 1 and call.ended > call.began]
    return seen


@contextmanager
def _hooked(module: nn.Module, enter: Callable[..., None], leave: Callable[..., None]) -> Iterator[None]:
    """Watches the modules without parts, and norms, whose results no one else watches."""
    leaves = [
        part
        for part in module.modules()
        if not part._forward_hooks
        and "forward" not in part.__dict__
        and (isinstance(part, nn.BatchNorm2d) or not any(part.children()))
    ]
    hooks = [part.register_forward_hook(leave) for part in leaves]
    hooks += [part.register_forward_pre_hook(enter) for part in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Own:
    """What a module computes instead: a function of its input alone."""

    def __init__(self, compute: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._compute = compute

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._compute(x)


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def _is(module: nn.Module | None, name: str) -> bool:
    return type(module).__name__ == name


def _pack_convolution(call: _Call, seen: _Seen, batch: int) -> bool:
    conv: Any = call.module
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    weight, bias, post = conv.weight.detach(), conv.bias, NOTHING
    last = call
    norm: Any = None if (then := seen.next_to(call)) is None else then.module
    if then is not None and _folds(norm):
        values = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        wide: Any = [value.float() if isinstance(value, torch.Tensor) else value for value in (weight, bias, *values)]
        weight, bias = (value.detach().to(conv.weight.dtype) for value in fuse_conv_bn_weights(*wide))
        norm.forward = _Own(_same)
        last = then
    if last is not call and _is(norm, NORM_AND_ACT):
        post = NOTHING if isinstance(norm.act, nn.Identity) else _post(norm.act)
        if post is NOTHING:
            norm.forward = _Own(norm.act)
    elif (act := seen.next_to(last)) is not None:
        post = _taken_in(act)
    padding, weight = _padding(call, weight)
    settings = (padding, list(conv.stride), list(conv.dilation), conv.groups)
    shape = [batch, *call.given.shape[1:]]
    own = torch.ops.mkldnn._reorder_convolution_weight(weight, *settings, shape)
    conv.forward = _Own(lambda x: torch.ops.mkldnn._convolution_pointwise(x, own, bias, *settings, *post))
    return True


def _pack_linear(call: _Call, seen: _Seen, batch: int) -> None:
    linear: Any = call.module
    act = seen.next_to(call)
    post = NOTHING if act is None else _taken_in(act)
    rows = batch * (call.given.numel() // call.given.shape[-1])
    own, bias = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows), linear.bias
    linear.forward = _Own(lambda x: torch.ops.mkldnn._linear_pointwise(x, own, bias, *post))


def _folds(norm: Any) -> bool:
    """Whether it is a batch norm that can be taken into the convolution before it."""
    plain = type(norm) is nn.BatchNorm2d or (_is(norm, NORM_AND_ACT) and isinstance(norm.drop, nn.Identity))
    return plain and norm.running_mean is not None


def _taken_in(act: _Call) -> Post:
    post = _post(act.module)
    if post is not NOTHING:
        act.module.forward = _Own(_same)
    return post


def _post(act: Any) -> Post:
    if type(act) is nn.GELU:
        return ("gelu", [], act.approximate)
    return AFTER.get(type(act), NOTHING)


def _padding(call: _Call, weight: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """Padding on both sides alike, as oneDNN has it; where timm's has one more behind, weights of 0 lead."""
    conv: Any = call.module
    if not _is(conv, SAME):
        return list(conv.padding), weight
    behind, more = [], []
    for size, kernel, stride, dilation in zip(
        call.given.shape[-2:], conv.kernel_size, conv.stride, conv.dilation, strict=True
    ):
        total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        if total % 2 and dilation > 1:
            raise ValueError(f"padding must be even where a convolution is dilated; found {total}")
        behind.append(total - total // 2)
        more.append(total % 2)
    return behind, functional.pad(weight, [more[1], 0, more[0], 0])
