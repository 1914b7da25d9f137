"""Voxels brought to zero mean and unit variance, with statistics that know training trials only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .betas import Betas
from .decoding_set import BrainSubject
from .trials import TRAIN, Trials

CODES: dict[str, str] = {
    "CHI-IN-276": "There are fewer than two training trials, so voxels cannot be scaled.",
    "CHI-IN-277": "Saved statistics of voxels are damaged, or belong to another number of voxels.",
}
Kind = Literal["none", "zscore", "session-zscore", "session-zscore-all"]
"""No scaling; over all training trials; over the training trials of each session; over *all* trials of each session, which is
what the public MindEye2 notebook did: test images leak into the statistics, and nothing but a comparison with it should ask."""
KINDS: tuple[Kind, ...] = get_args(Kind)
_CHUNK_BYTES = 64 << 20
_APPLY_ROWS = 256
_LEAST_SD = 1e-30
"""Below, the reciprocal leaves float32."""


@dataclass(frozen=True, eq=False, kw_only=True)
class VoxelScaler:
    """Statistics of one subject's voxels, and their use.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    mean, sd : ndarray of float32, shape (V,)
        Over all training trials; SD with n in the denominator, 0 for a voxel that never changes.
    sessions : ndarray of int64, shape (S,)
        Sessions with statistics of their own, ascending.
    session_mean, session_sd : ndarray of float32, shape (S, V)
    notes : tuple of str
        What a report should say.
    """

    kind: Kind
    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    sessions: NDArray[np.int64]
    session_mean: NDArray[np.float32]
    session_sd: NDArray[np.float32]
    notes: tuple[str, ...] = field(default=())

    @property
    def leaks(self) -> bool:
        """Whether test trials had a part in the statistics."""
        return self.kind == "session-zscore-all"

    @property
    def n_voxels(self) -> int:
        """How many voxels a trial has; for kind ``none`` any number fits."""
        return len(self.mean)

    def unseen(self, sessions: NDArray[np.int64]) -> tuple[int, ...]:
        """Return which sessions have no statistics of their own: `apply` takes those over all training trials for them."""
        if not self.kind.startswith("session"):
            return ()
        return tuple(int(session) for session in np.setdiff1d(sessions, self.sessions))

    def apply(self, values: NDArray[np.floating], sessions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return scaled betas; the given ones stay as they are.

        Parameters
        ----------
        values : ndarray, shape (..., V)
        sessions : ndarray of int64, shape (...)
            Of each trial.

        Returns
        -------
        ndarray of float32, shape (..., V)
            0 where a voxel has no variance.

        Raises
        ------
        InputError
            ``CHI-IN-277`` where the number of voxels is another.
        """
        if self.kind == "none":
            return np.array(values, dtype=np.float32)
        if values.shape[-1] != self.n_voxels:
            raise InputError(
                "CHI-IN-277",
                f"the betas have {values.shape[-1]} voxels and the scaler was fitted on {self.n_voxels}.",
                "Use the same mask for fitting and for use.",
            )
        if values.shape[:-1] != np.shape(sessions):
            raise ValueError(f"betas {values.shape} and sessions {np.shape(sessions)} do not fit")
        flat = np.asarray(values, dtype=np.float32).reshape(-1, self.n_voxels)
        place = self._places(np.asarray(sessions).reshape(-1))
        means, factors = self._tables
        out = np.empty_like(flat)
        for start in range(0, len(flat), _APPLY_ROWS):
            part = slice(start, start + _APPLY_ROWS)
            np.subtract(flat[part], means[place[part]], out=out[part])
            out[part] *= factors[place[part]]
        return out.reshape(values.shape)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the statistics as arrays (kind as its place in `KINDS`), for a file of tensors."""
        return {
            "kind": np.array([KINDS.index(self.kind)], dtype=np.int64),
            "mean": self.mean,
            "sd": self.sd,
            "sessions": self.sessions,
            "session_mean": self.session_mean,
            "session_sd": self.session_sd,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> VoxelScaler:
        """Build from what `state` gave.

        Raises
        ------
        InputError
            ``CHI-IN-277``.
        """
        try:
            kind = dict(enumerate(KINDS))[int(state["kind"].reshape(-1)[0])]
            arrays = {
                name: np.asarray(state[name], np.float32) for name in ("mean", "sd", "session_mean", "session_sd")
            }
            sessions = np.asarray(state["sessions"], np.int64)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise _damaged("a part is missing or no array") from error
        n_voxels, both = arrays["mean"].shape, (*sessions.shape, *arrays["mean"].shape)
        if arrays["sd"].shape != n_voxels or not arrays["session_mean"].shape == arrays["session_sd"].shape == both:
            raise _damaged("the shapes do not fit together")
        if not all(np.isfinite(values).all() for values in arrays.values()) or (np.diff(sessions) <= 0).any():
            raise _damaged("values are not finite, or sessions not ascending")
        return cls(
            kind=kind,
            mean=arrays["mean"],
            sd=arrays["sd"],
            sessions=sessions,
            session_mean=arrays["session_mean"],
            session_sd=arrays["session_sd"],
        )

    @cached_property
    def _tables(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Means and factors of the sessions; the last row is that over all training trials."""
        sd = np.concatenate([self.session_sd, self.sd[None]])
        factors = np.divide(np.float32(1), sd, out=np.zeros_like(sd), where=sd > _LEAST_SD)
        return np.concatenate([self.session_mean, self.mean[None]]), factors

    def _places(self, sessions: NDArray[np.int64]) -> NDArray[np.int64]:
        if not len(self.sessions):
            return np.zeros(len(sessions), dtype=np.int64)
        place = np.searchsorted(self.sessions, sessions).clip(0, len(self.sessions) - 1)
        return np.where(self.sessions[place] == sessions, place, len(self.sessions)).astype(np.int64)


