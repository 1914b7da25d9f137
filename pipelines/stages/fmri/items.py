"""What travels between the stages of images from fMRI: one frozen item a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....data.fmri.decoding_set import BrainSubject, DecodingSet
from ....data.fmri.trials import ImageTrials
from ....data.patients import Session

Images = NDArray[np.uint8]


@dataclass(frozen=True, eq=False, kw_only=True)
class BetasCase:
    """One subject as opened.

    Parameters
    ----------
    session : Session
    data : DecodingSet
        Of this subject alone.
    trials : ImageTrials
        Those that are decoded: of the test side where there is one, else all.
    side : str
        ``test`` or ``all``.
    """

    session: Session
    data: DecodingSet
    trials: ImageTrials
    side: str

    @property
    def subject(self) -> BrainSubject:
        """The subject."""
        return self.data.subjects[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Decoded:
    """What was decoded from one subject's betas, one entry an image.

    Parameters
    ----------
    image : ndarray of int64, shape (m,)
        Number of the stimulus.
    reconstruction : ndarray of uint8, shape (m, S, S, 3), optional
        None where the recipe has no decoder.
    tokens : ndarray of float32, shape (m, N, d)
        Of the kept candidate, in the target's space.
    projected : ndarray of float32, shape (m, N, d)
        For retrieval.
    start : ndarray of uint8, shape (m, S, S, 3), optional
        What the low-level branch saw.
    spread : ndarray of float64, shape (m,)
        Mean cosine distance between samples of the prior (0 where there is one).
    agreement : ndarray of float64, shape (m,)
        Cosine between the kept candidate's re-encoded tokens and the brain's own.
    """

    image: NDArray[np.int64]
    reconstruction: Images | None
    tokens: NDArray[np.float32]
    projected: NDArray[np.float32]
    start: Images | None
    spread: NDArray[np.float64]
    agreement: NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Found:
    """Retrieved candidates.

    Parameters
    ----------
    candidates : ndarray of int64, shape (c,)
        Numbers of the stimuli that were candidates.
    top : ndarray of int64, shape (m, k)
        Numbers of the best ones, best first.
    cosine : ndarray of float64, shape (m, k)
    rank : ndarray of int64, shape (m,)
        Of the image that was shown, from 1; 0 where it is no candidate.
    """

    candidates: NDArray[np.int64]
    top: NDArray[np.int64]
    cosine: NDArray[np.float64]
    rank: NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class DecodedCase:
    """One subject, decoded.

    Parameters
    ----------
    case : BetasCase
    decoded : Decoded
    found : Found, optional
        None without stimuli.
    scores : mapping, optional
        As `evaluation.images` gives them, JSON values; None without stimuli.
    importance : ndarray of float32, shape (V,), optional
        Share of each voxel in the retrieval scores.
    """

    case: BetasCase
    decoded: Decoded
    found: Found | None
    scores: Mapping[str, Any] | None
    importance: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class WrittenCase:
    """One subject, written: hashes of the outputs and the row of the cohort's table."""

    decoded: DecodedCase
    outputs: Mapping[str, str]
    row: Mapping[str, float | str] = field(default_factory=dict)
