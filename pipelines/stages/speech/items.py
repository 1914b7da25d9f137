"""What travels between the stages of dementia from speech."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ....data.patients import Session
from .features import SpeechFeatures
from .hearing import Heard
from .predictor import Answer


@dataclass(frozen=True, eq=False, kw_only=True)
class HeardCase:
    """One session as read: its log-Mel picture (3, M, T) and the pictures (K, 3, H, W) cut from it, where it has sound."""

    session: Session
    heard: Heard
    picture: Tensor | None
    pixels: Tensor | None


@dataclass(frozen=True, eq=False, kw_only=True)
class AnsweredCase:
    """One session with its answer."""

    case: HeardCase
    features: SpeechFeatures
    answer: Answer


@dataclass(frozen=True, eq=False, kw_only=True)
class WrittenCase:
    """What was written: outputs (file relative to OUT -> sha256) and the values for the tables."""

    answered: AnsweredCase
    outputs: Mapping[str, str]
    row: Mapping[str, float | str]
