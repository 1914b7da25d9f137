"""The encoder of a Whisper in CTranslate2's form (faster-whisper, or the two packages that bring Whisper base) as a weights folder."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ....data.errors import ToolError, WeightsError
from ....encoders.whisper_conversion import whisper_folder_from_ctranslate2
from ..tensors import read_tensors, write_folder
from ..weights import MODEL_FILE
from .convert import Description

FILE = "model.bin"


def convert_whisper(source: Path | Sequence[Path], folder: Path, description: Description) -> None:
    """Write the encoder's weights folder; nothing is written where anything is wrong.

    Parameters
    ----------
    source : Path or sequence of Path
        ``model.bin``, the folder that it lies in, or the pieces that it was cut into, in order.
    folder : Path
        The weights folder to write: transformers' form, float32.
    description : Description
        With the sha256 of the whole ``model.bin`` where it is known.

    Raises
    ------
    ToolError
        ``CHI-TL-013``.
    WeightsError
        ``CHI-WT-015``, ``CHI-WT-016``, ``CHI-WT-037``.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ToolError(
            "CHI-TL-013",
            "Whisper's encoder is a network of transformers, which is not installed.",
            'Install it with `pip install "chiasm[speech]"`.',
        )
    parts = _parts(source)
    known = description.hashes.get("model")
    if known and _sha256(parts) != known:
        raise WeightsError(
            "CHI-WT-016",
            "this is not the file that the list names: its sha256 differs.",
            "Fetch or install it again.",
            file=parts[0].name,
        )
    with tempfile.TemporaryDirectory(prefix="chiasm-") as scratch:
        whisper_folder_from_ctranslate2(parts, Path(scratch) / "net")
        config = json.loads((Path(scratch) / "net" / "config.json").read_text("utf-8"))
        tensors = read_tensors(Path(scratch) / "net" / MODEL_FILE)
    write_folder(folder, {"model": tensors}, {**config, **description.config()}, _card(folder.name, description))


def _parts(source: Path | Sequence[Path]) -> list[Path]:
    if not isinstance(source, Path):
        if source:
            return list(source)
        raise WeightsError(
            "CHI-WT-015",
            "the Python packages that bring Whisper base are not installed.",
            'Install them with `pip install "chiasm[asr]"`, or give a Whisper in CTranslate2\'s form.',
        )
    path = source / FILE if source.is_dir() else source
    if not path.is_file():
        raise WeightsError(
            "CHI-WT-015",
            f"'{path.name}' is not there.",
            f"Give {FILE} of a Whisper in CTranslate2's form, or its folder.",
        )
    return [path]


def _sha256(parts: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes())
    return digest.hexdigest()


def _card(name: str, description: Description) -> str:
    return (
        f"# {name}\n\n{description.title or 'The encoder of a Whisper.'}\n\n| | |\n| --- | --- |\n"
        f"| source | {description.source or 'not stated'} |\n| licence | {description.licence} |\n| stored as | float32 |\n\n"
        "The encoder half only; container and names of the tensors changed, their values did not. "
        "Radford et al., Robust speech recognition via large-scale weak supervision, ICML 2023.\n"
    )
