"""Target spaces of image decoding: what a brain network predicts, by name, and the encoders that make them from local weights.

Normalisations are those of the published systems (MindEye, MindEye2, MindBridge and what UMBRAE, BrainSCUBA and GIT
take), so that their weights and ours can be exchanged; each is stated in words in the registry and in every feature file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..data.errors import WeightsError, did_you_mean

CODES: dict[str, str] = {
    "CHI-WT-070": "the name of a target space is not in the registry",
    "CHI-WT-071": "a target space needs a folder of weights and none was given, or the folder cannot be read",
    "CHI-WT-072": "an encoder's folder makes tokens of another number or width than its target space has",
}

Kind = Literal["image-tokens", "image-embedding", "text-tokens", "latents", "thumbnail", "small-tokens"]


@dataclass(frozen=True, kw_only=True)
class TargetSpace:
    """One space of targets.

    Parameters
    ----------
    name : str
    tokens, width : int
        Shape (N, d) of one image's target. Latents have a token a channel and a column a position: (c, h * w).
    pixels : int
        Side of the square image that the network itself sees; other sizes are resized to it. 0 for text.
    kind : str
        Which file of this floor makes it.
    weights : str
        Which published weights the folder holds (its usual name); empty where none are needed.
    normalisation : str
        What is done to pixels and to the network's output, in words.
    citation : str
    layer : str
        Which of the encoder's ways of reading tokens: ``versatile``, ``hidden``, ``hidden-patches``, ``embedding``,
        ``unit-embedding``, ``published``, ``exact``, or empty.
    latent : (int, int, int), optional
        Channels, rows and columns of latents and thumbnails.
    """

    name: str
    tokens: int
    width: int
    pixels: int
    kind: Kind
    weights: str
    normalisation: str
    citation: str
    layer: str = ""
    latent: tuple[int, int, int] | None = None

    def as_latents(self, tokens: Tensor) -> Tensor:
        """View tokens (B, c, h * w) of a latent space as (B, c, h, w)."""
        if self.latent is None:
            raise ValueError(f"'{self.name}' is no space of latents")
        return tokens.reshape(len(tokens), *self.latent)


_RADFORD = "Radford et al., ICML 2021 (CLIP)"
_CHERTI = "Cherti et al., CVPR 2023 (OpenCLIP, LAION-2B)"
_ROMBACH = "Rombach et al., CVPR 2022 (latent diffusion)"
_XU = "Xu et al., ICCV 2023 (Versatile Diffusion)"
_LARGE, _BASE = "openai/clip-vit-large-patch14", "openai/clip-vit-base-patch32"
_HUGE, _GIANT = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
_VAE = "stable-diffusion VAE (diffusers folder)"
_CLIP_PIXELS = "pixels: shorter side to 224 by antialiased bicubic, centre crop, CLIP mean and deviation; "

_SPACES = (
    TargetSpace(
        name="clip-vit-l14-vd", tokens=257, width=768, pixels=224, kind="image-tokens", weights=_LARGE,
        normalisation=_CLIP_PIXELS + "last hidden state, post layer norm and visual projection of every token, all divided "
        "by the norm of the class token's", citation=f"{_RADFORD}; {_XU}", layer="versatile",
    ),
    TargetSpace(
        name="clip-vit-l14-hidden", tokens=256, width=1024, pixels=224, kind="image-tokens", weights=_LARGE,
        normalisation=_CLIP_PIXELS + "output of the last layer but one, patches only", citation=_RADFORD,
        layer="hidden-patches",
    ),
    TargetSpace(
        name="clip-vit-l14-hidden-cls", tokens=257, width=1024, pixels=224, kind="image-tokens", weights=_LARGE,
        normalisation=_CLIP_PIXELS + "output of the last layer but one, class token first", citation=_RADFORD,
        layer="hidden",
    ),
    TargetSpace(
        name="clip-vit-l14-global", tokens=1, width=768, pixels=224, kind="image-embedding", weights=_LARGE,
        normalisation=_CLIP_PIXELS + "image embedding, divided by its norm", citation=_RADFORD, layer="unit-embedding",
    ),
    TargetSpace(
        name="clip-vit-b32-global", tokens=1, width=512, pixels=224, kind="image-embedding", weights=_BASE,
        normalisation=_CLIP_PIXELS + "image embedding, divided by its norm", citation=_RADFORD, layer="unit-embedding",
    ),
    TargetSpace(
        name="clip-vit-h14", tokens=257, width=1280, pixels=224, kind="image-tokens", weights=_HUGE,
        normalisation=_CLIP_PIXELS + "output of the last layer but one, class token first, not projected", citation=_CHERTI,
        layer="hidden",
    ),
    TargetSpace(
        name="clip-vit-h14-global", tokens=1, width=1024, pixels=224, kind="image-embedding", weights=_HUGE,
        normalisation=_CLIP_PIXELS + "image embedding (projected from 1280 to 1024), its norm kept", citation=_CHERTI,
        layer="embedding",
    ),
    TargetSpace(
        name="openclip-bigg-14", tokens=256, width=1664, pixels=224, kind="image-tokens", weights=_GIANT,
        normalisation="pixels: shorter side to 224 by antialiased bicubic, centre crop, then halved and raised by one half "
        "(the authors' embedder takes values of 0 to 1 for values of -1 to 1), CLIP mean and deviation; patches of the last "
        "layer after the post layer norm, not projected", citation=f"{_CHERTI}; Scotti et al., ICML 2024 (MindEye2)",
        layer="published",
    ),
    TargetSpace(
        name="openclip-bigg-14-exact", tokens=256, width=1664, pixels=224, kind="image-tokens", weights=_GIANT,
        normalisation=_CLIP_PIXELS + "patches of the last layer after the post layer norm, not projected", citation=_CHERTI,
        layer="exact",
    ),
    TargetSpace(
        name="openclip-bigg-14-global", tokens=1, width=1280, pixels=224, kind="image-embedding", weights=_GIANT,
        normalisation=_CLIP_PIXELS + "image embedding (projected from 1664 to 1280), its norm kept", citation=_CHERTI,
        layer="embedding",
    ),
    TargetSpace(
        name="clip-text-vd", tokens=77, width=768, pixels=0, kind="text-tokens", weights=_LARGE,
        normalisation="captions padded or cut to 77 tokens; text projection of the last hidden state of every token, all "
        "divided by the norm of the text embedding", citation=f"{_RADFORD}; {_XU}", layer="versatile",
    ),
    TargetSpace(
        name="sd-vae-512", tokens=4, width=4096, pixels=512, kind="latents", weights=_VAE, latent=(4, 64, 64),
        normalisation="pixels: resized to 512 by antialiased bilinear, -1 to 1; mode of the posterior times 0.18215",
        citation=f"{_ROMBACH}; Scotti et al., NeurIPS 2023 (MindEye)",
    ),
    TargetSpace(
        name="sd-vae-224", tokens=4, width=784, pixels=224, kind="latents", weights=_VAE, latent=(4, 28, 28),
        normalisation="pixels: resized to 224 by antialiased bilinear, -1 to 1; mode of the posterior times 0.18215",
        citation=f"{_ROMBACH}; Scotti et al., ICML 2024 (MindEye2)",
    ),
    TargetSpace(
        name="thumbnail-8", tokens=3, width=64, pixels=8, kind="thumbnail", weights="", latent=(3, 8, 8),
        normalisation="pixels: means over the cells of an 8 x 8 grid, -1 to 1", citation="",
    ),
    TargetSpace(
        name="small-16x64", tokens=16, width=64, pixels=32, kind="small-tokens", weights="chiasm/small-image-tokens",
        normalisation="pixels: shorter side to 32 by antialiased bicubic, centre crop; standardised over the pictures that the "
        "network was trained with", citation="",
    ),
)  # fmt: skip

SPACES: dict[str, TargetSpace] = {space.name: space for space in _SPACES}
"""The registry."""


class TargetEncoder(Protocol):
    """What makes targets of images.

    Attributes
    ----------
    space : TargetSpace
    sha256 : str
        Of the weights; empty where there are none.
    """

    @property
    def space(self) -> TargetSpace:
        """Which targets it makes."""

    @property
    def sha256(self) -> str:
        """Hash of its weights."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return targets (B, N, d), float32, of pixels uint8 (B, S, S, 3)."""


