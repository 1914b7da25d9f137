"""The `dementia_features` golden files through the log-Mel picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from chiasm.encoders.log_mel import LogMelConfig, LogMelImage, mel_filters

Arrays = Mapping[str, np.ndarray]


def config_of(hyperparameters: Mapping[str, Any]) -> LogMelConfig:
    """Map the file's names to ours; an absent one has librosa's default."""
    ref, norm = hyperparameters.get("ref", "1.0"), hyperparameters.get("norm", "slaney")
    return LogMelConfig(
        sample_rate=hyperparameters["sr"],
        n_fft=hyperparameters["n_fft"],
        hop_length=hyperparameters["hop"],
        win_length=hyperparameters.get("win"),
        n_mels=hyperparameters["n_mels"],
        f_min=hyperparameters.get("fmin") or 0.0,
        f_max=hyperparameters.get("fmax"),
        htk=hyperparameters.get("htk", False),
        norm=None if norm in (None, "None", "none", "null") else norm,
        ref="max" if ref in ("max", "np.max") else float(ref),
        amin=hyperparameters.get("amin", 1e-10),
        top_db=hyperparameters.get("top_db", 80.0),
        delta_width=hyperparameters.get("width", 9),
    )


def logmel_delta_image(hyperparameters: Mapping[str, Any], _state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Filters, Mel power, decibels and the picture of three planes."""
    config = config_of(hyperparameters)
    maker, wave = LogMelImage(config), torch.from_numpy(inputs["wav"])
    power = maker.power_mel(wave)
    images, _ = maker(wave[None])
    return {
        "mel_filters": mel_filters(config),
        "power_mel": power.numpy(),
        "log_mel": maker.decibels(power).numpy(),
        "image": images[0].numpy(),
    }


MODULES: dict[str, Callable[[Mapping[str, Any], Arrays, Arrays], dict[str, Any]]] = {
    "logmel_delta_image": logmel_delta_image,
}
