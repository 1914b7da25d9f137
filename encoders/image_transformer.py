"""Vision transformers over speech pictures: DeiT (distilled), ViT, and the Audio Spectrogram Transformer.

Touvron et al., ICML 2021; Dosovitskiy et al., ICLR 2021; Gong et al., Interspeech 2021. Networks are transformers' own;
its image processor is not used: it resizes to 256 and cuts 224 out of the middle, an eighth of time and of frequency.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..data.errors import RecipeError
from .transformer_folder import Attention, EncoderOutput, build_model, check_attention, load_model, save_model

CODES: dict[str, str] = {"CHI-RC-105": "the recipe's speech pictures have not the size that the audio encoder takes"}

KINDS = {"deit": 2, "vit": 1, "audio-spectrogram-transformer": 2}
"""``model_type`` -> tokens in front of the patches: class, and distillation where there is one."""

Reduce = Literal["patches", "time", "chunk"]


class ImageTransformer(nn.Module):
    """A vision transformer; token ``n_special + cols * i + j`` is the patch of Mel row i (lowest first) and time j.

    Parameters
    ----------
    model : nn.Module
        Of one of `KINDS`, as `load_image_transformer` or `from_config` make it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, attention: Attention = "sdpa") -> ImageTransformer:
        """Build one with random weights from the contents of a config.json; its errors as of `load_image_transformer`."""
        return cls(build_model(config, kinds=KINDS, attention=attention))

    def save(self, folder: Path) -> None:
        """Write a folder that `load_image_transformer` reads."""
        save_model(self.model, folder)

    @property
    def settings(self) -> Any:
        """The network's own configuration."""
        return self.model.config

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return str(self.settings.model_type)

    @property
    def width(self) -> int:
        """Size d of a token."""
        return int(self.settings.hidden_size)

    @property
    def n_layers(self) -> int:
        """Transformer layers."""
        return int(self.settings.num_hidden_layers)

    @property
    def n_special(self) -> int:
        """Tokens in front of the patches."""
        return KINDS[self.kind]

    @property
    def size(self) -> tuple[int, int]:
        """Height (Mel bands) and width (frames) of the pictures that it takes."""
        if self.kind == "audio-spectrogram-transformer":
            return int(self.settings.num_mel_bins), int(self.settings.max_length)
        return _pair(self.settings.image_size)

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width of a patch."""
        return _pair(self.settings.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows (Mel) and columns (time) of the patches."""
        stride = self.patch
        if self.kind == "audio-spectrogram-transformer":
            stride = (int(self.settings.frequency_stride), int(self.settings.time_stride))
        rows, cols = ((n - p) // s + 1 for n, p, s in zip(self.size, self.patch, stride, strict=True))
        return rows, cols

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse a recipe whose pictures have another size; RecipeError ``CHI-RC-105``."""
        if tuple(size) != self.size:
            raise RecipeError(
                "CHI-RC-105",
                f"the speech pictures are {size[0]} x {size[1]} (Mel x time), the audio encoder takes {self.size[0]} x {self.size[1]}.",
                "Set the size of the pictures in the recipe to the encoder's.",
            )

    def forward(self, pixels: Tensor, *, keep_attention: bool = False, all_layers: bool = False) -> EncoderOutput:
        """Encode pictures.

        Parameters
        ----------
        pixels : Tensor, shape (B, 3, H, W)
            As `speech_images.to_images` makes them, row 0 the lowest band. The Audio Spectrogram Transformer takes the
            first plane, turned to (B, W, H).
        keep_attention, all_layers : bool
            Whether to return attention maps and every layer's tokens.

        Raises
        ------
        ValueError
            For pictures of another size, or for maps where attention is not 'eager'.
        """
        check_attention(self.model, keep_attention)
        out = self.model(self._input(pixels), output_attentions=keep_attention, output_hidden_states=all_layers)
        return EncoderOutput(
            out.last_hidden_state,
            tuple(out.attentions) if keep_attention else None,
            tuple(out.hidden_states) if all_layers else None,
            self.n_special,
            self.grid,
        )

    def encode_visible(self, pixels: Tensor, visible: Tensor) -> Tensor:
        """Encode the patches `visible` (B, k), numbers of patches, as if there were no others.

        Returns
        -------
        Tensor, shape (B, n_special + k, d)
            Special tokens, then the patches in the order of `visible`.
        """
        model: Any = self.model
        tokens = model.embeddings(self._input(pixels))
        patches = tokens[:, self.n_special :]
        patches = patches.gather(1, visible[..., None].expand(-1, -1, patches.shape[2]))
        tokens = torch.cat([tokens[:, : self.n_special], patches], dim=1)
        for layer in model.layers:
            tokens = layer(tokens)
        encoded: Tensor = model.layernorm(tokens)
        return encoded

    def _input(self, pixels: Tensor) -> Tensor:
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, *self.size):
            raise ValueError(
                f"pictures must have shape (B, 3, {self.size[0]}, {self.size[1]}), not {tuple(pixels.shape)}"
            )
        return pixels[:, 0].transpose(1, 2) if self.kind == "audio-spectrogram-transformer" else pixels


def load_image_transformer(folder: Path, *, attention: Attention = "sdpa") -> ImageTransformer:
    """Load a DeiT, ViT or AST from a local folder (config.json, model.safetensors), in evaluation mode.

    Parameters
    ----------
    folder : Path
    attention : 'sdpa' or 'eager'
        'eager' where attention maps are wanted.

    Raises
    ------
    WeightsError
        ``CHI-WT-030`` to ``CHI-WT-034``.
    """
    return ImageTransformer(load_model(folder, kinds=KINDS, attention=attention))


def reduce_tokens(output: EncoderOutput, reduce: Reduce, *, keep_special: bool = False) -> Tensor:
    """Reduce an image encoder's tokens to what the classifier sees.

    Parameters
    ----------
    output : EncoderOutput
        Of an `ImageTransformer`, tokens of shape (B, n_special + rows * cols, d).
    reduce : 'patches', 'time' or 'chunk'
        All patches; the mean over the Mel rows, one token a column; the class token alone.
    keep_special : bool
        With 'patches': keep the special tokens in front.

    Returns
    -------
    Tensor, shape (B, T, d)
        T is rows * cols (and n_special), cols, or 1.
    """
    rows, cols = output.grid
    patches = output.tokens[:, output.n_special :]
    if patches.shape[1] != rows * cols or not rows:
        raise ValueError(f"{patches.shape[1]} patches are no grid of {rows} x {cols}")
    if reduce == "patches":
        return output.tokens if keep_special else patches
    if reduce == "time":
        return patches.reshape(len(patches), rows, cols, -1).mean(1)
    if reduce == "chunk":
        return output.tokens[:, :1]
    raise ValueError(f"reduce must be 'patches', 'time' or 'chunk', not {reduce!r}")


def _pair(value: Any) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)
