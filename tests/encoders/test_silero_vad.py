"""Silero VAD: equal to the published network, padding changes nothing, spans by the published rule."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import chiasm.encoders
from chiasm.data.spans import Span
from chiasm.encoders.silero_vad import FRAME, RATE, SileroVad, SileroVadConfig, speech_spans

REFERENCE = Path(__file__).parent / "silero_reference.json"
"""Probabilities of the package's own ONNX file on `voice()`, frame by frame through onnxruntime, and its spans in samples."""
WEIGHTS = Path(chiasm.encoders.__file__).parent / "weights" / "silero-vad"

VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))


def voice(seconds: float = 6.0) -> np.ndarray:
    """Vowels on a falling pitch, in groups with pauses, over faint noise; whole 16-bit steps, so that it is the same everywhere."""
    t = np.arange(round(seconds * RATE)) / RATE
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.45 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    loud = np.clip(np.sin(2 * np.pi * 3.1 * t), 0, 1) ** 0.5
    loud[(t < 0.7) | ((t > 2.6) & (t < 3.6)) | (t > 5.2)] = 0
    vowel = (t * 3.1).astype(int) % len(VOWELS)
    out = np.zeros_like(t)
    for harmonic in range(1, 30):
        frequency = harmonic * pitch
        gain = np.zeros_like(t)
        for index, formants in enumerate(VOWELS):
            shape = sum(1 / (1 + ((frequency - f) / (60 + 0.05 * f)) ** 2) / (n + 1) for n, f in enumerate(formants))
            gain = np.where(vowel == index, shape, gain)
        out += gain * np.sin(harmonic * phase) / harmonic**0.5
    out = 0.2 * loud * out + np.random.default_rng(0).normal(0, 0.002, len(t))
    return (np.round(out * 32767) / 32768).astype(np.float32)


@pytest.fixture(scope="module")
def network() -> SileroVad:
    network = SileroVad()
    network.load_state_dict(load_file(WEIGHTS / "model.safetensors"))
    return network.eval()


def test_probabilities_and_spans_are_those_of_the_published_network(network: SileroVad) -> None:
    reference = json.loads(REFERENCE.read_text())
    wanted = np.array(reference["probabilities"])
    assert wanted.min() < 0.05
    assert wanted.max() > 0.9
    samples = voice()
    got = network.probabilities(samples)[0].numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    spans = speech_spans(got, len(samples) / RATE)
    assert [[round(s.start_s * RATE), round(s.end_s * RATE)] for s in spans] == reference["spans"]
    assert len(spans) >= 2


def test_the_weights_are_those_that_the_card_names() -> None:
    config = json.loads((WEIGHTS / "config.json").read_text())
    digest = hashlib.sha256((WEIGHTS / "model.safetensors").read_bytes()).hexdigest()
    assert config["sha256"]["model.safetensors"] == digest
    assert digest in (WEIGHTS / "README.md").read_text()
    assert "MIT License" in (WEIGHTS / "LICENSE").read_text()


def test_neither_batch_nor_block_nor_zeros_at_the_end_change_a_probability(
    network: SileroVad, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = voice(1.5)
    alone = network.probabilities(samples)
    batch = np.zeros((3, len(samples) + 5 * FRAME + 17), np.float32)
    batch[0, : len(samples)], batch[2] = samples, 0.3
    together = network.probabilities(torch.from_numpy(batch))
    n_frames = alone.shape[1]
    torch.testing.assert_close(together[:1, :n_frames], alone, atol=1e-5, rtol=0)
    monkeypatch.setattr("chiasm.encoders.silero_vad._BLOCK", 5)
    torch.testing.assert_close(network.probabilities(samples), alone, atol=1e-5, rtol=0)


def test_each_frame_has_one_probability_and_a_part_of_a_frame_counts() -> None:
    network = SileroVad()
    assert [network.probabilities(np.zeros(n, np.float32)).shape[1] for n in (1, 512, 513, 1024)] == [1, 1, 2, 2]


def test_it_can_be_trained() -> None:
    network = SileroVad()
    network(torch.randn(2, 3 * FRAME)).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("shape", [(0,), (2, 0), (1, 2, 3)])
def test_samples_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, n\)"):
        SileroVad().probabilities(torch.zeros(shape))


def test_sizes_that_do_not_make_one_vector_a_frame_are_refused() -> None:
    with pytest.raises(ValueError, match="4 columns"):
        SileroVadConfig(context=256)


def frames(*runs: tuple[float, int]) -> np.ndarray:
    return np.concatenate([np.full(n, value) for value, n in runs])


F_S = FRAME / RATE


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        ([(0.1, 50)], []),
        ([(0.9, 50)], [(0, 50)]),
        ([(0.1, 10), (0.9, 20), (0.1, 10)], [(10, 30)]),
        ([(0.1, 10), (0.9, 20), (0.4, 10), (0.1, 10)], [(10, 40)]),  # between the two thresholds: still speech
        ([(0.1, 10), (0.4, 20)], []),  # ... but it does not begin one
        ([(0.9, 10), (0.1, 3), (0.9, 10)], [(0, 23)]),  # a silence shorter than 0.1 s
        ([(0.9, 10), (0.1, 5), (0.9, 10)], [(0, 10), (15, 25)]),
        ([(0.1, 10), (0.9, 7), (0.1, 10)], []),  # 0.224 s of speech
        ([(0.1, 10), (0.9, 8), (0.1, 10)], [(10, 18)]),  # 0.256 s
        ([(0.9, 10), (0.1, 2), (0.4, 1), (0.1, 2), (0.1, 1), (0.9, 10)], [(0, 10), (16, 26)]),
    ],
)
def test_spans_follow_two_thresholds_and_the_shortest_lengths(
    runs: list[tuple[float, int]], wanted: list[tuple[int, int]]
) -> None:
    values = frames(*runs)
    got = speech_spans(values, len(values) * F_S, pad_s=0.0)
    np.testing.assert_allclose(np.reshape(got, (-1, 2)), np.reshape(wanted, (-1, 2)) * F_S, atol=1e-9)


def test_spans_are_widened_within_the_recording_and_never_overlap() -> None:
    values = frames((0.9, 20), (0.1, 5), (0.9, 20), (0.1, 10), (0.9, 20))
    duration = len(values) * F_S - 0.01
    got = speech_spans(values, duration, pad_s=0.1)
    meet = 22.5 * F_S
    wanted = [(0, meet), (meet, 45 * F_S + 0.1), (55 * F_S - 0.1, duration)]
    np.testing.assert_allclose(got, wanted, atol=1e-9)
    assert speech_spans(torch.from_numpy(values), duration, pad_s=0.0, threshold=0.95) == []
    assert isinstance(got[0], Span)


def test_probabilities_of_several_recordings_are_refused() -> None:
    with pytest.raises(ValueError, match="one recording"):
        speech_spans(np.zeros((2, 3)), 1.0)
