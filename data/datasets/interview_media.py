"""What the challenge layouts share: parts with a folder a kind of file, a subfolder a label, a file a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..containment import IGNORED, entries, inside
from ..interviews import Interview, InterviewSet, Split
from ..recognition import clean_label
from ..speech_files import best_transcripts, is_folder, relative_to, speech_files
from .case import raise_all
from .interview_tables import Description, Findings, agreed, canonical_label

FilesByName = Mapping[str, tuple[Path, str | None]]
"""Stem -> file, and the label that its folder says."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The training or the test part of a data set."""

    folder: Path
    root: Path
    split: Split

    @classmethod
    def at(cls, folder: Path, root: Path) -> Part:
        """Return the part in a folder; its name says the split."""
        name = folder.name.lower()
        split: Split = "train" if name.startswith("train") else "test" if name.startswith("test") else ""
        return cls(folder=folder, root=root, split=split)

    @property
    def name(self) -> str:
        """For messages: its place in the input."""
        return relative_to(self.folder, self.root)

    def table_folders(self) -> list[Path]:
        """Return where its tables may lie: there, and in the folders above up to the input's own."""
        above = [folder for folder in self.folder.parents if folder == self.root or self.root in folder.parents]
        return [self.folder, *above]


def parts_below(root: Path, recognised: Callable[[Mapping[str, Path]], bool], *, depth: int) -> list[Path]:
    """Return the folders, `root` first, whose subfolders (by lower-case name) are recognised; none below such a folder."""
    folders = {entry.name.lower(): entry for entry in entries(root) if entry.name not in IGNORED and is_folder(entry)}
    if recognised({name: Path(entry.path) for name, entry in folders.items()}):
        return [root]
    if depth == 0:
        return []
    inner = [Path(entry.path) for entry in folders.values() if not entry.is_symlink()]
    return [part for folder in inner for part in parts_below(folder, recognised, depth=depth - 1)]


def subfolders(part: Part, findings: Findings) -> dict[str, Path]:
    """Return the folders of a part by lower-case name; a link that leads out of the data set is a mistake."""
    found = {}
    for entry in entries(part.folder):
        if entry.is_symlink() and (trouble := inside(entry, part.root)) is not None:
            findings.errors.append(trouble)
        elif is_folder(entry):
            found[entry.name.lower()] = Path(entry.path)
    return found


def note_absent(described: Iterable[str], found: Iterable[Interview], findings: Findings) -> None:
    """Note how many names of the tables have no file."""
    n = len({clean_label(name) for name in described} - {interview.name for interview in found})
    if n:
        findings.notes.append(f"{n} name(s) of the tables have no recording and no transcript: left out.")


def files_by_name(
    folder: Path | None, part: Part, findings: Findings, *, transcripts: bool = False
) -> dict[str, tuple[Path, str | None]]:
    """Return the recordings (or transcripts) under a folder by stem; the subfolder they lie in may say the label."""
    if folder is None:
        return {}
    files = speech_files(folder, part.root)
    findings.errors += files.problems
    found: dict[str, tuple[Path, str | None]] = {}
    paths = best_transcripts(files.transcripts) if transcripts else files.audio
    for path in paths:
        label = canonical_label(path.parent.name) if path.parent != folder else None
        name = path.stem.strip()
        if name in found:
            findings.wrong(
                "CHI-IN-172",
                "Two files have the name of one recording.",
                "Keep one of them.",
                file=relative_to(path, part.root),
            )
        found[name] = (path, label)
    return found


def interviews_of(
    part: Part,
    findings: Findings,
    *,
    described: Mapping[str, Description],
    audio: FilesByName,
    transcripts: FilesByName,
    segments: FilesByName | None = None,
) -> list[Interview]:
    """Put the files and rows of one name together; what is missing is counted in the notes."""
    segments = segments or {}
    found: list[Interview] = []
    for name in sorted({*audio, *transcripts}):
        row = described.get(name)
        from_folders = {
            label for files in (audio, transcripts, segments) if name in files and (label := files[name][1])
        }
        label, agree = agreed(min(from_folders, default=None), row)
        if len(from_folders) > 1 or not agree:
            findings.wrong(
                "CHI-IN-173",
                "The folder and a table (or two folders) say different labels.",
                "Correct the one that is wrong.",
                file=relative_to((audio.get(name) or transcripts[name])[0], part.root),
            )
        found.append(
            Interview(
                name=clean_label(name),
                person=clean_label(name),
                label=label,
                audio=audio[name][0] if name in audio else None,
                transcript=transcripts[name][0] if name in transcripts else None,
                segments=segments[name][0] if name in segments else None,
                split=part.split,
                age=row.age if row else None,
                sex=row.sex if row else None,
                mmse=row.mmse if row else None,
            )
        )
    _note(part, found, findings)
    return found


def _note(part: Part, found: list[Interview], findings: Findings) -> None:
    for what in ("audio", "transcript", "label", "mmse"):
        n = sum(getattr(interview, what) is None for interview in found)
        if n:
            findings.notes.append(f"{part.name}: {n} of {len(found)} interview(s) without {what}.")


def finished(layout: str, root: Path, found: list[Interview], findings: Findings) -> InterviewSet:
    """Return the set, sorted, or raise all that was found wrong: names that are there twice and an empty set too.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-171`` to ``CHI-IN-178``.
    """
    doubled = len(found) - len({interview.name.lower() for interview in found})
    if doubled:
        findings.wrong(
            "CHI-IN-172",
            f"{doubled} recording(s) have the name of another one (letters and digits count, not case).",
            "Rename them so that each has its own name.",
        )
    if not found and not findings.errors:
        findings.wrong("CHI-IN-174", "The data set has no recording and no transcript.", "Check that it is complete.")
    # A table above two parts is read for both: its mistakes are told once.
    raise_all(list({str(error): error for error in findings.errors}.values()))
    found = sorted(found, key=lambda interview: interview.name)
    return InterviewSet(layout=layout, root=root, interviews=tuple(found), notes=tuple(findings.notes))
