"""Noise of single-trial betas: AR(1) noise of BOLD in time, passed through the single-trial least squares that made the betas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .cortex import Cortex, smooth_field
from .forward_model import ForwardModel, Values


@dataclass(frozen=True, eq=False, kw_only=True)
class RunDesign:
    """One kind of run.

    Parameters
    ----------
    onsets_s : ndarray of float64, shape (n,)
    design : ndarray of float64, shape (T, n + drifts + 1)
        Response to each trial, then Legendre polynomials.
    projector : ndarray of float64, shape (n, T)
        Least squares: BOLD -> betas.
    scale : float
        What noise of unit variance must be multiplied with so that the mean variance over trials is 1.
    """

    onsets_s: NDArray[np.float64]
    design: NDArray[np.float64]
    projector: NDArray[np.float64]
    scale: float

    def covariance(self, model: ForwardModel) -> NDArray[np.float64]:
        """Covariance of the errors of the trials' betas, of mean variance 1; (n, n)."""
        projected = self.scale * self.projector
        return projected @ _ar1(self.projector.shape[1], model.autocorrelation) @ projected.T


def haemodynamic_response(t_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Double gamma with SPM's constants: peak at 5 s, undershoot of a sixth at 15 s."""
    from scipy.stats import gamma

    values: NDArray[np.float64] = gamma.pdf(t_s, 6) - gamma.pdf(t_s, 16) / 6
    return values


@cache
def run_design(n_trials: int, model: ForwardModel) -> RunDesign:
    """Lay `n_trials` over the slots of a run (blank at the start, at the end and in between) and fit a beta to each."""
    slots = np.arange(3, model.slots - 4)
    spare = len(slots) - n_trials
    if spare > 0:  # blanks evenly spread
        slots = np.delete(slots, np.linspace(8, len(slots) - 8, spare).round().astype(int))
    slots = slots[:n_trials] if spare >= 0 else np.arange(n_trials)
    onsets = (slots * model.slot_s).astype(np.float64)
    n_volumes = int(np.ceil(max(model.slots, n_trials + 4) * model.slot_s / model.repetition_s))
    fine = 0.1
    t = np.arange(0, 32, fine)
    shown = np.convolve(haemodynamic_response(t), np.ones(round(model.stimulus_s / fine))) * fine
    at = np.arange(n_volumes)[:, None] * model.repetition_s - onsets[None, :]
    trials = np.interp(at, np.arange(len(shown)) * fine, shown / shown.max(), left=0, right=0)
    drifts = np.polynomial.legendre.legvander(np.linspace(-1, 1, n_volumes), model.drifts)
    design = np.concatenate([trials, drifts], axis=1)
    projector = np.linalg.pinv(design)[:n_trials]
    variance = np.einsum("it,ts,is->i", projector, _ar1(n_volumes, model.autocorrelation), projector)
    return RunDesign(onsets_s=onsets, design=design, projector=projector, scale=float(1 / np.sqrt(variance.mean())))


def _ar1(n: int, coefficient: float) -> NDArray[np.float64]:
    return coefficient ** np.abs(np.subtract.outer(np.arange(n), np.arange(n))).astype(np.float64)


@dataclass(frozen=True, eq=False, kw_only=True)
class SpatialNoise:
    """Covariance of the noise of a subject's voxels: diagonal plus low rank.

    Parameters
    ----------
    own : ndarray of float64, shape (V,)
        Standard deviation of the voxel's own part.
    shared : ndarray of float64, shape (V, K)
        Loadings on the global components.
    """

    own: NDArray[np.float64]
    shared: NDArray[np.float64]

    def at(self, where: NDArray[np.bool_]) -> SpatialNoise:
        """Return the noise of some voxels (a part of a normal distribution is one)."""
        return SpatialNoise(own=self.own[where], shared=self.shared[where])

    def whiten(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """Multiply rows, (n, V), with the inverse root of the covariance: squared distances become Mahalanobis'.

        With D the diagonal and D^-1/2 L = U S V', that is D^-1/2 times I - U (1 - 1 / sqrt(1 + S^2)) U' (Woodbury).
        """
        axes, sizes, _ = np.linalg.svd(self.shared / self.own[:, None], full_matrices=False)
        scaled = rows / self.own
        shrunk: NDArray[np.float64] = scaled - (scaled @ axes) * (1 - 1 / np.sqrt(1 + sizes**2)) @ axes.T
        return shrunk


def draw_spatial_noise(
    cortex: Cortex, std: NDArray[np.float64], rng: np.random.Generator, model: ForwardModel
) -> SpatialNoise:
    """Draw how voxels share noise; `std` is the standard deviation of a single trial's error, (V,)."""
    fields = smooth_field(cortex, rng, model.global_components, length_mm=15.0)
    fields[:, 0] = 1 + 0.3 * fields[:, 0]  # arousal moves everything the same way
    fields /= np.linalg.norm(fields, axis=1, keepdims=True)
    shared = np.sqrt(model.global_share) * std[:, None] * fields
    return SpatialNoise(own=np.sqrt(1 - model.global_share) * std, shared=shared)


def bold_noise(n_volumes: int, spatial: SpatialNoise, rng: np.random.Generator, model: ForwardModel) -> Values:
    """Draw noise of BOLD: stationary AR(1) in time, `spatial` over voxels; (T, V)."""
    from scipy.signal import lfilter

    phi, n_own, n_shared = model.autocorrelation, len(spatial.own), spatial.shared.shape[1]
    white = rng.standard_normal((n_volumes, n_own + n_shared), dtype=np.float32)
    white[1:] *= np.float32(np.sqrt(1 - phi**2))  # from the first sample on the process is stationary
    noise = lfilter([1.0], [1.0, -phi], white, axis=0)
    return (noise[:, :n_own] * spatial.own + noise[:, n_own:] @ spatial.shared.T).astype(np.float32)
