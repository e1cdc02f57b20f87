"""The card that is not there keeps CUDA's rules: placement, copies under way, memory."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pretend_cuda import Card, OnCard, pretend_cards, pretend_cuda
from torch import Tensor, nn


@pytest.fixture
def card() -> Iterator[Card]:
    with pretend_cuda() as card:
        yield card


MIXED: dict[str, Callable[[Tensor], object]] = {
    "product": lambda x: x @ torch.ones(3, 2),
    "sum": lambda x: x + torch.ones(3),
    "in place": lambda x: x.add_(torch.ones(3)),
    "out": lambda x: torch.mm(x, x.T, out=torch.empty(4, 4)),
    "list": lambda x: torch.cat([x, torch.ones(1, 3)]),
    "scalar of the card": lambda x: torch.ones(3) * x.sum(),
    "index of the card": lambda x: torch.ones(4)[x[:, 0] > 1],
    "assigned by mask": lambda x: x.__setitem__(x > 1, torch.ones(10)),
    "module": nn.Linear(3, 2),
    "gradient": lambda x: setattr(x, "grad", torch.ones(4, 3)),
    "generator": lambda x: x.normal_(generator=torch.Generator()),
}


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("name", MIXED)
def test_two_devices_do_not_meet(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"found at least two devices|device type for generator"):
        MIXED[name](torch.arange(12.0).reshape(4, 3).to("cuda"))


def test_two_cards_do_not_meet_and_each_has_its_own_memory() -> None:
    with pretend_cards(2) as (first, second):
        x, y = torch.ones(5, device="cuda:0"), torch.arange(5.0).to("cuda:1")
        assert (x.device.index, (y + 1).device.index, torch.cuda.device_count()) == (0, 1, 2)
        with pytest.raises(RuntimeError, match="two devices, cuda:0 and cuda:1"):
            x + y
        there = x.to("cuda:1")
        assert (there + y).tolist() == [1, 2, 3, 4, 5]
        assert (first.allocated, second.allocated) == (20, 40)
        torch.cuda.set_device("cuda:1")
        assert torch.ones(1, device="cuda").device.index == 1
        torch.cuda.set_device("cuda:0")


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("convert", [Tensor.numpy, np.asarray])
def test_numpy_asks_for_a_copy_on_the_host(convert: Callable[[Tensor], object]) -> None:
    x = torch.arange(3.0, device="cuda")
    with pytest.raises(TypeError, match=r"Use Tensor.cpu\(\)"):
        convert(x)
    assert np.asarray(x.cpu()).tolist() == [0, 1, 2]


@pytest.mark.usefixtures("card")
def test_values_are_those_of_the_cpu_and_stay_on_the_card() -> None:
    x = torch.arange(12.0).reshape(4, 3)
    y = x.cuda()
    y[0] = torch.ones(3)  # a copy, which may cross
    assert x[0].tolist() == [0, 1, 2]
    assert (y.device, y.is_cuda, y.T.shape) == (torch.device("cuda:0"), True, (3, 4))
    made = [*torch.topk(y, 2), *y, y[torch.tensor([0, 2])], y * torch.tensor(2.0), y.to(torch.float16), y.new_zeros(2)]
    assert all(isinstance(one, OnCard) for one in made)
    assert y.to("cuda") is y
    assert y.mul_(2) is y
    assert not isinstance(y.to("cpu"), OnCard)
    assert (y[0].tolist(), y.max().item(), float(y.sum())) == ([2, 2, 2], 22, 132)


@pytest.mark.usefixtures("card")
def test_a_network_learns_on_the_card_what_it_learns_on_the_cpu() -> None:
    x, start = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), nn.Linear(5, 2)
    learned = []
    for device in ("cpu", "cuda"):
        model = copy.deepcopy(start).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(x.to(device)).square().sum().backward()
            optimizer.step()
        assert all(isinstance(p, nn.Parameter) for p in copy.deepcopy(model).parameters())
        learned.append(model.weight.detach().cpu())
    assert torch.equal(*learned)
    assert not torch.equal(learned[0], start.weight)


@pytest.mark.usefixtures("card")
def test_threads_that_start_within_keep_the_rules() -> None:
    made: list[Tensor] = []
    thread = threading.Thread(target=lambda: made.append(torch.zeros(2, device="cuda")))
    thread.start()
    thread.join()
    assert isinstance(made[0], OnCard)


@pytest.mark.usefixtures("card")
def test_a_copy_into_pinned_memory_arrives_when_it_is_waited_for() -> None:
    host = torch.zeros(3, pin_memory=True)
    host.copy_(torch.ones(3, device="cuda"), non_blocking=True)
    copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()
    assert (host.tolist(), copied.query()) == ([0, 0, 0], False)
    copied.synchronize()
    assert (host.tolist(), copied.query()) == ([1, 1, 1], True)


@pytest.mark.usefixtures("card")
def test_pinned_memory_must_not_change_before_the_card_has_it() -> None:
    host = torch.zeros(3).pin_memory()
    on_card = host[:2].to("cuda", non_blocking=True)
    host[0] = 1
    with pytest.raises(RuntimeError, match="written to before the card had copied it"):
        torch.cuda.synchronize()
    host[1] = 1  # all is copied now
    assert on_card.tolist() == [0, 0]


def test_the_card_holds_as_many_bytes_as_it_has(card: Card) -> None:
    card.total = 1000
    x = torch.zeros(200, device="cuda")
    assert (card.allocated, x[:10].shape, torch.cuda.mem_get_info()) == (800, (10,), (200, 1000))
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        x + 1
    del x
    assert (card.allocated, card.peak) == (0, 800)
    torch.zeros(250, device="cuda")


def test_without_it_there_is_no_card() -> None:
    with pretend_cuda():
        assert torch.cuda.is_available()
    assert not torch.cuda.is_available()
