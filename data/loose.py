"""Sessions from folders that follow no standard: patient folders with loose files, flat folders, one single file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .assignment import assign, recording, required_channels
from .bids import empty_folder
from .containment import IGNORED, entries, inside
from .errors import ChiasmError, InputError
from .patients import Session
from .recognition import ChannelRule, Image, case_name, clean_label, named_nifti, sniff, stem

MAX_DEPTH = 8
MAX_FILES = 200_000
NNUNET_CASE = re.compile(r"(?P<case>.+)_(?P<index>\d{4})$")
_VISIT = re.compile(
    r"(ses|session|visit|tp|timepoint|baseline|followup|fu|month|year|week|m|y|w)[-_ ]?\d*"
    r"|(19|20)\d\d[-_]?[01]\d[-_]?[0-3]\d",
    re.IGNORECASE,
)
_NEVER_IMAGES = (
    *(".json", ".txt", ".tsv", ".csv", ".md", ".html", ".xml", ".log", ".py", ".pdf"),
    *(".png", ".jpg", ".jpeg", ".bval", ".bvec"),
)


@dataclass
class Found:
    """What lies under one patient folder."""

    images: list[Image] = field(default_factory=list)
    problems: list[ChiasmError] = field(default_factory=list)
    n_other: int = 0


def loose_sessions(root: Path, rules: Mapping[str, ChannelRule]) -> list[tuple[str, Session]]:
    """Return each session with the relative path that it came from.

    A folder with ``imagesTs`` or ``imagesTr`` (nnU-Net, Decathlon) is read as that flat folder.
    """
    for layout in ("imagesTs", "imagesTr"):
        if (root / layout).is_dir() and (root / "dataset.json").is_file():
            return _flat(root / layout, root, rules)
    folders = [e for e in entries(root) if e.is_dir() and e.name not in IGNORED]
    here = search(root, root, root, deep=False)
    if any(image.kind == "dicom" for image in here.images) or _series_folders(folders, rules):
        return [(".", _session(clean_label(root.name), "", ".", search(root, root, root), rules))]
    found = _flat(root, root, rules) if here.images else []
    for folder in folders:
        found += _patient(folder, root, rules, must_have_images=not here.images)
    return found


def single_file(path: Path, rules: Mapping[str, ChannelRule]) -> list[tuple[str, Session]]:
    """Return the one session of a file given as input."""
    found = Found()
    _add_file(path, path.parent, path.parent, found, [])
    name = case_name(stem(path.name), rules) or stem(path.name)
    nnunet = NNUNET_CASE.fullmatch(stem(path.name))
    return [(path.name, _session(clean_label(nnunet["case"] if nnunet else name), "", path.name, found, rules))]


def search(folder: Path, base: Path, root: Path, *, deep: bool = True) -> Found:
    """Collect the images under `folder`; `base` is the patient's folder, `root` the input."""
    found = Found()
    dicom: list[Path] = []
    stack: list[tuple[Path, int]] = [(folder, 0)]
    seen = {folder.resolve()}
    n_files = 0
    while stack:
        here, depth = stack.pop()
        for entry in entries(here):
            trouble = inside(entry, root)
            if trouble is not None:
                found.problems.append(trouble)
            elif entry.is_dir():
                real = Path(entry.path).resolve() if entry.is_symlink() else Path(entry.path)
                if deep and depth < MAX_DEPTH and entry.name not in IGNORED and real not in seen:
                    seen.add(real)
                    stack.append((Path(entry.path), depth + 1))
            elif entry.is_file():
                n_files += 1
                if n_files > MAX_FILES:
                    found.problems.append(_too_many(here, root))
                    return found
                _add_file(Path(entry.path), base, root, found, dicom)
    if dicom:
        _add_series(sorted(dicom), base, root, found)
    found.images.sort(key=lambda image: image.relative)
    return found


def _too_many(folder: Path, root: Path) -> InputError:
    return InputError(
        "CHI-IN-069",
        f"More than {MAX_FILES} files in one patient's folder.",
        "Give the folder that holds one folder a patient.",
        file=folder.relative_to(root).as_posix(),
    )


def _add_file(path: Path, base: Path, root: Path, found: Found, dicom: list[Path]) -> None:
    if path.name.lower().endswith(_NEVER_IMAGES) or path.name == "DICOMDIR":
        return
    relative = path.relative_to(root).as_posix()
    try:
        kind, shape = sniff(path)
    except OSError:
        problem = InputError("CHI-IN-068", "The file cannot be opened.", "Check its permissions.", file=relative)
        found.problems.append(problem)
        return
    if kind == "dicom":
        dicom.append(path)
    elif kind == "nifti" or named_nifti(path.name):
        # A damaged file that is named like an image is kept: the reader says exactly what is wrong with it.
        inner = path.relative_to(base).parts
        found.images.append(Image(kind="nifti", files=(path,), relative=relative, inner=inner, shape=shape))
    else:
        found.n_other += 1


