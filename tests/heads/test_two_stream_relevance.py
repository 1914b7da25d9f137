"""Relevance of a small two-stream classifier that has learned one token a stream, whose places are known."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from chiasm.heads.deletion import DeletionCase, compare_with_random
from chiasm.heads.relevance import class_score, with_gradients
from chiasm.heads.two_stream_relevance import (
    StreamAttention,
    TwoStreamRelevance,
    crossing_gradient,
    merge_pieces,
    plan_attention,
    relevance_grid,
    token_contributions,
    two_stream_relevance,
    vector_contributions,
)

WIDTH, N, T = 12, 9, 7


class Kept(NamedTuple):
    """What the forward pass of the toy leaves behind."""

    attention: list[Tensor]  # text (B, H, N, N), audio (B, H, T, T)
    plan: Tensor  # (B, N, T)
    tokens: list[Tensor]  # before pooling: text, text's crossed, audio, audio's crossed
    pooled: list[Tensor]


class Toy(nn.Module):
    """Self-attention a stream, a Sinkhorn plan between them, masked means, a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.head = nn.Sequential(nn.Linear(4 * WIDTH, 16), nn.ReLU(), nn.Linear(16, 2))

    def attend(self, x: Tensor, mask: Tensor, stream: int) -> tuple[Tensor, Tensor]:
        q, k, v = self.qkv[stream](x).reshape(*x.shape[:2], 3, 2, -1).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask[:, None, None], -1e9)
        weights = scores.softmax(-1) * mask[:, None, :, None]
        return x + (weights @ v).transpose(1, 2).flatten(2), weights

    def forward(self, x: Tensor, z: Tensor, mask: Tensor, other: Tensor) -> tuple[Tensor, Kept]:
        (x, text), (z, audio) = self.attend(x, mask, 0), self.attend(z, other, 1)
        likeness = nn.functional.normalize(x, dim=-1) @ nn.functional.normalize(z, dim=-1).mT
        plan = ((likeness - 1) / 0.2).exp() * mask[:, :, None] * other[:, None]
        for _ in range(10):
            plan = plan_attention(plan)[1][:, 0].mT / other.sum(1)[:, None, None].clamp(min=1)
            plan = plan_attention(plan)[0][:, 0] / mask.sum(1)[:, None, None].clamp(min=1)
        there, back = (rows[:, 0] for rows in plan_attention(plan))
        tokens = [x, there @ z, z, back @ x]
        masks = [mask, mask, other, other]
        pooled = [
            (t * m[..., None]).sum(1) / m.sum(1, keepdim=True).clamp(min=1) for t, m in zip(tokens, masks, strict=True)
        ]
        return self.head(torch.cat(pooled, -1)), Kept([text, audio], plan, tokens, pooled)


class Cases(NamedTuple):
    """Tokens, masks, classes, and the places of the planted tokens."""

    x: Tensor
    z: Tensor
    mask: Tensor
    other: Tensor
    label: Tensor
    text_place: Tensor
    audio_place: Tensor


def cases(n: int, seed: int) -> Cases:
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 2, (n,), generator=g)
    x, z = torch.randn(n, N, WIDTH, generator=g) * 0.5, torch.randn(n, T, WIDTH, generator=g) * 0.5
    masks = [torch.arange(m) < torch.randint(m - 3, m + 1, (n, 1), generator=g) for m in (N, T)]
    places = [torch.randint(0, m - 3, (n,), generator=g) for m in (N, T)]
    rows = torch.arange(n)
    x[rows, places[0]] += 3 * torch.eye(WIDTH)[label]  # one direction a class and a stream
    z[rows, places[1]] += 3 * torch.eye(WIDTH)[2 + label]
    return Cases(x, z, *masks, label, *places)


