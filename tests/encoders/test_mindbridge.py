"""MindBridge: pooling, adapters, subjects, cycle, synthesis, reset-tuning, published sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from chiasm.data.errors import WeightsError
from chiasm.encoders.mindbridge import (
    Adapter,
    MindBridgeConfig,
    MindBridgeNetwork,
    divided_by_first,
    unified_voxels,
)

SMALL = {"in_dim": 24, "hidden": 12, "n_blocks": 2, "bottleneck": 4, "tokens": 3, "width": 5}
VOXELS = {"subj01": 40, "subj02": 24, "subj05": 15}


def _network(n_voxels: dict[str, int] | None = None, **changes: object) -> MindBridgeNetwork:
    torch.manual_seed(0)
    return MindBridgeNetwork(MindBridgeConfig(**(SMALL | changes)), n_voxels or VOXELS).eval()


def _voxels(batch: int = 4) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return {label: torch.randn(batch, n, generator=g) for label, n in VOXELS.items()}


def test_pooling_takes_the_windows_of_the_sheet() -> None:
    voxels = torch.randn(2, 10, generator=torch.Generator().manual_seed(3))
    for length in (4, 7, 13):  # shorter, not a divisor, longer than the source
        windows = [voxels[:, j * 10 // length : -(-(j + 1) * 10 // length)] for j in range(length)]
        expected = torch.stack([w.amax(1) for w in windows], 1)
        assert torch.equal(unified_voxels(voxels, length, "max"), expected)
        mean = torch.stack([w.mean(1) for w in windows], 1)
        torch.testing.assert_close(unified_voxels(voxels, length, "avg"), mean)
    line = torch.arange(6.0)[None]
    assert unified_voxels(line, 3, "linear").tolist() == [[0.5, 2.5, 4.5]]
    assert unified_voxels(line, 12, "linear")[0, :3].tolist() == [0.0, 0.25, 0.75]
    assert unified_voxels(line, 6, "max") is line


def test_a_fresh_adapter_is_the_identity_and_can_learn() -> None:
    adapter, x = Adapter(8, 3), torch.randn(5, 8)
    assert torch.equal(adapter(x), x)
    adapter(x).square().sum().backward()
    assert adapter.up_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("n_subjects", [2, 3, 4])
def test_every_subject_has_parts_of_its_own_and_the_rest_is_shared(n_subjects: int) -> None:
    counts = {f"subj0{i}": 20 + 7 * i for i in range(1, n_subjects + 1)}
    network = _network(counts)
    own = [set(map(id, network.subject_parameters(label))) for label in counts]
    assert not set.intersection(*own)
    shared = sum(p.numel() for p in network.parameters()) - sum(
        p.numel() for label in counts for p in network.subject_parameters(label)
    )
    assert shared == sum(p.numel() for part in (network.translator, network.head_image) for p in part.parameters())
    for label, n in counts.items():
        voxels = torch.randn(1, n)  # a batch of one
        assert network(voxels, label).tokens.shape == (1, 3, 5)
        assert network.build(network.embed(voxels, label), label).shape == (1, 24)


def test_published_sizes_have_the_published_number_of_parameters() -> None:
    def millions(n_subjects: int) -> float:
        with torch.device("meta"):
            network = MindBridgeNetwork(
                MindBridgeConfig(text_tokens=77), {f"subj0{i + 1}": 15724 for i in range(n_subjects)}
            )
        return round(sum(p.numel() for p in network.parameters()) / 1e6, 1)

    assert millions(4) == 693.6
    assert millions(1) == 580.2


def test_the_translator_adds_each_block_and_heads_are_linear() -> None:
    network = _network(text_tokens=2, text_width=7)
    embedded = torch.randn(2, 12)
    shared = embedded
    for linear, norm, gelu, _ in network.translator.mlp:
        shared = shared + gelu(norm(linear(shared)))
    answer = network.decode(embedded)
    torch.testing.assert_close(answer.tokens.flatten(1), network.head_image(shared))
    torch.testing.assert_close(answer.text, network.head_text(shared).view(2, 2, 7))
    assert answer.projected is answer.tokens
    assert _network().decode(embedded).text is None


def test_one_pass_over_joined_subjects_is_each_subject_alone() -> None:
    network, voxels = _network(), _voxels()
    joined = network.decode(torch.cat([network.embed(v, label) for label, v in voxels.items()])).tokens
    alone = torch.cat([network(v, label).tokens for label, v in voxels.items()])
    torch.testing.assert_close(joined, alone)


class Doubles(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def test_cycle_is_zero_where_a_builder_inverts_its_embedder_and_is_what_the_pair_says_elsewhere() -> None:
    network, voxels = _network(in_dim=12, hidden=12), {k: v[:, :12] for k, v in _voxels().items()}
    network.n_voxels = dict.fromkeys(VOXELS, 12)
    for label, (into, back) in {"subj01": (2.0, 0.5), "subj02": (4.0, 0.25), "subj05": (1.0, 3.0)}.items():
        network.embedder[label], network.builder[label] = Doubles(into), Doubles(back)
    assert network.cycle_loss(voxels, pair=("subj05", "subj01")).item() == 0
    assert network.rebuild_loss({k: voxels[k] for k in ("subj01", "subj02")}).item() == 0
    # 2 x, then 3 times it, minus it: 4 x
    expected = (4 * voxels["subj01"]).square().mean()
    torch.testing.assert_close(network.cycle_loss(voxels, pair=("subj01", "subj05")), expected)
    torch.testing.assert_close(
        network.rebuild_loss({"subj05": voxels["subj05"]}), (2 * voxels["subj05"]).square().mean()
    )
    built = network.synthesise(voxels["subj01"], source="subj01", target="subj05")
    torch.testing.assert_close(built, 6 * voxels["subj01"])
    torch.testing.assert_close(network.embed_unified(built, "subj02"), 24 * voxels["subj01"])


def test_the_pair_is_drawn_by_the_generator_ordered_and_evenly() -> None:
    network, voxels = _network(), _voxels(2)
    losses = {(a, b): network.cycle_loss(voxels, pair=(a, b)).item() for a in VOXELS for b in VOXELS if a != b}
    generator = torch.Generator().manual_seed(4)
    drawn = [network.cycle_loss(voxels, generator=generator).item() for _ in range(120)]
    counts = [sum(value == pytest.approx(loss, rel=1e-6) for value in drawn) for loss in losses.values()]
    assert sum(counts) == 120
    assert min(counts) > 8
    again = torch.Generator().manual_seed(4)
    assert [network.cycle_loss(voxels, generator=again).item() for _ in range(5)] == drawn[:5]
    with pytest.raises(ValueError, match="two subjects"):
        network.cycle_loss({"subj01": voxels["subj01"]})


def test_embeddings_given_once_serve_every_loss() -> None:
    network, voxels = _network().train(), _voxels()
    embedded = {label: network.embed(v, label) for label, v in voxels.items()}
    first = network.rebuild_loss(voxels, embedded=embedded)
    assert first == network.rebuild_loss(voxels, embedded=embedded)
    assert first != network.rebuild_loss(voxels)  # another draw of dropout
    rows = torch.cat([network.build(embedded[k], k) - network.unified(v, k) for k, v in voxels.items()])
    torch.testing.assert_close(first, rows.square().mean())


def test_reset_tuning_changes_the_newcomer_alone() -> None:
    network = _network(text_tokens=2)
    network.add_subject("subj07", 33)
    network.freeze_shared("subj07")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    voxels = {"subj01": _voxels()["subj01"], "subj07": torch.randn(4, 33)}
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.1)
    network.train()
    for _ in range(2):  # an adapter's way down gets its first gradient after its way up has left zero
        optimiser.zero_grad()
        loss = network(voxels["subj07"], "subj07").tokens.square().mean()
        loss = loss + network.rebuild_loss(voxels) + network.cycle_loss(voxels)
        loss.backward()
        optimiser.step()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in before if key.startswith(("embedder.subj07.", "builder.subj07."))}


def test_the_newcomers_cycle_starts_at_the_first_source() -> None:
    network, voxels = _network(), _voxels()
    network.freeze_shared("subj02")
    expected = network.cycle_loss(voxels, pair=("subj01", "subj02"))
    assert all(network.cycle_loss(voxels) == expected for _ in range(8))


def test_a_newcomer_is_added_once() -> None:
    network = _network()
    network.double()
    network.add_subject("subj07", 9)
    assert network(torch.randn(2, 9, dtype=torch.float64), "subj07").tokens.dtype == torch.float64
    assert network.subjects == (*VOXELS, "subj07")
    with pytest.raises(ValueError, match="there already"):
        network.add_subject("subj07", 9)


def test_divided_by_first_gives_the_first_token_length_one() -> None:
    tokens = torch.randn(3, 4, 5)
    divided = divided_by_first(tokens)
    torch.testing.assert_close(divided[:, 0].norm(dim=1), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(divided[:, 2] * tokens[:, :1].norm(dim=-1), tokens[:, 2], atol=1e-5, rtol=1e-4)


def test_state_dict_names_are_the_published_ones() -> None:
    names = set(_network({"1": 30}, n_blocks=1, text_tokens=2).state_dict())
    linear = ("weight", "bias")
    assert names == {
        *(f"{part}.{kind}" for part in ("head_image", "head_text", "embedder.1.1", "embedder.1.2") for kind in linear),
        *(f"embedder.1.0.{part}.{kind}" for part in ("down_proj", "up_proj") for kind in linear),
        *(f"builder.1.3.{part}.{kind}" for part in ("down_proj", "up_proj") for kind in linear),
        *(f"builder.1.{part}.{kind}" for part in (0, 1) for kind in linear),
        *(f"translator.mlp.0.{part}.{kind}" for part in (0, 1) for kind in linear),
    }


def test_wrong_use_is_told_by_code() -> None:
    network = _network(builders=False)
    voxels = _voxels()["subj01"]
    for action, code in (
        (lambda: network.synthesise(voxels, source="subj01", target="subj02"), "CHI-WT-060"),
        (lambda: network(voxels[:, :30], "subj01"), "CHI-WT-050"),
        (lambda: network(voxels, "subj03"), "CHI-WT-051"),
        (lambda: _network().build(torch.randn(1, 12), "subj03"), "CHI-WT-051"),
    ):
        with pytest.raises(WeightsError) as found:
            action()
        assert found.value.code == code
    with pytest.raises(ValueError, match="pool must be one of") as wrong:
        MindBridgeConfig(hidden=0, pool="median")
    assert "hidden" in str(wrong.value)
