"""CLIP's view of images as targets: tokens in Versatile Diffusion's normalisation, hidden states, embeddings.

Radford et al., ICML 2021; networks are transformers' own and read from local folders. Xu et al., ICCV 2023, for the
normalisation that MindEye (Scotti et al., NeurIPS 2023) and MindBridge (Wang et al., CVPR 2024) predict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from ..data.errors import WeightsError
from .target_spaces import TargetSpace, check_shape, folder_sha256
from .transformer_folder import PICKLES, WEIGHTS, check_kind, quiet, read_config

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's statistics of pixels from 0 to 1, red, green and blue."""

KINDS = ("clip", "clip_vision_model")


class ClipImages:
    """Images to tokens.

    Parameters
    ----------
    space : TargetSpace
        With `layer` one of ``versatile``, ``hidden``, ``hidden-patches``, ``embedding`` and ``unit-embedding``.
    model : nn.Module
        A ``CLIPVisionModelWithProjection``.
    sha256 : str
        Of its weights.
    """

    def __init__(self, space: TargetSpace, model: nn.Module, sha256: str) -> None:
        self.space, self.model, self.sha256 = space, model, sha256

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Return tokens (B, N, d), float32, of pixels uint8 (B, S, S, 3)."""
        device = next(self.model.parameters()).device
        values = normalised(square_pixels(pixels, self.space.pixels).to(device))
        return self.encode(values)

    def encode(self, values: Tensor) -> Tensor:
        """Return tokens (B, N, d) of normalised pixels (B, 3, S, S)."""
        model: Any = self.model
        hidden = self.space.layer in ("hidden", "hidden-patches")
        out = model(values, output_hidden_states=hidden)
        tokens: Tensor
        if hidden:
            tokens = out.hidden_states[-2]
            return tokens[:, 1:] if self.space.layer == "hidden-patches" else tokens
        if self.space.layer == "versatile":
            tokens = model.visual_projection(model.vision_model.post_layernorm(out.last_hidden_state))
            norm: Tensor = torch.linalg.vector_norm(tokens[:, :1], dim=-1, keepdim=True)
            return tokens / norm
        tokens = out.image_embeds[:, None]
        return normalize(tokens, dim=-1) if self.space.layer == "unit-embedding" else tokens


def square_pixels(pixels: Tensor, size: int) -> Tensor:
    """Resize as CLIP's published image processor does: shorter side to `size` (bicubic, antialiased), centre crop.

    The filter and the rounding are Pillow's, which that processor uses.

    Parameters
    ----------
    pixels : Tensor, uint8, shape (B, H, W, 3)
    size : int

    Returns
    -------
    Tensor, uint8, shape (B, 3, size, size)

    Raises
    ------
    ValueError
        For pixels of another type or shape.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(f"pixels must be uint8 (B, S, S, 3), not {pixels.dtype} {tuple(pixels.shape)}")
    planes = pixels.permute(0, 3, 1, 2)
    height, width = planes.shape[2:]
    short = min(height, width)
    if short != size:
        across, down = size * width // short, size * height // short
        # Pillow rounds to whole numbers after the columns and again after the rows.
        planes = _rounded_bicubic(_rounded_bicubic(planes.double(), (height, across)), (down, across)).to(torch.uint8)
    top, left = (planes.shape[2] - size) // 2, (planes.shape[3] - size) // 2
    return planes[:, :, top : top + size, left : left + size]


