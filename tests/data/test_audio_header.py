"""What each format's header says, read without decoding, and how a refusal is worded."""

from __future__ import annotations

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from chiasm.data import audio_claims
from chiasm.data.audio_header import CODES, AudioHeader, read_audio_header, seconds_in_words
from chiasm.data.errors import InputError

VALUES = np.random.default_rng(0).normal(0, 0.1, (24_000, 2)).astype(np.float32)


def save(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def wav_header(n_bytes: int, *, rate: int = 16_000, size: int | None = None) -> bytes:
    """Mono, 16 bits."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + n_bytes)
        + b"WAVE"
        + form
        + b"data"
        + struct.pack("<I", n_bytes if size is None else size)
    )


@pytest.mark.parametrize(
    ("form", "subtype", "name", "bits"),
    [
        ("WAV", "PCM_16", "wav", 16),
        ("WAVEX", "PCM_24", "wav", 24),
        ("RF64", "FLOAT", "wav", 32),
        ("FLAC", "PCM_16", "flac", 16),
        ("FLAC", "PCM_24", "flac", 24),
        ("AIFF", "PCM_S8", "aiff", 8),
        ("AIFF", "DOUBLE", "aiff", 64),
        ("OGG", "VORBIS", "ogg", None),
        ("OGG", "OPUS", "ogg", None),
    ],
)
def test_a_header_says_what_was_written(form: str, subtype: str, name: str, bits: int | None, tmp_path: Path) -> None:
    stream = io.BytesIO()
    soundfile.write(stream, VALUES, 48_000, format=form, subtype=subtype)
    data = stream.getvalue()
    header = read_audio_header(save(tmp_path / "a", data))
    assert header.duration_s == pytest.approx(0.5, abs=1e-6)
    wanted = AudioHeader(
        format=name, rate=48_000, channels=2, bits=bits, duration_s=header.duration_s, n_bytes=len(data)
    )
    assert header == wanted


def test_mp3_without_a_count_of_frames_is_walked_to_its_end(tmp_path: Path) -> None:
    frame = b"\xff\xfb\x90\xc0" + bytes(413)  # layer III, 44.1 kHz, mono, 128 kbit/s: 417 bytes, 1,152 samples
    for more in (b"", b"TAG" + bytes(125), b"APETAGEX" + bytes(40)):
        header = read_audio_header(save(tmp_path / "a.mp3", frame * 300 + more))
        assert (header.format, header.rate, header.channels, header.bits) == ("mp3", 44_100, 1, None)
        assert header.duration_s == pytest.approx(300 * 1152 / 44_100)
    # Of several bit rates, each frame counts as what it is: 320 kbit/s, padded.
    wide = b"\xff\xfb\xe2\xc0" + bytes(1041)
    header = read_audio_header(save(tmp_path / "a.mp3", frame * 10 + wide * 10))
    assert header.duration_s == pytest.approx(20 * 1152 / 44_100)


@pytest.mark.parametrize("tag", ["Xing", "Info", "VBRI"])
def test_mp3_with_a_count_of_frames_is_believed_as_far_as_there_are_bytes(tag: str, tmp_path: Path) -> None:
    frame = b"\xff\xfb\x90\xc0" + bytes(413)

    def recording(n_frames: int, n_bytes: int) -> bytes:
        first = bytearray(frame)
        if tag == "VBRI":
            first[36:54] = b"VBRI" + bytes(6) + struct.pack(">II", n_bytes, n_frames)
        else:
            first[21:37] = tag.encode() + struct.pack(">III", 3, n_frames, n_bytes)
        return bytes(first) + frame * 99

    header = read_audio_header(save(tmp_path / "a.mp3", recording(80, 41_700)))
    assert header.duration_s == pytest.approx(80 * 1152 / 44_100)
    with pytest.raises(InputError, match=r"CHI-IN-209.*2\.6 s of the 5\.2 s"):
        read_audio_header(save(tmp_path / "a.mp3", recording(200, 83_400)))


def test_aac_and_amr_are_walked_frame_by_frame(tmp_path: Path) -> None:
    size = 200
    adts = bytes([0xFF, 0xF1, 8 << 2, 1 << 6 | size >> 11, size >> 3 & 255, (size & 7) << 5, 0]) + bytes(size - 7)
    header = read_audio_header(save(tmp_path / "a.aac", adts * 125))
    assert (header.format, header.rate, header.channels, header.duration_s) == ("aac", 16_000, 1, 8.0)
    narrow = (b"\x3c" + bytes(31)) * 100 + b"\x7c" * 50  # 12.2 kbit/s, then frames without data
    header = read_audio_header(save(tmp_path / "a.amr", b"#!AMR\n" + narrow))
    assert (header.format, header.rate, header.channels, header.duration_s) == ("amr", 8_000, 1, 3.0)
    wide = (b"\x44" + bytes(60)) * 100
    header = read_audio_header(save(tmp_path / "a.amr", b"#!AMR-WB\n" + wide))
    assert (header.rate, header.duration_s) == (16_000, 2.0)


def test_a_cut_recording_is_refused_with_the_seconds_that_are_there(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", wav_header(60 * 32_000) + bytes(32_000 * 12 + 9_600))
    with pytest.raises(InputError) as caught:
        read_audio_header(path, relative="sub-01/a.wav")
    assert caught.value.code == "CHI-IN-209"
    assert "12.3 s of the 60.0 s" in caught.value.message
    assert "ffmpeg" in caught.value.remedy
    assert caught.value.file == "sub-01/a.wav"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"PK\x03\x04" + bytes(99), "a zip archive"),
        (b"NIST_1A\n   1024\n", "NIST SPHERE"),
        (b"\x1aE\xdf\xa3" + bytes(99), "Matroska"),
        (b"@UTF8\n@Begin\n", "text"),
        (bytes(400), "nothing but zeros"),
        (b"RIFF" + bytes(4) + b"AVI LIST" + bytes(99), "AVI"),
        (bytes(128) + b"DICM" + bytes(9), "DICOM"),
        (b"\x01\x02\x03\x04" * 50, "of no known format"),
    ],
)
def test_the_format_that_was_found_is_named(data: bytes, found: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="CHI-IN-202") as caught:
        read_audio_header(save(tmp_path / "a.wav", data))
    assert found in caught.value.message
    assert "WAV" in caught.value.message


def test_the_extension_decides_nothing_but_how_far_mp3_is_looked_for(tmp_path: Path) -> None:
    frames = (b"\xff\xfb\x90\xc0" + bytes(413)) * 20
    assert read_audio_header(save(tmp_path / "a.wav", frames)).format == "mp3"
    assert read_audio_header(save(tmp_path / "a.mp3", b"\0" * 3000 + frames)).format == "mp3"
    with pytest.raises(InputError, match="CHI-IN-202"):
        read_audio_header(save(tmp_path / "a.wav", b"\0" * 3000 + frames))


def test_a_day_is_the_longest_recording_and_huge_files_are_read_in_no_time(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for hours, refused in ((24, False), (24.01, True)):
        n_bytes = round(hours * 3600 * 8000) * 2
        with path.open("wb") as stream:  # sparse
            stream.write(wav_header(n_bytes, rate=8000))
            stream.truncate(44 + n_bytes)
        started = time.perf_counter()
        if refused:
            with pytest.raises(InputError, match="CHI-IN-210"):
                read_audio_header(path)
        else:
            assert read_audio_header(path).duration_s == 24 * 3600
        assert time.perf_counter() - started < 0.5


def test_three_hours_of_mp3_are_walked_in_two_seconds(tmp_path: Path) -> None:
    frame = b"\xff\xf3\x10\xc0" + bytes(20)  # 22.05 kHz, 8 kbit/s: 26 bytes, padded or not
    n_frames = 3 * 3600 * 22_050 // 576
    path = save(tmp_path / "a.mp3", (frame + bytes(2)) * n_frames)
    started = time.perf_counter()
    assert read_audio_header(path).duration_s == pytest.approx(3 * 3600, rel=0.01)
    assert time.perf_counter() - started < 2


def test_lengths_are_said_in_words() -> None:
    assert [seconds_in_words(s) for s in (0.04, 59.9, 245, 10_920)] == ["0.0 s", "59.9 s", "4 min 5 s", "3 h 2 min"]


def test_codes_lie_in_their_range() -> None:
    assert CODES is audio_claims.CODES
    assert all("CHI-IN-200" <= code <= "CHI-IN-210" for code in CODES)
