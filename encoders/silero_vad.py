"""Silero VAD: the probability of speech in each 32 ms of 16 kHz audio, and the spans that follow from it.

The network of the `silero-vad` package (Silero Team, MIT licence), version 6, in plain torch: a short-time Fourier transform as a
convolution, four convolutions, one LSTM cell, one output. The whole recording goes through the convolutions at once; only the LSTM
runs frame by frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.spans import Span

RATE = 16_000
FRAME = 512
"""Samples a frame: 32 ms."""
_HYSTERESIS = 0.15
_BLOCK = 2048  # frames that go through the convolutions at once: about 65 s and 60 MB


@dataclass(frozen=True, kw_only=True)
class SileroVadConfig:
    """Sizes of a `SileroVad`; the defaults are the published ones.

    Parameters
    ----------
    context : int
        Samples of the frame before that are seen again in front of each frame.
    n_fft, hop_length : int
        Of the Fourier transform inside a frame.
    widths : tuple of int
        Channels of the four convolutions; the last one is the LSTM's width too.
    """

    context: int = 64
    n_fft: int = 256
    hop_length: int = 128
    widths: tuple[int, int, int, int] = (128, 64, 64, 128)

    def __post_init__(self) -> None:
        columns = (FRAME + 2 * self.context - self.n_fft) // self.hop_length + 1
        if columns != 4:
            raise ValueError(f"the convolutions make one vector of 4 columns a frame; these sizes give {columns}")


class SileroVad(nn.Module):
    """Speech probabilities of 16 kHz audio.

    Parameters
    ----------
    config : SileroVadConfig, optional
    """

    def __init__(self, config: SileroVadConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SileroVadConfig()
        n_bins, (first, second, third, fourth) = config.n_fft // 2 + 1, config.widths
        self.stft_conv = nn.Conv1d(1, 2 * n_bins, config.n_fft, stride=config.hop_length, bias=False)
        self.conv1 = nn.Conv1d(n_bins, first, 3, padding=1)
        self.conv2 = nn.Conv1d(first, second, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(second, third, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(third, fourth, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(fourth, fourth)
        self.final_conv = nn.Conv1d(fourth, 1, 1)

    def forward(self, samples: Tensor) -> Tensor:
        """Compute the probability of speech a frame; the last frame is filled up with zeros.

        Parameters
        ----------
        samples : Tensor, shape (B, n)
            16 kHz, -1..1. Zeros after the end of a recording change nothing before it.

        Returns
        -------
        Tensor, shape (B, ceil(n / 512))
        """
        if samples.ndim != 2 or samples.shape[1] < 1:
            raise ValueError(f"samples must be (B, n) with n >= 1, got {tuple(samples.shape)}")
        n_batch, n_frames = samples.shape[0], -(-samples.shape[1] // FRAME)
        context = self.config.context
        padded = F.pad(samples, (context, n_frames * FRAME - samples.shape[1]))
        frames = padded.unfold(1, context + FRAME, FRAME)
        step = max(_BLOCK // n_batch, 1)
        blocks = [
            self._encode(frames[:, at : at + step].flatten(0, 1)).view(n_batch, -1, 4 * self.lstm_cell.hidden_size)
            for at in range(0, n_frames, step)
        ]
        hidden = self._recur(torch.cat(blocks, dim=1))
        logits: Tensor = self.final_conv(hidden.relu().transpose(1, 2))
        return logits[:, 0].sigmoid()

    @torch.no_grad()
    def probabilities(self, samples_16k: Tensor | NDArray[np.float32]) -> Tensor:
        """Compute the probability of speech a frame of 32 ms, without gradients.

        Parameters
        ----------
        samples_16k : Tensor or ndarray, shape (n,) or (B, n)
            Mono, 16 kHz, -1..1.

        Returns
        -------
        Tensor, shape (B, ceil(n / 512))
            B is 1 for one recording.
        """
        weight = self.final_conv.weight
        samples = torch.as_tensor(samples_16k).to(weight.device, weight.dtype)
        probabilities: Tensor = self(samples.reshape(1, -1) if samples.ndim == 1 else samples)
        return probabilities

    def _encode(self, frames: Tensor) -> Tensor:
        """Map (N, context + 512) to what each frame adds to the LSTM's gates, (N, 4 width)."""
        spectrum = self.stft_conv(F.pad(frames[:, None], (0, self.config.context), mode="reflect"))
        real, imaginary = spectrum.chunk(2, dim=1)
        x = (real.square() + imaginary.square()).sqrt()
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = convolution(x).relu()
        return F.linear(x[..., 0], self.lstm_cell.weight_ih, self.lstm_cell.bias_ih)

    def _recur(self, inputs: Tensor) -> Tensor:
        """Run the LSTM over (B, frames, 4 width); return its hidden states (B, frames, width)."""
        cell = self.lstm_cell
        h = c = inputs.new_zeros(inputs.shape[0], cell.hidden_size)
        states = []
        for step in inputs.unbind(1):
            i, f, g, o = (step + F.linear(h, cell.weight_hh, cell.bias_hh)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return torch.stack(states, dim=1)


def speech_spans(
    probabilities: Sequence[float] | NDArray[np.floating] | Tensor,
    duration_s: float,
    *,
    threshold: float = 0.5,
    min_speech_s: float = 0.25,
    min_silence_s: float = 0.1,
    pad_s: float = 0.03,
) -> list[Span]:
    """Turn speech probabilities into spans, by two thresholds.

    Speech begins where the probability reaches `threshold` and ends where it falls 0.15 below it and does not reach `threshold` again
    for `min_silence_s`. What is not longer than `min_speech_s` is dropped, the rest is widened by `pad_s` on both sides (by half of the
    silence where two spans would meet). The defaults are those of the `silero-vad` package.

    Parameters
    ----------
    probabilities : sequence of float, shape (frames,)
        One for each 32 ms.
    duration_s : float
        Of the recording: the last span ends there at the latest.

    Returns
    -------
    list of Span
        Sorted, disjoint.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"probabilities must be of one recording, (frames,); got {values.shape}")
    frame_s, low = FRAME / RATE, max(threshold - _HYSTERESIS, 0.01)
    found: list[tuple[float, float]] = []
    start: float | None = None
    silence: float | None = None  # where the probability fell below the lower threshold, within speech
    for index, value in enumerate(values):
        now = index * frame_s
        if value >= threshold:
            silence = None
            start = now if start is None else start
        elif start is not None and value < low:
            silence = now if silence is None else silence
            if now - silence >= min_silence_s - 1e-9:
                found.append((start, silence))
                start = silence = None
    if start is not None:
        found.append((start, duration_s))
    long = [(begin, end) for begin, end in found if end - begin > min_speech_s + 1e-9]
    return _padded(long, duration_s, pad_s)


def _padded(spans: list[tuple[float, float]], duration_s: float, pad_s: float) -> list[Span]:
    if not spans:
        return []
    before = [min(pad_s, spans[0][0])]
    after = []
    for (_, end), (start, _) in pairwise(spans):
        half = min(pad_s, (start - end) / 2)
        after.append(half)
        before.append(half)
    after.append(pad_s)
    wide = [
        Span(start - left, min(end + right, duration_s))
        for (start, end), left, right in zip(spans, before, after, strict=True)
    ]
    return [span for span in wide if span.seconds > 0]
