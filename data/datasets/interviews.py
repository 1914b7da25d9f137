"""Interviews with labels, from whichever layout a folder has."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..interviews import InterviewSet
from . import adress, adresso, participants, pitt
from .adresso import read_segments
from .interview_tables import CODES, LABELS

__all__ = ["CODES", "LABELS", "labelled_interviews", "layout_of", "read_segments"]

_LAYOUTS = {
    "adress": (adress.is_adress, adress.interviews),
    "adresso": (adresso.is_adresso, adresso.interviews),
    "pitt": (pitt.is_pitt, pitt.interviews),
    "participants": (participants.is_participants, participants.interviews),
}


def layout_of(root: Path) -> str:
    """Return ``adress``, ``adresso``, ``pitt`` or ``participants`` for what lies in a folder; '' for none of them."""
    return next((name for name, (recognised, _) in _LAYOUTS.items() if recognised(root)), "")


def labelled_interviews(root: Path) -> InterviewSet:
    """Return the interviews of ADReSS-IS2020, ADReSSo-2021, Pitt, or of a folder with ``participants.tsv``.

    Parameters
    ----------
    root : Path
        The data set's folder, or one above or within it (the training part alone).

    Returns
    -------
    InterviewSet
        Labels are ``CN``, ``MCI`` and ``AD``; None where the set withholds them.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-170`` to ``CHI-IN-178``; every mistake at once.
    """
    try:
        root = root.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "a loop of links"
        raise InputError("CHI-IN-061", f"The input cannot be read ({reason}).", "Check the path.") from error
    layout = layout_of(root)
    if not layout:
        raise InputError(
            "CHI-IN-170",
            "The folder is no data set of interviews: looked for ADReSS-IS2020, ADReSSo-2021, Pitt, and participants.tsv "
            "with a column for the diagnosis.",
            "Write participants.tsv (participant_id, group, age, sex, mmse) beside a folder a person.",
        )
    return _LAYOUTS[layout][1](root)
