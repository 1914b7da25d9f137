"""BERT and its relatives over a transcript's words, with the way back from tokens to words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.errors import WeightsError
from .transformer_folder import Attention, EncoderOutput, build_model, check_attention, load_model, quiet, save_model

CODES: dict[str, str] = {
    "CHI-WT-035": "a text encoder's folder has no tokeniser that can be read",
    "CHI-WT-036": "a text encoder's tokeniser knows more tokens than its network",
}

KINDS = ("albert", "bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
_BYTE_LEVEL = ("roberta",)  # these tell a word's beginning by the blank before it, which separate words do not have
_OFFSET_POSITIONS = ("camembert", "roberta", "xlm-roberta")  # these count positions from pad_token_id + 1


@dataclass(frozen=True)
class TokenIds:
    """A text as the network takes it.

    Parameters
    ----------
    ids : Tensor of int64, shape (N,)
        With the special tokens at both ends.
    word_index : Tensor of int64, shape (N,)
        Which word each token belongs to; -1 for special tokens.
    n_truncated : int
        Words at the end of the text that have no token because there was no room.
    """

    ids: Tensor
    word_index: Tensor
    n_truncated: int = 0


class TextTransformer(nn.Module):
    """A BERT-like encoder and its tokeniser.

    Parameters
    ----------
    model : nn.Module
        Of one of `KINDS`, as `load_text_transformer` or `from_config` make it.
    tokeniser : transformers' fast tokeniser or None
    max_tokens : int
        Most tokens of a text, special ones included; never more than the network has positions for.
    """

    def __init__(self, model: nn.Module, tokeniser: Any = None, *, max_tokens: int = 512) -> None:
        super().__init__()
        self.model, self.tokeniser = model, tokeniser
        positions = int(self.settings.max_position_embeddings)
        if self.settings.model_type in _OFFSET_POSITIONS:
            positions -= int(self.settings.pad_token_id) + 1
        self.max_tokens = min(max_tokens, positions)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, tokeniser: Any = None, attention: Attention = "sdpa", max_tokens: int = 512
    ) -> TextTransformer:
        """Build one with random weights from the contents of a config.json; its errors as of `load_text_transformer`."""
        return cls(build_model(config, kinds=KINDS, attention=attention), tokeniser, max_tokens=max_tokens)

    def save(self, folder: Path) -> None:
        """Write a folder that `load_text_transformer` reads."""
        save_model(self.model, folder)
        if self.tokeniser is not None:
            self.tokeniser.save_pretrained(folder)

    @property
    def settings(self) -> Any:
        """The network's own configuration."""
        return self.model.config

    @property
    def width(self) -> int:
        """Size d of a token."""
        return int(self.settings.hidden_size)

    @property
    def n_layers(self) -> int:
        """Transformer layers."""
        return int(self.settings.num_hidden_layers)

    def tokenise(self, words: Sequence[str]) -> TokenIds:
        """Cut words into tokens; of a longer text the beginning is kept, and what is lost is counted."""
        tokeniser = self._tokeniser()
        with quiet():
            encoding = tokeniser(
                list(words),
                is_split_into_words=True,
                add_special_tokens=True,
                truncation=True,
                max_length=self.max_tokens,
                padding=False,
            ).encodings[0]
        index = [-1 if word is None else word for word in encoding.word_ids]
        beyond = {word for part in encoding.overflowing for word in part.word_ids if word is not None}
        return TokenIds(
            torch.tensor(encoding.ids, dtype=torch.int64),
            torch.tensor(index, dtype=torch.int64),
            len(beyond.difference(index)),
        )

    def collate(self, texts: Sequence[TokenIds]) -> tuple[Tensor, Tensor]:
        """Pad texts to the longest: ids (B, N) of int64 and mask (B, N), True where there is a token."""
        ids = [text.ids for text in texts]
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=int(self.settings.pad_token_id or 0))
        lengths = torch.tensor([len(row) for row in ids])
        return padded, torch.arange(padded.shape[1]) < lengths[:, None]

    def special(self, ids: Tensor) -> Tensor:
        """Return True where a token is the tokeniser's own (begin, end, padding); an unknown word's token is not."""
        known = self._tokeniser()
        names = ("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
        own = {value for name in names if (value := getattr(known, name, None)) is not None}
        return torch.isin(ids, torch.tensor(sorted(own), dtype=ids.dtype, device=ids.device))

    def forward(
        self, ids: Tensor, mask: Tensor, *, keep_attention: bool = False, all_layers: bool = False
    ) -> EncoderOutput:
        """Encode texts.

        Parameters
        ----------
        ids : Tensor of int64, shape (B, N)
        mask : Tensor of bool, shape (B, N)
            True where there is a token; padding stands on the right. Tokens at padding are returned as zero.
        keep_attention, all_layers : bool
            Whether to return attention maps and every layer's tokens.

        Raises
        ------
        ValueError
            For maps where attention is not 'eager', for texts that are too long.
        """
        check_attention(self.model, keep_attention)
        if ids.shape != mask.shape or ids.shape[1] > self.max_tokens:
            raise ValueError(
                f"ids {tuple(ids.shape)} and mask {tuple(mask.shape)}: equal, at most {self.max_tokens} tokens"
            )
        out = self.model(
            input_ids=ids, attention_mask=mask.long(), output_attentions=keep_attention, output_hidden_states=all_layers
        )
        padding = ~mask.bool()[..., None]
        return EncoderOutput(
            out.last_hidden_state.masked_fill(padding, 0),
            tuple(out.attentions) if keep_attention else None,
            tuple(layer.masked_fill(padding, 0) for layer in out.hidden_states) if all_layers else None,
        )

    def _tokeniser(self) -> Any:
        if self.tokeniser is None:
            raise ValueError("this text encoder was built without a tokeniser")
        return self.tokeniser


def load_text_transformer(folder: Path, *, attention: Attention = "sdpa", max_tokens: int = 512) -> TextTransformer:
    """Load a BERT-like encoder from a local folder (config.json, model.safetensors, tokenizer.json), in evaluation mode.

    Parameters
    ----------
    folder : Path
    attention : 'sdpa' or 'eager'
        'eager' where attention maps are wanted.
    max_tokens : int
        Longer texts are truncated; the network's own limit holds beside it.

    Raises
    ------
    WeightsError
        ``CHI-WT-030`` to ``CHI-WT-034`` for the network, ``CHI-WT-035`` and ``CHI-WT-036`` for the tokeniser.
    """
    model = load_model(folder, kinds=KINDS, attention=attention)
    tokeniser = load_tokeniser(folder, str(model.config.model_type))  # type: ignore[union-attr]
    n_tokens, n_known = len(tokeniser), int(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    if n_tokens > n_known:
        raise WeightsError(
            "CHI-WT-036",
            f"the tokeniser has {n_tokens} tokens, the network {n_known}.",
            "Take both from the same model.",
            file=folder.name,
        )
    return TextTransformer(model, tokeniser, max_tokens=max_tokens)


def load_tokeniser(folder: Path, kind: str) -> Any:
    """Load a folder's fast tokeniser.

    Parameters
    ----------
    folder : Path
    kind : str
        ``model_type`` of the network that it is for.

    Raises
    ------
    WeightsError
        ``CHI-WT-035``.
    """
    from transformers import AutoTokenizer

    extra = {"add_prefix_space": True} if kind in _BYTE_LEVEL else {}
    tokeniser, why = None, "no tokenizer.json or vocab.txt"
    if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")):
        try:
            with quiet():
                tokeniser = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True, **extra)
        except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
            why = type(error).__name__
    if tokeniser is None or not tokeniser.is_fast:
        raise WeightsError(
            "CHI-WT-035",
            f"the folder has no tokeniser that can be read ({why}).",
            "Fetch tokenizer.json.",
            file=folder.name,
        )
    return tokeniser
