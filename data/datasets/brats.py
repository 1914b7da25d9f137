"""The BraTS layout: one folder a case, ``<case>_{flair,t1ce,t1,t2,seg}.nii.gz``, or the names of 2023 and later."""

from __future__ import annotations

import re
from pathlib import Path

from ..containment import entries
from ..errors import ChiasmError, InputError
from .case import LabelledCase, mistake, raise_all

CHANNELS = ("flair", "t1ce", "t1", "t2")
"""The channels by the names of BraTS 2021."""

_SINCE_2023 = {"t2f": "flair", "t1c": "t1ce", "t1n": "t1", "t2w": "t2"}
_FILE = re.compile(r"(?P<case>.+)[_-](?P<what>flair|t1ce|t1|t2|t2f|t1c|t1n|t2w|seg)\.nii(\.gz)?", re.IGNORECASE)
_TIME_POINT = re.compile(r"(?P<patient>BraTS-[A-Za-z]+-\d+)-\d{3}")


def is_brats(root: Path) -> bool:
    """Whether a folder of `root` has a file named like a BraTS label map."""
    for folder in entries(root)[:200]:
        if folder.is_dir() and any(
            (match := _FILE.fullmatch(entry.name)) and match["what"] == "seg" for entry in entries(Path(folder.path))
        ):
            return True
    return False


def cases(root: Path) -> list[LabelledCase]:
    """Return the labelled cases, sorted by name; time points of one patient share `patient`.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-146``: every folder that lacks a contrast or the label map, or has one twice.
    """
    errors: list[ChiasmError] = []
    found: list[LabelledCase] = []
    for folder in entries(root):
        if folder.is_dir():
            case = _case(Path(folder.path), errors)
            if case is not None:
                found.append(case)
    raise_all(errors)
    return found


def _case(folder: Path, errors: list[ChiasmError]) -> LabelledCase | None:
    files: dict[str, Path] = {}
    for entry in entries(folder):
        match = _FILE.fullmatch(entry.name)
        if match is None or not entry.is_file():
            continue
        what = match["what"].lower()
        what = _SINCE_2023.get(what, what)
        if what in files:
            errors.append(_wrong(folder, f"two files for {what}"))
            return None
        files[what] = Path(entry.path)
    if not files:
        return None  # no case: a folder of notes
    missing = [what for what in (*CHANNELS, "seg") if what not in files]
    if missing:
        errors.append(_wrong(folder, f"no file for {', '.join(missing)}"))
        return None
    time_point = _TIME_POINT.fullmatch(folder.name)
    return LabelledCase(
        name=folder.name,
        patient=time_point["patient"] if time_point else folder.name,
        images={channel: files[channel] for channel in CHANNELS},
        label=files["seg"],
    )


def _wrong(folder: Path, what: str) -> InputError:
    return mistake(
        "CHI-IN-146",
        f"The case has {what}.",
        "A case has <case>_flair, _t1ce, _t1, _t2 and _seg (or -t2f, -t1c, -t1n, -t2w, -seg) as .nii or .nii.gz.",
        file=folder.name,
    )
