"""Headers of audio whose samples are all there: WAV (RIFF, RIFX, RF64, WAVE_EXTENSIBLE), AIFF and AIFF-C, FLAC.

Layouts: Microsoft "Multiple Channel Audio Data and WAVE Files"; EBU Tech 3306 (RF64); Apple "Audio Interchange File Format AIFF-C";
RFC 9639 (FLAC).
"""

from __future__ import annotations

from collections.abc import Iterator

from .audio_claims import CONVERT, Claims, Source, contradiction, refuse

_MAX_CHUNKS = 2048
_OPEN_END = 0xFFFFFFFF  # RF64: the size stands in ds64; else written by a program that could not go back to fill it in
_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_EXTENSIBLE_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_MAX_FLAC_RATIO = 65_535 / 10  # samples a byte: one frame of 65,535 equal samples takes more than ten
_AIFC_FLOATS = {b"fl32": 32, b"FL32": 32, b"fl64": 64, b"FL64": 64}
_AIFC_PLAIN = {b"NONE", b"sowt", b"twos", b"in24", b"in32", b"42n1", b"23n1", b"raw "}
_AIFC_LAWS = {b"ulaw", b"ULAW", b"alaw", b"ALAW"}


def read_wav(source: Source) -> Claims:
    """Read the chunks of a RIFF, RIFX or RF64 file up to its samples."""
    magic = source.bytes(0, 12)
    order = ">" if magic[:4] == b"RIFX" else "<"
    layout: tuple[int, int, int] | None = None
    long_data: int | None = None
    for name, offset, size in _chunks(source, order):
        if name == b"ds64":
            long_data = source.unpack("<Q", offset + 8)[0]
        elif name == b"fmt ":
            layout = _wav_format(source, order, offset, size)
        elif name == b"data":
            if layout is None:
                contradiction("samples stand before the chunk that says what they are")
            if size == _OPEN_END and magic[:4] in (b"RF64", b"BW64"):
                if long_data is None:
                    contradiction("an RF64 file has no ds64 chunk")
                size = long_data
            elif size == _OPEN_END:
                size = source.size - offset
            block = layout[1] * layout[2] // 8
            there = max(min(size, source.size - offset), 0)
            return _counted("wav", layout, size // block, there // block)
    if layout is None:
        refuse("CHI-IN-203", "the file ends before the chunk that says what its samples are.", CONVERT)
    return refuse("CHI-IN-208", "the file has a header and no samples.", "Copy the recording again from the recorder.")


def _chunks(source: Source, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, place and size of each chunk; what follows an odd size is padded by one byte."""
    offset = 12
    for _ in range(_MAX_CHUNKS):
        head = source.some(offset, 8)
        if len(head) < 8:
            return
        size = int.from_bytes(head[4:], "big" if order == ">" else "little")
        yield head[:4], offset + 8, size
        offset += 8 + size + size % 2
    contradiction(f"it has more than {_MAX_CHUNKS} chunks")


def _wav_format(source: Source, order: str, offset: int, size: int) -> tuple[int, int, int]:
    """Return rate, channels and bits of the container of one sample."""
    if size < 16:
        contradiction(f"its format chunk has {size} bytes; 16 are the least")
    tag, channels, rate, _, align, bits = source.unpack(f"{order}HHIIHH", offset)
    if tag == _EXTENSIBLE:
        if size < 40:
            contradiction(f"its extensible format chunk has {size} bytes; 40 are the least")
        guid = source.bytes(offset + 24, 16)
        tag = int.from_bytes(guid[:2], "big" if order == ">" else "little")
        if order == "<" and guid[2:] != _EXTENSIBLE_TAIL:
            refuse("CHI-IN-207", "the samples have a coding that only its maker knows.", CONVERT)
    if not 1 <= channels <= 64:
        _refuse_channels(channels)
    if tag not in (_PCM, _FLOAT, _ALAW, _MULAW):
        refuse("CHI-IN-207", f"the WAV coding has number {tag}; PCM, float, A-law and mu-law are read.", CONVERT)
    allowed = {_PCM: range(1, 33), _FLOAT: (32, 64)}.get(tag, (8,))
    if bits not in allowed:
        refuse("CHI-IN-207", f"a sample has {bits} bits; 8 to 32, and float with 32 or 64, are read.", CONVERT)
    if align != channels * ((bits + 7) // 8):
        contradiction(f"{channels} channels of {bits} bits do not make blocks of {align} bytes")
    return rate, channels, (bits + 7) // 8 * 8


def _refuse_channels(channels: int) -> None:
    refuse("CHI-IN-206", f"the header claims {channels} channels; 1 to 64 are possible.", CONVERT)


def _counted(name: str, layout: tuple[int, int, int], n_claimed: int, n_there: int) -> Claims:
    rate, channels, bits = layout
    if rate < 1:
        return Claims(format=name, rate=rate, channels=channels, bits=bits)
    return Claims(
        format=name, rate=rate, channels=channels, bits=bits, duration_s=n_claimed / rate, there_s=n_there / rate
    )


def read_aiff(source: Source) -> Claims:
    """Read the chunks of an AIFF or AIFF-C file: its description and where its samples lie, in any order."""
    is_c = source.bytes(0, 12)[8:] == b"AIFC"
    layout: tuple[int, int, int] | None = None
    n_frames, there = 0, None
    for name, offset, size in _chunks(source, ">"):
        if name == b"COMM":
            layout, n_frames = _aiff_format(source, offset, size, is_c)
        elif name == b"SSND":
            there = max(min(size, source.size - offset) - 8, 0)
    if layout is None:
        refuse("CHI-IN-203", "the file ends before the chunk that says what its samples are.", CONVERT)
    if n_frames and there is None:
        refuse("CHI-IN-208", "the file has a header and no samples.", "Copy the recording again from the recorder.")
    return _counted("aiff", layout, n_frames, min((there or 0) // (layout[1] * layout[2] // 8), n_frames))


def _aiff_format(source: Source, offset: int, size: int, is_c: bool) -> tuple[tuple[int, int, int], int]:
    if size < (22 if is_c else 18):
        contradiction(f"its description has {size} bytes")
    channels, n_frames, bits = source.unpack(">HIH", offset)
    exponent, mantissa = source.unpack(">HQ", offset + 8)
    shift = exponent - 16383 - 63  # 80-bit extended precision: mantissa x 2^shift
    rate = 0 if not -64 < shift <= 0 else mantissa >> -shift
    coding = source.bytes(offset + 18, 4) if is_c else b"NONE"
    if not 1 <= channels <= 64:
        _refuse_channels(channels)
    if coding in _AIFC_FLOATS:
        bits = _AIFC_FLOATS[coding]
    elif coding in _AIFC_LAWS:
        bits = 8
    elif coding not in _AIFC_PLAIN:
        refuse("CHI-IN-207", "the AIFF-C coding is neither plain, float, A-law nor mu-law.", CONVERT)
    elif not 1 <= bits <= 32:
        refuse("CHI-IN-207", f"a sample has {bits} bits; 8 to 32 are read.", CONVERT)
    return (rate, channels, (bits + 7) // 8 * 8), n_frames


def read_flac(source: Source, start: int) -> Claims:
    """Read the STREAMINFO block of a FLAC stream that begins at byte `start`."""
    (head,) = source.unpack(">I", start + 4)
    if (head >> 24) & 0x7F or head & 0xFFFFFF != 34:
        contradiction("its first block is not STREAMINFO")
    return flac_claims(source.bytes(start + 8, 34), source.size, "flac")


def flac_claims(info: bytes, n_bytes: int, name: str) -> Claims:
    """Return what the 34 bytes of a STREAMINFO block say about a file of `n_bytes`."""
    packed = int.from_bytes(info[10:18], "big")
    rate, channels, bits = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    n_samples = packed & (1 << 36) - 1
    if bits < 4:
        refuse("CHI-IN-207", f"a sample has {bits} bits; FLAC has 4 to 32.", CONVERT)
    if not n_samples or not rate:  # a stream whose length was not known when it was begun
        return Claims(format=name, rate=rate, channels=channels, bits=bits)
    most = int(n_bytes * _MAX_FLAC_RATIO)
    there = min(n_samples, most)
    return Claims(
        format=name, rate=rate, channels=channels, bits=bits, duration_s=n_samples / rate, there_s=there / rate
    )
