"""OpenCLIP ViT-bigG/14 patch tokens: what MindEye2 predicts, through transformers or, where it is installed, open_clip.

Two things decide what the published tokens are. Their layer norm: open_clip up to 2.22 gives patches straight from
the last layer, from 2.23 on after ``ln_post``; the authors pin 2.24.0, so the norm is on by default and `norm=False`
gives the older state. Their pixels: the authors' embedder maps -1 to 1 onto 0 to 1, and their images are 0 to 1
already, so the network saw images of half the contrast, raised by one half; target ``openclip-bigg-14`` repeats that,
``openclip-bigg-14-exact`` does not. (MedARC-AI/MindEyeV2: requirements.txt, sgm/modules/encoders/modules.py, Train.py.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.errors import WeightsError
from .clip_images import load_vision_tower, normalised, square_pixels
from .target_spaces import TargetSpace, check_shape, folder_sha256

CODES: dict[str, str] = {
    "CHI-WT-076": "a folder is in open_clip's own form and the package open_clip is not installed, or cannot read it",
}

OWN_CONFIG, OWN_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


class OpenClipImages:
    """Images to patch tokens.

    Parameters
    ----------
    space : TargetSpace
        With `layer` ``published`` or ``exact``.
    model : nn.Module
        Transformers' ``CLIPVisionModelWithProjection``, or open_clip's vision tower.
    sha256 : str
        Of its weights.
    norm : bool
        Whether patches pass the post layer norm (open_clip >= 2.23).
    """

    def __init__(self, space: TargetSpace, model: nn.Module, sha256: str, *, norm: bool = True) -> None:
        self.space, self.model, self.sha256, self.norm = space, model, sha256, norm

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Return tokens (B, 256, 1664), float32, of pixels uint8 (B, S, S, 3)."""
        device = next(self.model.parameters()).device
        planes = square_pixels(pixels, self.space.pixels).to(device)
        return self.encode(normalised(planes, raised=self.space.layer == "published"))

    def encode(self, values: Tensor) -> Tensor:
        """Return tokens (B, N, d) of normalised pixels (B, 3, S, S)."""
        model: Any = self.model
        if hasattr(model, "vision_model"):
            hidden: Tensor = model.vision_model(values).last_hidden_state[:, 1:]
            return model.vision_model.post_layernorm(hidden) if self.norm else hidden
        given: list[Tensor] = []
        # What goes into the post layer norm: since 2.23 all tokens, batch first whatever the order inside the stack.
        hook = model.ln_post.register_forward_pre_hook(lambda _module, arguments: given.append(arguments[0]))
        try:
            model(values)
        finally:
            hook.remove()
        if given[0].ndim != 3:
            raise ValueError("this open_clip normalises the class token only: 2.23 or newer is needed")
        patches = given[0][:, 1:]
        return model.ln_post(patches) if self.norm else patches


def load_open_clip_images(
    space: TargetSpace, folder: Path, device: torch.device, *, norm: bool = True
) -> OpenClipImages:
    """Load the vision tower from a local folder: transformers' form, or open_clip's own where that is the only one.

    Raises
    ------
    WeightsError
        ``CHI-WT-030`` to ``034``, ``CHI-WT-071``, ``CHI-WT-072``, ``CHI-WT-076``.
    """
    if (folder / OWN_CONFIG).is_file() and not (folder / "config.json").is_file():
        model = _own_form(space, folder)
    else:
        model = load_vision_tower(space, folder, needs_projection=False)
    return OpenClipImages(space, model.to(device), folder_sha256(folder), norm=norm)


def _own_form(space: TargetSpace, folder: Path) -> nn.Module:
    try:
        from open_clip.model import CLIP
    except (ImportError, RuntimeError, AttributeError) as error:  # the latter two: a torchvision of another torch
        raise WeightsError(
            "CHI-WT-076",
            "the folder is in open_clip's own form, and the package open_clip cannot be imported.",
            "Give the folder in transformers' form (config.json, model.safetensors), or install open_clip_torch.",
            file=folder.name,
        ) from error
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / OWN_CONFIG).read_text("utf-8"))["model_cfg"]
        model = CLIP(**config)
        model.load_state_dict(load_file(folder / OWN_WEIGHTS))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(
            "CHI-WT-076",
            f"open_clip cannot read the folder ({type(error).__name__}).",
            f"Fetch {OWN_CONFIG} and {OWN_WEIGHTS} again.",
            file=folder.name,
        ) from error
    tower: Any = model.visual
    rows, cols = tower.grid_size
    check_shape(space, rows * cols, tower.conv1.out_channels, folder.name)
    module: nn.Module = tower
    return module.float().eval().requires_grad_(False)
