"""Sessions from a table: ``patient  session  channel  path``, tab-separated, every mistake collected with its line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from .assignment import lacking, required_channels, several
from .containment import contained
from .errors import ChiasmError, InputError, SeveralErrors, did_you_mean
from .loose import search
from .patients import LABEL, Recording, Session
from .recognition import MASK, ChannelRule, Image, sniff

COLUMNS = ("patient", "session", "channel", "path")
_REQUIRED_COLUMNS = ("patient", "channel", "path")
_MAX_BYTES = 1 << 28
_MAX_ERRORS = 50
_Wrong = Callable[[str, str, str], None]


def manifest_sessions(manifest: Path, root: Path, rules: Mapping[str, ChannelRule]) -> list[tuple[str, Session]]:
    """Read a manifest; paths are relative to its folder, then to `root`; absolute paths must exist.

    An optional fifth column ``volume`` picks one 3-D volume of a 4-D file. An empty session or ``n/a`` means none.

    Raises
    ------
    InputError
        ``CHI-IN-082`` the file cannot be read, ``CHI-IN-075`` its header is wrong.
    SeveralErrors
        Every wrong line: ``CHI-IN-076`` (fields), ``077`` (label), ``078`` (channel), ``079`` (no such file),
        ``080`` (path leaves the folder), ``083`` (not an image).
    """
    lines = _lines(manifest)
    header = _header(lines[0] if lines else "", manifest.name)
    errors: list[ChiasmError] = []
    grouped: dict[tuple[str, str], list[tuple[str, Image, int | None]]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        row = _row(line, header, number, manifest.name, errors)
        if row is None:
            continue
        entry = _entry(row, number, manifest, root, rules, errors)
        if entry is not None:
            key, channel, image, volume = entry
            grouped.setdefault(key, []).append((channel, image, volume))
        if len(errors) >= _MAX_ERRORS:
            break
    if errors:
        raise errors[0] if len(errors) == 1 else SeveralErrors(errors)
    return [(rows[0][1].relative, _session(key, rows, rules)) for key, rows in grouped.items()]


def _lines(manifest: Path) -> list[str]:
    remedy = "Give a tab-separated UTF-8 text file with the columns patient, session, channel, path."
    try:
        if manifest.stat().st_size > _MAX_BYTES:
            raise InputError("CHI-IN-082", "The manifest is larger than 256 MiB.", remedy, file=manifest.name)
        return manifest.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError("CHI-IN-082", "The manifest is not UTF-8 text.", remedy, file=manifest.name) from None
    except OSError as error:
        raise InputError(
            "CHI-IN-082", f"The manifest cannot be read ({error.strerror}).", remedy, file=manifest.name
        ) from error


def _header(line: str, name: str) -> list[str]:
    header = [column.strip() for column in line.split("\t")]
    missing = [column for column in _REQUIRED_COLUMNS if column not in header]
    unknown = [column for column in header if column and column not in (*COLUMNS, "volume")]
    doubled = sorted({column for column in header if header.count(column) > 1})
    if not missing and not doubled:
        return header
    hint = "".join(did_you_mean(column, COLUMNS) for column in unknown[:1])
    got = "no tab: are the columns separated by commas or spaces?" if "\t" not in line else f"{len(header)} columns."
    trouble = f"columns missing: {', '.join(missing)}" if missing else f"columns twice: {', '.join(doubled)}"
    raise InputError(
        "CHI-IN-075", f"line 1: {trouble}; got {got}{hint}", f"The header is: {' <tab> '.join(COLUMNS)}.", file=name
    )


def _row(line: str, header: list[str], number: int, name: str, errors: list[ChiasmError]) -> dict[str, str] | None:
    fields = [value.strip() for value in line.split("\t")]
    if len(fields) != len(header):
        errors.append(
            InputError(
                "CHI-IN-076",
                f"line {number}: {len(fields)} fields, the header has {len(header)}.",
                "Separate fields by one tab each; write n/a for an empty session.",
                file=name,
            )
        )
        return None
    return dict(zip(header, fields, strict=True))


def _entry(
    row: Mapping[str, str],
    number: int,
    manifest: Path,
    root: Path,
    rules: Mapping[str, ChannelRule],
    errors: list[ChiasmError],
) -> tuple[tuple[str, str], str, Image, int | None] | None:
    before = len(errors)

    def wrong(code: str, message: str, remedy: str) -> None:
        errors.append(InputError(code, f"line {number}: {message}", remedy, file=manifest.name))

    patient = row["patient"].removeprefix("sub-")
    session = row.get("session", "").removeprefix("ses-")
    session = "" if session == "n/a" else session
    for column, label in (("patient", patient), ("session", session or "none")):
        if not LABEL.fullmatch(label):
            wrong("CHI-IN-077", f"the {column} is not a label.", "Labels are 1 to 64 letters and digits.")
    channel = row["channel"]
    if channel not in rules and channel != MASK:
        allowed = [*rules, MASK] if MASK not in rules else list(rules)
        hint = did_you_mean(channel, allowed)
        wrong("CHI-IN-078", f"the recipe has no such channel.{hint}", f"Channels are: {', '.join(allowed)}.")
    volume = row.get("volume", "").replace("n/a", "")
    if volume and not (volume.isascii() and volume.isdigit() and len(volume) < 6):
        wrong("CHI-IN-076", "the volume is not a whole number.", "Volumes count from 0.")
    image = _image(row["path"], manifest, root, wrong)
    if len(errors) > before or image is None:
        return None
    return (patient, session), channel, image, int(volume) if volume else None


def _image(text: str, manifest: Path, root: Path, wrong: _Wrong) -> Image | None:
    path = _locate(text, manifest, root, wrong)
    if path is None:
        return None
    shown = path.relative_to(root).as_posix() if root in path.parents else path.name
    if path.is_dir():
        series = [image for image in search(path, path.parent, path).images if image.kind == "dicom"]
        if len(series) != 1:
            wrong("CHI-IN-083", f"the folder holds {len(series)} DICOM series, not one.", "Give one series' folder.")
            return None
        return Image(kind="dicom", files=series[0].files, relative=shown, inner=series[0].inner)
    try:
        kind, shape = sniff(path)
    except OSError as error:
        wrong("CHI-IN-079", f"the file cannot be opened ({error.strerror}).", "Check its permissions.")
        return None
    # A DICOM file stands for its series only where it is multi-frame: one slice is refused by the reader.
    return Image(kind=kind or "nifti", files=(path,), relative=shown, inner=(path.name,), shape=shape)


def _locate(text: str, manifest: Path, root: Path, wrong: _Wrong) -> Path | None:
    given = Path(text)
    if not text or "\0" in text or ".." in given.parts:
        wrong("CHI-IN-080", "the path is empty or climbs with '..'.", "Give a path below the manifest or the input.")
        return None
    if given.is_absolute():
        if given.exists():
            return Path(os.path.realpath(given))
        wrong("CHI-IN-079", "there is no such file.", "Check the absolute path.")
        return None
    for base in (manifest.parent.resolve(), root):
        path = base / given
        if not os.path.lexists(path):
            continue
        trouble = contained(path, base)
        if trouble is None:
            return path
        wrong("CHI-IN-080", trouble.message, trouble.remedy)
        return None
    wrong("CHI-IN-079", "there is no such file.", "Paths are relative to the manifest's folder or the input folder.")
    return None


def _session(
    key: tuple[str, str], rows: list[tuple[str, Image, int | None]], rules: Mapping[str, ChannelRule]
) -> Session:
    recordings: list[Recording] = []
    problems: list[ChiasmError] = []
    for name in (*rules, *([MASK] if MASK not in rules else [])):
        claimed = [(image, volume) for channel, image, volume in rows if channel == name]
        if len(claimed) > 1:
            problems.append(several(name, [image for image, _ in claimed]))
        for image, volume in claimed[:1]:
            recordings.append(
                Recording(
                    channel=name, kind=image.kind, files=image.files, relative=image.relative, volume_index=volume
                )
            )
    have = [r.channel for r in recordings]
    missing = [name for name in required_channels(rules) if name not in have]
    if missing:
        problems.append(lacking(missing, have, [image for _, image, _ in rows]))
    return Session(patient=key[0], session=key[1], recordings=tuple(recordings), problems=tuple(problems))
