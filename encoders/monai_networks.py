"""MONAI's segmentation networks by name: an allow-list, and parameters that are checked against the signature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..data.errors import RecipeError, did_you_mean

CODES = {
    "CHI-RC-062": "The network is not on the list of MONAI networks that a recipe or a bundle may name.",
    "CHI-RC-063": "A parameter of a MONAI network is unknown, missing or not a plain value.",
    "CHI-RC-064": "A MONAI network refuses its parameters.",
}

ALLOWED = (
    "AttentionUnet",
    "BasicUNet",
    "BasicUNetPlusPlus",
    "DynUNet",
    "HighResNet",
    "SegResNet",
    "SegResNetDS",
    "SegResNetVAE",
    "SwinUNETR",
    "UNETR",
    "UNet",
    "VNet",
)
"""Each maps a volume (B, C, X, Y, Z) to logits of the same grid; deep-supervision heads are off outside training."""


def build(parameters: Mapping[str, Any]) -> nn.Module:
    """Build a network from a recipe's parameters.

    Parameters
    ----------
    parameters : mapping
        ``network`` (a name in `ALLOWED`) and that network's own parameters, plain values only.

    Raises
    ------
    RecipeError
        ``CHI-RC-062``, ``CHI-RC-063`` (every parameter that is wrong) or ``CHI-RC-064``.
    """
    rest = dict(parameters)
    network_class = find_class(rest.pop("network", None))
    _check(network_class, rest)
    try:
        network = network_class(**rest)
    except (
        TypeError,
        ValueError,
        KeyError,
        IndexError,
        AssertionError,
        NotImplementedError,
        ZeroDivisionError,
    ) as error:
        raise RecipeError(
            "CHI-RC-064",
            f"{network_class.__name__} refuses its parameters: {_short(error)}",
            "See MONAI's documentation of the network.",
        ) from None
    return network


def find_class(name: object) -> type[nn.Module]:
    """Return the class of an allowed network.

    Raises
    ------
    RecipeError
        ``CHI-RC-062``.
    """
    if not isinstance(name, str) or name not in ALLOWED:
        near = did_you_mean(name, ALLOWED) if isinstance(name, str) else ""
        what = (
            f"'{name[:80]}' is no network that may be named here." if isinstance(name, str) else "'network' is missing."
        )
        raise RecipeError("CHI-RC-062", f"{what}{near}", f"Allowed: {', '.join(ALLOWED)}.")
    from monai.networks import nets

    found: type[nn.Module] = getattr(nets, name)
    return found


def check_plain(value: Any, where: str) -> list[str]:
    """List what is no plain value (number, text, boolean, null, lists and objects of them), or is an expression."""
    if isinstance(value, str):
        return [f"{where} is an expression"] if value.lstrip().startswith(("$", "@", "%")) else []
    if isinstance(value, Mapping):
        wrong = [
            f"{where}.{key} names code to run" for key in value if str(key).startswith("_") and str(key).endswith("_")
        ]
        return wrong + [fault for key, item in value.items() for fault in check_plain(item, f"{where}.{key}")]
    if isinstance(value, list | tuple):
        return [fault for index, item in enumerate(value) for fault in check_plain(item, f"{where}[{index}]")]
    return [] if value is None or isinstance(value, bool | int | float) else [f"{where} is not a plain value"]


def _check(network_class: type[nn.Module], parameters: Mapping[str, Any]) -> None:
    signature = inspect.signature(network_class.__init__)
    taken = [
        parameter
        for name, parameter in signature.parameters.items()
        if name != "self" and parameter.kind not in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}
    ]
    names = [parameter.name for parameter in taken]
    wrong = [f"'{name}' is unknown.{did_you_mean(name, names)}" for name in parameters if name not in names]
    wrong += [f"'{p.name}' is missing." for p in taken if p.default is p.empty and p.name not in parameters]
    wrong += [f"{fault}." for name, value in parameters.items() for fault in check_plain(value, name)]
    if wrong:
        raise RecipeError(
            "CHI-RC-063", f"{network_class.__name__}: {' '.join(wrong)}", f"Parameters: {', '.join(names)}."
        )


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{text[:200].rstrip('.')}." if text else f"{type(error).__name__}."
