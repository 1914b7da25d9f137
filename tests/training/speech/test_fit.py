"""A fit: it learns what is there and nothing else, keeps its best epoch, and goes on after a stop as if there had been none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from chiasm.pipelines.stages.speech.features import Encoders
from chiasm.pipelines.training.checkpoints import POINTER
from chiasm.pipelines.training.speech import fit as fit_module
from chiasm.pipelines.training.speech.batches import Sample, collate
from chiasm.pipelines.training.speech.fit import HISTORY, fit, loss_of, predict, validation_loss
from chiasm.pipelines.training.speech.network import SpeechNetwork
from chiasm.pipelines.training.speech.settings import SpeechTraining

Make = Callable[..., Sample]
Network = Callable[..., SpeechNetwork]
Training = Callable[..., SpeechTraining]


def accuracy(network: SpeechNetwork, samples: list[Sample]) -> float:
    logits, _ = predict(network, samples)
    return float(np.mean(logits.argmax(1) == [sample.label for sample in samples]))


def sides(sample: Make) -> tuple[list[Sample], list[Sample], list[Sample]]:
    return [sample(i) for i in range(16)], [sample(i) for i in range(16, 24)], [sample(i) for i in range(24, 88)]


def same_weights(one: SpeechNetwork, two: SpeechNetwork) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_a_planted_rule_is_learned(sample: Make, network: Network, training: Training) -> None:
    train, validation, test = sides(sample)
    done = fit(network(), train, validation, training(epochs=40, learning_rate=0.005), seed=0)
    assert accuracy(done.network, test) >= 0.95
    assert done.history[-1]["train_loss"] < 0.1 < done.history[0]["train_loss"]
    assert not done.network.training


def test_labels_that_say_nothing_teach_nothing(sample: Make, network: Network, training: Training) -> None:
    """Half of each class has the other label: whatever is learned is of no use for new persons."""
    train, validation, test = sides(sample)
    dealt = [[replace(s, label=(i // 2) % 2) for i, s in enumerate(side)] for side in (train, validation)]
    scores = []
    for seed in range(3):
        done = fit(network(), *dealt, training(epochs=15, learning_rate=0.02, patience=3), seed=seed)
        scores.append(accuracy(done.network, test))
    assert 0.3 < np.mean(scores) < 0.7


def test_the_best_epoch_is_kept_and_patience_ends_the_fit(sample: Make, network: Network, training: Training) -> None:
    train, validation, _ = sides(sample)
    wrong = [replace(s, label=1 - s.label) for s in validation]  # the more is learned, the worse
    settings = training(epochs=30, patience=3)
    done = fit(network(), train, wrong, settings, seed=0)
    losses = [entry["validation_loss"] for entry in done.history]
    best = losses.index(min(losses))
    assert done.best_epoch == best + 1
    assert len(losses) == best + 1 + 3 < 30
    assert done.finished
    assert validation_loss(done.network, wrong, settings, device="cpu") == pytest.approx(min(losses), abs=1e-9)
    assert min(losses) < losses[-1]
    assert [entry["epoch"] for entry in done.history] == list(range(1, len(losses) + 1))


def test_a_loss_that_overflowed_is_never_the_best(
    sample: Make, network: Network, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, validation, _ = sides(sample)
    real, epoch = loss_of, [0]

    def overflowing(output: object, batch: object, settings: SpeechTraining, *, smoothing: float) -> torch.Tensor:
        loss = real(output, batch, settings, smoothing=smoothing)  # type: ignore[arg-type]
        epoch[0] += not torch.is_grad_enabled()
        return loss * math.nan if epoch[0] == 1 and not torch.is_grad_enabled() else loss

    monkeypatch.setattr(fit_module, "loss_of", overflowing)
    done = fit(network(), train, validation, training(epochs=3), seed=0)
    assert math.isinf(done.history[0]["validation_loss"])
    assert done.best_epoch == 3


def test_a_step_that_overflowed_is_left_out(sample: Make, network: Network, training: Training) -> None:
    train, validation, _ = sides(sample)
    broken = replace(train[0], features=replace(train[0].features, text_tokens=torch.full((4, 6), 1e38)))
    done = fit(network(), [broken, *train[1:]], validation, training(batch_size=1), seed=0)
    assert all(value.isfinite().all() for value in done.network.state_dict().values())


@pytest.mark.parametrize("trained", [False, True])
def test_two_accumulated_batches_of_four_are_one_of_eight(
    sample: Make, network: Network, training: Training, encoders: Encoders, trained: bool
) -> None:
    samples = [sample(i, ids=trained, n_text=3 + i % 3, n_audio=4) for i in range(8)]
    known = {"epochs": 3, "learning_rate": 1e-3, "encoder_learning_rate": 1e-3, "label_smoothing": 0.1}
    start = network(encoders if trained else None)
    one, two = (
        fit(network(encoders if trained else None), samples, samples, training(**known, **how), seed=0)
        for how in ({"batch_size": 8}, {"batch_size": 4, "accumulate": 2})
    )
    assert not same_weights(start, one.network)
    for of_one, of_two in zip(one.history, two.history, strict=True):
        assert of_one["train_loss"] == pytest.approx(of_two["train_loss"], abs=1e-6)
        assert of_one["validation_loss"] == pytest.approx(of_two["validation_loss"], abs=1e-6)
    for key, value in one.network.state_dict().items():
        if not key.endswith(("key.bias", "k_proj.bias")):  # without a gradient but for rounding, which AdamW blows up
            torch.testing.assert_close(two.network.state_dict()[key], value, atol=2e-5, rtol=0, msg=key)


def test_a_last_group_that_is_smaller_counts_every_sample_alike(
    sample: Make, network: Network, training: Training
) -> None:
    """3 samples in batches of 2: the loss of an epoch is the mean over samples, not over batches."""
    samples = [sample(i) for i in range(3)]
    settings = training(batch_size=2, accumulate=2, epochs=1, label_smoothing=0.2)
    net = network()
    expected = float(loss_of(net(collate(samples)), collate(samples), settings, smoothing=0.2).detach())
    done = fit(net, samples, samples, settings, seed=0)
    assert done.history[0]["train_loss"] == pytest.approx(expected, abs=1e-6)


def stops_after(epochs: int) -> Callable[[], bool]:
    """True once that many epochs are done: asked before each epoch, and after it where there is a folder."""
    asked = iter(range(1000))
    return lambda: next(asked) >= 2 * epochs - 1


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5])
def test_a_stopped_fit_goes_on_as_if_nothing_had_happened(
    sample: Make, network: Network, training: Training, tmp_path: Path, epochs: int
) -> None:
    train, validation, _ = sides(sample)
    settings = training(epochs=6, patience=3)
    fields = {"dropout": 0.3, "modality_dropout": 0.3}
    whole = fit(network(**fields), train, validation, settings, seed=7, folder=tmp_path / "whole")
    part = tmp_path / "part"
    torch.manual_seed(99)  # whatever was drawn before does not matter
    stopped = fit(network(**fields), train, validation, settings, seed=7, folder=part, stopped=stops_after(epochs))
    assert not stopped.finished
    assert len(stopped.history) == epochs
    assert (part / POINTER).is_file()
    torch.rand(17)
    resumed = fit(network(**fields), train, validation, settings, seed=7, folder=part)
    assert resumed.finished
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    assert same_weights(resumed.network, whole.network)
    assert (part / HISTORY).read_bytes() == (tmp_path / "whole" / HISTORY).read_bytes()
    assert [path.name for path in part.iterdir()] == [HISTORY]  # the checkpoint is gone with its purpose
    assert [json.loads(line)["epoch"] for line in (part / HISTORY).read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("change", ["labels", "validation labels", "settings", "seed", "weights", "identity", "damage"])
def test_a_checkpoint_of_another_fit_is_not_gone_on_with(
    sample: Make, network: Network, training: Training, tmp_path: Path, change: str
) -> None:
    train, validation, _ = sides(sample)
    settings, seed, fields, identity = training(epochs=3), 0, {"dropout": 0.2}, ""
    fit(network(**fields), train, validation, settings, seed=seed, folder=tmp_path, stopped=stops_after(2))
    if change == "labels":
        train = [replace(train[0], label=1 - train[0].label), *train[1:]]
    elif change == "validation labels":
        validation = [replace(validation[0], label=1 - validation[0].label), *validation[1:]]
    elif change == "settings":
        settings = training(epochs=3, weight_decay=0.3)
    elif change == "seed":
        seed = 1
    elif change == "weights":
        fields = {"dropout": 0.2, "hidden": 4}
    elif change == "identity":
        identity = "other features"
    else:
        next(tmp_path.glob("checkpoint-*.safetensors")).write_bytes(b"\0" * 64)
    again = fit(network(**fields), train, validation, settings, seed=seed, folder=tmp_path, identity=identity)
    fresh = fit(network(**fields), train, validation, settings, seed=seed)
    assert again.history == fresh.history
    assert same_weights(again.network, fresh.network)


def test_the_seed_decides_and_nothing_else(sample: Make, network: Network, training: Training) -> None:
    train, validation, _ = sides(sample)
    curves = []
    for seed in (0, 0, 1):
        torch.rand(5)
        curves.append(fit(network(dropout=0.3), train, validation, training(epochs=2), seed=seed).history)
    assert curves[0] == curves[1] != curves[2]


def test_the_learning_rate_rises_and_falls_to_a_tenth(sample: Make, network: Network, training: Training) -> None:
    rates = [fit_module._schedule(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert rates[99] == pytest.approx(0.11)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    net = network()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fit(
        net,
        [sample(i) for i in range(4)],
        [sample(4)],
        training(epochs=1, learning_rate=1e-3, weight_decay=0.0),
        seed=0,
    )
    moved = max(float((net.state_dict()[key] - value).abs().max()) for key, value in before.items())
    assert moved == pytest.approx(1e-3, rel=0.05)  # one step of AdamW is as long as its rate


def test_the_loss_is_the_sum_of_what_is_known(sample: Make, training: Training) -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.1], [0.0, 3.0]])
    output = SimpleNamespace(
        logits=logits,
        mmse=torch.tensor([20.0, 10.0, 28.0]),
        alignment=torch.tensor([0.1, 0.2, 0.6]),
        severity=torch.tensor([[1.0, 0.0, 0.0, 2.0], [0.0] * 4, [0.0, 3.0, 1.0, 0.0]]),
    )
    batch = collate([sample(0, mmse=26.0), sample(1), sample(2, label=1, mmse=25.0)])
    label = torch.tensor([0, 1, 1])
    cross = float(F.cross_entropy(logits, label))
    assert float(loss_of(output, batch, training(), smoothing=0.0)) == pytest.approx(cross)  # type: ignore[arg-type]
    both = training(mmse_weight=2.0, alignment_weight=0.5)
    expected = cross + 2.0 * ((6 / 30) ** 2 + (3 / 30) ** 2) / 2 + 0.5 * 0.3
    assert float(loss_of(output, batch, both, smoothing=0.0)) == pytest.approx(expected)  # type: ignore[arg-type]
    bands = training(severity_weight=1.0)  # 27 and 26 are neighbours: none and mild
    graded = collate([sample(0, mmse=27.0), sample(1), sample(2, label=1, mmse=26.0)])
    severity = float(F.cross_entropy(output.severity[[0, 2]], torch.tensor([3, 2])))
    assert float(loss_of(output, graded, bands, smoothing=0.0)) == pytest.approx(cross + severity)  # type: ignore[arg-type]
    nobody = collate([sample(0), sample(1), sample(2, label=1)])
    assert float(loss_of(output, nobody, both, smoothing=0.0)) == pytest.approx(cross + 0.15)  # type: ignore[arg-type]


def test_predictions_are_in_the_order_of_the_samples(sample: Make, network: Network) -> None:
    samples = [sample(i, n_text=9 - i, mmse=20.0) for i in range(7)]
    net = network(mmse=True).train()
    logits, mmse = predict(net, samples, batch_size=3)
    for index, one in enumerate(samples):
        alone, score = predict(net, [one])
        np.testing.assert_allclose(logits[index], alone[0], atol=1e-5)
        assert mmse[index] == pytest.approx(float(score[0]), abs=1e-4)
    assert np.isnan(predict(network(), samples)[1]).all()


def test_trained_encoders_learn_too(sample: Make, network: Network, training: Training, encoders: Encoders) -> None:
    samples = [sample(i, ids=True, n_audio=4) for i in range(12)]
    start = network(encoders)
    settings = training(epochs=2, encoder_learning_rate=1e-2)
    done = fit(network(encoders), samples, samples[:6], settings, seed=0)
    for part in ("text_encoder", "audio_encoder"):
        before, after = getattr(start, part).state_dict(), getattr(done.network, part).state_dict()
        assert any(not torch.equal(before[key], after[key]) for key in before)


def test_severity_is_learnt_from_bands_of_the_score_and_only_where_it_was_taken() -> None:
    from types import SimpleNamespace

    from chiasm.pipelines.training.speech.fit import loss_of
    from chiasm.pipelines.training.speech.settings import SpeechTraining

    settings = SpeechTraining(severity_weight=1.0, label_smoothing=0.0)
    right = torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0], [0, 0, 0, 9.0], [9.0, 0, 0, 0]])
    output = SimpleNamespace(logits=torch.zeros(5, 2), severity=right, mmse=None, alignment=None)
    batch = SimpleNamespace(label=torch.zeros(5, dtype=torch.int64), mmse=torch.tensor([9.0, 10, 21, 27, torch.nan]))
    half = torch.log(torch.tensor(2.0))
    assert float(loss_of(output, batch, settings, smoothing=0.0) - half) == pytest.approx(0, abs=1e-3)
    batch.mmse[0] = 10.0
    assert float(loss_of(output, batch, settings, smoothing=0.0) - half) > 2