def _rounded_bicubic(planes: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(planes.shape[2:]) == size:
        return planes
    resized = interpolate(planes, size=size, mode="bicubic", align_corners=False, antialias=True)
    return (resized + 0.5).floor().clamp(0, 255)


def normalised(planes: Tensor, *, raised: bool = False) -> Tensor:
    """Return (B, 3, S, S) float32 with CLIP's mean and deviation, of uint8 planes.

    Parameters
    ----------
    planes : Tensor, uint8, shape (B, 3, S, S)
    raised : bool
        Halve values and add one half first, as MindEye2's embedder does: it expects -1 to 1 and is given 0 to 1.
    """
    values = planes.float() / 255
    if raised:
        values = (values + 1) / 2
    mean, deviation = (torch.tensor(row, device=values.device)[None, :, None, None] for row in (MEAN, DEVIATION))
    return (values - mean) / deviation


def load_clip_images(space: TargetSpace, folder: Path, device: torch.device) -> ClipImages:
    """Load the image half of a CLIP folder (transformers' form, the whole CLIP or its vision tower).

    Raises
    ------
    WeightsError
        ``CHI-WT-030`` to ``034``, ``CHI-WT-071``, ``CHI-WT-072``.
    """
    model = load_vision_tower(space, folder, needs_projection=not space.layer.startswith("hidden"))
    return ClipImages(space, model.to(device), folder_sha256(folder))


def load_vision_tower(space: TargetSpace, folder: Path, *, needs_projection: bool) -> nn.Module:
    """Load transformers' ``CLIPVisionModelWithProjection`` in float32, frozen, and check that it makes the space's tokens.

    Raises
    ------
    WeightsError
        ``CHI-WT-030`` to ``034``, ``CHI-WT-072``.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = read_config(folder)
    check_kind(config, KINDS, folder.name)
    fields = tower_fields(config, "vision_config")
    try:
        settings = CLIPVisionConfig.from_dict(fields)
        patches = (settings.image_size // settings.patch_size) ** 2
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise _no_network(folder.name, error) from error
    found_tokens = {"hidden": patches + 1, "versatile": patches + 1, "embedding": 1, "unit-embedding": 1}
    width = settings.hidden_size if space.layer in ("hidden", "hidden-patches", "published", "exact") else None
    check_shape(space, found_tokens.get(space.layer, patches), width or settings.projection_dim, folder.name)
    if settings.image_size != space.pixels:
        raise _no_network(folder.name, f"its images have {settings.image_size} pixels a side, not {space.pixels}")
    unused = () if needs_projection else ("visual_projection.",)
    return load_tower(CLIPVisionModelWithProjection, settings, folder, unused=unused)


def tower_fields(config: dict[str, Any], part: str) -> dict[str, Any]:
    """Return the configuration of one tower, whether the folder holds both or this one alone."""
    if config["model_type"] != "clip":
        return config
    fields = config.get(part)
    shared = {"projection_dim": config["projection_dim"]} if "projection_dim" in config else {}
    return {**(fields if isinstance(fields, dict) else {}), **shared}


def load_tower(kind: Any, settings: Any, folder: Path, *, unused: tuple[str, ...] = ()) -> nn.Module:
    """Load one of CLIP's towers from safetensors; ``CHI-WT-030``, ``033``, ``034``.

    Parameters
    ----------
    kind : type
        Transformers' class.
    settings : its configuration
    folder : Path
    unused : tuple of str
        Beginnings of names of tensors that the folder may lack.
    """
    if not any((folder / name).is_file() for name in WEIGHTS):
        pickled = any((folder / name).is_file() for name in PICKLES)
        raise WeightsError(
            "CHI-WT-033" if pickled else "CHI-WT-030",
            f"{WEIGHTS[0]} missing{', there is only a pickle' if pickled else ''}.",
            "Fetch the safetensors form of the model; pickles can run code and are not read.",
            file=folder.name,
        )
    import safetensors

    with quiet():
        try:
            model, report = kind.from_pretrained(
                folder,
                config=settings,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except (safetensors.SafetensorError, RuntimeError, OSError, ValueError, KeyError) as error:
            raise _unfit(folder.name, type(error).__name__) from error
    missing = [name for name in report["missing_keys"] if not name.startswith(unused or ("\0",))]
    missing = [name for name in missing if "position_ids" not in name]
    if missing or report["mismatched_keys"]:
        raise _unfit(folder.name, f"{len(missing)} tensors missing, {len(report['mismatched_keys'])} of another shape")
    module: nn.Module = model
    return module.eval().requires_grad_(False)


def _no_network(name: str, why: object) -> WeightsError:
    why = type(why).__name__ if isinstance(why, Exception) else why
    return WeightsError(
        "CHI-WT-031", f"config.json describes no fitting network ({why}).", "Fetch it again.", file=name
    )


def _unfit(name: str, why: str) -> WeightsError:
    return WeightsError(
        "CHI-WT-034", f"the weights are damaged or do not fit config.json ({why}).", "Fetch it again.", file=name
    )
