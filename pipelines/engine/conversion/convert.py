"""Turn the authors' checkpoint into a weights folder: read in a child, renamed, compared with the network, written."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ....data.atomic import write_json
from ....data.errors import SeveralErrors, WeightsError
from ..components import build_network
from ..manifest import ManifestEntry
from ..safetensors_header import read_header
from ..tensors import check_fit, read_tensors, write_folder
from ..weights import PIPELINE_FILE, sha256_of
from .brain import FORMATS, brain_parts
from .child import read_foreign
from .keys import RENAME

CODES = {
    "CHI-WT-015": "The authors' file is not where it was said to be.",
    "CHI-WT-016": "The authors' file is not the one that the list names: its sha256 differs.",
}


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the weights are: all that a checkpoint does not say itself.

    Parameters
    ----------
    kind : str
        A component kind, or ``swin-unetr-encoder``.
    parameters : dict
        Of the network.
    channels, output : tuple of str
        Input channels and outputs in order.
    training_data, statement, licence, source : str
        As in a weights folder's ``config.json``.
    files : dict of str to str
        Part -> the authors' file name; ``{"model": ...}`` for most.
    hashes : dict of str to (str or None)
        Part -> sha256 of the authors' file where it is known.
    half : bool
        Whether float16 is written.
    """

    kind: str
    parameters: dict[str, Any] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    training_data: str = "real"
    statement: str = "anatomy"
    licence: str = "not stated"
    source: str = ""
    title: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str | None] = field(default_factory=dict)
    half: bool = False

    @classmethod
    def of(cls, entry: ManifestEntry) -> Description:
        """Take everything from an entry of the list."""
        return cls(
            kind=entry.kind,
            parameters=entry.parameters,
            channels=entry.channels,
            output=entry.output,
            training_data=entry.training_data,
            statement=entry.statement,
            licence=entry.licence,
            source=entry.source or entry.page,
            title=entry.title,
            files=entry.files,
            hashes=entry.sha256,
            half=entry.half,
        )

    def config(self) -> dict[str, Any]:
        """Return the ``config.json`` of the folder, without its hashes."""
        return {
            "kind": self.kind,
            "parameters": self.parameters,
            "channels": list(self.channels),
            "output": list(self.output),
            "training_data": self.training_data,
            "statement": self.statement,
            "licence": self.licence,
            "source": self.source,
        }


def convert(source: Path, folder: Path, description: Description) -> list[str]:
    """Convert a checkpoint, or a folder of the files that a kind consists of.

    Parameters
    ----------
    source : Path
        The authors' file or the folder with their files.
    folder : Path
        The weights folder to write; nothing is written where anything is wrong.
    description : Description

    Returns
    -------
    list of str
        Sentences for the log: what was left out, which names in a pickle became placeholders.

    Raises
    ------
    WeightsError, SeveralErrors
        ``CHI-WT-005``, ``CHI-WT-010`` to ``CHI-WT-016`` and, of brain networks, ``CHI-WT-052`` to ``CHI-WT-055``.
    """
    notes: list[str] = []
    parts: dict[str, dict[str, Tensor]] = {}
    config = description.config()
    errors: list[WeightsError] = []
    for part, path in _sources(source, description.files or {"model": ""}).items():
        try:
            _check_hash(path, description.hashes.get(part))
            tensors = _read(path, notes)
            if description.kind == "sdxl-unclip":
                from ....heads.image_decoders.sgm_conversion import convert_sdxl_unclip

                convert_sdxl_unclip(tensors, folder)
                write_json(folder / PIPELINE_FILE, {"_class_name": description.kind, "source": description.source})
                return notes
            if description.kind == "image-judge":  # its architecture is torchvision's, which scoring loads
                parts[part] = tensors
            elif description.kind in FORMATS:
                found = brain_parts(tensors, description.kind, description.parameters, name=path.name, notes=notes)
                parts |= found.parts
                config |= found.config
            else:
                parts[part] = _fitting(tensors, description, path.name, notes)
        except WeightsError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else SeveralErrors(errors)
    write_folder(folder, parts, config, model_card(folder.name, description, notes), half=description.half)
    return notes


def model_card(name: str, description: Description, notes: Sequence[str]) -> str:
    """Write the card of a converted checkpoint: what is known, and that nothing was measured here."""
    known = {
        "kind": description.kind,
        "source": description.source or "not stated",
        "licence": description.licence,
        "channels, in order": ", ".join(description.channels) or "not stated",
        "output, in order": ", ".join(description.output) or "not stated",
        "trained on": f"{description.training_data} data",
        "stored as": "float16" if description.half else "as published",
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in known.items())
    lines = "\n".join(f"- {note}" for note in notes)
    title = f"\n{description.title}\n" if description.title else ""
    conversion = "The authors' file was read as data in a child process; only the container and the names changed."
    return f"# {name}\n{title}\n| | |\n| --- | --- |\n{rows}\n\n{conversion}\n\n{lines}\n".rstrip() + "\n"


def _check_hash(path: Path, known: str | None) -> None:
    if known and sha256_of(path) != known:
        raise WeightsError(
            "CHI-WT-016",
            "this is not the file that the list names: its sha256 differs.",
            "Fetch it again.",
            file=path.name,
        )


def _sources(source: Path, files: Mapping[str, str]) -> dict[str, Path]:
    if set(files) == {"model"} and source.is_file():
        return {"model": source}
    if source.is_dir():
        names = {part: name or "model.pt" for part, name in files.items()}
        found = {
            part: next((p for p in (source / n, source / "models" / n) if p.is_file()), None)
            for part, n in names.items()
        }
        missing = [names[part] for part, path in found.items() if path is None]
        if not missing:
            return {part: path for part, path in found.items() if path is not None}
        raise WeightsError(
            "CHI-WT-015", f"the folder has no {', '.join(missing)}.", "Give the folder with the authors' files."
        )
    expected = " and ".join(name for name in files.values() if name)
    what = "is not there" if not source.exists() else f"is one file, and these weights consist of {expected}"
    raise WeightsError(
        "CHI-WT-015", f"'{source.name}' {what}.", "Give the authors' file, or the folder with their files."
    )


def _read(path: Path, notes: list[str]) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_tensors(path)
    with tempfile.TemporaryDirectory(prefix="chiasm-") as scratch:
        raw = Path(scratch) / "raw.safetensors"
        inert = read_foreign(path, raw)
        read_header(raw)
        if inert:
            notes.append(f"{path.name}: not read, replaced by placeholders: {', '.join(inert)}.")
        return read_tensors(raw)


def _fitting(tensors: dict[str, Tensor], description: Description, name: str, notes: list[str]) -> dict[str, Tensor]:
    renamed = RENAME[description.kind](tensors)
    if len(renamed) < len(tensors):
        notes.append(f"{name}: {len(tensors) - len(renamed)} tensors are not part of the network and were left out.")
    encoder_only = description.kind == "swin-unetr-encoder"
    network = build_network("swin-unetr" if encoder_only else description.kind, description.parameters)
    wanted = network.state_dict()
    if encoder_only:
        wanted = {key: value for key, value in wanted.items() if key.startswith("swinViT.")}
    check_fit(wanted, renamed, name)
    return {key: value for key, value in renamed.items() if key in wanted}
