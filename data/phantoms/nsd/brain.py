"""One phantom brain: geometry, tuning, noise and sessions of a subject, all from (seed, subject), and its betas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .cortex import Cortex, grow_cortex, smooth_field
from .forward_model import ForwardModel, Values
from .trial_noise import SpatialNoise, bold_noise, draw_spatial_noise, run_design
from .voxel_tuning import Tuning, draw_tuning, responses

TRIALS_PER_SESSION = 750
RUNS_PER_SESSION = 12
GEOMETRY, TUNING, CEILING, NOISE, AMPLITUDE, SESSIONS, SCANNER = range(7)
"""Streams of random numbers: what one thing draws does not move another."""

LOWEST, HIGHEST = 0.05, 0.75
"""Range of the noise ceiling over voxels."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PhantomBrain:
    """A subject.

    Parameters
    ----------
    subject : int
        From 1.
    seed : int
    strength : float
        What the signal is multiplied with.
    model : ForwardModel
    cortex : Cortex
    tuning : Tuning
        Of the visual voxels.
    ceiling : ndarray of float64, shape (V,)
        Explainable share of the variance of three-repeat means at strength 1; 0 beyond the visual areas.
    noise : SpatialNoise
        Of single-trial betas, in standard deviations of the signal at strength 1.
    mean, amplitude : ndarray of float64, shape (V,)
        In percent BOLD change: mean beta, and standard deviation of the signal at strength 1.
    """

    subject: int
    seed: int
    strength: float
    model: ForwardModel
    cortex: Cortex
    tuning: Tuning
    ceiling: NDArray[np.float64]
    noise: SpatialNoise
    mean: NDArray[np.float64]
    amplitude: NDArray[np.float64]

    @property
    def ncsnr(self) -> NDArray[np.float64]:
        """Signal's over noise's standard deviation in a single trial, as written; (V,)."""
        std = np.sqrt(self.noise.own**2 + (self.noise.shared**2).sum(axis=1))
        ratio: NDArray[np.float64] = self.strength / std * self.cortex.visual
        return ratio

    def rng(self, *stream: int) -> np.random.Generator:
        """Return a stream of random numbers of this subject."""
        return np.random.default_rng([self.seed, 4, self.subject, *stream])

    def session_terms(self, session: int) -> tuple[float, NDArray[np.float64]]:
        """Return the gain of a session (from 1) and each voxel's shift in percent BOLD change."""
        rng = self.rng(SESSIONS, session)
        gain = float(np.exp(self.model.session_gain * rng.standard_normal()))
        spread = self.amplitude * np.hypot(1, np.hypot(self.noise.own, np.linalg.norm(self.noise.shared, axis=1)))
        return gain, self.model.session_shift * spread * rng.standard_normal(len(spread))

    def signal(self, driven: Values, categories: Sequence[str]) -> Values:
        """Return z-scored mean responses to every stimulus times strength; (n, V), 0 beyond the visual areas."""
        full = np.zeros((len(driven), len(self.mean)), dtype=np.float32)
        full[:, self.cortex.visual] = self.strength * responses(driven, categories, self.tuning, self.model)
        return full

    def session_betas(self, shown: Values, session: int) -> Values:
        """Return single-trial betas in percent BOLD change.

        Parameters
        ----------
        shown : ndarray of float32, shape (n, V)
            `signal` of the images of the session's trials, in order.
        session : int
            From 1.
        """
        gain, shift = self.session_terms(session)
        errors = []
        for run, trials in enumerate(runs(len(shown))):
            plan = run_design(len(trials), self.model)
            bold = self.run_noise(session, run, len(plan.design))
            errors.append(plan.projector @ bold * plan.scale)
        betas = gain * self.amplitude * (shown + np.concatenate(errors)) + self.mean + shift
        return betas.astype(np.float32)

    def run_noise(self, session: int, run: int, n_volumes: int) -> Values:
        """Return the noise of a run's BOLD in standard deviations of the signal (before `RunDesign.scale`)."""
        return bold_noise(n_volumes, self.noise, self.rng(SCANNER, session, run), self.model)

    def undo_session(self, betas: NDArray[np.floating], session: int) -> Values:
        """Return signal plus error in standard deviations of the signal from betas in percent BOLD change."""
        gain, shift = self.session_terms(session)
        return ((betas - self.mean - shift) / (gain * self.amplitude)).astype(np.float32)


def grow_brain(subject: int, *, seed: int, strength: float, model: ForwardModel) -> PhantomBrain:
    """Draw a subject; subject i depends on the seed and on i only."""

    def rng(stream: int) -> np.random.Generator:
        return np.random.default_rng([seed, 4, subject, stream])

    cortex = grow_cortex(rng(GEOMETRY), model)
    n = len(cortex.area)
    draw = rng(CEILING)
    field = smooth_field(cortex, draw, 1, length_mm=model.smooth_mm)[:, 0]
    field = np.sqrt(model.smooth_share) * field + np.sqrt(1 - model.smooth_share) * draw.standard_normal(n)
    field -= np.median(field[cortex.visual])  # the median is promised, not expected
    middle = model.noise_ceiling / 100
    ceiling = np.clip(1 / (1 + np.exp(-np.log(middle / (1 - middle)) - model.ceiling_spread * field)), LOWEST, HIGHEST)
    std = 1 / np.sqrt(ceiling / (1 - ceiling) / 3)
    amplitude = rng(AMPLITUDE)
    return PhantomBrain(
        subject=subject,
        seed=seed,
        strength=strength,
        model=model,
        cortex=cortex,
        tuning=draw_tuning(cortex, rng(TUNING), model),
        ceiling=np.where(cortex.visual, ceiling, 0.0),
        noise=draw_spatial_noise(cortex, std, rng(NOISE), model),
        mean=1.0 + 0.6 * amplitude.standard_normal(n),
        amplitude=0.6 * np.exp(0.35 * amplitude.standard_normal(n)),
    )


def sessions(n_trials: int) -> Iterator[range]:
    """Cut trials into sessions of 750; the last takes a rest of fewer than 150 with it, too few for statistics of its own."""
    n = max(1, n_trials // TRIALS_PER_SESSION + (n_trials % TRIALS_PER_SESSION >= 150))
    for i in range(n):
        yield range(i * TRIALS_PER_SESSION, (i + 1) * TRIALS_PER_SESSION if i < n - 1 else n_trials)


def runs(n_trials: int) -> list[range]:
    """Cut a session into runs of at most 68 trials, 12 where it is whole, of equal length within one."""
    n = max(1, -(-n_trials // 68), min(RUNS_PER_SESSION, round(n_trials / 62.5)))
    edges = np.linspace(0, n_trials, n + 1).round().astype(int).tolist()
    return [range(start, stop) for start, stop in pairwise(edges)]
