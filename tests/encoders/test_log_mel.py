"""The log-Mel picture against librosa, and its promises on padding and floors."""

import librosa
import numpy as np
import pytest
import torch

from chiasm.encoders.log_mel import LogMelConfig, LogMelImage, mel_filters, savitzky_golay

BRANCHES = {
    "defaults": {},
    "published file": {"sample_rate": 16000, "n_fft": 2048, "hop_length": 1024, "n_mels": 96, "f_max": 8000.0},
    "HTK scale, filters of one height": {"htk": True, "norm": None, "n_mels": 40, "n_fft": 512, "hop_length": 160},
    "short window in the middle": {"win_length": 401, "n_fft": 1024, "hop_length": 200, "n_mels": 64},
    "reference is the maximum": {"ref": "max", "n_fft": 1024, "hop_length": 256, "n_mels": 80, "f_min": 50.0},
    "low reference, low floor": {"ref": 1e-3, "top_db": 30.0, "n_fft": 1024, "n_mels": 64, "amin": 1e-6},
    "no floor": {"top_db": None, "n_fft": 1024, "n_mels": 64},
    "narrow and wide derivatives": {"delta_width": 5, "n_fft": 1024, "n_mels": 32},
    "wide derivatives": {"delta_width": 21, "n_fft": 1024, "hop_length": 300, "n_mels": 32},
    "empty filters": {"n_mels": 160, "n_fft": 256, "hop_length": 128},
}


def wave(n: int, seed: int = 0, *, rate: int = 22050) -> np.ndarray:
    """A chirp with a hum, noise that comes and goes, and true silence at the end."""
    rng, t = np.random.default_rng(seed), np.arange(n) / rate
    out = 0.4 * np.sin(2 * np.pi * (120 + 900 * t) * t) + 0.05 * np.sin(2 * np.pi * 440 * t)
    out += 0.02 * rng.standard_normal(n) * (np.sin(5 * t) > 0)
    out[int(0.85 * n) :] = 0
    return out


def by_librosa(samples: np.ndarray, config: LogMelConfig) -> np.ndarray:
    power = librosa.feature.melspectrogram(
        y=samples,
        sr=config.sample_rate,
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        win_length=config.win_length,
        n_mels=config.n_mels,
        fmin=config.f_min,
        fmax=config.f_max,
        htk=config.htk,
        norm=config.norm,
        dtype=samples.dtype,
    )
    ref = np.max if config.ref == "max" else config.ref
    decibels = librosa.power_to_db(power, ref=ref, amin=config.amin, top_db=config.top_db)
    deltas = [librosa.feature.delta(decibels, width=config.delta_width, order=order) for order in (1, 2)]
    return np.stack([decibels, *deltas])


@pytest.mark.filterwarnings("ignore:Empty filters:UserWarning")
@pytest.mark.parametrize("fields", BRANCHES.values(), ids=BRANCHES)
@pytest.mark.parametrize(("dtype", "allowed"), [("float64", 1e-8), ("float32", 1e-3)])
def test_equal_to_librosa(fields: dict, dtype: str, allowed: float) -> None:
    config = LogMelConfig(**fields)
    # Single precision cannot say what lies 120 dB below a tone, neither here nor there: every real recording has a floor.
    dither = 1e-3 * np.random.default_rng(1).standard_normal(30011) * (dtype == "float32")
    samples = (wave(30011, rate=config.sample_rate) + dither).astype(dtype)
    images, n_frames = LogMelImage(config)(torch.from_numpy(samples)[None])
    expected = by_librosa(samples, config)
    assert images.dtype == getattr(torch, dtype)
    assert n_frames.tolist() == [expected.shape[2]]
    assert np.abs(images[0].numpy() - expected).max() < allowed


def test_padding_and_company_change_no_bit() -> None:
    maker = LogMelImage(LogMelConfig(n_fft=512, hop_length=128, n_mels=40, ref="max"))
    samples = [torch.from_numpy(wave(n, seed=n).astype(np.float32)) for n in (9000, 4000, 1500)]
    batch = torch.full((3, 12000), 7.0)
    for row, one in zip(batch, samples, strict=True):
        row[: len(one)] = one
    images, n_frames = maker(batch, torch.tensor([9000, 4000, 1500]))
    for image, count, one in zip(images, n_frames, samples, strict=True):
        alone, own = maker(one[None])
        assert own.item() == count
        assert torch.equal(image[:, :, :count], alone[0])
        assert not image[:, :, count:].any()


def test_the_floor_is_each_recordings_own() -> None:
    maker = LogMelImage(LogMelConfig(n_fft=512, hop_length=128, n_mels=40, top_db=40.0))
    loud = torch.from_numpy(wave(4000))
    images, _ = maker(torch.stack([loud, 0.01 * loud]))
    for image in images:
        assert image[0].min() == pytest.approx(float(image[0].max()) - 40, abs=1e-9)
    assert float(images[0, 0].max() - images[1, 0].max()) == pytest.approx(40, abs=1e-9)


def test_digital_silence_is_flat() -> None:
    images, _ = LogMelImage(LogMelConfig(n_fft=512, hop_length=128, n_mels=40))(torch.zeros(1, 4000))
    assert (images[0, 0] == -100).all()
    assert images[0, 1:].abs().max() < 1e-4


def test_too_few_frames_say_how_many_samples_are_needed() -> None:
    maker = LogMelImage(LogMelConfig())
    with pytest.raises(ValueError, match="8 frames: the derivatives need 9, that is 4096 samples"):
        maker(torch.zeros(1, 4095))
    assert maker(torch.zeros(1, 4096))[1].tolist() == [9]


@pytest.mark.parametrize(
    ("waves", "lengths", "message"),
    [
        (torch.zeros(5000), None, "shape"),
        (torch.zeros(1, 5000, dtype=torch.int16), None, "int16"),
        (torch.zeros(1, 5000), torch.tensor([6000]), "lengths"),
        (torch.zeros(2, 5000), torch.tensor([5000]), "lengths"),
    ],
)
def test_waves_that_cannot_be_meant(waves: torch.Tensor, lengths: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogMelImage(LogMelConfig())(waves, lengths)


def test_every_wrong_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"n_fft=1023, win_length=4000, norm='area', delta_width=8"):
        LogMelConfig(n_fft=1023, win_length=4000, norm="area", delta_width=8)
    with pytest.raises(ValueError, match="f_max=9000"):
        LogMelConfig(sample_rate=16000, f_max=9000)


def test_the_derivatives_of_polynomials_are_exact() -> None:
    t = torch.arange(9, dtype=torch.float64) - 4
    assert float(savitzky_golay(9, 1) @ (3 * t + 5)) == pytest.approx(3)
    assert float(savitzky_golay(9, 2) @ (0.5 * t**2 - 2 * t + 1)) == pytest.approx(1)


def test_the_published_bands_leave_no_row_empty() -> None:
    for rate in (16000, 22050, 44100):
        assert mel_filters(LogMelConfig(sample_rate=rate)).any(axis=1).all()
