"""Says so where an input is what a network was trained from: a good result there proves nothing."""

from __future__ import annotations

from collections.abc import Mapping

from ..engine.weights import find
from ..recipes import Recipe


def training_notices(recipe: Recipe, inputs: Mapping[str, str]) -> list[str]:
    """Return a sentence for each input that the model cards list under ``trained_from``.

    Parameters
    ----------
    recipe : Recipe
        Its components' weights are looked at: ``config.json`` may hold ``trained_from``, sha256 of a file -> sentence.
    inputs : mapping of str to str
        File -> sha256.
    """
    seen: dict[str, str] = {}
    for name in dict.fromkeys(name for spec in recipe.components.values() for name in spec.weight_names):
        known = find(name).config.get("trained_from", {})
        seen |= {digest: str(known[digest]) for digest in inputs.values() if digest in known}
    return list(dict.fromkeys(seen.values()))
