"""Features kept by content: the key is what they were made from, so a stale entry cannot be found. Safetensors, never pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ....data.atomic import atomic_path
from ...speech_recipe import SpeechRecipe
from .features import SpeechFeatures
from .hearing import BACKGROUND_S, Sources, View

FORMAT = 3
"""Raised when what features are changes: older entries are then no longer found."""
_TENSORS = ("ids", "word_index", "text_tokens", "pixels", "audio_tokens", "audio_spans")


class FeatureCache:
    """A folder of features.

    Parameters
    ----------
    folder : Path
        Made when first written to. May be shared by studies, folds and processes: entries appear whole or not at all.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def key(
        self, sources: Sources, recipe: SpeechRecipe, hashes: Mapping[str, str], *, view: View, frozen: bool
    ) -> str:
        """Return the name of an entry: a hash of the files, of every setting that matters, and of the encoders.

        Parameters
        ----------
        sources : Sources
        recipe : SpeechRecipe
        hashes : mapping of str to str
            Of the encoders' weights and, where words are recognised, of the recogniser's, as `components.feature_hashes` gives them.
        view : {'participant', 'background', 'investigator'}
        frozen : bool
        """
        files = {
            name: _sha256(path)
            for name, path in (
                ("audio", sources.audio),
                ("transcript", sources.transcript),
                ("segments", sources.segments),
            )
            if path is not None
        }
        settings = recipe.model_dump(mode="json", include={"audio", "transcript"})
        # Pictures that are encoded later do not depend on the audio encoder, nor written words on the recogniser.
        unused = {name for name, used in (("audio", frozen), ("recogniser", sources.transcript is None)) if not used}
        encoders = {name: value for name, value in hashes.items() if name not in unused}
        heard = [view, BACKGROUND_S] if view == "background" else view
        whole = [FORMAT, files, settings, encoders, heard, frozen]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def has(self, key: str) -> bool:
        """Whether there is a whole entry; it is read for that, so that a damaged one is made again and nobody is lost from a study."""
        return self.read(key) is not None

    def read(self, key: str) -> SpeechFeatures | None:
        """Return an entry, or None where there is none or it is damaged (it is then made again)."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            text = metadata["about"]
            if metadata["sha256"] != _digest(text, tensors):
                return None
            about = json.loads(text)
            times = tuple(None if pair is None else (pair[0], pair[1]) for pair in about.pop("word_times"))
            return SpeechFeatures(words=tuple(about.pop("words")), word_times=times, **about, **tensors)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def write(self, key: str, features: SpeechFeatures) -> None:
        """Keep an entry."""
        about: dict[str, Any] = {
            "words": list(features.words),
            "word_times": list(features.word_times),
            "n_truncated": features.n_truncated,
            "facts": dict(features.facts),
        }
        tensors = {
            name: getattr(features, name).contiguous() for name in _TENSORS if getattr(features, name) is not None
        }
        text = json.dumps(about)
        with atomic_path(self._path(key)) as temporary:
            save_file(tensors, temporary, metadata={"about": text, "sha256": _digest(text, tensors)})

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(about: str, tensors: Mapping[str, Tensor]) -> str:
    """Hash what an entry holds: safetensors itself notices a file that was cut off, not a byte that changed."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
