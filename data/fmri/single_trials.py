"""One beta a trial from a preprocessed run: least squares separate (LSS), every trial's model solved in closed form.

Model of trial t of condition c: its own regressor, one regressor of all other trials of c, one of each other condition, and nuisance
(confounds, drift, constant). What is common to the trials of a condition is projected out once; two unknowns a trial are left.

Sources: Mumford, Turner, Ashby, Poldrack: Deconvolving BOLD activation in event-related designs, NeuroImage 59 (2012), model LS-S;
regressors, drift and the AR(1) estimate are nilearn's. GLMsingle: Prince et al., eLife 11 (2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ToolError
from .events import Events

CODES = {
    "CHI-IN-302": "A trial cannot be separated: it lies outside the run, or has the regressor of another or of the nuisance.",
    "CHI-TL-070": "The package glmsingle, which was asked for, is not installed.",
}

Values = NDArray[np.float64]
_LEAST = 1e-8
"""Share of a regressor's power that the other regressors must leave."""
_BLOCK = 8192
_RHO_STEPS = 100
_EARLIEST_S = -24.0


@dataclass(frozen=True, kw_only=True)
class SingleTrialSettings:
    """How single-trial betas are made; saved beside them.

    Parameters
    ----------
    method : {'lss', 'glmsingle'}
        GLMsingle needs its own package, and brings its own HRFs, noise regressors and shrinkage: of the other settings only
        `confounds` counts then.
    hrf : {'glover', 'spm'}
        nilearn's, without derivatives: one beta a trial.
    drift : {'cosine', 'polynomial', 'none'}
    high_pass_hz : float
        Of the cosine drift.
    drift_order : int
        Of the polynomial drift.
    confounds : tuple of str
        Columns of fMRIPrep's confounds table, or patterns with ``*``.
    noise : {'ols', 'ar1'}
        AR(1): the coefficient of each voxel is estimated once a run, with one regressor a condition, in steps of 0.01.
    others : {'by-type', 'together'}
        Other trials are modelled by ``trial_type``, or as one.
    scaling : {'percent', 'none'}
        Percent of the voxel's mean over the run.
    """

    method: Literal["lss", "glmsingle"] = "lss"
    hrf: Literal["glover", "spm"] = "glover"
    drift: Literal["cosine", "polynomial", "none"] = "cosine"
    high_pass_hz: float = 0.01
    drift_order: int = 1
    confounds: tuple[str, ...] = (
        "trans_x",
        "trans_y",
        "trans_z",
        "rot_x",
        "rot_y",
        "rot_z",
        "non_steady_state_outlier*",
    )
    noise: Literal["ols", "ar1"] = "ols"
    others: Literal["by-type", "together"] = "by-type"
    scaling: Literal["percent", "none"] = "percent"

    def __post_init__(self) -> None:
        allowed = {
            "method": ("lss", "glmsingle"),
            "hrf": ("glover", "spm"),
            "drift": ("cosine", "polynomial", "none"),
            "noise": ("ols", "ar1"),
            "others": ("by-type", "together"),
            "scaling": ("percent", "none"),
        }
        wrong = [f"{name} is one of {words}" for name, words in allowed.items() if getattr(self, name) not in words]
        if not 0 < self.high_pass_hz < 1 or self.drift_order < 0:
            wrong.append("high_pass_hz lies between 0 and 1, drift_order is 0 or more")
        if wrong:
            raise ValueError("; ".join(wrong))


def lss_betas(
    bold: NDArray[np.float32],
    events: Events,
    confounds: Values,
    *,
    frame_times_s: Values,
    settings: SingleTrialSettings,
    relative: str = "",
) -> NDArray[np.float32]:
    """Return one beta a trial of one run, (n_trials, V), in the order of the table.

    Parameters
    ----------
    bold : ndarray, shape (n_scans, V)
    events : Events
        Those that show a stimulus are the trials; the others are modelled too.
    confounds : ndarray, shape (n_scans, k)
    frame_times_s : ndarray, shape (n_scans,)
        When each volume was taken.
    settings : SingleTrialSettings
    relative : str
        Of the run, for messages.

    Raises
    ------
    InputError
        ``CHI-IN-302``.
    """
    regressors = event_regressors(events, frame_times_s, hrf=settings.hrf, relative=relative)
    nuisance = nuisance_regressors(confounds, frame_times_s, settings)
    conditions = (
        events.condition if settings.others == "by-type" else ["trial" if s else "other" for s in events.stimulus]
    )
    betas = np.empty((len(events.shown), bold.shape[1]), dtype=np.float32)
    for start in range(0, bold.shape[1], _BLOCK):
        block = scaled(bold[:, start : start + _BLOCK].astype(np.float64), settings.scaling)
        model = _Design(regressors, nuisance, tuple(conditions), events.shown, relative)
        betas[:, start : start + _BLOCK] = model.ar1(block) if settings.noise == "ar1" else model.ols(block)
    return betas


