"""Where the files of a tar lie: one bounded pass over its headers, nothing is unpacked.

Source of the format: POSIX.1-2001 `pax`, ustar header blocks. Webdataset tars are plain (not compressed) and each sample is the
run of members that share the part of the name before the first dot.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..atomic import resource_error
from ..containment import entries, inside
from ..errors import InputError

CODES = {
    "CHI-IN-280": "A tar of samples is damaged, was cut off, or is compressed.",
    "CHI-IN-281": "A tar of samples holds links, folders inside names, or members that are no plain files.",
    "CHI-IN-282": "A sample lacks a file, or has it twice.",
    "CHI-IN-285": "A file changed or was cut off since the data set was opened.",
}

BLOCK = 512
MAX_MEMBERS = 2_000_000
MAX_MEMBER_BYTES = 1 << 30
_MAX_EXTENDED_BYTES = 1 << 16
_REGULAR, _FOLDER, _EXTENDED = (b"0", b"\0"), b"5", (b"x", b"g")
_OCTAL = re.compile(rb"[0-7]{0,12}")
_NAME = re.compile(r"(?:\./)?([A-Za-z0-9_-]{1,80})\.([A-Za-z0-9_.]{1,60})")


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes inside a file.

    Parameters
    ----------
    path : Path
        A tar, or the file itself.
    offset, size : int
        In bytes.
    """

    path: Path
    offset: int
    size: int

    def read(self, most: int = MAX_MEMBER_BYTES) -> bytes:
        """Return up to `most` of the bytes; fewer where the file was cut off meanwhile.

        Raises
        ------
        InputError
            ``CHI-IN-285``.
        """
        try:
            with self.path.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), min(self.size, most), self.offset)
        except OSError as error:
            raise changed(self.path.name) from error


Samples = dict[str, dict[str, Part]]
"""Key of a sample -> ending (``jpg``, ``nsdgeneral.npy``) -> where its bytes are."""


def tar_samples(path: Path, endings: Collection[str], *, relative: str = "") -> Samples:
    """Index the samples of an uncompressed tar.

    Parameters
    ----------
    path : Path
    endings : collection of str
        Members with other endings are passed over.
    relative : str
        For messages.

    Raises
    ------
    InputError
        ``CHI-IN-280`` to ``CHI-IN-282``.
    """
    name = relative or path.name
    found: Samples = {}
    for member, offset, size in _members(path, name):
        match = _NAME.fullmatch(member)
        if match is None:
            continue
        key, ending = match.groups()
        if ending in endings:
            sample = found.setdefault(key, {})
            if ending in sample:
                raise InputError("CHI-IN-282", f"a sample has two files .{ending}.", "Fetch the tar again.", file=name)
            sample[ending] = Part(path, offset, size)
    return found


def folder_samples(folder: Path, endings: Collection[str], root: Path) -> Samples:
    """Index the samples of an unpacked tar: ``KEY.ENDING`` files in one folder.

    Raises
    ------
    InputError
        ``CHI-IN-067``, ``CHI-IN-068``: a link leads out of `root`.
    """
    found: Samples = {}
    for entry in entries(folder):
        match = _NAME.fullmatch(entry.name)
        if match is None or match[2] not in endings:
            continue
        trouble = inside(entry, root)
        if trouble is not None:
            raise trouble
        if entry.is_file():
            found.setdefault(match[1], {})[match[2]] = Part(Path(entry.path), 0, entry.stat().st_size)
    return found


def changed(name: str) -> InputError:
    """Return the error for a file that is not what it was when the data set was opened."""
    return InputError(
        "CHI-IN-285", "the file changed or was cut off since it was opened.", "Start again with whole files.", file=name
    )


def _members(path: Path, name: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of every regular member."""
    try:
        with path.open("rb", buffering=0) as file:
            descriptor, length = file.fileno(), os.fstat(file.fileno()).st_size
            place, n_members = 0, 0
            extended: dict[str, str] = {}
            while True:
                block = os.pread(descriptor, BLOCK, place)
                if block == bytes(BLOCK):
                    return
                header = _header(block, name, first=place == 0)
                size = int(extended.get("size", header.size)) if header.kind != _FOLDER else 0
                end = place + BLOCK + size
                n_members += 1
                if not 0 <= size <= MAX_MEMBER_BYTES or end > length or n_members > MAX_MEMBERS:
                    raise _damaged("a member is longer than the file, or larger than 1 GiB", name)
                if header.kind in _EXTENDED:
                    extended = _extended(os.pread(descriptor, min(size, _MAX_EXTENDED_BYTES + 1), place + BLOCK), name)
                else:
                    if header.kind != _FOLDER:
                        yield _plain_name(header, extended.get("path", header.name), name), place + BLOCK, size
                    extended = {}
                place = end + -end % BLOCK
    except OSError as error:
        coded = resource_error(error, name)
        if coded is not None and coded.code in ("CHI-RES-013", "CHI-RES-014"):
            raise coded from error
        raise _damaged("it is missing or may not be read", name) from error


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    size: int
    kind: bytes


def _header(block: bytes, name: str, *, first: bool) -> _Header:
    """Read the fields of a header block that matter here: `tarfile` reads all, which takes four times as long."""
    if len(block) < BLOCK:
        raise _damaged("it ends without the mark that ends a tar", name)
    if first and block[:2] in (b"\x1f\x8b", b"BZ", b"\xfd7"):
        raise _damaged("it is compressed", name)
    size = _number(block[124:136])
    # The sum counts its own eight bytes as blanks.
    if size is None or _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise _damaged("a header is damaged", name)
    member = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    full = prefix + b"/" + member if prefix else member
    kind = b"5" if full.endswith(b"/") and block[156:157] in _REGULAR else block[156:157]
    return _Header(full.decode("utf-8", "surrogateescape"), size, kind)


def _number(field: bytes) -> int | None:
    """Return an octal number, or one in base 256 where the first bit says so; None where it is neither."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ")
    return int(digits or b"0", 8) if _OCTAL.fullmatch(digits) else None


def _extended(data: bytes, name: str) -> dict[str, str]:
    """Return path and size from the records of a pax header: ``LENGTH KEY=VALUE`` and a line end each."""
    records: dict[str, str] = {}
    if len(data) > _MAX_EXTENDED_BYTES:
        raise _damaged("an extended header is larger than 64 KiB", name)
    while data.strip(b"\0"):
        digits, _, _ = data[:12].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[len(digits) + 1 : length - 1]
        if not len(digits) + 1 < length <= len(data) or b"=" not in record:
            raise _damaged("an extended header is damaged", name)
        key, _, value = record.decode("utf-8", "replace").partition("=")
        records[key] = value
        data = data[length:]
    size = records.get("size", "0")
    if not (size.isascii() and size.isdigit() and len(size) <= 15):
        raise _damaged("an extended header is damaged", name)
    return {key: records[key] for key in ("path", "size") if key in records}


def _plain_name(header: _Header, member: str, name: str) -> str:
    plain = member.removeprefix("./")
    if header.kind not in _REGULAR or "/" in plain or "\\" in plain or plain in ("", ".."):
        raise InputError(
            "CHI-IN-281",
            "the tar holds a link, a device, or a file in a folder; only plain files stand in the published tars.",
            "Pack the samples again as plain files, without folders.",
            file=name,
        )
    return plain


def _damaged(problem: str, name: str) -> InputError:
    return InputError(
        "CHI-IN-280",
        f"the tar cannot be used: {problem}.",
        "Fetch it again and compare its size with the published one; do not compress it.",
        file=name,
    )
