"""Sessions of a BIDS dataset, by one pass of scandir (10^4 patients in seconds).

Source: the BIDS specification 1.10, entities and file-name template.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .assignment import lacking, recording, required_channels, several
from .containment import entries, inside
from .errors import ChiasmError, InputError
from .patients import Session
from .recognition import MASK, ChannelRule, Image, clean_label, named_nifti, stem

DATATYPES = frozenset("anat func dwi perf fmap swi pet".split())
_PROBED = 50


def is_bids(root: Path) -> bool:
    """Whether a folder is a BIDS dataset: it says so, or its ``sub-*`` folders have data-type folders."""
    subjects = [entry for entry in entries(root) if entry.name.startswith("sub-") and entry.is_dir()]
    if not subjects:
        return False
    return any(_has_datatype(Path(entry.path)) for entry in subjects[:_PROBED])


def _has_datatype(folder: Path) -> bool:
    for entry in entries(folder):
        if entry.name in DATATYPES and entry.is_dir():
            return True
        if (
            entry.name.startswith("ses-")
            and entry.is_dir()
            and any(e.name in DATATYPES for e in entries(Path(entry.path)))
        ):
            return True
    return False


def bids_sessions(root: Path, rules: Mapping[str, ChannelRule]) -> list[tuple[str, Session]]:
    """Return each session with the relative path of its folder."""
    found: list[tuple[str, Session]] = []
    for subject in entries(root):
        if not subject.name.startswith("sub-") or not subject.is_dir():
            continue
        patient = clean_label(subject.name)
        outside = inside(subject, root)
        if outside is not None:
            found.append((subject.name, Session(patient=patient, problems=(outside,))))
            continue
        children = entries(Path(subject.path))
        visits = [child for child in children if child.name.startswith("ses-") and child.is_dir()]
        for visit in visits:
            relative = f"{subject.name}/{visit.name}"
            outside = inside(visit, root)
            images, problems = ([], [outside]) if outside else _images(entries(Path(visit.path)), relative, root)
            label = clean_label(visit.name)
            found.append((relative, _session(patient, label, relative, images, problems, rules)))
        if not visits:
            images, problems = _images(children, subject.name, root)
            found.append((subject.name, _session(patient, "", subject.name, images, problems, rules)))
    return found


def _images(children: list[os.DirEntry[str]], relative: str, root: Path) -> tuple[list[Image], list[ChiasmError]]:
    images: list[Image] = []
    problems: list[ChiasmError] = []
    for child in children:
        if child.name not in DATATYPES or not child.is_dir():
            continue
        outside = inside(child, root)
        if outside is not None:
            problems.append(outside)
            continue
        for entry in entries(Path(child.path)):
            if not named_nifti(entry.name):
                continue
            outside = inside(entry, root)
            if outside is not None:
                problems.append(outside)
                continue
            where = f"{relative}/{child.name}/{entry.name}"
            images.append(
                Image(kind="nifti", files=(Path(entry.path),), relative=where, inner=(child.name, entry.name))
            )
    return images, problems


def _session(
    patient: str,
    label: str,
    relative: str,
    images: list[Image],
    problems: list[ChiasmError],
    rules: Mapping[str, ChannelRule],
) -> Session:
    if not images:
        problems = problems or [empty_folder(relative)]
        return Session(patient=patient, session=label, problems=tuple(problems))
    claims = _claims(images, rules)
    recordings = [recording(claimed[0], name) for name, claimed in claims.items() if len(claimed) == 1]
    trouble: list[ChiasmError] = [several(name, claimed) for name, claimed in claims.items() if len(claimed) > 1]
    missing = [name for name in required_channels(rules) if not claims[name]]
    if missing:
        # A link that leads outside may be why the channel is missing: say both.
        trouble += [*problems, lacking(missing, [r.channel for r in recordings], images)]
    return Session(patient=patient, session=label, recordings=tuple(recordings), problems=tuple(trouble))


def empty_folder(relative: str) -> InputError:
    """Return the error for a patient folder without images."""
    return InputError(
        "CHI-IN-064",
        "The patient's folder has no image that can be used.",
        "Put NIfTI (.nii, .nii.gz) or DICOM files there, or remove the folder.",
        file=relative,
    )


def _claims(images: list[Image], rules: Mapping[str, ChannelRule]) -> dict[str, list[Image]]:
    claims: dict[str, list[Image]] = {name: [] for name in (*rules, MASK)}
    contrast: dict[str, list[Image]] = {name: [] for name in rules}
    for image in images:
        entities, suffix = entities_of(image.inner[-1])
        if suffix == "mask" and MASK not in rules:
            if entities.get("desc", "brain") == "brain" and entities.get("label", "brain") == "brain":
                claims[MASK].append(image)
            continue
        best: dict[str, int] = {}
        for name, rule in rules.items():
            best[name] = max((_fit(entities, suffix, wanted) for wanted in rule.suffixes), default=0)
        top = max(best.values(), default=0)
        for name, score in best.items():
            if score and score == top:
                plain = "ce" in entities and score == 1
                (contrast if plain else claims)[name].append(image)
    if len(required_channels(rules)) == 1:
        # Only an image with contrast agent and no other channel that could mean it: better than nothing.
        for name in rules:
            claims[name] = claims[name] or contrast[name]
    return claims


def entities_of(name: str) -> tuple[dict[str, str], str]:
    """Split ``sub-01_ce-gd_T1w.nii.gz`` into ``{'sub': '01', 'ce': 'gd'}`` and ``'T1w'``."""
    *pairs, suffix = stem(name).split("_")
    return dict(pair.split("-", 1) for pair in pairs if "-" in pair), suffix


def _fit(entities: Mapping[str, str], suffix: str, wanted: str) -> int:
    """Return 1 plus the number of entities asked for, or 0 where the file does not fit."""
    *pairs, last = wanted.split("_")
    if last != suffix:
        return 0
    for pair in pairs:
        key, _, value = pair.partition("-")
        if key not in entities or (value and entities[key] != value):
            return 0
    return 1 + len(pairs)
