"""MindEye's network: branches and refusals. The published numbers are in tests/golden."""

from __future__ import annotations

import pytest
import torch

from chiasm.data.errors import WeightsError
from chiasm.encoders.mindeye import MindEyeConfig, MindEyeNetwork


def network(**changes: object) -> MindEyeNetwork:
    torch.manual_seed(0)
    sizes = {"hidden": 12, "n_blocks": 2, "tokens": 3, "width": 4, "projector_hidden": 6}
    return MindEyeNetwork(MindEyeConfig(**(sizes | changes)), {"subj01": 20}).eval()


def voxels() -> torch.Tensor:
    return torch.randn(5, 20, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm", ["ln", "bn"])
@pytest.mark.parametrize("act_first", [False, True])
def test_a_unit_is_linear_then_norm_and_activation_in_the_order_asked_for(norm: str, act_first: bool) -> None:
    net = network(norm=norm, act_first=act_first, n_blocks=0)
    with torch.no_grad():
        x = net.lin0[0](voxels())
        activate = torch.nn.functional.gelu if norm == "ln" else torch.relu
        normed = net.lin0[2 if act_first else 1]
        x = normed(activate(x)) if act_first else activate(normed(x))
        assert torch.allclose(net.lin1(x), net(voxels(), "subj01").tokens.flatten(1))


def test_blocks_add_their_input() -> None:
    net = network()
    with torch.no_grad():
        for block in net.mlp:
            block[1].weight.zero_()
            block[1].bias.zero_()
        assert torch.allclose(net.lin1(net.lin0(voxels())), net(voxels(), "subj01").tokens.flatten(1))


def test_the_projector_sees_each_token_alone() -> None:
    net = network()
    answer = net(voxels(), "subj01")
    assert torch.allclose(net.projector(answer.tokens[2, 1]), answer.projected[2, 1], atol=1e-6)
    assert network(projector=False)(voxels(), "subj01").projected.shape == (5, 3, 4)


def test_every_parameter_is_the_subject_s_and_nobody_joins() -> None:
    net = network()
    assert len(net.subject_parameters("subj01")) == len(list(net.parameters()))
    assert net.subject_parameters("subj02") == []
    with pytest.raises(ValueError, match="subj02"):
        net.add_subject("subj02", 9)
    with pytest.raises(ValueError, match="got 2: a, b"):
        MindEyeNetwork(MindEyeConfig(hidden=2, tokens=1, width=2), {"a": 1, "b": 2})


def test_voxels_of_another_number_and_another_subject_are_refused() -> None:
    for given, subject, code in ((torch.zeros(1, 19), "subj01", "CHI-WT-050"), (voxels(), "subj1", "CHI-WT-051")):
        with pytest.raises(WeightsError) as caught:
            network()(given, subject)
        assert caught.value.code == code


def test_unknown_norms_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="'layer'"):
        MindEyeConfig(norm="layer")
    with pytest.raises(ValueError, match="tokens = 0"):
        MindEyeConfig(tokens=0)


def test_the_published_sizes_count_as_published() -> None:
    with torch.device("meta"):
        net = MindEyeNetwork(MindEyeConfig(), {"subj01": 15724})
    count = {name: sum(value.numel() for value in part.parameters()) for name, part in net.named_children()}
    millions = {name: round(n / 1e6, 1) for name, n in count.items()}
    assert millions == {"lin0": 64.4, "mlp": 67.2, "lin1": 808.6, "projector": 7.4}
    assert sum(count.values()) / 1e6 == pytest.approx(947.6, abs=0.2)
