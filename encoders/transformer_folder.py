"""Transformers' encoders from local folders: read as data, never as code, never from the network."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..data.errors import WeightsError

CODES: dict[str, str] = {
    "CHI-WT-030": "the folder of an encoder is not there, or lacks config.json or the weights",
    "CHI-WT-031": "an encoder's config.json is not readable, or transformers cannot build a network from it",
    "CHI-WT-032": "the network of the folder is of a kind that this encoder does not take",
    "CHI-WT-033": "an encoder's weights are there only as a pickle file, which is never read",
    "CHI-WT-034": "an encoder's weights are damaged or do not fit its config.json",
}

Attention = Literal["sdpa", "eager"]
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# What some published files carry or lack and no encoder here uses: heads, and the pooler behind the first token.
UNUSED = ("pooler.", "cls.", "classifier.", "lm_head.", "embeddings.position_ids", "embeddings.mask_token")

# What a folder of this project says beside transformers' fields: not handed on, or a fine-tuned copy would carry the
# licence, the training and the sha256 of the weights that it began with.
OWN_FIELDS = (
    "channels", "files", "kind", "licence", "output", "parameters", "sha256", "source", "statement", "trained_from",
    "training", "training_data",
)  # fmt: skip


@dataclass(frozen=True)
class EncoderOutput:
    """What an encoder returns.

    Parameters
    ----------
    tokens : Tensor, shape (B, N, d)
        Of the last layer.
    attentions : tuple of Tensor, each of shape (B, heads, N, N), or None
        Of every layer; rows are queries and sum to one.
    hidden : tuple of Tensor, each of shape (B, N, d), or None
        Embeddings, then every layer's output. The last one is before the final layer norm where the network has one.
    n_special : int
        Tokens at the beginning that stand for the whole input; 0 for text, where they also stand at the end.
    grid : (int, int)
        Rows (Mel) and columns (time) of the patches behind them; (0, 0) for text.
    """

    tokens: Tensor
    attentions: tuple[Tensor, ...] | None = None
    hidden: tuple[Tensor, ...] | None = None
    n_special: int = 0
    grid: tuple[int, int] = (0, 0)


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json.

    Raises
    ------
    WeightsError
        ``CHI-WT-030`` folder or file missing, ``CHI-WT-031`` not a JSON object with a ``model_type``.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(
            "CHI-WT-030",
            "config.json missing." if folder.is_dir() else "there is no such folder.",
            "Give the local folder of a model in transformers' form: config.json and model.safetensors.",
            file=folder.name,
        )
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise WeightsError(
            "CHI-WT-031",
            "config.json is not a JSON object with a 'model_type'.",
            "Fetch the folder again.",
            file=folder.name,
        )
    return config


def load_model(
    folder: Path, *, kinds: Collection[str], attention: Attention, unused: tuple[str, ...] = ()
) -> nn.Module:
    """Load a folder's network in float32, in evaluation mode, without head and pooler.

    ``from_pretrained`` is used because it alone knows how older names of tensors map to the present ones.

    Parameters
    ----------
    folder : Path
    kinds : collection of str
        Values of ``model_type`` that are taken.
    attention : 'sdpa' or 'eager'
        Only 'eager' can return attention maps.
    unused : tuple of str
        Beginnings of names of tensors that the file may lack.

    Raises
    ------
    WeightsError
        ``CHI-WT-030`` to ``CHI-WT-034``.
    """
    config = read_config(folder)
    check_kind(config, kinds, folder.name)
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
        settings = _settings(config, folder.name)
        kind = _class_of(settings)
        try:
            model, report = kind.from_pretrained(
                folder,
                config=settings,
                local_files_only=True,
                use_safetensors=True,
                attn_implementation=attention,
                dtype=torch.float32,
                output_loading_info=True,
                **_without_pooler(kind),
            )
        except (safetensors.SafetensorError, RuntimeError, OSError, ValueError, KeyError) as error:
            raise _unfit(folder.name, type(error).__name__) from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(UNUSED + unused))
    if missing or report["mismatched_keys"]:
        raise _unfit(folder.name, f"{len(missing)} tensors missing, {len(report['mismatched_keys'])} of another shape")
    return _prepared(model)


def build_model(config: Mapping[str, Any], *, kinds: Collection[str], attention: Attention) -> nn.Module:
    """Build a network with random weights from what its config.json would hold.

    Raises
    ------
    WeightsError
        ``CHI-WT-031`` or ``CHI-WT-032``.
    """
    check_kind(config, kinds, "")
    with quiet():
        settings = _settings(config, "")
        kind = _class_of(settings)
        model = kind._from_config(settings, attn_implementation=attention, dtype=torch.float32, **_without_pooler(kind))
    return _prepared(model)


def save_model(model: nn.Module, folder: Path) -> None:
    """Write config.json and model.safetensors so that `load_model` gives the same network again."""
    with quiet():
        model.save_pretrained(folder)  # type: ignore[operator]


def check_kind(config: Mapping[str, Any], kinds: Collection[str], name: str) -> None:
    """Refuse a network of another kind; ``CHI-WT-032``."""
    if config.get("model_type") not in kinds:
        raise WeightsError(
            "CHI-WT-032",
            f"the network is a '{config.get('model_type')}'; allowed: {', '.join(sorted(kinds))}.",
            "Name a folder with one of these.",
            file=name,
        )


def check_attention(model: nn.Module, keep_attention: bool) -> None:
    """Raise ValueError where maps are asked for that would come back empty without a word."""
    kind = model.config._attn_implementation  # type: ignore[union-attr]
    if keep_attention and kind != "eager":
        raise ValueError(f"attention maps need attention='eager'; the encoder was loaded with '{kind}'")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' load reports and progress bars off the terminal; what they say is checked here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.ERROR)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _settings(config: Mapping[str, Any], name: str) -> Any:
    from transformers import CONFIG_MAPPING

    fields = {key: value for key, value in config.items() if key not in ("auto_map", "model_type", *OWN_FIELDS)}
    try:
        return CONFIG_MAPPING[config["model_type"]].from_dict(fields)
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            "CHI-WT-031", f"config.json describes no network ({type(error).__name__}).", "Fetch it again.", file=name
        ) from error


def _class_of(settings: Any) -> Any:
    from transformers import MODEL_MAPPING

    return MODEL_MAPPING[type(settings)]


def _without_pooler(kind: Any) -> dict[str, bool]:
    import inspect

    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind.__init__).parameters else {}


def _prepared(model: Any) -> nn.Module:
    module: nn.Module = model
    return module.eval()


def _unfit(name: str, why: str) -> WeightsError:
    return WeightsError(
        "CHI-WT-034",
        f"the weights are damaged or do not fit config.json ({why}).",
        "Fetch the folder again.",
        file=name,
    )
