"""On-disk layouts of published data sets, found by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..recognition import ChannelRule, best_channels
from . import brats, msd, nnunet
from .case import CODES, LabelledCase

__all__ = ["CODES", "LabelledCase", "labelled_cases"]


def labelled_cases(root: Path, rules: Mapping[str, ChannelRule] | None = None) -> list[LabelledCase]:
    """Return the labelled cases of a BraTS, nnU-Net raw or Decathlon data set.

    Parameters
    ----------
    root : Path
    rules : mapping of str to ChannelRule, optional
        The recipe's channels: the data set's channels then get the recipe's names, by keyword, or by order where no
        keyword fits and the numbers are equal.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-140`` to ``CHI-IN-150``.
    """
    for recognised, cases in ((nnunet.is_nnunet, nnunet.cases), (msd.is_msd, msd.cases), (brats.is_brats, brats.cases)):
        if recognised(root):
            found = cases(root)
            return [_renamed(case, rules) for case in found] if rules else found
    raise InputError(
        "CHI-IN-149",
        "No BraTS case folders, no nnU-Net raw data set and no Decathlon data set.",
        "Give the folder that holds the case folders, or the one that holds dataset.json.",
    )


def _renamed(case: LabelledCase, rules: Mapping[str, ChannelRule]) -> LabelledCase:
    new: dict[str, str] = {}
    for channel in case.images:
        exact = [name for name in rules if name == channel]
        fitting = exact or best_channels(channel, rules)
        if len(fitting) == 1 and fitting[0] not in new:
            new[fitting[0]] = channel
    required = [name for name, rule in rules.items() if not rule.optional]
    if not new and len(required) == len(case.images):
        new = dict(zip(required, case.images, strict=True))
    missing = [name for name in required if name not in new]
    if missing:
        raise InputError(
            "CHI-IN-150",
            f"No channel of the data set fits {', '.join(missing)}; it has {', '.join(case.images)}.",
            "Name the data set's channels by the keywords of the recipe's.",
            file=case.name,
        )
    return replace(
        case,
        images={name: case.images[old] for name, old in new.items()},
        volumes={name: case.volumes[old] for name, old in new.items() if old in case.volumes},
    )
