"""Which patients train and which are held out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...data.errors import InputError

CODES: dict[str, str] = {
    "CHI-IN-132": "there are fewer patients than folds",
    "CHI-IN-133": "the fold asked for does not exist",
}


def held_out(patients: Iterable[str], *, folds: int, fold: int, seed: int) -> frozenset[str]:
    """Return the patients of one fold: each patient is in exactly one, whatever the number of cases or the order given.

    Raises
    ------
    InputError
        Fewer patients than folds (CHI-IN-132), or no such fold (CHI-IN-133).
    """
    unique = sorted(set(patients))
    if len(unique) < folds:
        raise InputError(
            "CHI-IN-132",
            f"{len(unique)} patients cannot be split into {folds} folds.",
            "Set training.folds lower, or add patients.",
        )
    if not 0 <= fold < folds:
        raise InputError("CHI-IN-133", f"there is no fold {fold}.", f"Folds are numbered 0 to {folds - 1}.")
    order = np.random.default_rng(seed).permutation(len(unique))
    return frozenset(unique[i] for position, i in enumerate(order) if position % folds == fold)
