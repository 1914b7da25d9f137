"""What is trained: gradients, precision, whose picture is whose, missing modalities, parameter groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from chiasm.pipelines.stages.speech.features import Encoders
from chiasm.pipelines.training.speech.batches import Sample, collate
from chiasm.pipelines.training.speech.network import SpeechNetwork

Make = Callable[..., Sample]
Network = Callable[..., SpeechNetwork]


@pytest.fixture
def samples(sample: Make) -> list[Sample]:
    return [
        sample(0, n_text=3, n_audio=4, ids=True),
        sample(1, n_text=6, n_audio=2, ids=True),
        sample(2, n_text=2, n_audio=6, ids=True),
    ]


def without_gradient(module: nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]


def test_trained_encoders_are_copies_that_get_gradients(
    network: Network, encoders: Encoders, samples: list[Sample]
) -> None:
    net = network(encoders)
    (net(collate(samples)).logits * torch.tensor([1.0, -0.3])).sum().backward()
    still = [name for name in without_gradient(net) if not name.endswith(("key.bias", "k_proj.bias"))]
    # The special tokens of DeiT are read by the patches' attention; positions behind the longest text by nobody.
    assert [name for name in still if not name.startswith("classifier")] == []
    for own, given in ((net.text_encoder, encoders.text), (net.audio_encoder, encoders.audio)):
        assert own is not given
        assert all(p.requires_grad for p in own.parameters())
        assert not any(p.requires_grad or p.grad is not None for p in given.parameters())


def test_frozen_encoders_are_no_part_of_the_network(network: Network, sample: Make) -> None:
    net = network()
    assert {name.split(".")[0] for name, _ in net.named_parameters()} == {"classifier"}
    net(collate([sample(0), sample(1)])).logits.sum().backward()
    assert any(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(("stream", "there"), [("text", "text_encoder"), ("audio", "audio_encoder")])
def test_one_stream_has_one_encoder(
    network: Network, encoders: Encoders, samples: list[Sample], stream: str, there: str
) -> None:
    net = network(encoders, streams=stream)
    assert {name.split(".")[0] for name, _ in net.named_parameters()} == {"classifier", there}
    assert net(collate(samples)).logits.isfinite().all()


def test_autocast_is_of_the_encoders_and_ends_before_the_classifier(
    network: Network, encoders: Encoders, samples: list[Sample]
) -> None:
    seen: dict[str, torch.dtype] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen[name], seen[f"{name} input"] = output.dtype, inputs[0].dtype

        return hook

    full, narrow = network(encoders), network(encoders, autocast=torch.bfloat16)
    for part in ("text_encoder", "audio_encoder", "classifier"):
        linears = [m for m in getattr(narrow, part).modules() if isinstance(m, nn.Linear)]
        linears[0].register_forward_hook(note(part))
    with torch.no_grad():
        ours, exact = narrow(collate(samples)), full(collate(samples))
    assert seen["text_encoder"] == seen["audio_encoder"] == torch.bfloat16
    assert seen["classifier"] == seen["classifier input"] == torch.float32
    assert ours.logits.dtype == ours.plan.dtype == torch.float32
    torch.testing.assert_close(ours.logits, exact.logits, atol=0.02, rtol=0)
    assert not torch.equal(ours.logits, exact.logits)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        narrow(collate(samples))
    assert seen["classifier"] == torch.float32  # even where somebody else switched it on


@pytest.mark.parametrize("marked", [0, 1, 2])
@torch.no_grad()
def test_a_marked_picture_changes_its_own_sample_only(
    network: Network, encoders: Encoders, samples: list[Sample], marked: int
) -> None:
    net = network(encoders).eval()
    before = net(collate(samples))
    pixels = samples[marked].features.pixels.clone()
    pixels[-1] += 2 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    changed = [*samples]
    changed[marked] = replace(samples[marked], features=replace(samples[marked].features, pixels=pixels))
    after = net(collate(changed))
    moved = (after.logits - before.logits).abs().amax(1) > 1e-5
    assert moved.tolist() == [index == marked for index in range(3)]
    values = (after.audio_values - before.audio_values).abs().amax(2)[marked] > 1e-3
    n_tokens = 2 * len(pixels)
    assert values[n_tokens - 2 : n_tokens].all()
    assert not values[n_tokens:].any()


@torch.no_grad()
def test_a_sample_says_the_same_alone_and_in_a_batch(
    network: Network, encoders: Encoders, samples: list[Sample], sample: Make
) -> None:
    net = network(encoders, modality_dropout=0.2).eval()
    net.classifier.text.absent.add_(0.5)
    everyone = [
        *samples, sample(3, n_text=4, ids=True, without=["audio"]), sample(4, n_audio=4, ids=True, without=["text"])
    ]  # fmt: skip
    together = net(collate(everyone)).logits
    for index, one in enumerate(everyone):
        torch.testing.assert_close(net(collate([one])).logits[0], together[index], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gone", ["text", "audio"])
@torch.no_grad()
def test_a_batch_in_which_nobody_has_a_modality(network: Network, sample: Make, gone: str) -> None:
    net = network(modality_dropout=0.2).eval()
    lacking = [sample(0, without=[gone]), sample(1, without=[gone])]
    mixed = net(collate([*lacking, sample(2)])).logits
    torch.testing.assert_close(net(collate(lacking)).logits, mixed[:2], atol=1e-5, rtol=1e-5)


def test_a_modality_is_withheld_in_training_only_and_never_both(network: Network, sample: Make) -> None:
    net = network(modality_dropout=0.6)
    batch = collate([*(sample(i) for i in range(200)), sample(200, without=["text"]), sample(201, without=["audio"])])
    torch.manual_seed(0)
    text, audio = (mask.any(1) for mask in net.train()._withheld(batch.text_mask, batch.audio_mask))
    assert (text | audio).all()
    share = [float((~mask[:200]).float().mean()) for mask in (text, audio)]
    assert all(0.2 < one < 0.4 for one in share)
    assert not text[200]
    assert audio[200]
    whole = net.eval()._withheld(batch.text_mask, batch.audio_mask)
    assert torch.equal(whole[0], batch.text_mask)
    assert torch.equal(whole[1], batch.audio_mask)
    untouched = network(modality_dropout=0.0).train()._withheld(batch.text_mask, batch.audio_mask)
    assert torch.equal(untouched[0], batch.text_mask)


def test_encoders_learn_slowly_and_neither_norms_nor_biases_decay(network: Network, encoders: Encoders) -> None:
    net = network(encoders)
    groups = net.groups(1e-3, 1e-5, 0.05)
    of = {id(p): group for group in groups for p in group["params"]}
    assert len(of) == sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    for name, parameter in net.named_parameters():
        group = of[id(parameter)]
        assert group["lr"] == (1e-3 if name.startswith("classifier") else 1e-5), name
        assert group["weight_decay"] == (0.05 if parameter.ndim > 1 else 0.0), name
        if "norm" in name.lower() or name.endswith("bias"):
            assert group["weight_decay"] == 0.0, name


def test_statistics_are_withheld_with_their_modality_and_scaled_by_the_training_persons(
    network: Network, sample: Make
) -> None:
    net = network(modality_dropout=0.6, text_statistics=1, audio_statistics=1)
    samples = [sample(i, statistics=(torch.tensor([float(i)]), torch.tensor([5.0]))) for i in range(40)]
    net.fit_statistics([*samples[:3], sample(50)])
    assert net.classifier.text_statistics.mean.tolist() == [1.0]
    assert net.classifier.audio_statistics.scale.tolist() == [1.0]
    seen = []
    net.classifier.text_statistics.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].isnan()[:, 0]))
    torch.manual_seed(0)
    out = net.train()(collate(samples))
    alone = out.text_mask.sum(1) == 1  # the learned token
    assert 5 < int(alone.sum()) < 20
    assert torch.equal(seen[0], alone)