def event_regressors(events: Events, frame_times_s: Values, *, hrf: str, relative: str = "") -> Values:
    """Return each event convolved with the HRF, (n_scans, n_events).

    Raises
    ------
    InputError
        ``CHI-IN-302``: an event outside the run.
    """
    from nilearn.glm.first_level import compute_regressor

    outside = (events.onset_s >= frame_times_s[-1]) | (events.onset_s < frame_times_s[0] + _EARLIEST_S)
    if outside.any():
        raise InputError(
            "CHI-IN-302",
            f"{int(outside.sum())} events lie outside the run, which lasts {frame_times_s[-1]:.1f} s.",
            "Check the units (seconds) and that the table belongs to this run.",
            file=relative,
        )
    columns = [
        compute_regressor(np.array([[onset], [duration], [1.0]]), hrf, frame_times_s)[0][:, 0]
        for onset, duration in zip(events.onset_s, events.duration_s, strict=True)
    ]
    return np.stack(columns, axis=1)


def nuisance_regressors(confounds: Values, frame_times_s: Values, settings: SingleTrialSettings) -> Values:
    """Return confounds, drift and constant, (n_scans, k), as nilearn's design matrix has them."""
    from nilearn.glm.first_level import make_first_level_design_matrix

    drift = make_first_level_design_matrix(
        frame_times_s,
        drift_model=None if settings.drift == "none" else settings.drift,
        high_pass=settings.high_pass_hz,
        drift_order=settings.drift_order,
    )
    return np.hstack([confounds, drift.to_numpy(dtype=np.float64)])


def scaled(bold: Values, scaling: str) -> Values:
    """Return the signal in percent of each voxel's mean; a voxel whose mean is 0 stays as it is."""
    if scaling == "none":
        return bold
    mean: Values = bold.mean(axis=0)
    percent: Values = (bold - mean) * (100.0 / np.where(mean == 0, 1.0, mean))
    return percent


class _Design:
    """Regressors of a run, and the solutions of its trials' models."""

    def __init__(
        self, regressors: Values, nuisance: Values, conditions: tuple[str, ...], shown: NDArray[np.int64], relative: str
    ) -> None:
        self.regressors, self.nuisance, self.relative = regressors, nuisance, relative
        self.conditions, self.shown = np.array(conditions), shown

    def ols(self, bold: Values) -> Values:
        return self._solved(self.regressors, self.nuisance, bold)

    def ar1(self, bold: Values) -> Values:
        """Whiten by each voxel's own coefficient, voxels of one coefficient together."""
        rho = self._rho(bold)
        found = np.empty((len(self.shown), bold.shape[1]))
        for value in np.unique(rho):
            same = rho == value
            parts = (whitened(part, value) for part in (self.regressors, self.nuisance, bold[:, same]))
            found[:, same] = self._solved(*parts)
        return found

    def _rho(self, bold: Values) -> Values:
        totals = [self.regressors[:, self.conditions == name].sum(axis=1) for name in dict.fromkeys(self.conditions)]
        basis = _basis(np.column_stack([self.nuisance, *totals]))
        residual = bold - basis @ (basis.T @ bold)
        n = len(residual)
        power = (residual**2).sum(axis=0) / n
        lagged = (residual[1:] * residual[:-1]).sum(axis=0) / (n - 1)
        rho = np.divide(lagged, power, out=np.zeros_like(power), where=power > 0)
        steps: Values = np.trunc(rho * _RHO_STEPS) / _RHO_STEPS
        return steps

    def _solved(self, regressors: Values, nuisance: Values, bold: Values) -> Values:
        found = np.empty((len(self.shown), bold.shape[1]))
        kinds = self.conditions[self.shown]
        for name in dict.fromkeys(kinds):
            others = [
                regressors[:, self.conditions == kind].sum(axis=1)
                for kind in dict.fromkeys(self.conditions)
                if kind != name
            ]
            basis = _basis(np.column_stack([nuisance, *others]))
            of_condition = np.flatnonzero(self.conditions == name)
            raw = regressors[:, of_condition]
            left = raw - basis @ (basis.T @ raw)
            trials = np.flatnonzero(np.isin(of_condition, self.shown))
            found[kinds == name] = self._separate(left, raw, trials, bold)
        return found

    def _separate(self, left: Values, raw: Values, trials: NDArray[np.int64], bold: Values) -> Values:
        """Solve the two-regressor model of each trial, nuisance being projected out of `left` already."""
        own = left[:, trials]
        total = left.sum(axis=1)
        rest = total[:, None] - own
        own_power, rest_power, shared = (own**2).sum(axis=0), (rest**2).sum(axis=0), (own * rest).sum(axis=0)
        # A rest of no power (the only trial of its condition) is no regressor.
        alone = rest_power <= _LEAST * own_power
        rest_power, shared = np.where(alone, 1.0, rest_power), np.where(alone, 0.0, shared)
        determinant = own_power * rest_power - shared**2
        typical = np.median((raw**2).sum(axis=0))
        lost = (own_power <= _LEAST * typical) | (determinant <= _LEAST * own_power * rest_power)
        if lost.any():
            raise InputError(
                "CHI-IN-302",
                f"{int(lost.sum())} trials cannot be separated from the other trials, or from confounds and drift.",
                "Check that onsets differ and that the run is longer than its events; use fewer confounds.",
                file=self.relative,
            )
        own_signal = own.T @ bold
        rest_signal = (total @ bold)[None, :] - own_signal
        betas: Values = (rest_power[:, None] * own_signal - shared[:, None] * rest_signal) / determinant[:, None]
        return betas