def target_space(name: str) -> TargetSpace:
    """Look a space up.

    Raises
    ------
    WeightsError
        ``CHI-WT-070``.
    """
    if name not in SPACES:
        raise WeightsError(
            "CHI-WT-070",
            f"there is no target space '{name}'.{did_you_mean(name, tuple(SPACES))}",
            f"Name one of: {', '.join(SPACES)}.",
        )
    return SPACES[name]


def load_target(name: str, folder: Path | None, device: torch.device | str = "cpu") -> TargetEncoder:
    """Load the encoder of a space of image targets from a local folder.

    Parameters
    ----------
    name : str
        Of `SPACES`, other than text targets, whose encoder (`clip_texts.load_text_target`) takes captions.
    folder : Path or None
        Of the weights in transformers' or diffusers' form; None where the space needs none.
    device : torch.device or str

    Raises
    ------
    WeightsError
        ``CHI-WT-030`` to ``034``, ``CHI-WT-070`` to ``072``.
    """
    space = target_space(name)
    place = torch.device(device)
    if space.kind == "thumbnail":
        from .vae_latents import Thumbnails

        return Thumbnails(space)
    if space.kind == "text-tokens":
        raise ValueError(f"'{name}' is a space of captions: load it with clip_texts.load_text_target")
    if folder is None:
        raise WeightsError(
            "CHI-WT-071",
            f"the target space '{name}' needs a folder of weights ({space.weights}) and none was given.",
            "Fetch the weights on a machine with a network, copy the folder and name it.",
        )
    if space.kind == "latents":
        from .vae_latents import load_vae_latents

        return load_vae_latents(space, folder, place)
    if space.kind == "small-tokens":
        return _load_small_tokens(space, folder, place)
    if space.layer in ("published", "exact"):
        from .open_clip_images import load_open_clip_images

        return load_open_clip_images(space, folder, place)
    from .clip_images import load_clip_images

    return load_clip_images(space, folder, place)


