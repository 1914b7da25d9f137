"""Captions as targets: CLIP's text tokens in Versatile Diffusion's normalisation (MindBridge; Wang et al., CVPR 2024)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.errors import WeightsError
from .clip_images import load_tower, tower_fields
from .target_spaces import TargetSpace, check_shape, folder_sha256, target_space
from .transformer_folder import check_kind, quiet, read_config

CODES: dict[str, str] = {"CHI-WT-073": "a text encoder's folder lacks its tokenizer, or the tokenizer is damaged"}

KINDS = ("clip", "clip_text_model")
TOKENIZERS = ("tokenizer.json", "vocab.json")


class ClipTexts:
    """Captions to tokens.

    Parameters
    ----------
    space : TargetSpace
        Of kind ``text-tokens``.
    model : nn.Module
        A ``CLIPTextModelWithProjection``.
    tokenizer : transformers' tokenizer
    sha256 : str
        Of the weights.
    """

    def __init__(self, space: TargetSpace, model: nn.Module, tokenizer: Any, sha256: str) -> None:
        self.space, self.model, self.tokenizer, self.sha256 = space, model, tokenizer, sha256

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Return tokens (B, 77, d), float32; an empty caption is CLIP's unconditional text."""
        words = self.tokenizer(
            list(captions), padding="max_length", max_length=self.space.tokens, truncation=True, return_tensors="pt"
        )
        model: Any = self.model
        out = model(words.input_ids.to(next(self.model.parameters()).device))
        tokens: Tensor = model.text_projection(out.last_hidden_state)
        norm: Tensor = torch.linalg.vector_norm(out.text_embeds[:, None], dim=-1, keepdim=True)
        return tokens / norm


def load_text_target(
    folder: Path,
    device: torch.device | str = "cpu",
    *,
    space: TargetSpace | None = None,
    tokenizer: Path | None = None,
) -> ClipTexts:
    """Load the text half of a CLIP folder (transformers' form, the whole CLIP or its text tower) and its tokenizer.

    Parameters
    ----------
    folder : Path
    device : torch.device or str
    space : TargetSpace, optional
        `clip-text-vd` where none is given.
    tokenizer : Path, optional
        Folder of the tokenizer; the same one where none is given (pipelines keep it beside the text encoder).

    Raises
    ------
    WeightsError
        ``CHI-WT-030`` to ``034``, ``CHI-WT-071`` to ``073``.
    """
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    space = space or target_space("clip-text-vd")
    config = read_config(folder)
    check_kind(config, KINDS, folder.name)
    try:
        settings = CLIPTextConfig.from_dict(tower_fields(config, "text_config"))
    except (ValueError, TypeError) as error:
        raise WeightsError(
            "CHI-WT-031",
            f"config.json describes no network ({type(error).__name__}).",
            "Fetch it again.",
            file=folder.name,
        ) from error
    check_shape(space, settings.max_position_embeddings, settings.projection_dim, folder.name)
    words = _tokenizer(tokenizer or folder)
    model = load_tower(CLIPTextModelWithProjection, settings, folder)
    return ClipTexts(space, model.to(torch.device(device)), words, folder_sha256(folder))


def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise WeightsError(
            "CHI-WT-073",
            f"no {' or '.join(TOKENIZERS)}.",
            "Copy the tokenizer's files of the published model into the folder.",
            file=folder.name,
        )
    try:
        for name in TOKENIZERS:  # the library answers broken JSON with a bare Exception
            if (folder / name).is_file() and not isinstance(json.loads((folder / name).read_text("utf-8")), dict):
                raise TypeError(f"{name} is no JSON object")
        with quiet():
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            "CHI-WT-073", f"the tokenizer cannot be read ({type(error).__name__}).", "Fetch it again.", file=folder.name
        ) from error
