"""Which subjects an input of betas holds: one session a subject, with the files that its result depends on."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from .containment import contained
from .datasets.fmri import subject_names
from .discovery import _chosen, _resolved
from .patients import Recording, Session

_SUBJECT = re.compile(r"(?:^|[/_])(?:sub-([A-Za-z0-9]+)|subj(\d+))(?=[/_.]|$)")
"""``sub-01``, ``subj01``: a path that says so belongs to that subject; every other one to all."""


def fmri_sessions(root: Path, *, participants: Sequence[str] = ()) -> list[Session]:
    """Find the subjects of an input, in the order of their names; nothing is read but names and small tables.

    Parameters
    ----------
    root : Path
        A data set in one of the layouts of `datasets.fmri`, or one subject's folder.
    participants : sequence of str
        Keep these only; ``sub-`` before the label is allowed.

    Returns
    -------
    list of Session
        Recordings: ``betas``, the subject's own files, and ``shared``, what all subjects share (stimuli, tables).

    Raises
    ------
    InputError
        ``CHI-IN-061``, ``CHI-IN-071``, and those of `datasets.fmri.subject_names`.
    """
    root = _resolved(root)
    names = subject_names(root)
    own: dict[str, list[Path]] = {_short(name): [] for name in names}
    shared: list[Path] = []
    for path in _files(root):
        relative = path.relative_to(root).as_posix()
        found = _SUBJECT.search(relative)
        if found is None:
            shared.append(path)
        elif (name := _short(found[1] or found[2])) in own:
            own[name].append(path)
    sessions = []
    for name in names:
        files = {"betas": own[_short(name)], "shared": shared}
        recordings = tuple(
            Recording(channel=channel, kind="betas", files=tuple(paths), relative=paths[0].relative_to(root).as_posix())
            for channel, paths in files.items()
            if paths
        )
        sessions.append(Session(patient=name, recordings=recordings))
    return _chosen(sessions, participants)


def root_of(session: Session) -> Path:
    """Return the input folder that a session was found in."""
    first = session.recordings[0]
    return Path(str(first.files[0])[: -len(first.relative)])


def _files(root: Path) -> list[Path]:
    """Return the files below `root`, sorted, without hidden ones, links that lead out, and what Chiasm wrote there itself."""
    found: list[Path] = []
    for place, folders, names in os.walk(root):
        folder = Path(place)
        if folder != root and _is_output(folder):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [folder / name for name in names if not name.startswith(".")]
        found += [path for path in paths if path.is_file() and contained(path, root) is None]
    return sorted(found)


def _is_output(folder: Path) -> bool:
    """Whether `chiasm run` or `chiasm train` writes there: results inside the input must not change what the input is."""
    if (folder / ".chiasm").is_dir() or ((folder / "fit").is_dir() and (folder / "betas").is_dir()):
        return True
    try:
        made_by = json.loads((folder / "dataset_description.json").read_bytes()[:100_000])["GeneratedBy"]
        return any(one["Name"] == "chiasm" for one in made_by)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _short(name: str) -> str:
    return name.lstrip("0") or "0"
