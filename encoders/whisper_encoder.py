"""The encoder half of Whisper over a recording: tokens of 20 ms, averaged to a rate that a classifier can use.

Radford et al., ICML 2023. Network from transformers; the log-Mel input follows the paper (16 kHz, 80 or 128 bands, windows
of 30 s filled up with silence) and is compared with transformers' own in the tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .log_mel import LogMelConfig, mel_filters
from .transformer_folder import Attention, EncoderOutput, build_model, check_attention, load_model, save_model

KINDS = ("whisper",)
RATE, N_FFT, HOP = 16000, 400, 160
TOKEN_SAMPLES = 2 * HOP  # the second convolution halves the rate


class WhisperEncoder(nn.Module):
    """Whisper's encoder.

    Parameters
    ----------
    model : nn.Module
        A WhisperModel of transformers, as `load_whisper_encoder` or `from_config` make it; its decoder is not used.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        bands = LogMelConfig(
            sample_rate=RATE, n_fft=N_FFT, hop_length=HOP, n_mels=self.settings.num_mel_bins, f_max=8000.0
        )
        self._filters = torch.from_numpy(mel_filters(bands)).float()

    @classmethod
    def from_config(cls, config: dict[str, Any], *, attention: Attention = "sdpa") -> WhisperEncoder:
        """Build one with random weights from the contents of a config.json; its errors as of `load_whisper_encoder`."""
        return cls(build_model(config, kinds=KINDS, attention=attention))

    def save(self, folder: Path) -> None:
        """Write a folder that `load_whisper_encoder` reads."""
        save_model(self.model, folder)

    @property
    def settings(self) -> Any:
        """The network's own configuration."""
        return self.model.config

    @property
    def width(self) -> int:
        """Size d of a token."""
        return int(self.settings.d_model)

    @property
    def n_layers(self) -> int:
        """Transformer layers of the encoder."""
        return int(self.settings.encoder_layers)

    @property
    def window(self) -> int:
        """Samples of a window: 30 s of 16 kHz for the published networks."""
        return int(self.settings.max_source_positions) * TOKEN_SAMPLES

    def features(self, waves: Tensor) -> Tensor:
        """Return the network's input, shape (B, n_mels, 2 * tokens), for waves (B, `window`) of 16 kHz."""
        if waves.ndim != 2 or waves.shape[1] != self.window:
            raise ValueError(f"waves must have shape (B, {self.window}), not {tuple(waves.shape)}")
        window = torch.hann_window(N_FFT, device=waves.device)
        spectrum = torch.stft(waves, N_FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
        power = self._filters.to(waves.device) @ spectrum[..., :-1].abs().square()
        levels = power.clamp_min(1e-10).log10()
        return (torch.maximum(levels, levels.amax((1, 2), keepdim=True) - 8) + 4) / 4

    def forward(self, features: Tensor, *, keep_attention: bool = False, all_layers: bool = False) -> EncoderOutput:
        """Encode windows, shape (B, n_mels, 2 * tokens); all tokens are returned, those of silence too."""
        check_attention(self.model, keep_attention)
        out = self.model.encoder(features, output_attentions=keep_attention, output_hidden_states=all_layers)
        return EncoderOutput(
            out.last_hidden_state,
            tuple(out.attentions) if keep_attention else None,
            tuple(out.hidden_states) if all_layers else None,
            0,
            (1, out.last_hidden_state.shape[1]),
        )

    def encode(self, samples: Tensor, *, pool: int = 25) -> tuple[Tensor, Tensor]:
        """Encode a recording, window by window.

        Parameters
        ----------
        samples : Tensor of float32, shape (n,)
            At 16 kHz, n > 0.
        pool : int
            Tokens of 20 ms that are averaged to one; 25 are half a second.

        Returns
        -------
        tokens : Tensor, shape (T, d)
            Those of the recording only; the network hears silence behind its end, as it did in training.
        spans : Tensor of float32, shape (T, 4)
            start_s, end_s, lowest and highest Mel band (exclusive): every token hears all bands.
        """
        if samples.ndim != 1 or not samples.numel() or pool < 1:
            raise ValueError(
                f"samples must have shape (n,) with n > 0 and pool be positive, not {tuple(samples.shape)}, {pool}"
            )
        found = []
        for part in torch.split(samples, self.window):
            n_tokens = -(-part.numel() // TOKEN_SAMPLES)
            tokens = self(self.features(F.pad(part, (0, self.window - part.numel()))[None])).tokens[0]
            found.append(tokens[:n_tokens])
        pooled = [part.mean(0) for part in torch.split(torch.cat(found), pool)]
        step_s, end_s = pool * TOKEN_SAMPLES / RATE, samples.numel() / RATE
        starts = torch.arange(len(pooled)) * step_s
        bands = torch.tensor([0.0, float(self.settings.num_mel_bins)]).expand(len(pooled), -1)
        return torch.stack(pooled), torch.cat(
            [torch.stack([starts, (starts + step_s).clamp_max(end_s)], dim=1), bands], dim=1
        )


def load_whisper_encoder(folder: Path, *, attention: Attention = "sdpa") -> WhisperEncoder:
    """Load Whisper's encoder from a local folder of transformers, in evaluation mode.

    Folders that hold the encoder alone (`whisper_conversion`) and whole models are read.

    Raises
    ------
    WeightsError
        ``CHI-WT-030`` to ``CHI-WT-034``.
    """
    return WhisperEncoder(load_model(folder, kinds=KINDS, attention=attention, unused=("decoder.",)))
