"""A recording as a picture of three planes: log-Mel spectrogram, its slope and its curvature along time.

The picture of Ilias & Askounis (arXiv 2305.16406) with the conventions of librosa: centred frames padded with zeros,
periodic Hann window, power spectrum, triangular Mel filters, decibels with a floor below the recording's own maximum,
Savitzky-Golay derivatives. Written in torch, block by block, so that a block's frames and spectra stay in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SHORT_BLOCK, LONG_BLOCK = (
    64,
    512,
)  # frames that are transformed together (a megabyte: it stays in the cache), multiplied
FILTERS_TOGETHER = 16  # neighbouring filters share most of their bins; a product of this height is still narrow


@dataclass(frozen=True, kw_only=True)
class LogMelConfig:
    """What the picture depends on; the defaults are librosa's, with the 224 bands of the published model.

    Parameters
    ----------
    sample_rate : int
        Of the waves, in Hz.
    n_fft, hop_length : int
        Samples of a frame (even), and between frames.
    win_length : int or None
        Samples of the Hann window, in the middle of the frame; None: `n_fft`.
    n_mels : int
        Bands, the rows of the picture.
    f_min, f_max : float
        Edges of the lowest and the highest band in Hz; None: half the sample rate.
    htk : bool
        Mel scale of HTK (2595 log10(1 + f/700)) instead of Slaney's (linear to 1 kHz, then logarithmic).
    norm : 'slaney' or None
        Whether filters have equal area (in Hz) or equal height.
    ref : float or 'max'
        Power at 0 dB; 'max': the recording's largest.
    amin : float
        Least power that is told apart.
    top_db : float or None
        Floor below the recording's maximum, in dB.
    delta_width : int
        Frames of the derivative filters; odd, at least 3.

    Raises
    ------
    ValueError
        Naming every field that is out of its range.
    """

    sample_rate: int = 22050
    n_fft: int = 2048
    hop_length: int = 512
    win_length: int | None = None
    n_mels: int = 224
    f_min: float = 0.0
    f_max: float | None = None
    htk: bool = False
    norm: Literal["slaney"] | None = "slaney"
    ref: float | Literal["max"] = 1.0
    amin: float = 1e-10
    top_db: float | None = 80.0
    delta_width: int = 9

    def __post_init__(self) -> None:
        sensible = {
            "sample_rate": self.sample_rate > 0,
            "n_fft": self.n_fft >= 2 and self.n_fft % 2 == 0,
            "hop_length": self.hop_length > 0,
            "win_length": self.win_length is None or 0 < self.win_length <= self.n_fft,
            "n_mels": self.n_mels > 0,
            "f_max": 0 <= self.f_min < self.highest_hz <= self.sample_rate / 2,
            "norm": self.norm in ("slaney", None),
            "ref": self.ref == "max" if isinstance(self.ref, str) else self.ref > 0,
            "amin": self.amin > 0,
            "top_db": self.top_db is None or self.top_db >= 0,
            "delta_width": self.delta_width >= 3 and self.delta_width % 2 == 1,
        }
        wrong = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if not sensible.get(f.name, True)]
        if wrong:
            raise ValueError(f"out of range: {', '.join(wrong)}")

    @property
    def highest_hz(self) -> float:
        """Upper edge of the highest band."""
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    @property
    def hop_s(self) -> float:
        """Seconds between frames; frame t is centred on t * hop_s."""
        return self.hop_length / self.sample_rate


class LogMelImage(nn.Module):
    """Waves to pictures of three planes: log-Mel in dB, first and second derivative along time (per frame).

    Numbers follow the waves' type: float64 agrees with librosa to rounding, float32 within 1e-3 dB. Nothing is learned
    and no gradient flows.

    Parameters
    ----------
    config : LogMelConfig
    """

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        window = torch.hann_window(config.win_length or config.n_fft, periodic=True, dtype=torch.float64)
        left = (config.n_fft - window.numel()) // 2
        window = nn.functional.pad(window, (left, config.n_fft - window.numel() - left))
        # Kept in double precision and outside the state: they follow from the config, and `.half()` must not round them.
        self._window = window
        self._filters = torch.from_numpy(mel_filters(config))
        self._bands = _bands(self._filters)
        self._slope, self._curvature = (savitzky_golay(config.delta_width, order) for order in (1, 2))

    def n_frames(self, n_samples: int) -> int:
        """Frames of a recording of `n_samples`: one at its beginning and one after each hop."""
        return 1 + n_samples // self.config.hop_length

    @torch.no_grad()
    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the pictures; what lies behind a recording's length has no influence.

        Parameters
        ----------
        waves : Tensor of float32 or float64, shape (B, n)
        lengths : Tensor of int, shape (B,), optional
            Samples that belong to each recording; by default all.

        Returns
        -------
        images : Tensor, shape (B, 3, n_mels, T)
            Zero behind a recording's last frame.
        n_frames : Tensor of int64, shape (B,)

        Raises
        ------
        ValueError
            Where a recording has fewer frames than the derivatives need, or waves and lengths do not belong together.
        """
        if waves.ndim != 2 or waves.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"waves must be float32 or float64 of shape (B, n), not {waves.dtype} {tuple(waves.shape)}"
            )
        sizes = [waves.shape[1]] * len(waves) if lengths is None else [int(n) for n in lengths]
        if len(sizes) != len(waves) or any(not 0 <= n <= waves.shape[1] for n in sizes):
            raise ValueError(f"lengths {sizes} do not fit waves of shape {tuple(waves.shape)}")
        counts = [self.n_frames(n) for n in sizes]
        if min(counts, default=self.config.delta_width) < self.config.delta_width:
            raise ValueError(
                f"{min(counts)} frames: the derivatives need {self.config.delta_width}, that is "
                f"{(self.config.delta_width - 1) * self.config.hop_length} samples"
            )
        # One recording at a time: faster on a CPU than a padded batch, and equal to the bit whatever else is in it.
        images = waves.new_zeros(len(waves), 3, self.config.n_mels, max(counts, default=0))
        for image, wave, n, count in zip(images, waves, sizes, counts, strict=True):
            self._draw(wave[:n], image[:, :, :count])
        return images, torch.tensor(counts, dtype=torch.int64, device=waves.device)

    def _draw(self, wave: Tensor, image: Tensor) -> None:
        """Fill `image`, shape (3, n_mels, T)."""
        image[0] = self.decibels(self.power_mel(wave))
        half = self.config.delta_width // 2
        for plane, kernel in ((1, self._slope), (2, self._curvature)):
            inner = image[plane, :, half : image.shape[2] - half]
            _filter_time(image[0], kernel, inner)
            # A polynomial of the derivative's own order has a constant derivative, so scipy's mode 'interp', which fits
            # one to the border, repeats the outermost value there.
            image[plane, :, :half] = inner[:, :1]
            image[plane, :, image.shape[2] - half :] = inner[:, -1:]

    @torch.no_grad()
    def power_mel(self, wave: Tensor) -> Tensor:
        """Return the Mel power spectrogram of one wave (n,): shape (n_mels, T)."""
        n_fft, hop = self.config.n_fft, self.config.hop_length
        count = self.n_frames(wave.numel())
        padded = nn.functional.pad(wave, (n_fft // 2, n_fft // 2))
        frames = padded.as_strided((count, n_fft), (hop, 1))
        window = self._window.to(wave.device)
        bands = [(rows, bins, weights.to(wave)) for rows, bins, weights in self._bands]
        out = wave.new_zeros(self.config.n_mels, count)
        power = wave.new_empty(min(count, LONG_BLOCK), n_fft // 2 + 1)
        for first in range(0, count, LONG_BLOCK):
            last = min(count, first + LONG_BLOCK)
            for start in range(first, last, SHORT_BLOCK):
                # The window is double, and so the transform: in single precision the floor below a pure tone is off by
                # 1e-3 dB.
                spectrum = torch.fft.rfft(frames[start : min(last, start + SHORT_BLOCK)] * window)
                real, imaginary = torch.view_as_real(spectrum).unbind(-1)
                power[start - first : start - first + len(real)] = torch.addcmul(real.square(), imaginary, imaginary)
            for rows, bins, weights in bands:
                out[rows, first:last] = weights @ power[: last - first, bins].T
        return out

    @torch.no_grad()
    def decibels(self, power: Tensor) -> Tensor:
        """Return a recording's power in dB, with the floor below its own maximum."""
        largest = power.max()
        decibels = power.clamp_min(self.config.amin).log10_().mul_(10)
        reference = largest if self.config.ref == "max" else power.new_tensor(self.config.ref)
        decibels -= 10 * reference.clamp_min(self.config.amin).log10()
        if self.config.top_db is not None:
            decibels.clamp_min_(decibels.max() - self.config.top_db)
        return decibels


def mel_filters(config: LogMelConfig) -> NDArray[np.float64]:
    """Return the triangular Mel filters, shape (n_mels, 1 + n_fft // 2).

    Corners are equally spaced on the Mel scale between `f_min` and `f_max` (Slaney, Auditory Toolbox, 1998; or HTK).
    """
    lowest, highest = _to_mel(np.array([config.f_min, config.highest_hz]), config.htk).tolist()
    corners = _to_hz(np.linspace(lowest, highest, config.n_mels + 2), config.htk)
    bins_hz = np.fft.rfftfreq(config.n_fft, 1 / config.sample_rate)
    low, centre, high = (corners[i : i + config.n_mels, None] for i in range(3))
    filters = np.maximum(0, np.minimum((bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)))
    if config.norm == "slaney":
        filters *= 2 / (high - low)
    return np.asarray(filters, dtype=np.float64)


def savitzky_golay(width: int, order: int) -> Tensor:
    """Return the filter that gives the `order`-th derivative of the fitted polynomial of that order, shape (width,).

    Correlate with it. The fit is by least squares over `width` equally spaced points (Savitzky & Golay 1964).
    """
    at = np.arange(width) - width // 2
    powers = np.vander(at.astype(np.float64), order + 1, increasing=True)
    kernel = np.linalg.pinv(powers)[order] * float(np.prod(np.arange(1, order + 1)))
    return torch.from_numpy(kernel)


_LINEAR_HZ, _LOG_HZ, _LOG_MEL, _LOG_STEP = 200 / 3, 1000.0, 15.0, np.log(6.4) / 27  # Slaney's constants


def _to_mel(hz: NDArray[np.float64], htk: bool) -> NDArray[np.float64]:
    if htk:
        return np.asarray(2595 * np.log10(1 + hz / 700), dtype=np.float64)
    logarithmic = _LOG_MEL + np.log(np.maximum(hz, _LOG_HZ) / _LOG_HZ) / _LOG_STEP
    return np.where(hz < _LOG_HZ, hz / _LINEAR_HZ, logarithmic)


def _to_hz(mel: NDArray[np.float64], htk: bool) -> NDArray[np.float64]:
    if htk:
        return np.asarray(700 * (10 ** (mel / 2595) - 1), dtype=np.float64)
    logarithmic = _LOG_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _LOG_MEL) - _LOG_MEL))
    return np.where(mel < _LOG_MEL, mel * _LINEAR_HZ, logarithmic)


def _bands(filters: Tensor) -> list[tuple[slice, slice, Tensor]]:
    """Cut the filter matrix, which is nearly all zero, into narrow full blocks: rows, bins and weights of each."""
    bands = []
    for first in range(0, len(filters), FILTERS_TOGETHER):
        rows = slice(first, first + FILTERS_TOGETHER)
        used = filters[rows].any(0).nonzero()
        if used.numel():
            bins = slice(int(used[0]), int(used[-1]) + 1)
            bands.append((rows, bins, filters[rows, bins].contiguous()))
    return bands


def _filter_time(plane: Tensor, kernel: Tensor, out: Tensor) -> None:
    """Correlate the rows of `plane` (M, T) with `kernel` (w,) into `out` (M, T - w + 1)."""
    n = out.shape[1]
    out.zero_()
    for shift, weight in enumerate(kernel.tolist()):
        out.add_(plane[:, shift : shift + n], alpha=weight)
