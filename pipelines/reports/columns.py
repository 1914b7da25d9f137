"""What a column of results is called on a page, in which unit it is, and how its numbers are written: told by its name in the table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from .pages import millilitres

_KNOWN = {
    "prediction_set": ("prediction set", "", None),
    "mmse_estimate": ("MMSE, estimated", "", 1),
    "text_share": ("text share of the relevance", "", 2),
    "duration_s": ("duration", "s", 1),
    "words": ("words", "", 0),
    # Images from fMRI: the names of the scores, as papers call them.
    "brain-to-image": ("image retrieval", "", 3),
    "image-to-brain": ("brain retrieval", "", 3),
    "brain-to-image top-5": ("image retrieval, top 5", "", 3),
    "image-to-brain top-5": ("brain retrieval, top 5", "", 3),
    "PixCorr": ("PixCorr", "", 3),
    "SSIM": ("SSIM", "", 3),
    "AlexNet(2)": ("AlexNet(2), two-way", "", 3),
    "AlexNet(5)": ("AlexNet(5), two-way", "", 3),
    "Inception": ("Inception, two-way", "", 3),
    "CLIP": ("CLIP, two-way", "", 3),
    "EffNet-B": ("EffNet-B distance", "", 3),
    "SwAV": ("SwAV distance", "", 3),
    "efficientnet-lite0 two-way": ("efficientnet-lite0, two-way", "", 3),
    "efficientnet-lite0 distance": ("efficientnet-lite0 distance", "", 3),
    "efficientnet-lite0 early two-way": ("efficientnet-lite0 early layer, two-way", "", 3),
    "spread": ("spread over samples", "", 3),
    "images": ("images", "", 0),
    "voxels": ("voxels", "", 0),
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the group page.

    Parameters
    ----------
    name : str
        In the results table.
    heading : str
    unit : str
        Empty where there is none.
    digits : int, optional
        Behind the point; None: as many as the size asks for.
    text : bool
        Words, not numbers: no distribution, and sorted as words.
    """

    name: str
    heading: str
    unit: str = ""
    digits: int | None = None
    text: bool = False

    @property
    def title(self) -> str:
        """Heading with unit."""
        return f"{self.heading} ({self.unit})" if self.unit else self.heading

    def show(self, value: Any) -> str:
        """Return a value as the page shows it; a dash where it is missing."""
        if isinstance(value, str):
            return value
        if value is None or self.digits is None or not math.isfinite(value):
            return millilitres(value)
        return f"{value:,.{self.digits}f}"

    def show_with_unit(self, value: float) -> str:
        """Return a value for a pointer that rests on it."""
        if self.unit == "ml":
            return f"{value:,.1f} ml"
        return f"{self.show(value)} {self.unit}".rstrip()


def column_of(name: str, values: Iterable[Any] = ()) -> Column:
    """Return what is known of a column.

    Parameters
    ----------
    name : str
        ``..._ml`` is a volume, ``p_AD`` the probability of AD, ``..._s`` a time; a few names of answers are known; any other stands as it
        is.
    values : iterable
        Its values: a column with a word among them is text.
    """
    text = any(isinstance(value, str) for value in values)
    if name in _KNOWN:
        heading, unit, digits = _KNOWN[name]
        return Column(name=name, heading=heading, unit=unit, digits=digits, text=text)
    if name.endswith("_ml"):
        return Column(name=name, heading=name, unit="ml", text=text)
    if name.startswith("p_"):
        return Column(name=name, heading=f"probability of {name[2:]}", digits=3, text=text)
    if name.endswith("_s"):
        return Column(name=name, heading=name[:-2].replace("_", " "), unit="s", text=text)
    return Column(name=name, heading=name, text=text)


def in_order(names: Iterable[str]) -> list[str]:
    """Return the names of results in the order of a page: probabilities and the set first, all that are unknown in the order given."""
    known = list(_KNOWN)
    return sorted(
        names, key=lambda name: known.index(name) if name in known else -1 if name.startswith("p_") else len(known)
    )


def is_number(value: Any) -> bool:
    """Whether a value has a place in a distribution."""
    return isinstance(value, Real) and not isinstance(value, bool)
