"""Decoders by name: a fixed list, so that a recipe can name no other code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...data.errors import WeightsError, did_you_mean

if TYPE_CHECKING:
    from .interface import ImageDecoder
    from .small_diffusion import SmallDiffusionDecoder

CODES: dict[str, str] = {
    "CHI-WT-083": "the kind of an image decoder is not one of the list",
    "CHI-WT-084": "a setting of an image decoder is unknown or impossible",
}

KINDS = ("small-diffusion", "versatile-diffusion", "sdxl-unclip", "stable-unclip", "ip-adapter-sdxl")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_decoder(
    kind: str, folder: Path, *, parameters: Mapping[str, Any] | None = None, device: torch.device | str = "cpu"
) -> ImageDecoder:
    """Load a decoder from a local folder.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    folder : Path
    parameters : mapping, optional
        Settings, by the names of the kind's configuration, and ``dtype``: float32, float16 or bfloat16.
    device : torch.device or str

    Raises
    ------
    WeightsError
        ``CHI-WT-077`` to ``CHI-WT-080``, ``CHI-WT-082`` to ``CHI-WT-084``.
    """
    if kind not in KINDS:
        raise WeightsError(
            "CHI-WT-083",
            f"there is no image decoder '{kind}'.{did_you_mean(kind, KINDS)}",
            f"Name one of: {', '.join(KINDS)}.",
        )
    given = dict(parameters or {})
    name = given.pop("dtype", "float32")
    if name not in DTYPES:
        raise _setting(kind, f"dtype must be one of {', '.join(DTYPES)}, got '{name}'")
    place: dict[str, Any] = {"device": device, "dtype": DTYPES[name]}
    if kind == "small-diffusion":
        from .small_diffusion import SmallDiffusionConfig

        if name != "float32":
            raise _setting(kind, "it runs in float32 only")
        return _small(folder, configured(kind, SmallDiffusionConfig, given), device)
    if kind == "versatile-diffusion":
        from .versatile_diffusion import VersatileDiffusionConfig, load_versatile_diffusion

        return load_versatile_diffusion(folder, configured(kind, VersatileDiffusionConfig, given), **place)
    if kind == "sdxl-unclip":
        from .sdxl_unclip import SdxlUnclipConfig, load_sdxl_unclip

        return load_sdxl_unclip(folder, configured(kind, SdxlUnclipConfig, given), **place)
    if kind == "stable-unclip":
        from .stable_unclip import StableUnclipConfig, load_stable_unclip

        return load_stable_unclip(folder, configured(kind, StableUnclipConfig, given), **place)
    from .ip_adapter_sdxl import IpAdapterConfig, load_ip_adapter_sdxl

    return load_ip_adapter_sdxl(folder, configured(kind, IpAdapterConfig, given), **place)


def configured(kind: str, config: Any, given: Mapping[str, Any]) -> Any:
    """Build a configuration from a recipe's settings; ``CHI-WT-084`` names every wrong one."""
    known = tuple(field.name for field in fields(config))
    wrong = [f"'{name}' is no setting of it{did_you_mean(name, known)}" for name in given if name not in known]
    if wrong:
        raise _setting(kind, "; ".join(wrong), known)
    try:
        return config(**given)
    except (ValueError, TypeError) as error:
        raise _setting(kind, str(error), known) from error


def _small(folder: Path, config: Any, device: torch.device | str) -> SmallDiffusionDecoder:
    from safetensors import SafetensorError

    from .small_diffusion import SmallDiffusionDecoder

    try:
        return SmallDiffusionDecoder.load(folder, config).to(device)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            "CHI-WT-078",
            f"the small decoder is damaged or of another kind ({type(error).__name__}).",
            "Reinstall the package, or name the folder that training wrote.",
            file=folder.name,
        ) from error


def _setting(kind: str, why: str, known: tuple[str, ...] = ()) -> WeightsError:
    allowed = f"Its settings are: {', '.join((*known, 'dtype'))}." if known else "Change the recipe."
    return WeightsError("CHI-WT-084", f"image decoder '{kind}': {why}.", allowed)
