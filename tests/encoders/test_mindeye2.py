"""MindEye2's network: subjects, branches, small sizes. The published numbers are in tests/golden."""

from __future__ import annotations

import pytest
import torch

from chiasm.data.errors import WeightsError
from chiasm.encoders.mindeye2 import LowLevelHeadConfig, MindEye2Config, MindEye2Network

VOXELS = {"subj01": 30, "subj02": 17}
SMALL = MindEye2Config(
    hidden=16,
    n_blocks=2,
    tokens=4,
    width=8,
    low_level=LowLevelHeadConfig(channels=8, side=4, widths=(), latent_channels=3),
)


def network(config: MindEye2Config = SMALL, seed: int = 0) -> MindEye2Network:
    torch.manual_seed(seed)
    return MindEye2Network(config, VOXELS).eval()


def voxels(subject: str = "subj01", batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, VOXELS[subject], generator=torch.Generator().manual_seed(7))


def test_two_residual_streams_as_published() -> None:
    config = MindEye2Config(hidden=5, n_blocks=2, sequence=3, tokens=2, width=3, projector=False)
    backbone = network(config).backbone
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        u0 = backbone.mixer_blocks1[0](x) + x
        w0 = backbone.mixer_blocks2[0](u0.mT) + x.mT
        u1 = backbone.mixer_blocks1[1](w0.mT) + u0
        w1 = backbone.mixer_blocks2[1](u1.mT) + w0
        expected = backbone.backbone_linear(w1.mT.flatten(1)).view(2, 2, 3)
        assert torch.allclose(network(config).decode(x).tokens, expected, atol=1e-6)


def test_each_subject_has_its_own_linear_layer_and_nothing_else() -> None:
    net = network()
    own = {
        name for name, value in net.named_parameters() if any(value is one for one in net.subject_parameters("subj02"))
    }
    assert own == {"ridge.linears.1.weight", "ridge.linears.1.bias"}
    net(voxels("subj01"), "subj01").projected.sum().backward()
    assert all(value.grad is None for value in net.subject_parameters("subj02"))
    assert all(value.grad is not None for value in net.subject_parameters("subj01"))


def test_subjects_joined_after_their_linear_layers_get_the_same_answer() -> None:
    net = network()
    joined = net.decode(torch.cat([net.embed(voxels(name), name) for name in VOXELS]))
    alone = torch.cat([net(voxels(name), name).tokens for name in VOXELS])
    assert torch.allclose(joined.tokens, alone, atol=1e-6)


def test_a_newcomer_gets_a_fresh_layer_and_the_others_keep_theirs() -> None:
    net = network()
    before = net(voxels(), "subj01").tokens
    net.add_subject("subj03", 11)
    assert net.subjects == ("subj01", "subj02", "subj03")
    assert torch.equal(net(voxels(), "subj01").tokens, before)
    assert net(torch.ones(2, 11), "subj03").tokens.shape == (2, 4, 8)
    with pytest.raises(ValueError, match="subj03"):
        net.add_subject("subj03", 11)


def test_branches_can_be_left_out() -> None:
    answer = network(MindEye2Config(hidden=16, n_blocks=1, tokens=4, width=8, projector=False))(voxels(), "subj01")
    assert answer.projected is answer.tokens
    assert answer.latents is None
    assert answer.auxiliary is None


@pytest.mark.parametrize(
    ("low", "latents", "auxiliary"),
    [
        (LowLevelHeadConfig(channels=8, side=8, widths=(), latent_channels=3, auxiliary=0), (3, 8, 8), None),
        (LowLevelHeadConfig(channels=8, side=4, widths=(8, 16), latent_channels=3, auxiliary=6, norm_groups=8), (3, 8, 8), (16, 6)),
        (LowLevelHeadConfig(widths=(32, 32, 32)), (4, 28, 28), (49, 512)),
    ],
    ids=["no upsampler", "one doubling", "published sides"],
)  # fmt: skip
def test_latents_have_the_shape_that_the_config_says(
    low: LowLevelHeadConfig, latents: tuple[int, ...], auxiliary: tuple[int, ...] | None
) -> None:
    answer = network(MindEye2Config(hidden=16, n_blocks=1, tokens=4, width=8, low_level=low))(voxels(), "subj01")
    assert low.latents == latents
    assert tuple(answer.latents.shape[1:]) == latents
    assert (None if answer.auxiliary is None else tuple(answer.auxiliary.shape[1:])) == auxiliary


def test_a_batch_does_not_change_an_item_s_answer() -> None:
    net, batch = network(), voxels(batch=4)
    assert torch.allclose(net(batch, "subj01").latents[2:3], net(batch[2:3], "subj01").latents, atol=1e-6)


def test_other_voxels_and_unknown_subjects_are_refused_with_a_code() -> None:
    with pytest.raises(WeightsError, match="29 voxels of 'subj01' meet a network made for 30") as caught:
        network()(torch.zeros(2, 29), "subj01")
    assert caught.value.code == "CHI-WT-050"
    with pytest.raises(WeightsError, match="subj05") as caught:
        network()(voxels(), "subj05")
    assert caught.value.code == "CHI-WT-051"


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="n_blocks = 0"):
        MindEye2Config(n_blocks=0)
    with pytest.raises(ValueError, match="1 trials enter together"):
        network(MindEye2Config(hidden=16, sequence=2, tokens=4, width=8, n_blocks=1))(voxels(), "subj01")


def test_the_published_sizes_count_as_published() -> None:
    with torch.device("meta"):
        net = MindEye2Network(MindEye2Config(low_level=LowLevelHeadConfig()), {"subj01": 15724})
    count = {name: sum(value.numel() for value in part.parameters()) for name, part in net.backbone.named_children()}
    assert round(sum(value.numel() for value in net.ridge.parameters()) / 1e6, 1) == 64.4
    assert round((count["mixer_blocks1"] + count["mixer_blocks2"]) / 1e6) == 134
    assert round(count["backbone_linear"] / 1e6) == 1745
    assert round(count["clip_proj"] / 1e6, 1) == 8.3
    assert round(count["blin1"] / 1e6, 1) == 12.8
