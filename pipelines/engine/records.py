"""Done-records: what a session became, from what, by what. Written last; resume reads nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...data.atomic import write_json
from ...data.patients import Recording, Session

RECORD_SUFFIX = "_record.json"
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PatientRecord:
    """The outcome of one session under one recipe.

    Parameters
    ----------
    key, patient, session : str
    status : {'done', 'failed'}
    code, message, remedy, file : str
        Of the error; empty when done.
    row : dict
        Values for ``participants.tsv``: volumes in ml and the like.
    flags : list of str
        Quality flags, in words.
    inputs, outputs : dict of str to str
        File relative to IN / OUT -> sha256.
    recipe, options, version : str
        sha256 of the recipe and of the options, and the version of the code.
    weights : dict of str to str
        Component -> sha256 of its weights.
    plan : dict
        The plan that was used, after any out-of-memory step.
    """

    key: str
    patient: str
    session: str
    status: Literal["done", "failed"]
    code: str = ""
    message: str = ""
    remedy: str = ""
    file: str = ""
    row: dict[str, float | str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    recipe: str = ""
    options: str = ""
    version: str = ""
    weights: dict[str, str] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the record atomically."""
        write_json(path, asdict(self))


def record_path(out: Path, session: Session, recipe_name: str) -> Path:
    """Where the record of a session lies."""
    return out / session.folder / f"{session.key}_desc-{label_of(recipe_name)}{RECORD_SUFFIX}"


def label_of(recipe_name: str) -> str:
    """Return a recipe's name as a BIDS label: letters and digits only."""
    return "".join(character for character in recipe_name if character.isalnum()) or "recipe"


def read_record(path: Path) -> PatientRecord | None:
    """Return the record, or None where there is none or it is not one of ours."""
    try:
        tree = json.loads(path.read_bytes())
        return PatientRecord(**tree)
    except (OSError, ValueError, TypeError):
        return None


def iterate_records(out: Path, recipe_name: str) -> Iterator[PatientRecord]:
    """Yield every record of a recipe in an output folder, sorted by path."""
    pattern = f"_desc-{label_of(recipe_name)}{RECORD_SUFFIX}"
    folders = sorted(p for p in out.glob("sub-*") if p.is_dir())
    for folder in folders:
        for path in sorted([*folder.glob(f"*{pattern}"), *folder.glob(f"ses-*/*{pattern}")]):
            record = read_record(path)
            if record is not None:
                yield record


def sha256_of_file(path: Path) -> str:
    """Hash a file in 1 MiB steps."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_recording(recording: Recording) -> str:
    """Hash a recording: of its file, or of its files' hashes in their order."""
    if len(recording.files) == 1:
        return sha256_of_file(recording.files[0])
    digest = hashlib.sha256()
    for path in recording.files:
        digest.update(bytes.fromhex(sha256_of_file(path)))
    return digest.hexdigest()


def hash_inputs(session: Session, cache: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return file -> sha256 for every recording; what cannot be read is the word ``unreadable``."""
    hashes: dict[str, str] = {}
    for recording in session.recordings:
        if recording.relative in hashes:
            continue
        if cache is not None and recording.relative in cache:
            hashes[recording.relative] = cache[recording.relative]
            continue
        try:
            hashes[recording.relative] = sha256_of_recording(recording)
        except OSError:
            hashes[recording.relative] = "unreadable"
    return hashes
