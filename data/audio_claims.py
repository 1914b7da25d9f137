"""What an audio header claims, and how claims are refused: shared by the readers of the formats."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, NoReturn

from .errors import InputError

CODES: dict[str, str] = {
    "CHI-IN-200": "the audio file is missing, is no regular file, or may not be read",
    "CHI-IN-201": "the audio file is empty",
    "CHI-IN-202": "the file is not audio in a format that is read",
    "CHI-IN-203": "the audio file ends inside its header",
    "CHI-IN-204": "the audio header contradicts itself",
    "CHI-IN-205": "the sample rate lies outside 1 to 768 kHz",
    "CHI-IN-206": "the number of channels lies outside 1 to 64",
    "CHI-IN-207": "the coding of the audio samples is not supported",
    "CHI-IN-208": "the audio file holds no samples",
    "CHI-IN-209": "the audio file holds less than its header promises",
    "CHI-IN-210": "the recording is longer than 24 hours",
}

AGAIN = "Copy it again from where it came."
CONVERT = "Convert it to WAV, e.g. `ffmpeg -i FILE out.wav`."


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a header says, before the limits are applied.

    Parameters
    ----------
    format : str
        ``wav``, ``aiff``, ``flac``, ``ogg``, ``mp3``, ``m4a``, ``aac`` or ``amr``.
    rate : int
        Hz.
    channels : int
        0 where only the decoder can say it (AAC with its channels in the stream).
    bits : int, optional
        Of a stored sample; None where the coding is lossy.
    duration_s : float, optional
        None where the header does not say it.
    there_s : float, optional
        Seconds whose bytes are in the file, where that can be told from sizes.
    """

    format: str
    rate: int
    channels: int
    bits: int | None = None
    duration_s: float | None = None
    there_s: float | None = None


class Source:
    """A file that is read in small, bounded pieces.

    Parameters
    ----------
    stream : binary file
        Open for reading, seekable.
    size : int
        Its bytes.
    """

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self.size = stream, size

    def some(self, offset: int, n_bytes: int) -> bytes:
        """Return up to `n_bytes` (at most 1 MiB) from `offset`, fewer at the end."""
        if offset >= self.size:
            return b""
        self._stream.seek(offset)
        return self._stream.read(min(n_bytes, 1 << 20))

    def bytes(self, offset: int, n_bytes: int) -> bytes:
        """Return exactly `n_bytes`.

        Raises
        ------
        InputError
            CHI-IN-203 where the file ends before.
        """
        data = self.some(offset, n_bytes)
        if len(data) < n_bytes:
            refuse("CHI-IN-203", f"the file ends after {self.size:,} bytes, inside its header.", AGAIN)
        return data

    def unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        """Return the numbers at `offset`; CHI-IN-203 as `bytes`."""
        return struct.unpack(layout, self.bytes(offset, struct.calcsize(layout)))


def refuse(code: str, message: str, remedy: str) -> NoReturn:
    """Raise the coded error; the caller of the readers adds the file's name."""
    raise InputError(code, message, remedy)


def contradiction(what: str) -> NoReturn:
    """Refuse a header that cannot be true."""
    refuse("CHI-IN-204", f"the header contradicts itself: {what}.", CONVERT)
