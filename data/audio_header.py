"""The header of an audio file: read with every claim checked and every number bounded before anything is decoded."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .audio_claims import AGAIN, CODES, CONVERT, Claims, Source, refuse
from .audio_compressed import after_id3, is_adts, mp3_start, read_adts, read_amr, read_mp3, read_mp4, read_ogg
from .audio_pcm import read_aiff, read_flac, read_wav
from .errors import InputError

__all__ = ["CODES", "MAX_CHANNELS", "AudioHeader", "read_audio_header", "seconds_in_words"]

MIN_RATE, MAX_RATE = 1_000, 768_000
MAX_CHANNELS = 64
MAX_DURATION_S = 24 * 3600.0
_FORMATS = "WAV, AIFF, FLAC, Ogg, MP3, M4A, AAC and AMR are read"
_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (0, bytes.fromhex("3026b2758e66cf11"), "Windows Media"),
    (0, b"riff\x2e\x91\xcf\x11", "Sony Wave64"),
    (0, b"RIFF", "a RIFF file without sound, such as AVI"),
    (0, b".snd", "Sun AU"),
    (0, b"caff", "Apple CAF"),
    (0, b"NIST_1A", "NIST SPHERE"),
    (0, b"MThd", "MIDI"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"%PDF", "PDF"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"version https://git-lfs", "a pointer of git LFS, not the file itself"),
    (0, b"version https://git-annex", "a pointer of git-annex, not the file itself"),
    (128, b"DICM", "DICOM"),
)
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[Source], Claims]], ...] = (
    (lambda b: b[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and b"WAVE".startswith(b[8:12]), read_wav),
    (lambda b: b[:4] == b"FORM" and b[8:12] in (b"AIFF", b"AIFC"), read_aiff),
    (lambda b: b[:4] == b"OggS", read_ogg),
    (lambda b: b[4:8] in _MP4_BOXES, read_mp4),
    (lambda b: b[:5] == b"#!AMR", read_amr),
)


@dataclass(frozen=True, kw_only=True)
class AudioHeader:
    """What an audio file says of itself, once every claim that needs no decoding was checked.

    Parameters
    ----------
    format : str
        ``wav``, ``aiff``, ``flac``, ``ogg``, ``mp3``, ``m4a``, ``aac`` or ``amr``: by content, whatever the name.
    rate : int
        Hz, 1,000 to 768,000.
    channels : int
        1 to 64; 0 where only the decoder can say it.
    bits : int, optional
        Of a stored sample; None where the coding is lossy.
    duration_s : float, optional
        None where only decoding can tell.
    n_bytes : int
        Of the file.
    """

    format: str
    rate: int
    channels: int
    bits: int | None
    duration_s: float | None
    n_bytes: int


def read_audio_header(path: Path, *, relative: str = "") -> AudioHeader:
    """Read and check the header of an audio file; nothing is decoded.

    Parameters
    ----------
    path : Path
    relative : str
        The file's name for messages, relative to the input folder.

    Raises
    ------
    InputError
        CHI-IN-200 to 210 (`audio_claims.CODES`). A file that was cut off is refused with how many seconds of how many are there.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                refuse("CHI-IN-200", "this is no regular file.", "Give a file.")
            source = Source(stream, status.st_size)
            claims = _claims(source, named_mp3=path.suffix.lower() == ".mp3")
            _admit(claims)
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise InputError(
            "CHI-IN-200", f"the file cannot be read ({reason}).", "Check its name and its permissions.", file=relative
        ) from error
    except InputError as error:
        raise InputError(error.code, error.message, error.remedy, file=relative) from None
    return AudioHeader(
        format=claims.format,
        rate=claims.rate,
        channels=claims.channels,
        bits=claims.bits,
        duration_s=claims.duration_s,
        n_bytes=source.size,
    )


def _claims(source: Source, *, named_mp3: bool) -> Claims:
    """Find the reader by content and let it read."""
    start = source.some(0, 132)
    if not start:
        refuse("CHI-IN-201", "the file is empty.", AGAIN)
    for recognised, reader in _READERS:
        if recognised(start):
            return reader(source)
    behind = after_id3(source)
    if source.some(behind, 4) == b"fLaC":
        return read_flac(source, behind)
    if is_adts(source, behind):
        return read_adts(source, behind)
    place = mp3_start(source, behind, search=named_mp3 or behind > 0)
    if place is not None:
        return read_mp3(source, place)
    return _refuse_other(start)


def _refuse_other(start: bytes) -> Claims:
    found = next((name for offset, magic, name in _OTHERS if start[offset:].startswith(magic)), "")
    if not found and not start.strip(b"\0"):
        found = "nothing but zeros"
    elif not found and all(byte >= 32 or byte in b"\t\r\n\f" for byte in start):
        found = "text"
    found = found or "of no known format"
    return refuse("CHI-IN-202", f"the file is {found}; {_FORMATS}.", CONVERT)


def _admit(claims: Claims) -> None:
    if not MIN_RATE <= claims.rate <= MAX_RATE:
        refuse(
            "CHI-IN-205", f"the header claims {claims.rate:,} samples a second; 1,000 to 768,000 are possible.", CONVERT
        )
    unsaid = claims.format in ("aac", "m4a")
    if not (0 if unsaid else 1) <= claims.channels <= MAX_CHANNELS:
        refuse(
            "CHI-IN-206", f"the header claims {claims.channels} channels; 1 to {MAX_CHANNELS} are possible.", CONVERT
        )
    if claims.duration_s is None:
        return
    if claims.duration_s == 0:
        refuse("CHI-IN-208", "the file holds no samples.", "Copy the recording again from the recorder.")
    # Half a millisecond: programs that round sizes up to whole blocks are not liars.
    if claims.there_s is not None and claims.there_s < claims.duration_s - 5e-4:
        refuse_cut(claims.there_s, claims.duration_s)
    if claims.duration_s > MAX_DURATION_S:
        refuse(
            "CHI-IN-210",
            f"the header claims {seconds_in_words(claims.duration_s)}; a recording has at most 24 hours.",
            "Cut it to the part that is wanted.",
        )


def refuse_cut(there_s: float, claimed_s: float) -> None:
    """Refuse a recording of which only a part is in the file: a part would be judged as the whole."""
    refuse(
        "CHI-IN-209",
        f"the file holds {there_s:.1f} s of the {claimed_s:.1f} s that its header promises.",
        f"{AGAIN} If this is all there is, write a true header with `ffmpeg -i FILE -c copy OUT`.",
    )


def seconds_in_words(seconds: float) -> str:
    """Return ``12.3 s``, ``4 min 5 s`` or ``3 h 2 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600):,} h {int(seconds % 3600 // 60)} min"
