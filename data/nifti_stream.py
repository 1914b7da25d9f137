"""Bytes of plain and gzipped files in order: never more than asked for, each read and hashed once."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from isal import igzip_lib, isal_zlib

from .atomic import resource_error
from .errors import InputError

DEFLATE_LIMIT = 1040
"""No deflate stream expands further than 1032 times: a greater claim is a lie that need not be tried."""
CHUNK = 1 << 18


class Digest(Protocol):
    """A hash of `hashlib`."""

    def update(self, data: bytes, /) -> None:
        """Take the next bytes."""


class PlainBytes:
    """Bytes of a file in order, each passed to the digest once."""

    def __init__(self, stream: BinaryIO, digest: Digest | None) -> None:
        self.stream, self.digest = stream, digest
        self.size = os.fstat(stream.fileno()).st_size
        self.limit = self.size

    def read(self, n: int) -> bytes:
        """Return up to `n` bytes; fewer only at the end."""
        data = self.stream.read(n)
        if self.digest is not None:
            self.digest.update(data)
        return data

    def fill(self, view: memoryview) -> int:
        """Fill the buffer; return how many bytes there were."""
        done = 0
        while done < len(view) and (data := self.read(min(len(view) - done, CHUNK))):
            view[done : done + len(data)] = data
            done += len(data)
        return done

    def skip(self, n: int) -> int:
        """Pass over up to `n` bytes; return how many there were."""
        done = 0
        while done < n and (data := self.read(min(n - done, CHUNK))):
            done += len(data)
        return done


class GzipBytes(PlainBytes):
    """The inflated bytes of a gzip file, possibly of several members, never more than asked for."""

    def __init__(self, raw: PlainBytes, start: bytes, relative: str) -> None:
        self.raw, self.relative = raw, relative
        self.size = raw.size
        self.limit = raw.size * DEFLATE_LIMIT
        self.pending, self.ended = start, False
        self.n_members, self.n_out = 1, 0
        self.member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    def read(self, n: int) -> bytes:
        """Return up to `n` inflated bytes; fewer only at the end."""
        parts: list[bytes] = []
        left = n
        while left and (data := self._some(left)):
            parts.append(data)
            left -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _some(self, most: int) -> bytes:
        while not self.ended:
            if self.member.eof and not self._next_member():
                break
            data = self.pending
            self.pending = b""
            if not data and self.member.needs_input:
                data = self.raw.read(CHUNK)
                if not data:
                    raise self._damaged("ends too early")
            try:
                out = self.member.decompress(data, most)
            except isal_zlib.error as error:  # type: ignore[misc]  # its stubs call the class a value
                raise self._damaged("is damaged") from error
            if out:
                self.n_out += len(out)
                return bytes(out)
        return b""

    def _next_member(self) -> bool:
        # Zero padding may follow a member (tapes, some archives); anything else must be another member.
        rest = bytes(self.member.unused_data).lstrip(b"\0")
        while not rest:
            data = self.raw.read(CHUNK)
            if not data:
                self.ended = True
                return False
            rest = data.lstrip(b"\0")
        if len(rest) == 1:
            rest += self.raw.read(CHUNK)
        self.n_members += 1
        # Thousands of empty members would cost time for nothing; block gzip has one for every 64 KB.
        if rest[:2] != b"\x1f\x8b" or self.n_members > 64 + self.n_out // 1024:
            raise self._damaged("is followed by something else")
        self.member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        self.pending = rest
        return True

    def _damaged(self, what: str) -> InputError:
        return InputError(
            "CHI-IN-006", f"the gzip stream {what}.", "Copy the file again from where it came.", file=self.relative
        )


@contextmanager
def open_bytes(path: Path, relative: str, digest: Digest | None) -> Iterator[PlainBytes]:
    """Open for reading; system errors become coded ones."""
    try:
        # Asked before opening: a named pipe would block, a device could be endless.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError("CHI-IN-001", "this is not a regular file.", "Give a .nii or .nii.gz file.", file=relative)
        with path.open("rb", buffering=0) as stream:
            plain = PlainBytes(stream, digest)
            start = plain.stream.read(2)
            if start == b"\x1f\x8b":
                if digest is not None:
                    digest.update(start)
                yield GzipBytes(plain, start, relative)
            else:
                stream.seek(0)
                yield plain
    except OSError as error:
        coded = resource_error(error, relative)
        if coded is not None and coded.code in ("CHI-RES-013", "CHI-RES-014"):
            raise coded from error
        raise InputError(
            "CHI-IN-001",
            "the file is missing or may not be read.",
            "Check the path and its permissions.",
            file=relative,
        ) from error
