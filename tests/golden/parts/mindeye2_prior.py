"""Prior network and diffusion prior of MindEye2: MindEye1's, without a scale, with mean squared error always."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_spec = importlib.util.spec_from_file_location("golden_part_mindeye_prior", Path(__file__).parent / "mindeye_prior.py")
_first = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_first)


def diffusion_prior(
    hyperparameters: Mapping[str, Any], state: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """MindEye2: nothing is scaled; lengths, where tokens are normalised, are sqrt(d) all the same."""
    config = _first.prior_config(hyperparameters, embed_scale=1.0, loss="l2")
    return _first.run_prior(config, hyperparameters, state, inputs)


MODULES = {"prior_network": _first.prior_network, "diffusion_prior": diffusion_prior}
