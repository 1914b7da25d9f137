"""The prior's network: positions, masks, dropped items, fused against plain arithmetic, published sizes."""

from __future__ import annotations

import math

import pytest
import torch

from chiasm.heads import prior_attention, prior_network
from chiasm.heads.prior_attention import GainNorm
from chiasm.heads.prior_network import PriorNetwork, PriorNetworkConfig

SMALL = {"dim": 24, "num_tokens": 5, "depth": 2, "heads": 3, "dim_head": 8, "ff_mult": 2}


def _network(**changes: object) -> PriorNetwork:
    torch.manual_seed(3)
    return PriorNetwork(PriorNetworkConfig(**(SMALL | changes))).eval()


def _inputs(batch: int = 3, n: int = 5, dim: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(4)
    return (
        torch.randn(batch, n, dim, generator=g),
        torch.arange(batch) * 7,
        torch.randn(batch, n, dim, generator=g),
    )


@pytest.mark.parametrize(
    ("sizes", "millions"),
    [
        ({}, 56.1),  # MindEye1, sheet A3
        ({"dim": 1664, "num_tokens": 256, "heads": 32, "dim_head": 52}, 259.9),  # MindEye2, sheet B2
    ],
)
def test_published_sizes_have_the_published_number_of_parameters(sizes: dict[str, int], millions: float) -> None:
    with torch.device("meta"):
        network = PriorNetwork(PriorNetworkConfig(**sizes))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


def test_relative_positions_are_exact_up_to_15_then_logarithmic_and_never_look_ahead() -> None:
    buckets = prior_attention.relative_buckets(300)
    row = buckets[200]
    assert row[200 - 15 : 201].tolist() == list(range(15, -1, -1))
    assert row[201:].eq(0).all()  # keys ahead, all in bucket 0
    assert (row[200 - 16], row[200 - 17]) == (16, 16)
    assert row[200 - 64] == 16 + int(math.log(4) / math.log(8) * 16)
    assert row[:73].eq(31).all()  # 128 away and more


def test_the_null_key_takes_position_0_so_that_bias_moves_by_one() -> None:
    network = _network()
    bias = network.causal_transformer.rel_pos_bias
    table = bias.relative_attention_bias.weight
    rows = bias().view(3, 11, 12)
    assert torch.equal(rows[:, 4, 0], table[4])
    assert torch.equal(rows[:, 4, 4], table[0])


@pytest.mark.parametrize("causal", [True, False])
def test_a_later_token_changes_earlier_ones_only_where_not_causal(causal: bool) -> None:
    transformer = _network(causal=causal, norm_in=True).causal_transformer
    x = torch.randn(2, 11, 24, generator=torch.Generator().manual_seed(5))
    other = x.clone()
    other[:, 6, 0] += 1  # one channel: a norm takes away what all have in common
    with torch.no_grad():
        moved = (transformer(x) - transformer(other)).abs().amax((0, 2)) > 1e-6
    assert moved[6:].all()
    assert moved[:6].any() == (not causal)
    seen = transformer.rel_pos_bias().isfinite().view(3, 11, 12)[0]  # keys: the null one, then the tokens
    assert seen.sum(1).tolist() == (list(range(2, 13)) if causal else [12] * 11)


def test_a_dropped_item_sees_the_null_table_and_its_neighbours_do_not() -> None:
    network = _network()
    noisy, times, brain = _inputs()
    keep = torch.tensor([True, False, True])
    with torch.no_grad():
        plain = network(noisy, times, brain)
        dropped = network(noisy, times, brain, keep_brain=keep)
        replaced = brain.clone()
        replaced[1] = network.null_brain_embeds
        assert torch.equal(dropped[[0, 2]], plain[[0, 2]])
        assert torch.equal(dropped, network(noisy, times, replaced))
        replaced = noisy.clone()
        replaced[1] = network.null_image_embed
        without_image = network(noisy, times, brain, keep_image=keep)
        torch.testing.assert_close(without_image, network(replaced, times, brain))
    assert not torch.allclose(dropped[1], plain[1], atol=1e-3)
    assert not torch.allclose(without_image[1], plain[1], atol=1e-3)


@pytest.mark.parametrize("causal", [True, False])
def test_fused_and_plain_arithmetic_agree_forward_and_backward(monkeypatch: pytest.MonkeyPatch, causal: bool) -> None:
    network = _network(causal=causal, normformer=True)
    answers = []
    for threshold in (0, 10**9):
        monkeypatch.setattr(prior_attention, "_FUSED_FROM", threshold)
        noisy, times, brain = _inputs()
        brain.requires_grad_()
        network.zero_grad()
        answer = network(noisy, times, brain)
        answer.square().mean().backward()
        bias = network.causal_transformer.rel_pos_bias.relative_attention_bias.weight.grad
        answers.append((answer.detach(), brain.grad, bias.clone()))
    for fused, plain in zip(*answers, strict=True):
        torch.testing.assert_close(fused, plain, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("mode", ["none", "token", "pos_emb", "all_pos_emb"])
def test_every_query_mode_takes_flat_tokens_and_several_time_tokens(mode: str) -> None:
    network = _network(learned_query_mode=mode, num_time_embeds=2, num_timesteps=30)
    noisy, times, brain = _inputs()
    with torch.no_grad():
        flat = network(noisy.flatten(1), times, brain.flatten(1))
        assert flat.shape == noisy.shape
        assert torch.equal(flat, network(noisy, times, brain))
        assert not torch.allclose(flat, network(noisy, times + 1, brain), atol=1e-4)


def test_time_is_a_sinusoid_of_the_raw_step() -> None:
    found = prior_network.SinusoidalTime(6)(torch.tensor([0, 3]))
    rates = [1.0, 10000**-0.5, 10000**-1.0]
    assert found[0].tolist() == [0, 0, 0, 1, 1, 1]
    expected = [math.sin(3 * r) for r in rates] + [math.cos(3 * r) for r in rates]
    torch.testing.assert_close(found[1], torch.tensor(expected))


def test_the_stable_norm_survives_numbers_whose_squares_overflow_half_precision() -> None:
    x = torch.tensor([[1000.0, -2000.0, 3000.0, 500.0]], dtype=torch.float16)
    out = GainNorm(4, stable=True).half()(x)
    expected = torch.nn.functional.layer_norm(x.float(), (4,))
    torch.testing.assert_close(out.float(), expected, atol=0.02, rtol=0.02)


def test_bfloat16_stays_near_float32() -> None:
    network = _network()
    noisy, times, brain = _inputs()
    with torch.no_grad():
        full = network(noisy, times, brain)
        half = network.bfloat16()(noisy.bfloat16(), times, brain.bfloat16()).float()
    assert torch.nn.functional.cosine_similarity(full, half, dim=-1).min() > 0.97


def test_state_dict_names_are_the_published_ones() -> None:
    keys = set(_network(depth=1).state_dict())
    assert keys == {
        "learned_query",
        "null_brain_embeds",
        "null_image_embed",
        *(f"to_time_embeds.0.1.net.{part}.{kind}" for part in ("0.0", "1.0", "2") for kind in ("weight", "bias")),
        "causal_transformer.rel_pos_bias.relative_attention_bias.weight",
        *(
            f"causal_transformer.layers.0.0.{name}"
            for name in ("null_kv", "norm.g", "to_q.weight", "to_kv.weight", "rotary_emb.freqs", "to_out.0.weight")
        ),
        "causal_transformer.layers.0.0.to_out.1.g",
        *(f"causal_transformer.layers.0.1.{name}" for name in ("0.g", "1.weight", "5.weight")),
        "causal_transformer.norm.g",
        "causal_transformer.project_out.weight",
    }


def test_all_wrong_sizes_are_named_at_once() -> None:
    with pytest.raises(ValueError, match="depth must be >= 1") as found:
        PriorNetworkConfig(depth=0, dim_head=7, learned_query_mode="cls", dropout=1.0)
    assert all(word in str(found.value) for word in ("learned_query_mode", "dim_head must be even", "dropout"))
