"""Two-stream classifier: padding, missing modalities, every shipped variant, gradients, marginals of its plan."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from chiasm.fusion.build import FUSIONS
from chiasm.heads.two_stream import TwoStreamClassifier, TwoStreamConfig, TwoStreamOutput
from chiasm.pipelines.engine.components import configure
from chiasm.pipelines.recipes import load_recipe, recipe_base, recipe_names

LENGTHS = ((5, 7), (3, 2), (1, 4))  # tokens of text and audio, three cases
TEXT, AUDIO = 6, 5
ATTENTIONS = [
    ("plain", "global"),
    ("context", "global"),
    ("context", "deep"),
    ("context", "deep-global"),
    ("gated", ""),
]
BASE = "dementia-context-ot-concat"
VARIANTS = [name for name in recipe_names() if name == "dementia" or recipe_base(name) == "dementia"]


def model(**fields: Any) -> TwoStreamClassifier:
    torch.manual_seed(0)
    known = {"text_width": TEXT, "audio_width": AUDIO, "width": 8, "hidden": 8, "eps": 0.1, "heads": 2, **fields}
    return TwoStreamClassifier(configure(TwoStreamConfig, known, "two-stream")).eval()


def case(index: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(index)
    n_text, n_audio = LENGTHS[index]
    return torch.randn(n_text, TEXT, generator=generator), torch.randn(n_audio, AUDIO, generator=generator)


def batch(indices: tuple[int, ...], *, extra: int = 0, garbage: float = float("nan")) -> tuple[Tensor, ...]:
    """Text, its mask, audio, its mask; padding, and `extra` tokens of it, hold garbage."""
    out: list[Tensor] = []
    for rows in zip(*map(case, indices), strict=True):
        lengths = torch.tensor([len(row) for row in rows])
        padded = pad_sequence([*rows, torch.zeros(int(lengths.max()) + extra, rows[0].shape[1])], batch_first=True)[:-1]
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        out += [padded.masked_fill(~mask[..., None], garbage), mask]
    return tuple(out)


def numbers(net: TwoStreamClassifier, indices: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    """Statistics of the cases, of as many numbers as the classifier takes; one is missing."""
    rows = []
    for n in (net.config.text_statistics, net.config.audio_statistics):
        whole = torch.randn(3, n, generator=torch.Generator().manual_seed(n))
        whole[1, :1] = torch.nan
        rows.append(whole[list(indices)])
    return {"statistics": tuple(rows)}


def without(modality: str, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    text, text_mask, audio, audio_mask = inputs
    if modality == "text":
        return text, torch.zeros_like(text_mask), audio, audio_mask
    return text, text_mask, audio, torch.zeros_like(audio_mask)


def total(out: TwoStreamOutput) -> Tensor:
    """Depends on everything that the classifier can be trained for, unevenly, so that nothing cancels."""
    parts = [out.logits, out.mmse, out.severity, out.alignment]
    return sum(
        (part * torch.linspace(1.0, 2.0, part.numel()).view_as(part)).sum() for part in parts if part is not None
    )


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("crossing", ["transport", "kernel", "cross-attention", "none"])
@pytest.mark.parametrize(("attention", "context"), ATTENTIONS)
@torch.no_grad()
def test_padding_never_changes_a_result(attention: str, context: str, crossing: str, fusion: str) -> None:
    net = model(
        attention=attention, context=context or "global", crossing=crossing, fusion=fusion, layers=2, mmse=True,
        severity_classes=3, text_statistics=2, audio_statistics=3 if fusion != "tensor" else 0,
    )  # fmt: skip
    padded = net(*batch((0, 1, 2), extra=2), keep_attention=True, **numbers(net))
    for index, (n_text, n_audio) in enumerate(LENGTHS):
        alone = net(*batch((index,)), keep_attention=True, **numbers(net, (index,)))
        for name in ("logits", "mmse", "severity"):
            torch.testing.assert_close(getattr(padded, name)[index], getattr(alone, name)[0], atol=1e-5, rtol=1e-5)
        for of_batch, own in zip(padded.pooled, alone.pooled, strict=True):
            torch.testing.assert_close(of_batch[index], own[0], atol=1e-5, rtol=1e-5)
        if padded.plan is not None and alone.plan is not None:
            torch.testing.assert_close(padded.plan[index, :n_text, :n_audio], alone.plan[0], atol=1e-5, rtol=1e-5)
            assert not padded.plan[index, n_text:].any()
            assert not padded.plan[index, :, n_audio:].any()
    assert torch.allclose(padded.logits, padded.logits[0]) is False  # the three cases are told apart


@torch.no_grad()
def test_padding_changes_no_alignment_and_no_learned_token() -> None:
    net = model(alignment=True, modality_dropout=0.3)
    net.text.absent.add_(1.0)
    for modality in ("text", "audio"):
        padded = net(*without(modality, batch((0, 1, 2), extra=3)))
        for index in range(3):
            alone = net(*without(modality, batch((index,), garbage=7.0)))
            torch.testing.assert_close(padded.logits[index], alone.logits[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(padded.alignment[index], alone.alignment[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_a_missing_modality_is_refused_without_modality_dropout(modality: str) -> None:
    with pytest.raises(ValueError, match="a modality is missing"):
        model()(*without(modality, batch((0, 1))))


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_a_missing_modality_is_one_learned_token(modality: str) -> None:
    net = model(modality_dropout=0.2)
    stream, other = (net.text, net.audio) if modality == "text" else (net.audio, net.text)
    inputs = without(modality, batch((0, 1)))
    out = net(*inputs)
    mask = out.text_mask if modality == "text" else out.audio_mask
    assert mask.sum(1).tolist() == [1, 1]
    out.logits.sum().backward()
    assert float(stream.absent.grad.abs().max()) > 0
    assert stream.absent.grad.isfinite().all()
    assert other.absent.grad is None
    with torch.no_grad():
        stream.absent.copy_(torch.randn(8))
        assert not torch.allclose(net(*inputs).logits, out.logits, atol=1e-3)
        other.absent.copy_(torch.randn(8))  # a token that is not used says nothing
        present = net(*batch((0, 1))).logits
        stream.absent.zero_()
        torch.testing.assert_close(net(*batch((0, 1))).logits, present)


@pytest.mark.parametrize("crossing", ["transport", "kernel", "cross-attention"])
def test_gradients_are_finite_where_both_learned_tokens_are_used(crossing: str) -> None:
    net = model(crossing=crossing, modality_dropout=0.2, alignment=True)
    text, audio = without("text", batch((0, 1))), without("audio", batch((0, 1)))
    total(net(*(torch.cat([a[:1], b[1:]]) for a, b in zip(text, audio, strict=True)))).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def variant(name: str) -> TwoStreamClassifier:
    parameters = load_recipe(name).components["classifier"].parameters
    return model(**{**parameters, "width": 8, "hidden": 8, "heads": 1})


EXPECTED = {  # part of a recipe's name -> block, and whether there is a plan
    "plain": "SelfAttention", "context": "ContextSelfAttention", "gated": "GatedSelfAttention",
    "ot": True, "kernel": True, "cross": False, "none": False,
    "attention": "AttentionFusion", "concat": "Concatenation",
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_a_shipped_variant_is_what_its_name_says(name: str) -> None:
    # The others differ in what is heard, or in sizes.
    full = name if name.endswith(("-concat", "-attention")) else BASE
    _, attention, *context, crossing, fusion = full.split("-")
    net = variant(name)
    out = net(*batch((0, 1, 2)), **numbers(net))
    assert type(net.text.blocks[0]).__name__ == type(net.audio.blocks[0]).__name__ == EXPECTED[attention]
    assert type(net.fusion).__name__ == EXPECTED[fusion]
    assert (out.plan is not None) == EXPECTED[crossing]
    assert (out.plan_back is not None) == (crossing == "kernel")
    assert (out.vector_weights is not None) == (fusion == "attention")
    counted = [part for part in ("text_statistics", "audio_statistics") if getattr(net.config, part)]
    assert len(out.names) == len(out.pooled) == (2 if crossing == "none" else 4) + len(counted)
    assert net.config.context == ("-".join(context) or "global")
    names = {key.split(".")[0] for key, _ in net.named_parameters()}
    extra = {"text_from_audio", "audio_from_text"} if crossing == "cross" else set()
    extra |= {"fusion"} if fusion == "attention" else set()
    extra |= set() if crossing == "none" else {"mix_text", "mix_audio"}
    assert names == {"text", "audio", "head", "classify", *counted} | extra


def test_the_variants_are_different_models() -> None:
    answers = {}
    for name in VARIANTS:
        net = variant(name)
        with torch.no_grad():
            answers[name] = net(*batch((0, 1, 2)), **numbers(net)).logits
    others = [name for name in VARIANTS if name.split("-")[-1] in ("concat", "attention") and name != BASE]
    same = {"dementia", BASE, "dementia-published"}
    assert len(others) == 11
    for one in [*others, "dementia"]:
        for two in others:
            if one != two:
                assert not torch.allclose(answers[one], answers[two], atol=1e-6), (one, two)
    for one, two in pairwise(sorted(same)):
        torch.testing.assert_close(answers[one], answers[two])


@pytest.mark.parametrize("name", VARIANTS)
def test_gradient_reaches_every_parameter(name: str) -> None:
    net = model(
        **{
            **load_recipe(name).components["classifier"].parameters,
            "width": 8, "hidden": 16, "heads": 1, "mmse": True, "severity_classes": 3, "modality_dropout": 0.0,
        }
    )  # fmt: skip
    total(net(*batch((0, 1, 2)), **numbers(net))).backward()
    still = [key for key, p in net.named_parameters() if p.grad is None or not float(p.grad.abs().max()) > 1e-9]
    # The same number added to every score of a row changes no softmax: a key's bias has nothing to learn, nor has the bias of
    # a score of the fused vectors.
    assert [key for key in still if not key.endswith(("key.bias", "score.bias"))] == []


def test_gradient_passes_through_the_plan_itself() -> None:
    net = model(crossing="transport", attention="plain")
    out = net(*batch((0,)))
    # Not a sum of something of rows and something of columns: that would be a constant, for the marginals are held.
    (out.plan * torch.randn(5, 7, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert float(net.text.project.weight.grad.abs().max()) > 1e-4
    assert float(net.audio.project.weight.grad.abs().max()) > 1e-4


@torch.no_grad()
def test_the_plan_changes_the_answer() -> None:
    sharp, flat = (model(eps=eps, iterations=100)(*batch((0,))) for eps in (0.02, 10.0))
    assert float((sharp.plan - flat.plan).abs().max()) > 0.01
    assert not torch.allclose(sharp.logits, flat.logits, atol=1e-4)


@torch.no_grad()
def test_without_mixing_no_plan_reaches_the_answer() -> None:
    """Even marginals: the mean of the transported tokens is the mean of the other stream, whatever the plan."""
    sharp, flat = (model(eps=eps, iterations=100, mixing="none")(*batch((0,))) for eps in (0.02, 10.0))
    assert float((sharp.plan - flat.plan).abs().max()) > 0.01
    torch.testing.assert_close(sharp.logits, flat.logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_plan_gives_every_valid_token_its_share() -> None:
    plan = model(iterations=5)(*batch((0, 1, 2), extra=1)).plan
    for index, (n_text, n_audio) in enumerate(LENGTHS):
        own = plan[index, :n_text, :n_audio]
        torch.testing.assert_close(own.sum(1), torch.full((n_text,), 1 / n_text), atol=1e-5, rtol=0)
        torch.testing.assert_close(own.sum(0), torch.full((n_audio,), 1 / n_audio), atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_unbalanced_plan_holds_the_words_and_lets_sound_go() -> None:
    plan = model(unbalanced=0.01, eps=0.05, iterations=200)(*batch((0,))).plan[0]
    torch.testing.assert_close(plan.sum(1), torch.full((5,), 1 / 5), atol=1e-3, rtol=0)
    assert float((plan.sum(0) - 1 / 7).abs().max()) > 0.02


@torch.no_grad()
def test_transported_tokens_are_the_plans_means() -> None:
    out = model()(*batch((0,)))
    assert out.names == ("text", "text from audio", "audio", "audio from text")
    torch.testing.assert_close(out.tokens[1][0], 5 * out.plan[0] @ out.audio_values[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.tokens[3][0], 7 * out.plan[0].T @ out.text_values[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stream", ["text", "audio"])
@torch.no_grad()
def test_one_stream_alone_sees_nothing_of_the_other(stream: str) -> None:
    net = model(streams=stream)
    assert not any(key.startswith("audio" if stream == "text" else "text") for key, _ in net.named_parameters())
    text, text_mask, audio, audio_mask = batch((0, 1))
    whole = net(text, text_mask, audio, audio_mask)
    assert whole.names == (stream,)
    assert whole.plan is None
    own = (text, text_mask, None, None) if stream == "text" else (None, None, audio, audio_mask)
    torch.testing.assert_close(net(*own).logits, whole.logits)
    with pytest.raises(ValueError, match=f"streams '{stream}'"):
        net(*((None, None, audio, audio_mask) if stream == "text" else (text, text_mask, None, None)))


@pytest.mark.parametrize(("stream", "names"), [("both", 2), ("text", 1), ("audio", 1)])
@torch.no_grad()
def test_statistics_are_vectors_of_their_own_stream(stream: str, names: int) -> None:
    net = model(streams=stream, text_statistics=3, audio_statistics=2)
    inputs = batch((0, 1))
    rows = torch.tensor([[1.0, 2.0, 3.0], [3.0, 6.0, 3.0]]), torch.tensor([[0.5, 1.0], [2.0, 1.0]])
    before = net(*inputs, statistics=rows).logits
    for index, name in enumerate(("text", "audio")):
        other = [row.clone() for row in rows]
        other[index][0, 0] = torch.nan
        moved = (net(*inputs, statistics=tuple(other)).logits - before).abs().amax(1) > 1e-6
        assert moved.tolist() == [stream in (name, "both"), False]
    said = net(*inputs, statistics=rows).names
    assert [name for name in said if name in ("word counts", "voice statistics")] == list(said[-names:])


@torch.no_grad()
def test_statistics_are_standardised_and_a_missing_number_is_average() -> None:
    net = model(text_statistics=3)
    vector = net.text_statistics
    rows = torch.tensor([[1.0, 2.0, 7.0], [3.0, 6.0, 7.0], [torch.nan, 4.0, 7.0]])
    vector.standardise(rows)
    torch.testing.assert_close(vector.mean, torch.tensor([2.0, 4.0, 7.0]))
    torch.testing.assert_close(vector.scale, torch.tensor([1.0, (8 / 3) ** 0.5, 1.0]))  # a constant is not divided by 0
    average = vector(vector.mean[None])
    torch.testing.assert_close(vector(torch.full((1, 3), torch.nan)), average)
    torch.testing.assert_close(vector(torch.tensor([[1e9, 4.0, 7.0]])), vector(torch.tensor([[8.0, 4.0, 7.0]])))
    torch.testing.assert_close(net(*batch((0,))).pooled[-1], average)  # nobody has any
    assert {"text_statistics.mean", "text_statistics.scale"} <= net.state_dict().keys()  # kept with the weights


def test_both_streams_are_asked_for() -> None:
    text, text_mask, *_ = batch((0, 1))
    with pytest.raises(ValueError, match="streams 'both', got tokens of \\['text'\\]"):
        model()(text, text_mask, None, None)


def test_everything_that_is_wrong_with_a_config_is_said() -> None:
    with pytest.raises(
        ValueError, match=r"streams must.*crossing must.*classes must be >= 2, got 1; layers.*modality_drop"
    ):
        TwoStreamConfig(
            text_width=1, audio_width=1, streams="all", crossing="x", classes=1, layers=0, modality_dropout=1.0  # type: ignore[arg-type]
        )  # fmt: skip


@torch.no_grad()
def test_scores_are_in_their_ranges_and_shares_sum_to_one() -> None:
    out = model(mmse=True, fusion="attention")(*batch((0, 1, 2)))
    assert (out.mmse > 0).all()
    assert (out.mmse < 30).all()
    torch.testing.assert_close(out.vector_weights.sum(1), torch.ones(3))