@pytest.fixture(scope="module")
def trained() -> Toy:
    torch.manual_seed(0)
    model = Toy()
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3)
    for step in range(120):
        batch = cases(48, 1000 + step)
        loss = nn.functional.cross_entropy(model(*batch[:4])[0], batch.label, label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval().requires_grad_(False)


def streams(
    model: Toy, data: Cases, target: int, *, vectors: bool = False, gradient_of_plan: bool = True
) -> tuple[StreamAttention, StreamAttention]:
    x, z = data.x.clone().requires_grad_(), data.z.clone().requires_grad_()
    logits, kept = model(x, z, data.mask, data.other)
    score = class_score(logits, target)
    attention = with_gradients(score, kept.attention)
    tokens = with_gradients(score, kept.pooled if vectors else kept.tokens)
    of_crossed = [gradient for _, gradient in with_gradients(score, kept.tokens)]
    masks = [data.mask, data.mask, data.other, data.other]
    if vectors:
        pooled = [vector_contributions(m, *pair) for m, pair in zip(masks, tokens, strict=True)]
    else:
        pooled = [token_contributions(*pair) for pair in tokens]
    found = []
    for i, plan in enumerate(plan_attention(kept.plan.detach())):
        values = kept.tokens[2 - 2 * i].detach()
        gradient = crossing_gradient(values, of_crossed[1 + 2 * i]) if gradient_of_plan else None
        found.append(
            StreamAttention(
                mask=masks[2 * i],
                pooled=pooled[2 * i],
                self_attention=[attention[i]],
                crossing=(plan, gradient),
                pooled_crossing=pooled[2 * i + 1],
            )
        )
    return found[0], found[1]


def explained(model: Toy, data: Cases, target: int, **settings: bool) -> list[TwoStreamRelevance]:
    return two_stream_relevance(*streams(model, data, target, **settings), target="AD")


def of_class(data: Cases, label: int) -> Cases:
    return Cases(*(part[data.label == label] for part in data))


def joined(relevance: TwoStreamRelevance, data: Cases, case: int) -> Tensor:
    return torch.cat([relevance.text[data.mask[case]], relevance.audio[data.other[case]]])


def hit_rate(found: list[TwoStreamRelevance], data: Cases) -> tuple[float, float]:
    text = [int(r.text.argmax()) == int(place) for r, place in zip(found, data.text_place, strict=True)]
    audio = [int(r.audio.argmax()) == int(place) for r, place in zip(found, data.audio_place, strict=True)]
    return sum(text) / len(text), sum(audio) / len(audio)


def correlation(one: list[TwoStreamRelevance], other: list[TwoStreamRelevance], data: Cases) -> float:
    pairs = [(joined(a, data, i), joined(b, data, i)) for i, (a, b) in enumerate(zip(one, other, strict=True))]
    rhos = [spearmanr(a, b)[0] for a, b in pairs if a.std() > 0 and b.std() > 0]
    return float(sum(rhos) / len(rhos))


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("settings", [{}, {"vectors": True}, {"gradient_of_plan": False}], ids=["full", "vec", "plan"])
def test_the_planted_tokens_are_found(trained: Toy, label: int, settings: dict[str, bool]) -> None:
    data = of_class(cases(80, 1), label)
    assert (trained(*data[:4])[0].argmax(1) == label).float().mean() > 0.95
    text, audio = hit_rate(explained(trained, data, label, **settings), data)
    assert text > 0.9
    assert audio > 0.9


def test_the_other_class_has_another_map(trained: Toy) -> None:
    data = of_class(cases(80, 2), 1)
    towards, against = explained(trained, data, 1), explained(trained, data, 0)
    assert correlation(towards, against, data) < 0
    assert hit_rate(against, data)[0] < 0.3


def test_random_weights_lose_the_map(trained: Toy) -> None:
    data = of_class(cases(80, 3), 1)
    torch.manual_seed(5)
    random = Toy().eval().requires_grad_(False)
    found = explained(trained, data, 1)
    assert correlation(found, explained(random, data, 1), data) < 0.3
    assert hit_rate(explained(random, data, 1), data)[0] < 0.6


def test_deletion_in_the_order_of_the_map_beats_random_orders(trained: Toy) -> None:
    data = of_class(cases(50, 4), 1)
    found = explained(trained, data, 1)

    def case(i: int) -> DeletionCase:
        def score(keep: Tensor) -> Tensor:
            k = len(keep)
            x, z = (part[i].expand(k, -1, -1) for part in (data.x, data.z))
            logits = trained(x, z, keep[:, :N] & data.mask[i], keep[:, N:] & data.other[i])[0]
            return logits.softmax(-1)[:, 1]

        relevance = torch.cat([found[i].text, found[i].audio])
        return DeletionCase(
            score=score, relevance=relevance, person=str(i), valid=torch.cat([data.mask[i], data.other[i]])
        )

    result = compare_with_random([case(i) for i in range(len(data.x))], batched=True, n_random=3)
    assert result.positive.low > 0.1
    assert result.negative.low > 0.05


def test_maps_are_positive_sum_to_one_and_spare_the_padding(trained: Toy) -> None:
    data = of_class(cases(40, 5), 1)
    for i, found in enumerate(explained(trained, data, 1)):
        assert (found.text >= 0).all()
        assert (found.audio >= 0).all()
        assert not found.text[~data.mask[i]].any()
        assert not found.audio[~data.other[i]].any()
        torch.testing.assert_close(found.modality_share, torch.stack([found.text.sum(), found.audio.sum()]))
        assert float(found.modality_share.sum()) == pytest.approx(1, abs=1e-5)


def test_more_padding_and_other_cases_change_nothing(trained: Toy) -> None:
    data = cases(6, 6)
    pad = (nn.functional.pad(data.x, (0, 0, 0, 4), value=7.0), nn.functional.pad(data.z, (0, 0, 0, 3), value=-7.0))
    masks = (nn.functional.pad(data.mask, (0, 4)), nn.functional.pad(data.other, (0, 3)))
    padded = Cases(*pad, *masks, data.label, data.text_place, data.audio_place)
    for i, (one, other) in enumerate(zip(explained(trained, data, 1), explained(trained, padded, 1), strict=True)):
        torch.testing.assert_close(other.text[:N], one.text, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(other.audio[:T], one.audio, rtol=1e-3, atol=1e-5)
        alone = explained(trained, Cases(*(part[i : i + 1] for part in data)), 1)[0]
        torch.testing.assert_close(alone.text, one.text, rtol=1e-3, atol=1e-5)


def test_garbage_at_padding_of_the_tensors_stays_there(trained: Toy) -> None:
    data = cases(8, 7)
    text, audio = streams(trained, data, 1)
    clean = two_stream_relevance(text, audio)

    def spoiled(stream: StreamAttention) -> StreamAttention:
        attention, gradient = stream.self_attention[0]
        outside = ~(stream.mask[:, None, :, None] & stream.mask[:, None, None])
        return StreamAttention(
            mask=stream.mask,
            pooled=stream.pooled.masked_fill(~stream.mask, 9.0),
            self_attention=[(attention.masked_fill(outside, 5.0), gradient.masked_fill(outside, 5.0))],
            crossing=stream.crossing,
            pooled_crossing=stream.pooled_crossing.masked_fill(~stream.mask, 9.0),
        )

    for one, other in zip(clean, two_stream_relevance(spoiled(text), spoiled(audio)), strict=True):
        assert torch.equal(one.text, other.text)
        assert torch.equal(one.audio, other.audio)


def stream(n: int, pooled: list[float], **parts: object) -> StreamAttention:
    return StreamAttention(mask=torch.ones(1, n, dtype=torch.bool), pooled=torch.tensor([pooled]), **parts)


def test_one_modality_is_explained_alone() -> None:
    weights = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    weak = weights / 100  # rules 8 and 9: the gradient's size does not matter, or the identity would drown it
    found = two_stream_relevance(stream(2, [3.0, 1.0], self_attention=[(weights, weak)]), None)[0]
    # token 0 keeps half of its own 3 and gives half to token 1
    torch.testing.assert_close(found.text, torch.tensor([3.0, 5.0]) / 8)
    assert found.audio.shape == (0,)
    assert found.modality_share.tolist() == [1, 0]
    mirrored = two_stream_relevance(None, stream(2, [3.0, 1.0], self_attention=[(weights, weights)]))[0]
    assert torch.equal(mirrored.audio, found.text)
    assert mirrored.modality_share.tolist() == [0, 1]
    with pytest.raises(ValueError, match="no stream"):
        two_stream_relevance(None, None)


def test_shares_are_those_of_the_pooled_vectors() -> None:
    there = torch.tensor([[[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]])
    text = stream(2, [1.0, 2.0], crossing=(there, None), pooled_crossing=torch.tensor([[4.0, -9.0]]))
    audio = stream(3, [0.0, -1.0, 3.0], crossing=(there.mT, None), pooled_crossing=torch.zeros(1, 3))
    found = two_stream_relevance(text, audio)[0]
    torch.testing.assert_close(found.text, torch.tensor([0.1, 0.2]))
    torch.testing.assert_close(found.audio, torch.tensor([0.4, 0.0, 0.3]))


def test_nothing_in_favour_is_an_empty_map() -> None:
    found = two_stream_relevance(stream(2, [-1.0, -2.0]), stream(2, [-1.0, 0.0]))[0]
    assert not found.text.any()
    assert found.modality_share.tolist() == [0, 0]


def test_encoder_layers_carry_relevance_to_their_input_tokens() -> None:
    # class token at place 0 is no stream token; stream token 1 (place 2) saw stream token 0 (place 1)
    saw = torch.zeros(1, 1, 3, 3)
    saw[..., 2, 1] = 1
    text = stream(2, [0.0, 1.0], encoder=[(saw, saw)], places=torch.tensor([1, 2]))
    found = two_stream_relevance(text, None)[0]
    assert found.text.tolist() == [0.5, 0.5]
    assert "1 encoder layers" in found.method
    with pytest.raises(ValueError, match=r"3 tokens, the stream 2: give `places`"):
        two_stream_relevance(stream(2, [0.0, 1.0], encoder=[(saw, saw)]), None)


def test_pictures_do_not_see_each_other() -> None:
    saw = torch.zeros(1, 2, 1, 3, 3)
    saw[0, 0, :, 1, 2] = saw[0, 1, :, 2, 1] = 1
    places = torch.tensor([1, 2, 4, 5])  # a class token leads each picture
    found = two_stream_relevance(None, stream(4, [1.0, 0.0, 0.0, 1.0], encoder=[(saw, saw)], places=places))[0]
    assert found.audio.tolist() == [0.25, 0.25, 0.25, 0.25]
    one = two_stream_relevance(None, stream(4, [1.0, 0.0, 0.0, 0.0], encoder=[(saw, saw)], places=places))[0]
    assert one.audio.tolist() == [0.5, 0.5, 0, 0]


def test_the_method_says_what_was_used(trained: Toy) -> None:
    data = cases(1, 8)
    method = explained(trained, data, 1)[0].method
    assert "ICCV 2021" in method
    assert "towards AD" in method
    assert "crossing: gradient x row-normalised plan" in method
    assert "the plan itself" in explained(trained, data, 1, gradient_of_plan=False)[0].method
    assert "no crossing" in two_stream_relevance(stream(1, [1.0]), stream(1, [1.0]))[0].method


def test_gradient_of_the_crossing_is_that_of_the_plan_s_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, values = torch.rand(2, 4, 3, generator=generator).requires_grad_(), torch.rand(2, 3, 5, generator=generator)
    crossed = rows @ values
    score = (crossed**3).sum()
    of_rows, of_crossed = torch.autograd.grad(score, [rows, crossed])
    torch.testing.assert_close(crossing_gradient(values, of_crossed)[:, 0], of_rows)


def test_a_plan_is_read_both_ways_and_empty_rows_stay_empty() -> None:
    plan = torch.tensor([[[0.2, 0.6], [0.2, 0.0], [0.0, 0.0]]])
    there, back = plan_attention(plan)
    torch.testing.assert_close(there[0, 0], torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(back[0, 0], torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))


def test_contributions_of_a_mean_sum_to_gradient_times_value() -> None:
    mask = torch.tensor([[True, True, False]])
    pooled, gradient = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.5]])
    assert vector_contributions(mask, pooled, gradient).tolist() == [[2, 2, 0]]
    tokens = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])
    assert token_contributions(tokens, tokens).tolist() == [[5, 1]]


