"""Batches of trials from disk: each step depends on (seed, step) alone, and only the rows of a batch are ever in memory."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ....data.fmri.decoding_set import BrainSubject
from ....data.fmri.scaling import VoxelScaler
from ....data.fmri.trials import ImageTrials

Repeats = Literal["cycle", "random-single", "mean", "first"]


@dataclass(frozen=True, eq=False, kw_only=True)
class SubjectSource:
    """What a subject's batches are drawn from.

    Parameters
    ----------
    subject : BrainSubject
    images : ImageTrials
        Of one side of the split.
    scaler : VoxelScaler
        Fitted on training trials.
    """

    subject: BrainSubject
    images: ImageTrials
    scaler: VoxelScaler

    def voxels(self, chosen: NDArray[np.int64], repeat: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """Return scaled betas of some images (positions in `images`): of one repeat each, or, with None, the mean of the real ones."""
        if repeat is not None:
            rows, sessions = self.images.rows[chosen, repeat], self.images.session[chosen, repeat]
            return self.scaler.apply(self.subject.betas.read(rows), sessions)
        found = np.zeros((len(chosen), self.subject.n_voxels), dtype=np.float32)
        counts = self.images.n_repeats[chosen]
        for turn in range(int(counts.max(initial=0))):
            here = np.flatnonzero(counts > turn)
            which = chosen[here]
            values = self.subject.betas.read(self.images.rows[which, turn])
            found[here] += self.scaler.apply(values, self.images.session[which, turn])
        found /= counts[:, None].astype(np.float32)
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class TrialBatch:
    """One subject's part of a step.

    Parameters
    ----------
    voxels : ndarray of float32, shape (b, V)
    images : ndarray of int64, shape (b,)
        Numbers of the stimuli, all different: two trials of one image would be each other's false negatives.
    """

    voxels: NDArray[np.float32]
    images: NDArray[np.int64]


class TrialStream:
    """Steps of equal shares of all subjects; the next ones are read ahead by a thread.

    A subject with fewer images begins a new pass earlier: all subjects count the same in every step.

    Parameters
    ----------
    sources : mapping of str to SubjectSource
    batch_size : int
        Of a step, over all subjects.
    repeats : {'cycle', 'random-single', 'mean', 'first'}
        ``cycle``: the n-th pass over the images sees their n-th repeat, as MindEye1.
    seed : int
    """

    AHEAD = 4

    def __init__(self, sources: Mapping[str, SubjectSource], *, batch_size: int, repeats: Repeats, seed: int) -> None:
        self.sources, self.repeats, self.seed = dict(sources), repeats, seed
        smallest = min(len(source.images) for source in self.sources.values())
        self.share = max(2, min(batch_size // len(self.sources), smallest))
        self.steps_per_epoch = max(1, max(len(s.images) for s in self.sources.values()) // self.share)
        self.pool = ThreadPoolExecutor(1)
        self.pending: dict[int, Future[dict[str, TrialBatch]]] = {}

    def close(self) -> None:
        """Stop reading ahead."""
        self.pool.shutdown(cancel_futures=True)

    def step(self, number: int) -> dict[str, TrialBatch]:
        """Return the batches of a step, one a subject."""
        for later in range(number, number + self.AHEAD):
            if later not in self.pending:
                self.pending[later] = self.pool.submit(self._read, later)
        return self.pending.pop(number).result()

    def _read(self, number: int) -> dict[str, TrialBatch]:
        return {name: self._batch(index, name, number) for index, name in enumerate(self.sources)}

    def _batch(self, index: int, name: str, number: int) -> TrialBatch:
        source = self.sources[name]
        n_batches = max(1, len(source.images) // self.share)
        turn, place = divmod(number, n_batches)
        order = np.random.default_rng([self.seed, index, turn]).permutation(len(source.images))
        chosen = order[place * self.share : (place + 1) * self.share]
        counts = source.images.n_repeats[chosen]
        repeat: NDArray[np.int64] | None = np.full(len(chosen), turn, dtype=np.int64) % counts
        if self.repeats == "first":
            repeat = np.zeros_like(counts)
        elif self.repeats == "random-single":
            repeat = np.random.default_rng([self.seed, index, number, 1]).integers(0, counts)
        elif self.repeats == "mean":
            repeat = None
        return TrialBatch(voxels=source.voxels(chosen, repeat), images=source.images.image[chosen])
