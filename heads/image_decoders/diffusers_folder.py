"""Components of diffusion pipelines from local folders in diffusers' form: safetensors only, no network, no safety checker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...data.errors import WeightsError

CODES: dict[str, str] = {
    "CHI-WT-077": "the folder of an image decoder lacks one of its components",
    "CHI-WT-078": "a component of an image decoder is damaged or is not of the kind that the decoder needs",
    "CHI-WT-079": "a component of an image decoder is there only as a pickle file, which is never read",
    "CHI-WT-080": "an image decoder's network takes conditions of another size than the decoder gives",
}

_CONFIGS = ("config.json", "scheduler_config.json")


def load_component(
    folder: Path, name: str, kind: Any, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Any:
    """Load a network of diffusers or transformers from ``folder/name``, frozen and in evaluation mode.

    Parameters
    ----------
    folder : Path
        Of the whole pipeline.
    name : str
        Of the component's own folder.
    kind : type
        Class of diffusers or transformers.
    device : torch.device or str
    dtype : torch.dtype

    Raises
    ------
    WeightsError
        ``CHI-WT-077`` to ``CHI-WT-079``.
    """
    place = component_folder(folder, name)
    if not any(place.glob("*.safetensors")):
        pickled = any(place.glob("*.bin")) or any(place.glob("*.pt"))
        raise WeightsError(
            "CHI-WT-079" if pickled else "CHI-WT-077",
            f"'{name}' has no safetensors weights{', only a pickle' if pickled else ''}.",
            "Fetch the safetensors form; pickles can run code and are not read.",
            file=folder.name,
        )
    from safetensors import SafetensorError

    precision = {"dtype" if kind.__module__.startswith("transformers.") else "torch_dtype": dtype}
    with quiet():
        try:
            model, report = kind.from_pretrained(
                place,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **precision,
                **_memory(kind),
            )
        except (SafetensorError, RuntimeError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unfit(folder, name, type(error).__name__) from error
    missing = [key for key in report["missing_keys"] if "position_ids" not in key]
    if missing or report["mismatched_keys"]:
        raise _unfit(folder, name, f"{len(missing)} tensors missing, {len(report['mismatched_keys'])} of another shape")
    return model.eval().requires_grad_(False).to(device)


def load_scheduler(folder: Path, kind: Any, *, name: str = "scheduler", **changes: Any) -> Any:
    """Build a scheduler of `kind` with the betas of a folder's scheduler, whatever kind that is.

    Raises
    ------
    WeightsError
        ``CHI-WT-077``, ``CHI-WT-078``.
    """
    place = component_folder(folder, name)
    with quiet():
        try:
            return kind.from_config(json.loads((place / "scheduler_config.json").read_text("utf-8")), **changes)
        except (OSError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
            raise _unfit(folder, name, type(error).__name__) from error


def load_tokenizer(folder: Path, name: str) -> Any:
    """Load CLIP's tokenizer from ``folder/name``.

    Raises
    ------
    WeightsError
        ``CHI-WT-077``, ``CHI-WT-078``.
    """
    from transformers import CLIPTokenizer

    place = folder / name
    found = [place / file for file in ("tokenizer.json", "vocab.json") if (place / file).is_file()]
    if not found:
        raise WeightsError(
            "CHI-WT-077",
            f"'{name}' has no tokenizer.json or vocab.json.",
            "Give the folder of the whole pipeline in diffusers' form.",
            file=folder.name,
        )
    with quiet():
        try:
            for path in found:  # the library answers broken JSON with a bare Exception
                if not isinstance(json.loads(path.read_text("utf-8")), dict):
                    raise TypeError(path.name)
            return CLIPTokenizer.from_pretrained(place, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unfit(folder, name, type(error).__name__) from error


def component_folder(folder: Path, name: str) -> Path:
    """Return a component's folder; ``CHI-WT-077`` where it is missing."""
    place = folder / name
    if not any((place / config).is_file() for config in _CONFIGS):
        there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        raise WeightsError(
            "CHI-WT-077",
            f"there is no '{name}' with its configuration; there are: {', '.join(there) or 'none'}.",
            "Give the folder of the whole pipeline in diffusers' form, one folder a component.",
            file=folder.name,
        )
    return place


def check_size(folder: Path, what: str, found: object, wanted: object) -> None:
    """Refuse a network that takes conditions of another size; ``CHI-WT-080``."""
    if found != wanted:
        raise WeightsError(
            "CHI-WT-080",
            f"{what} is {found} in the network, and the decoder gives {wanted}.",
            "Give the weights that belong to this kind of decoder, or name the kind that belongs to the weights.",
            file=folder.name,
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep loaders' reports and progress bars off the terminal; what they say is checked here."""
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    before = ours.get_verbosity(), theirs.get_verbosity()
    bars = ours.is_progress_bar_enabled(), theirs.is_progress_bar_enabled()
    for library in (ours, theirs):
        library.set_verbosity(library.ERROR)
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level, bar in zip((ours, theirs), before, bars, strict=True):
            library.set_verbosity(level)
            if bar:
                library.enable_progress_bar()


def _memory(kind: Any) -> dict[str, bool]:
    """Diffusers warns where it may save memory and accelerate is not there."""
    if kind.__module__.startswith("transformers."):
        return {}
    from importlib.util import find_spec

    return {"low_cpu_mem_usage": find_spec("accelerate") is not None}


def _unfit(folder: Path, name: str, why: str) -> WeightsError:
    return WeightsError(
        "CHI-WT-078", f"'{name}' is damaged or of another kind ({why}).", "Fetch the folder again.", file=folder.name
    )