def test_what_does_not_fit_is_listed() -> None:
    with pytest.raises(ValueError, match=r"pooled has shape \(1, 3\), the mask \(1, 2\); .*come together"):
        stream(2, [1.0, 1.0, 1.0], pooled_crossing=torch.zeros(1, 2))
    with pytest.raises(ValueError, match="self_attention 0"):
        stream(2, [1.0, 1.0], self_attention=[(torch.ones(1, 1, 3, 3), None)])
    with pytest.raises(ValueError, match="must be bool"):
        StreamAttention(mask=torch.ones(1, 2), pooled=torch.ones(1, 2))


def test_pieces_are_summed_to_words_and_special_tokens_dropped() -> None:
    relevance = torch.tensor([9.0, 1.0, 2.0, 4.0, 9.0])
    index = torch.tensor([-1, 0, 0, 2, -1])
    assert merge_pieces(relevance, index).tolist() == [3, 0, 4]
    assert merge_pieces(relevance, index, n_words=4).tolist() == [3, 0, 4, 0]
    assert merge_pieces(relevance, torch.full((5,), -1)).shape == (0,)
    with pytest.raises(ValueError, match="n_words 2"):
        merge_pieces(relevance, index, n_words=2)


def test_tokens_fill_their_rectangles_and_the_sum_is_kept() -> None:
    spans = torch.tensor([[0.0, 2.0, 0.0, 4.0], [1.0, 2.0, 4.0, 8.0]])
    grid = relevance_grid(torch.tensor([1.0, 3.0]), spans, 4, 2)
    expected = torch.tensor([[0.25, 0.0], [0.25, 0.0], [0.25, 1.5], [0.25, 1.5]])
    torch.testing.assert_close(grid, expected)
    coarse = relevance_grid(torch.tensor([1.0, 3.0]), spans, 1, 3, duration_s=4.0, n_mels=12)
    torch.testing.assert_close(coarse, torch.tensor([[1.0, 3.0, 0.0]]))


def test_a_token_beyond_the_end_is_cut_there_and_keeps_its_sum() -> None:
    spans = torch.tensor([[0.0, 4.0, 0.0, 2.0], [4.0, 8.0, 0.0, 2.0]])
    grid = relevance_grid(torch.tensor([1.0, 3.0]), spans, 2, 1, duration_s=5.0)
    torch.testing.assert_close(grid[:, 0], torch.tensor([0.625, 3.375]))
    with pytest.raises(ValueError, match=r"shape \(2, 4\)"):
        relevance_grid(torch.ones(2), spans[:, :2], 1, 1)
