"""From the names in published files to the names in our networks; the golden tests go through the same functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

Value = TypeVar("Value")

_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "_forward_module.")
_SWIN_STAGE = re.compile(r"^(patch_embed|layers\dc?)\.")
_SWIN_MLP = re.compile(r"\.mlp\.fc([12])\.")


def without_wrappers(state: Mapping[str, Value]) -> dict[str, Value]:
    """Drop the prefixes that data-parallel training and compilation put before every name."""
    names = dict(state)
    for _ in range(len(_WRAPPER_PREFIXES)):
        prefix = next((p for p in _WRAPPER_PREFIXES if names and all(name.startswith(p) for name in names)), None)
        if prefix is None:
            break
        names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def without_wrapper_parts(state: Mapping[str, Value]) -> dict[str, Value]:
    """Drop the same words wherever they stand: some parts of a model may have been wrapped on their own, others not."""
    words = {prefix.removesuffix(".") for prefix in _WRAPPER_PREFIXES}
    return {".".join(part for part in name.split(".") if part not in words): value for name, value in state.items()}


def swin_unetr(state: Mapping[str, Value]) -> dict[str, Value]:
    """Names of a whole Swin UNETR (BraTS 2021 folds, BTCV): wrappers dropped, old spellings replaced."""
    return {_swin_name(name): value for name, value in without_wrappers(state).items()}


def swin_encoder(state: Mapping[str, Value]) -> dict[str, Value]:
    """Names of an encoder alone, with or without the prefix ``swinViT.``; the heads of self-supervision are left out.

    The published self-supervised file has ``module.`` before each name, ``fc1`` and ``fc2`` for ``linear1`` and
    ``linear2``, and ``swin_vit`` in its older version.
    """
    renamed = {}
    for name, value in swin_unetr(state).items():
        full = f"swinViT.{name}" if _SWIN_STAGE.match(name) else name
        if full.startswith("swinViT."):
            renamed[full] = value
    return renamed


def _swin_name(name: str) -> str:
    name = re.sub(r"^swin_vit\.", "swinViT.", name)
    if name.startswith("swinViT.") or _SWIN_STAGE.match(name):
        name = _SWIN_MLP.sub(r".mlp.linear\1.", name)
    return name


RENAME: dict[str, Callable[[Mapping[str, Value]], dict[str, Value]]] = {
    "brain-mask": without_wrappers,
    "unet3d": without_wrappers,
    "monai": without_wrappers,
    "swin-unetr": swin_unetr,
    "swin-unetr-encoder": swin_encoder,
}
"""Kind -> the function that renames a published state dict."""
