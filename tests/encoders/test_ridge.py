"""The linear brain network carries a fitted regression to tokens, subject by subject."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chiasm.data.errors import WeightsError
from chiasm.encoders.ridge import RidgeNetwork, RidgeNetworkConfig
from chiasm.encoders.ridge_solver import fit_ridge


def test_tokens_are_the_predictions_of_the_solution() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 12)).astype("f4"), rng.standard_normal((30, 6)).astype("f4")
    solution = fit_ridge(x, y, alphas=[0.1, 1.0, 10.0])
    network = RidgeNetwork(RidgeNetworkConfig(tokens=2, width=3), {"01": 12, "02": 5})
    network.set_solution("01", solution)
    answer = network(torch.from_numpy(x), "01")
    assert torch.allclose(answer.tokens, solution.predict(x).reshape(30, 2, 3), atol=1e-6)
    assert answer.projected is answer.tokens
    assert not network(torch.ones(4, 5), "02").tokens.any()


def test_a_newcomer_gets_parameters_of_its_own() -> None:
    network = RidgeNetwork(RidgeNetworkConfig(tokens=1, width=2), {"01": 3})
    network.add_subject("07", 4)
    assert [tuple(p.shape) for p in network.subject_parameters("07")] == [(2, 4), (2,)]
    assert list(network.state_dict()) == ["linears.0.weight", "linears.0.bias", "linears.1.weight", "linears.1.bias"]
    with pytest.raises(ValueError, match="there already"):
        network.add_subject("07", 4)


def test_other_voxels_subjects_and_shapes_are_refused() -> None:
    network = RidgeNetwork(RidgeNetworkConfig(tokens=1, width=2), {"01": 3})
    for voxels, subject, code in ((torch.ones(1, 4), "01", "CHI-WT-050"), (torch.ones(1, 3), "02", "CHI-WT-051")):
        with pytest.raises(WeightsError) as error:
            network(voxels, subject)
        assert error.value.code == code
    with pytest.raises(ValueError, match=r"shape \(3, 2\)"):
        network.set_solution("01", fit_ridge(np.eye(4), np.eye(4), alphas=[1.0]))
    with pytest.raises(ValueError, match=">= 1"):
        RidgeNetworkConfig(tokens=0, width=2)