def whitened(values: Values, rho: float) -> Values:
    """Return values with an AR(1) coefficient taken out along the first axis; the first scan stays, as nilearn has it."""
    found = values.copy()
    found[1:] -= rho * values[:-1]
    return found


def _basis(columns: Values) -> Values:
    """Return an orthonormal basis of the columns; those of no power or that depend on others drop out."""
    norms = np.linalg.norm(columns, axis=0)
    u, s, _ = np.linalg.svd(columns[:, norms > 0] / norms[norms > 0], full_matrices=False)
    return u[:, s > s.max(initial=0.0) * max(columns.shape) * np.finfo(np.float64).eps]


def glmsingle_betas(
    bold: Sequence[NDArray[np.float32]],
    events: Sequence[Events],
    confounds: Sequence[Values],
    *,
    repetition_time_s: float,
) -> list[NDArray[np.float32]]:
    """Return GLMsingle's betas (type D) of all runs of a subject, (n_trials, V) a run; repeats of a stimulus are its conditions.

    Parameters
    ----------
    bold : sequence of ndarray, shape (n_scans, V)
    events, confounds : sequence
        A run each.
    repetition_time_s : float
        Onsets are rounded to it, as GLMsingle wants them.

    Raises
    ------
    ToolError
        ``CHI-TL-070``.
    InputError
        ``CHI-IN-302``: a rounded onset lies outside a run.
    """
    try:
        from glmsingle.glmsingle import GLM_single  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ToolError(
            "CHI-TL-070", "GLMsingle is not installed.", "pip install glmsingle, or use the method lss."
        ) from error
    names = sorted({one.stimulus[place] for one in events for place in one.shown})
    column = {name: place for place, name in enumerate(names)}
    designs, orders, lengths = [], [], []
    for run, one in zip(bold, events, strict=True):
        design = np.zeros((len(run), len(names)))
        scans = np.rint(one.onset_s[one.shown] / repetition_time_s).astype(np.int64)
        if len(scans) == 0 or scans.min() < 0 or scans.max() >= len(run) or len(np.unique(scans)) != len(scans):
            raise InputError(
                "CHI-IN-302",
                "trials lie outside a run, or two begin in one scan.",
                "Use the method lss for this design.",
            )
        for scan, place in zip(scans, one.shown, strict=True):
            design[scan, column[one.stimulus[place]]] = 1
        designs.append(design)
        orders.append(np.argsort(np.argsort(scans)))  # GLMsingle gives trials in the order of time
        lengths.append(one.duration_s[one.shown])
    options = {
        "wantfileoutputs": [0, 0, 0, 0],
        "wantmemoryoutputs": [0, 0, 0, 1],
        "extra_regressors": [np.asarray(part) for part in confounds] if confounds[0].shape[1] else False,
    }
    data = [np.ascontiguousarray(run.T) for run in bold]
    stimulus_s = float(np.median(np.concatenate(lengths)))
    results = GLM_single(options).fit(designs, data, stimulus_s, repetition_time_s, outputdir=None, figuredir=None)
    values = np.asarray(results["typed"]["betasmd"], dtype=np.float32).reshape(data[0].shape[0], -1).T
    parts = np.split(values, np.cumsum([len(order) for order in orders])[:-1])
    return [part[order] for part, order in zip(parts, orders, strict=True)]