def fit_scaler(betas: Betas, trials: Trials, kind: str = "session-zscore") -> VoxelScaler:
    """Take the statistics of the training trials, in chunks of 64 MiB and sums in float64.

    Parameters
    ----------
    betas : Betas
    trials : Trials
        All of the subject's; the training trials are chosen here.
    kind : str
        One of `KINDS`.

    Raises
    ------
    InputError
        ``CHI-IN-276``; what reading the betas raises.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}, got {kind!r}")
    n_voxels = betas.shape[1]
    if kind == "none":
        empty, none = np.zeros((0,), np.float32), np.zeros((0, 0), np.float32)
        no_sessions = np.zeros(0, np.int64)
        return VoxelScaler(kind="none", mean=empty, sd=empty, sessions=no_sessions, session_mean=none, session_sd=none)
    used = trials if kind == "session-zscore-all" else trials.where(trials.split == TRAIN)
    if len(used) < 2:
        raise InputError(
            "CHI-IN-276",
            f"{len(used)} of {len(trials)} trials are for training, and scaling needs two or more.",
            "Check the split of the data set, or use `none`.",
        )
    parts = {int(session): _moments(betas, used.row[used.session == session]) for session in np.unique(used.session)}
    n, mean, squares = _merged(list(parts.values()))
    # One trial has no variance: such a session is scaled as an unseen one.
    own = {s: part for s, part in parts.items() if part[0] > 1} if kind != "zscore" else {}
    alone = len(np.setdiff1d(trials.session, list(own))) if kind != "zscore" else 0
    notes = (
        ["Test trials had a part in the scaling of voxels (a leak, asked for)."] if kind == "session-zscore-all" else []
    )
    if alone:
        notes.append(
            f"{alone} session(s) without training trials were scaled by the statistics over all training trials."
        )
    return VoxelScaler(
        kind=kind,
        mean=mean.astype(np.float32),
        sd=np.sqrt(squares / n).astype(np.float32),
        sessions=np.array(sorted(own), dtype=np.int64),
        session_mean=np.array([own[s][1] for s in sorted(own)], np.float32).reshape(-1, n_voxels),
        session_sd=np.array([np.sqrt(own[s][2] / own[s][0]) for s in sorted(own)], np.float32).reshape(-1, n_voxels),
        notes=tuple(notes),
    )


_Moments = tuple[int, NDArray[np.float64], NDArray[np.float64]]
"""Count, mean (V,), sum of squared deviations (V,)."""


def _moments(betas: Betas, rows: NDArray[np.int64]) -> _Moments:
    """Return the moments over some rows; sums of differences from the first row, so that a constant voxel gives exactly 0."""
    n_voxels = betas.shape[1]
    step = max(1, _CHUNK_BYTES // (n_voxels * 8))
    pivot = betas.read(rows[:1])[0].astype(np.float64)
    total, squares = np.zeros(n_voxels), np.zeros(n_voxels)
    for start in range(0, len(rows), step):
        difference = betas.read(rows[start : start + step]) - pivot
        total += difference.sum(axis=0)
        squares += np.einsum("nv,nv->v", difference, difference)
    n = len(rows)
    return n, pivot + total / n, np.maximum(squares - total**2 / n, 0.0)


def _merged(parts: list[_Moments]) -> _Moments:
    """Return the moments over several sets of rows (Chan, Golub & LeVeque 1979)."""
    n, mean, squares = parts[0]
    for count, other, spread in parts[1:]:
        difference = other - mean
        squares = squares + spread + difference**2 * (n * count / (n + count))
        mean, n = mean + difference * (count / (n + count)), n + count
    return n, mean, squares


def _damaged(problem: str) -> InputError:
    return InputError(
        "CHI-IN-277", f"saved statistics of voxels cannot be used: {problem}.", "Fit them again on the training trials."
    )


def own_scaler(subject: BrainSubject, kind: str) -> VoxelScaler:
    """Fit a scaler on a subject's own training trials; betas that are scaled already (`normalised`) stay as they are."""
    return fit_scaler(subject.betas, subject.trials, "none" if subject.normalised else kind)
