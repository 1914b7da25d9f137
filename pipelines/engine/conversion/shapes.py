"""Sizes of a network read from the shapes of its tensors, and what is missing to do so, all at once."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ....data.errors import WeightsError

CODES = {
    "CHI-WT-052": "A checkpoint lacks the tensors from whose shapes the sizes of its network are read.",
}


class Shapes:
    """Reads sizes from named tensors; a missing one counts as 0 until `check`.

    Parameters
    ----------
    tensors : mapping of str to Tensor
    name : str
        Of the file, for the message.
    """

    def __init__(self, tensors: Mapping[str, Tensor], name: str) -> None:
        self._tensors, self._name = tensors, name
        self._missing: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def size(self, key: str, axis: int = 0) -> int:
        """Return one side of a tensor that must be there."""
        if key not in self._tensors or self._tensors[key].dim() <= axis:
            self._missing.append(key)
            return 0
        return int(self._tensors[key].shape[axis])

    def count(self, pattern: str) -> int:
        """Return how many numbers, from 0 on, stand where the pattern has its group; none counts as a missing tensor."""
        found = {int(match[1]) for name in self._tensors if (match := re.match(pattern, name))}
        if not found:
            self._missing.append(pattern.replace("\\", "").replace("(d+)", "0").lstrip("^"))
        return max(found, default=-1) + 1

    def check(self) -> None:
        """Raise WeightsError ``CHI-WT-052`` with every tensor that was asked for and is not there."""
        if self._missing:
            raise WeightsError(
                "CHI-WT-052",
                f"tensors that say how large the network is are missing: {', '.join(dict.fromkeys(self._missing))}.",
                "Check that the file is of this kind and whole; "
                "a width that no tensor shows is given with --parameters '{\"width\": 768}'.",
                file=self._name,
            )