class _SmallTokens:
    """Small image tokens of pictures of any size."""

    def __init__(self, space: TargetSpace, model: nn.Module, sha256: str) -> None:
        self.space, self.model, self.sha256 = space, model, sha256

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        from .clip_images import square_pixels

        planes = square_pixels(pixels, self.space.pixels).to(next(self.model.parameters()).device)
        tokens: Tensor = self.model(planes.permute(0, 2, 3, 1))
        return tokens


def _load_small_tokens(space: TargetSpace, folder: Path, device: torch.device) -> _SmallTokens:
    from .small_image_tokens import SmallImageTokens

    try:
        model = SmallImageTokens.load(folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            "CHI-WT-071",
            f"the small image tokens cannot be read ({type(error).__name__}).",
            "Reinstall the package, or name the folder that training wrote.",
            file=folder.name,
        ) from error
    check_shape(space, model.config.n_tokens, model.config.token_width, folder.name)
    return _SmallTokens(space, model.to(device), folder_sha256(folder))


def folder_sha256(folder: Path) -> str:
    """Hash config.json and the weights of a folder, whatever the folder is called.

    Raises
    ------
    WeightsError
        ``CHI-WT-071`` where a file cannot be read.
    """
    total = hashlib.sha256()
    settings = [path for name in ("config.json", "open_clip_config.json") if (path := folder / name).is_file()]
    try:
        for path in sorted((*(settings or [folder / "config.json"]), *folder.glob("*.safetensors"))):
            total.update(path.name.encode() + b"\0")
            with path.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise WeightsError(
            "CHI-WT-071",
            f"a file of the weights cannot be read ({type(error).__name__}).",
            "Check the folder's permissions, or fetch it again.",
            file=folder.name,
        ) from error
    return total.hexdigest()


def check_shape(space: TargetSpace, tokens: int, width: int, name: str) -> None:
    """Refuse weights whose tokens have another shape than the space's; ``CHI-WT-072``."""
    if (tokens, width) != (space.tokens, space.width):
        raise WeightsError(
            "CHI-WT-072",
            f"the weights make {tokens} tokens of {width} numbers, and '{space.name}' has {space.tokens} of {space.width}.",
            f"Give the folder of {space.weights}.",
            file=name,
        )
