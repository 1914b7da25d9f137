"""Hostile audio files, made by code: each is refused with its own code, quickly, before memory is taken; odd but valid ones are read."""

from __future__ import annotations

import io
import os
import resource
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chiasm.data import audio, audio_claims
from chiasm.data.audio import AudioReader
from chiasm.data.audio_header import read_audio_header
from chiasm.data.errors import InputError
from chiasm.data.guard import Limits

RATE = 16_000
TONE = (np.sin(np.arange(RATE // 2) * 0.173) * 0.4).astype(np.float32)
PCM = (TONE * 32767).astype("<i2").tobytes()
NOISE = np.random.default_rng(0).bytes(20_000)
GUID = bytes.fromhex("000000001000800000aa00389b71")


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    """One RIFF chunk, padded to even; `size` lies."""
    return name + struct.pack("<I", len(data) if size is None else size) + data + b"\0" * (len(data) % 2)


def fmt(
    tag: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, *, align: int | None = None, more: bytes = b""
) -> bytes:
    align = channels * ((bits + 7) // 8) & 0xFFFF if align is None else align
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * align & 0xFFFFFFFF, align, bits) + more)


def riff(*chunks: bytes, magic: bytes = b"RIFF", size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return magic + struct.pack("<I", len(body) if size is None else size) + body


def wav(data: bytes = PCM, size: int | None = None, **fields: int) -> bytes:
    return riff(fmt(**fields), chunk(b"data", data, size))  # type: ignore[arg-type]


def extensible(tag: int = 1, tail: bytes = GUID, n: int = 22) -> bytes:
    return fmt(0xFFFE, more=(struct.pack("<HHIH", n, 16, 4, tag) + tail)[: n + 2])


def rf64(claimed: int, *, with_ds64: bool = True) -> bytes:
    ds64 = chunk(b"ds64", struct.pack("<QQQI", claimed + 72, claimed, claimed // 2, 0)) if with_ds64 else b""
    return riff(ds64, fmt(), chunk(b"data", PCM, 0xFFFFFFFF), magic=b"RF64", size=0xFFFFFFFF)


def flac(
    *, rate: int = RATE, channels: int = 1, bits: int = 16, n_samples: int = 8000, kind: int = 0, size: int = 34
) -> bytes:
    packed = rate << 44 | channels - 1 << 41 | bits - 1 << 36 | n_samples
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    return b"fLaC" + bytes([kind | 0x80]) + size.to_bytes(3, "big") + info + NOISE[:4000]


def aiff(
    *,
    channels: int = 1,
    frames: int = 8000,
    bits: int = 16,
    rate: int = RATE,
    exponent: int | None = None,
    body: bytes = PCM,
) -> bytes:
    n_bits = max(rate.bit_length(), 1)
    exponent = 16382 + n_bits if exponent is None else exponent
    comm = struct.pack(">HIHHQ", channels, frames, bits, exponent, rate << 64 - n_bits)
    data = b"COMM" + struct.pack(">I", 18) + comm + b"SSND" + struct.pack(">I", len(body) + 8) + bytes(8) + body
    return b"FORM" + struct.pack(">I", len(data) + 4) + b"AIFF" + data


def page(
    packet: bytes, *, position: int = 0, n_segments: int | None = None, serial: bytes = b"1234", first: bool = True
) -> bytes:
    lacing = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
    lacing = lacing if n_segments is None else bytes(n_segments)
    head = b"OggS\0" + (b"\2" if first else b"\0") + struct.pack("<Q", position) + serial + bytes(8)
    return head + bytes([len(lacing)]) + lacing + packet


def vorbis(channels: int = 1, rate: int = RATE) -> bytes:
    return b"\x01vorbis" + struct.pack("<IBIIIIBB", 0, channels, rate, 0, 64000, 0, 0xB8, 1)


def box(name: bytes, *inside: bytes, size: int | None = None) -> bytes:
    data = b"".join(inside)
    return struct.pack(">I", len(data) + 8 if size is None else size) + name + data


def m4a(
    *,
    rate: int = RATE,
    channels: int = 1,
    scale: int = RATE,
    length: int = 8000,
    handler: bytes = b"soun",
    mdat: int | None = None,
) -> bytes:
    entry = box(b"mp4a", bytes(16), struct.pack(">HHII", channels, 16, 0, rate << 16))
    mdhd = box(b"mdhd", bytes(12), struct.pack(">II", scale, length), bytes(4))
    stbl = box(b"minf", box(b"stbl", box(b"stsd", bytes(8), entry)))
    moov = box(b"moov", box(b"trak", box(b"mdia", mdhd, box(b"hdlr", bytes(8), handler, bytes(12)), stbl)))
    return box(b"ftyp", b"M4A ", bytes(4)) + moov + box(b"mdat", NOISE[:1000], size=mdat)


def id3(size: int) -> bytes:
    return b"ID3\x04\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0))


def mp3_frames(n: int, *, xing: int | None = None) -> bytes:
    """MPEG-2 layer III, 16 kHz, mono, 32 kbit/s: 144 bytes a frame, 36 ms."""
    frame = b"\xff\xf3\x48\xc0" + bytes(140)
    first = frame if xing is None else frame[:13] + b"Xing" + struct.pack(">II", 1, xing) + frame[25:]
    return first + frame * (n - 1)


def written(
    form: str, subtype: str | None = None, *, values: np.ndarray = TONE, rate: int = RATE, endian: str = "FILE"
) -> bytes:
    """What libsndfile writes."""
    stream = io.BytesIO()
    soundfile.write(stream, values, rate, format=form, subtype=subtype, endian=endian)
    return stream.getvalue()


def floats(bad: float, kind: str) -> bytes:
    values = np.append(TONE, bad).astype(kind)
    return wav(values.tobytes(), tag=3, bits=8 * values.itemsize)


GOOD = wav()
HOSTILE: dict[str, tuple[str, str, bytes | Callable[[], bytes]]] = {
    # nothing that is audio
    "empty": ("CHI-IN-201", "a.wav", b""),
    "one-byte": ("CHI-IN-202", "a.wav", b"R"),
    "text-named-wav": ("CHI-IN-202", "a.wav", b"@UTF8\n@Begin\n*PAR: the SECRET boy .\n" * 30),
    "html-named-mp3": ("CHI-IN-202", "a.mp3", b"<!DOCTYPE html><html>404</html>" * 40),
    "zeros": ("CHI-IN-202", "a.wav", bytes(4000)),
    "noise": ("CHI-IN-202", "a.flac", b"\0" + NOISE),
    "mp3-garbage": ("CHI-IN-202", "a.mp3", b"\xff\xfb" + NOISE),
    "mp3-syncs-only": ("CHI-IN-202", "a.mp3", b"\xff\xfb\x92" * 60_000),
    "mp3-one-frame-cut": ("CHI-IN-202", "a.mp3", mp3_frames(1)[:100]),
    "zip": ("CHI-IN-202", "a.wav", b"PK\x03\x04" + NOISE),
    "gzip": ("CHI-IN-202", "a.wav", b"\x1f\x8b" + NOISE),
    "avi": ("CHI-IN-202", "a.wav", b"RIFF" + struct.pack("<I", 4000) + b"AVI " + NOISE),
    "matroska": ("CHI-IN-202", "a.m4a", b"\x1aE\xdf\xa3" + NOISE),
    "wma": ("CHI-IN-202", "a.mp3", bytes.fromhex("3026b2758e66cf11") + NOISE),
    "wave64": ("CHI-IN-202", "a.wav", b"riff\x2e\x91\xcf\x11" + NOISE),
    "sphere": ("CHI-IN-202", "a.wav", b"NIST_1A\n   1024\n" + NOISE),
    "lfs-pointer": ("CHI-IN-202", "a.wav", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    # WAV cut off at each field
    **{f"wav-cut-{n}": ("CHI-IN-203", "a.wav", GOOD[:n]) for n in (4, 8, 11, 12, 16, 19, 20, 22, 24, 28, 32, 34, 35)},
    "wav-no-data-chunk": ("CHI-IN-208", "a.wav", GOOD[:36]),
    "wav-data-name-only": ("CHI-IN-208", "a.wav", GOOD[:40]),
    "wav-no-data-byte": ("CHI-IN-209", "a.wav", GOOD[:44]),
    "wav-half": ("CHI-IN-209", "a.wav", GOOD[: len(GOOD) // 2]),
    "wav-one-frame-short": ("CHI-IN-209", "a.wav", GOOD[:-20]),
    # WAV that lies
    "wav-data-4-gb": ("CHI-IN-209", "a.wav", wav(size=0xFFFFFF00)),
    "wav-zero-data": ("CHI-IN-208", "a.wav", wav(b"")),
    "wav-zero-size": ("CHI-IN-208", "a.wav", wav(size=0)),
    "wav-fmt-4-gb": ("CHI-IN-208", "a.wav", riff(b"fmt \xff\xff\xff\xff" + fmt()[8:], chunk(b"data", PCM))),
    "wav-fmt-short": ("CHI-IN-204", "a.wav", riff(b"fmt \x0e\0\0\0" + fmt()[8:22], chunk(b"data", PCM))),
    "wav-data-first": ("CHI-IN-204", "a.wav", riff(chunk(b"data", PCM), fmt())),
    "wav-no-fmt": ("CHI-IN-203", "a.wav", riff(chunk(b"LIST", b"abcd"))),
    "wav-rate-0": ("CHI-IN-205", "a.wav", wav(rate=0)),
    "wav-rate-999": ("CHI-IN-205", "a.wav", wav(rate=999)),
    "wav-rate-4e9": ("CHI-IN-205", "a.wav", wav(rate=4_000_000_000)),
    "wav-rate-768001": ("CHI-IN-205", "a.wav", wav(rate=768_001)),
    "wav-channels-0": ("CHI-IN-206", "a.wav", wav(channels=0)),
    "wav-channels-65": ("CHI-IN-206", "a.wav", wav(channels=65)),
    "wav-channels-65535": ("CHI-IN-206", "a.wav", wav(channels=65_535)),
    "wav-bits-0": ("CHI-IN-207", "a.wav", wav(bits=0, align=2)),
    "wav-bits-33": ("CHI-IN-207", "a.wav", wav(bits=33)),
    "wav-bits-64-pcm": ("CHI-IN-207", "a.wav", wav(bits=64)),
    "wav-bits-65535": ("CHI-IN-207", "a.wav", wav(bits=65_535)),
    "wav-float-16": ("CHI-IN-207", "a.wav", wav(tag=3, bits=16)),
    "wav-adpcm": ("CHI-IN-207", "a.wav", wav(tag=2, bits=4)),
    "wav-mp3-inside": ("CHI-IN-207", "a.wav", wav(tag=0x55, bits=0, align=1)),
    "wav-unknown-tag": ("CHI-IN-207", "a.wav", wav(tag=0x1234)),
    "wav-align-0": ("CHI-IN-204", "a.wav", wav(align=0)),
    "wav-align-other": ("CHI-IN-204", "a.wav", wav(align=3)),
    "wav-extensible-short": ("CHI-IN-204", "a.wav", riff(fmt(0xFFFE), chunk(b"data", PCM))),
    "wav-extensible-own-coding": ("CHI-IN-207", "a.wav", riff(extensible(tail=bytes(14)), chunk(b"data", PCM))),
    "wav-extensible-unknown": ("CHI-IN-207", "a.wav", riff(extensible(tag=0x1234), chunk(b"data", PCM))),
    "wav-a-million-chunks": ("CHI-IN-204", "a.wav", lambda: riff(chunk(b"LIST", b"") * 1_000_000, fmt(), chunk(b"data", PCM))),
    "wav-nan-float": ("CHI-IN-212", "a.wav", floats(np.nan, "<f4")),
    "wav-inf-float": ("CHI-IN-212", "a.wav", floats(np.inf, "<f4")),
    "wav-minus-inf-double": ("CHI-IN-212", "a.wav", floats(-np.inf, "<f8")),
    "wav-double-beyond-float": ("CHI-IN-212", "a.wav", floats(1e300, "<f8")),
    "wav-float-absurd": ("CHI-IN-212", "a.wav", floats(3e38, "<f4")),
    # RF64
    "rf64-no-ds64": ("CHI-IN-204", "a.wav", rf64(len(PCM), with_ds64=False)),
    "rf64-5-gb": ("CHI-IN-209", "a.wav", rf64(5 << 30)),
    "rf64-1-mb": ("CHI-IN-209", "a.wav", rf64(1 << 20)),
    "rf64-2-to-64": ("CHI-IN-209", "a.wav", rf64((1 << 64) - 73)),
    "rf64-zero": ("CHI-IN-208", "a.wav", rf64(0)),
    # FLAC
    "flac-magic-only": ("CHI-IN-203", "a.flac", b"fLaC"),
    "flac-cut": ("CHI-IN-203", "a.flac", flac()[:30]),
    "flac-2-to-36-samples": ("CHI-IN-209", "a.flac", flac(n_samples=(1 << 36) - 1)),
    "flac-20-hours-in-4-kb": ("CHI-IN-209", "a.flac", flac(n_samples=20 * 3600 * RATE)),
    "flac-rate-0": ("CHI-IN-205", "a.flac", flac(rate=0)),
    "flac-rate-1-mhz": ("CHI-IN-205", "a.flac", flac(rate=(1 << 20) - 1)),
    "flac-2-bits": ("CHI-IN-207", "a.flac", flac(bits=2)),
    "flac-other-block": ("CHI-IN-204", "a.flac", flac(kind=4)),
    "flac-block-size": ("CHI-IN-204", "a.flac", flac(size=35)),
    "flac-garbage-behind": ("CHI-IN-213", "a.flac", flac()),
    "flac-cut-in-half": ("CHI-IN-213", "a.flac", lambda: written("FLAC", values=np.tile(TONE, 8))[:-20_000]),
    # Ogg
    "ogg-magic-only": ("CHI-IN-203", "a.ogg", b"OggS"),
    "ogg-no-packet": ("CHI-IN-204", "a.ogg", page(b"", n_segments=0) + NOISE[:400]),
    "ogg-cut-in-packet": ("CHI-IN-203", "a.ogg", page(vorbis())[:40]),
    "ogg-other-codec": ("CHI-IN-207", "a.ogg", page(b"\x80theora" + bytes(40))),
    "ogg-headers-only": ("CHI-IN-208", "a.ogg", page(vorbis())),
    "ogg-rate-0": ("CHI-IN-205", "a.ogg", page(vorbis(rate=0)) + page(b"a", position=9, first=False)),
    "ogg-channels-0": ("CHI-IN-206", "a.ogg", page(vorbis(channels=0)) + page(b"a", position=99, first=False)),
    "ogg-position-2-to-62": ("CHI-IN-210", "a.ogg", page(vorbis()) + page(b"a", position=1 << 62, first=False)),
    "ogg-garbage-behind": ("CHI-IN-213", "a.ogg", page(vorbis()) + page(NOISE[:200], position=8000, first=False)),
    # MP3
    "id3-256-mb": ("CHI-IN-203", "a.mp3", id3((1 << 28) - 1) + mp3_frames(9)),
    "id3-impossible": ("CHI-IN-204", "a.mp3", b"ID3\x04\0\0\xff\xff\xff\xff" + mp3_frames(9)),
    "id3-and-nothing": ("CHI-IN-202", "a.mp3", id3(100) + bytes(100)),
    "id3-chain": ("CHI-IN-204", "a.mp3", id3(0) * 100_000),
    "mp3-xing-claims-years": ("CHI-IN-209", "a.mp3", mp3_frames(9, xing=0xFFFFFFFF)),
    "mp3-xing-claims-an-hour": ("CHI-IN-209", "a.mp3", mp3_frames(9, xing=100_000)),
    "mp3-xing-claims-double": ("CHI-IN-209", "a.mp3", mp3_frames(100, xing=200)),
    # AIFF
    "aiff-cut": ("CHI-IN-203", "a.aiff", aiff()[:30]),
    "aiff-half": ("CHI-IN-209", "a.aiff", aiff()[:8000]),
    "aiff-4e9-frames": ("CHI-IN-209", "a.aiff", aiff(frames=0xFFFFFFFF)),
    "aiff-rate-exponent": ("CHI-IN-205", "a.aiff", aiff(exponent=0x7FFE)),
    "aiff-rate-negative": ("CHI-IN-205", "a.aiff", aiff(exponent=0xC00D)),
    "aiff-channels-0": ("CHI-IN-206", "a.aiff", aiff(channels=0)),
    "aiff-bits-0": ("CHI-IN-207", "a.aiff", aiff(bits=0)),
    "aiff-no-frames": ("CHI-IN-208", "a.aiff", aiff(frames=0)),
    # MPEG-4, AAC, AMR
    "m4a-cut-before-tracks": ("CHI-IN-203", "a.m4a", m4a()[:60]),
    "m4a-cut-in-samples": ("CHI-IN-209", "a.m4a", m4a()[:-400]),
    "m4a-samples-4-gb": ("CHI-IN-209", "a.m4a", m4a(mdat=0xFFFFFFFF)),
    "m4a-box-of-3-bytes": ("CHI-IN-204", "a.m4a", box(b"ftyp", b"M4A ") + box(b"free", size=3)),
    "m4a-endless-boxes": ("CHI-IN-204", "a.m4a", lambda: box(b"ftyp", b"M4A ") + box(b"free") * 200_000),
    "m4a-video-only": ("CHI-IN-208", "a.m4a", m4a(handler=b"vide")),
    "m4a-clock-0": ("CHI-IN-204", "a.m4a", m4a(scale=0)),
    "m4a-rate-0": ("CHI-IN-205", "a.m4a", m4a(rate=0, scale=600)),
    "m4a-channels-999": ("CHI-IN-206", "a.m4a", m4a(channels=999)),
    "m4a-70-hours": ("CHI-IN-210", "a.m4a", m4a(length=0xFFFFFFF0)),
    "amr-many-channels": ("CHI-IN-207", "a.amr", b"#!AMR_MC1.0\n" + NOISE),
    "amr-nothing": ("CHI-IN-208", "a.amr", b"#!AMR\n"),
}  # fmt: skip


@pytest.fixture(scope="module")
def reader() -> Iterator[AudioReader]:
    with AudioReader(Limits(memory_bytes=2 << 30, cpu_s=5, wall_s=10)) as reader:
        reader._guard._running()  # its start is not any file's fault
        yield reader


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(HOSTILE) >= 50
    assert len(VALID) >= 15


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_its_code_quickly_in_little_memory(
    name: str, reader: AudioReader, tmp_path: Path
) -> None:
    code, file, made = HOSTILE[name]
    path = tmp_path / file
    path.write_bytes(made if isinstance(made, bytes) else made())
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(InputError) as caught:
        reader.read(path, relative=f"sub-01/{file}")
    assert caught.value.code == code, caught.value
    assert caught.value.file == f"sub-01/{file}"
    assert caught.value.message
    assert caught.value.remedy
    assert "SECRET" not in str(caught.value)
    assert time.perf_counter() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10, "kilobytes"


def test_no_hostile_file_killed_the_child(reader: AudioReader) -> None:
    assert reader._guard.restarts == 0


def test_every_code_of_the_headers_is_met() -> None:
    met = {code for code, _, _ in HOSTILE.values()}
    assert set(audio_claims.CODES) - met == {"CHI-IN-200"}, "which needs no file"
    assert {"CHI-IN-212", "CHI-IN-213"} <= met & set(audio.CODES)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device", "dangling-link", "link-loop"])
def test_what_is_no_regular_file_is_refused_without_being_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "dangling-link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "link-loop":
        path.symlink_to(path)
    with pytest.raises(InputError, match="CHI-IN-200") as caught:
        read_audio_header(path, relative="x.wav")
    assert str(tmp_path) not in str(caught.value)


# Odd but valid --------------------------------------------------------------------------------------------------------

STEREO = np.stack([TONE, TONE], axis=1)
LIST = chunk(b"LIST", b"INFOISFT\x05\0\0\0abcde\0")
VALID: dict[str, tuple[str, bytes | Callable[[], bytes], int, int | None, float]] = {
    # name: file, bytes, channels, bits, tolerance of the samples
    "wave-extensible": ("a.wav", riff(extensible(), chunk(b"data", PCM)), 1, 16, 2e-4),
    "fmt-of-18-bytes": ("a.wav", riff(fmt(more=bytes(2)), chunk(b"data", PCM)), 1, 16, 2e-4),
    "24-bit": ("a.wav", lambda: written("WAV", "PCM_24"), 1, 24, 1e-6),
    "32-bit": ("a.wav", lambda: written("WAV", "PCM_32"), 1, 32, 1e-6),
    "8-bit-unsigned": ("a.wav", lambda: written("WAV", "PCM_U8"), 1, 8, 1e-2),
    "float32": ("a.wav", lambda: written("WAV", "FLOAT"), 1, 32, 1e-7),
    "float64": ("a.wav", lambda: written("WAV", "DOUBLE"), 1, 64, 1e-7),
    "a-law": ("a.wav", lambda: written("WAV", "ALAW"), 1, 8, 3e-2),
    "mu-law": ("a.wav", lambda: written("WAV", "ULAW"), 1, 8, 3e-2),
    "big-endian-rifx": ("a.wav", lambda: written("WAV", "PCM_16", endian="BIG"), 1, 16, 2e-4),
    "eight-channels": ("a.wav", lambda: written("WAVEX", values=np.tile(TONE[:, None], 8)), 8, 16, 2e-4),
    "64-channels": ("a.wav", lambda: written("WAVEX", values=np.tile(TONE[:, None], 64)), 64, 16, 2e-4),
    "rf64": ("a.wav", lambda: written("RF64"), 1, 16, 2e-4),
    "rf64-by-hand": ("a.wav", rf64(len(PCM)), 1, 16, 2e-4),
    "list-before-and-after": ("a.wav", riff(LIST, fmt(), LIST, chunk(b"fact", bytes(4)), chunk(b"data", PCM), LIST), 1, 16, 2e-4),
    "odd-chunk-with-padding": ("a.wav", riff(fmt(), chunk(b"abcd", b"x"), chunk(b"data", PCM)), 1, 16, 2e-4),
    "odd-number-of-bytes": ("a.wav", wav(PCM + b"x"), 1, 16, 2e-4),
    "riff-size-0": ("a.wav", riff(fmt(), chunk(b"data", PCM), size=0), 1, 16, 2e-4),
    "riff-size-4-gb": ("a.wav", riff(fmt(), chunk(b"data", PCM), size=0xFFFFFFFF), 1, 16, 2e-4),
    "written-to-a-pipe": ("a.wav", riff(fmt(), chunk(b"data", PCM, 0xFFFFFFFF), size=0xFFFFFFFF), 1, 16, 2e-4),
    "garbage-at-the-end": ("a.wav", GOOD + b"\0" * 999, 1, 16, 2e-4),
    "wrong-extension": ("a.mp3", GOOD, 1, 16, 2e-4),
    "flac-16-bit": ("a.flac", lambda: written("FLAC"), 1, 16, 2e-4),
    "flac-24-bit-stereo": ("a.flac", lambda: written("FLAC", "PCM_24", values=STEREO), 2, 24, 1e-6),
    "flac-behind-id3": ("a.flac", lambda: id3(300) + bytes(300) + written("FLAC"), 1, 16, 2e-4),
    "ogg-vorbis": ("a.ogg", lambda: written("OGG", "VORBIS"), 1, None, 0.1),
    "aiff": ("a.aiff", lambda: written("AIFF"), 1, 16, 2e-4),
    "aiff-c-float": ("a.aifc", lambda: written("AIFF", "FLOAT", values=STEREO), 2, 32, 1e-7),
    "aiff-c-little-endian": ("a.aifc", lambda: written("AIFF", "PCM_16", endian="LITTLE"), 1, 16, 2e-4),
    "aiff-by-hand": ("a.aiff", aiff(body=(TONE * 32767).astype(">i2").tobytes()), 1, 16, 2e-4),
}  # fmt: skip


@pytest.mark.parametrize("name", VALID)
def test_an_odd_but_valid_file_is_read_to_the_sample(name: str, reader: AudioReader, tmp_path: Path) -> None:
    file, made, channels, bits, tolerance = VALID[name]
    path = tmp_path / file
    path.write_bytes(made if isinstance(made, bytes) else made())
    header = read_audio_header(path)
    clip = reader.read(path)
    assert (header.rate, header.channels, header.bits, clip.rate) == (RATE, channels, bits, RATE)
    assert header.duration_s == pytest.approx(0.5, abs=0.07)
    assert clip.samples.dtype == np.float32
    assert len(clip.samples) == len(TONE)
    np.testing.assert_allclose(clip.samples, TONE, atol=tolerance)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 96_000, 192_000])
@pytest.mark.parametrize("form", ["WAV", "FLAC"])
def test_sample_rates_from_the_telephone_to_the_studio_are_kept(
    form: str, rate: int, reader: AudioReader, tmp_path: Path
) -> None:
    path = tmp_path / "a.audio"
    path.write_bytes(written(form, rate=rate))
    assert reader.read(path).rate == read_audio_header(path).rate == rate


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_mp3_files_are_read(rate: int, reader: AudioReader, tmp_path: Path) -> None:
    long = np.tile(TONE, 6)
    data = written("MP3", values=np.stack([long, long], axis=1), rate=rate)
    for name, content in {"a": data, "tagged": id3(2000) + bytes(2000) + data + b"TAG" + bytes(125)}.items():
        path = tmp_path / f"{name}.mp3"
        path.write_bytes(content)
        header, clip = read_audio_header(path), reader.read(path)
        assert (header.format, header.rate, header.channels, header.bits) == ("mp3", rate, 2, None)
        assert clip.rate == rate
        assert header.duration_s == pytest.approx(len(long) / rate, abs=0.3)
        assert clip.duration_s == pytest.approx(len(long) / rate, abs=0.2)
        assert clip.samples.std() == pytest.approx(long.std(), rel=0.1)


FUZZED = [
    GOOD, riff(extensible(), LIST, chunk(b"data", PCM)), rf64(len(PCM)), flac(), aiff(), m4a(), b"#!AMR\n" + b"\x7c" * 99,
    id3(20) + bytes(20) + mp3_frames(20, xing=20), page(vorbis()) + page(NOISE[:99], position=8000, first=False),
]  # fmt: skip
PATCHES = st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)
CALM = {"deadline": 2000, "derandomize": True, "suppress_health_check": list(HealthCheck)}


def read_mutated(base: bytes, patches: list[tuple[int, bytes]], cut: int | None, folder: Path) -> None:
    """A header is read, and lies within the limits, or a declared code comes out."""
    data = bytearray(base)
    for place, new in patches:
        data[place : place + len(new)] = new
    path = folder / "fuzz.mp3"
    path.write_bytes(bytes(data[:cut]))
    code = ""
    try:
        header = read_audio_header(path)
    except InputError as error:
        code = error.code
    else:
        assert 1_000 <= header.rate <= 768_000
        assert 0 <= header.channels <= 64
        assert header.duration_s is None or 0 < header.duration_s <= 24 * 3600
    assert not code or code in audio_claims.CODES


@settings(max_examples=50 * len(FUZZED), **CALM)
@given(base=st.sampled_from(FUZZED), patches=PATCHES, cut=st.none() | st.integers(0, 300))
@example(base=GOOD, patches=[(40, b"\xff\xff\xff\xff")], cut=None)
def test_nothing_but_a_coded_error_comes_out_of_a_mutated_header(
    base: bytes, patches: list[tuple[int, bytes]], cut: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    read_mutated(base, patches, cut, tmp_path_factory.getbasetemp())


@pytest.mark.soak
@settings(max_examples=2000 * len(FUZZED), **CALM)
@given(base=st.sampled_from(FUZZED), patches=PATCHES, cut=st.none() | st.integers(0, 300))
def test_nor_out_of_two_thousand_a_format(
    base: bytes, patches: list[tuple[int, bytes]], cut: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    read_mutated(base, patches, cut, tmp_path_factory.getbasetemp())


@settings(max_examples=60, **{**CALM, "deadline": None})
@given(
    kind=st.sampled_from(["WAV", "FLAC", "OGG", "MP3", "AIFF"]),
    patches=st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
)
def test_nothing_but_a_coded_error_comes_out_of_a_damaged_recording(
    kind: str, patches: list[tuple[int, bytes]], reader: AudioReader, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(written(kind))
    for place, new in patches:
        data[place : place + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "fuzz.bin"
    path.write_bytes(bytes(data))
    code = ""
    try:
        clip = reader.read(path)
    except InputError as error:
        code = error.code
    else:
        assert np.isfinite(clip.samples).all()
        assert np.abs(clip.samples).max() <= 1
    assert not code or code in audio_claims.CODES | audio.CODES