def _add_series(files: Sequence[Path], base: Path, root: Path, found: Found) -> None:
    from .dicom import scan_series

    try:
        scanned = scan_series(files, root)
    except InputError as error:
        found.problems.append(error)
        return
    for series in scanned:
        found.images.append(
            Image(
                kind="dicom",
                files=series.files,
                relative=series.relative,
                inner=series.files[0].relative_to(base).parts,
                words=series.words,
                problems=series.problems,
            )
        )


def _series_folders(folders: Sequence[os.DirEntry[str]], rules: Mapping[str, ChannelRule]) -> bool:
    """Whether every subfolder is named for a channel (``T1/``, ``FLAIR/``): then the folder is one patient."""
    return bool(folders) and all(not case_name(folder.name, rules) for folder in folders)


def _patient(
    folder: os.DirEntry[str], root: Path, rules: Mapping[str, ChannelRule], *, must_have_images: bool
) -> list[tuple[str, Session]]:
    patient = clean_label(folder.name)
    outside = inside(folder, root)
    if outside is not None:
        return [(folder.name, Session(patient=patient, problems=(outside,)))]
    path = Path(folder.path)
    visits = [e for e in entries(path) if e.is_dir() and _VISIT.fullmatch(e.name) and inside(e, root) is None]
    found: list[tuple[str, Session]] = []
    for visit in visits:
        relative = f"{folder.name}/{visit.name}"
        images = search(Path(visit.path), Path(visit.path), root)
        found.append((relative, _session(patient, clean_label(visit.name), relative, images, rules)))
    if not visits:
        images = search(path, path, root)
        if images.images or must_have_images:
            found.append((folder.name, _session(patient, "", folder.name, images, rules)))
    return found


def _session(patient: str, label: str, relative: str, found: Found, rules: Mapping[str, ChannelRule]) -> Session:
    if not found.images:
        problems = tuple(found.problems) or (empty_folder(relative),)
        return Session(patient=patient, session=label, problems=problems)
    recordings, problems = assign(found.images, rules)
    if problems:
        problems = (*found.problems, *problems)
    return Session(patient=patient, session=label, recordings=recordings, problems=problems)


def _flat(folder: Path, root: Path, rules: Mapping[str, ChannelRule]) -> list[tuple[str, Session]]:
    """Group the files of one folder into cases: by nnU-Net's ``case_0000``, else by what the names share."""
    found = search(folder, folder, root, deep=False)
    numbered = [NNUNET_CASE.fullmatch(stem(image.inner[-1])) for image in found.images]
    if found.images and all(numbered):
        return _numbered(found.images, [m for m in numbered if m], rules)
    cases: dict[str, list[Image]] = {}
    for image in found.images:
        cases.setdefault(case_name(stem(image.inner[-1]), rules), []).append(image)
    if "" in cases and len(cases) > 1:
        # "mask.nii.gz" beside named cases belongs to none of them: it stands alone, under its own name.
        cases = {name or stem(group[0].inner[-1]): group for name, group in cases.items()}
    sessions = []
    for name, group in cases.items():
        label = name or folder.name
        part = Found(images=group, problems=[])
        sessions.append((group[0].relative, _session(clean_label(label), "", group[0].relative, part, rules)))
    for problem in found.problems:
        label = clean_label(case_name(stem(problem.file.rsplit("/", 1)[-1]), rules) or "link")
        sessions.append((problem.file, Session(patient=label, problems=(problem,))))
    return sessions


def _numbered(
    images: Sequence[Image], names: Sequence[re.Match[str]], rules: Mapping[str, ChannelRule]
) -> list[tuple[str, Session]]:
    channels = required_channels(rules)
    cases: dict[str, dict[int, Image]] = {}
    for image, name in zip(images, names, strict=True):
        cases.setdefault(name["case"], {})[int(name["index"])] = image
    sessions = []
    for case, by_index in cases.items():
        first = min(by_index.values(), key=lambda image: image.relative)
        problems: tuple[ChiasmError, ...] = ()
        if sorted(by_index) != list(range(len(channels))):
            problems = (_wrong_indices(sorted(by_index), channels, first.relative),)
        kept = [recording(by_index[i], name) for i, name in enumerate(channels) if i in by_index]
        session = Session(patient=clean_label(case), recordings=tuple(kept), problems=problems)
        sessions.append((first.relative, session))
    return sessions


def _wrong_indices(got: Sequence[int], channels: Sequence[str], relative: str) -> InputError:
    listed = ", ".join(f"_{index:04d}" for index in got)
    wanted = ", ".join(f"_{index:04d} = {name}" for index, name in enumerate(channels))
    return InputError(
        "CHI-IN-073",
        f"The case has the channel files {listed}; the recipe needs {wanted}.",
        "Add or rename the files, or list them in --manifest.",
        file=relative,
    )
