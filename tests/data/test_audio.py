"""Recordings as samples: mixed, bounded, resampled, written; the child is started only when something is to be decoded."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from chiasm.data import audio
from chiasm.data.audio import CODES, AudioReader, Clip, resample, write_wav
from chiasm.data.errors import InputError, ToolError

RATE = 16_000


def tone(hz: float = 440.0, *, seconds: float = 1.0, rate: int = RATE, amplitude: float = 0.4) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture(scope="module")
def reader() -> Iterator[AudioReader]:
    with AudioReader() as reader:
        yield reader


def test_channels_are_averaged(reader: AudioReader, tmp_path: Path) -> None:
    left, right = tone(440), tone(700, amplitude=0.2)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    clip = reader.read(tmp_path / "a.wav")
    np.testing.assert_allclose(clip.samples, (left + right) / 2, atol=1e-7)
    assert (clip.rate, clip.duration_s) == (RATE, 1.0)


@pytest.mark.parametrize("hum", [0.0, 1e-4])
def test_a_channel_that_was_not_plugged_in_does_not_halve_the_sound(
    hum: float, reader: AudioReader, tmp_path: Path
) -> None:
    sound = tone()
    channels = np.stack([hum * tone(50), sound, hum * tone(50)], axis=1)
    soundfile.write(tmp_path / "a.wav", channels, RATE, subtype="FLOAT")
    np.testing.assert_allclose(reader.read(tmp_path / "a.wav").samples, sound, atol=1e-4)


def test_a_recording_longer_than_a_block_is_whole(reader: AudioReader, tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-0.9, 0.9, 3 * 65_536 + 17).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(reader.read(tmp_path / "a.wav").samples, sound)


def test_float_samples_beyond_full_scale_are_scaled_back_as_a_whole(reader: AudioReader, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 32_000 * tone(amplitude=1.0), RATE, subtype="FLOAT")
    samples = reader.read(tmp_path / "a.wav").samples
    np.testing.assert_allclose(samples, tone(amplitude=1.0) / tone(amplitude=1.0).max(), atol=1e-6)


def sparse_wav(path: Path, seconds: int, rate: int = 44_100) -> Path:
    n_bytes = seconds * rate * 2
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    with path.open("wb") as stream:
        stream.write(b"RIFF" + struct.pack("<I", 36 + n_bytes) + b"WAVE" + form + b"data" + struct.pack("<I", n_bytes))
        stream.truncate(44 + n_bytes)
    return path


def test_three_hours_are_refused_from_the_header_without_a_child(tmp_path: Path) -> None:
    path = sparse_wav(tmp_path / "a.wav", 3 * 3600)
    with AudioReader() as fresh:
        started = time.perf_counter()
        with pytest.raises(InputError) as caught:
            fresh.read(path, relative="a.wav")
        assert time.perf_counter() - started < 2
        assert fresh._guard._child is None
    error = caught.value
    assert (error.code, error.file) == ("CHI-IN-211", "a.wav")
    assert "lasts 3 h 0 min; audio.max_duration_s allows 30 min 0 s" in error.message
    assert "raise audio.max_duration_s" in error.remedy


def test_a_length_that_no_header_says_is_bounded_while_decoding(reader: AudioReader, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.tile(tone(), 20), RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the number of samples: 36 bits, 0 for "not known"
    data[22:26] = bytes(4)
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"CHI-IN-211.*more than 5\.0 s"):
        reader.read(path, max_duration_s=5.0)
    assert reader.read(path, max_duration_s=30).duration_s == 20


def test_more_samples_than_are_held_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(audio, "MAX_SAMPLES", 1000)
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    with pytest.raises(InputError, match="CHI-IN-214"):
        audio.decode_audio(str(tmp_path / "a.wav"), "wav", 60.0)  # the job itself, without a child


def test_fewer_seconds_than_the_header_promised_are_refused(
    reader: AudioReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", tone(seconds=2), RATE)
    answer = {"rate": RATE}, {"samples": tone(seconds=1)}
    monkeypatch.setattr(reader._guard, "run", lambda *_, **__: answer)
    with pytest.raises(InputError, match=r"CHI-IN-209.*a\.wav.*1\.0 s of the 2\.0 s"):
        reader.read(tmp_path / "a.wav", relative="a.wav")
    answer[0]["rate"], answer[1]["samples"] = 48_000, tone(seconds=6)
    with pytest.raises(InputError, match=r"CHI-IN-213.*another sample rate"):
        reader.read(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("file", "package", "extra"), [("a.m4a", "av", "asr"), ("a.amr", "av", "asr"), ("a.wav", "soundfile", "speech")]
)
def test_a_missing_decoder_is_named_with_what_installs_it(
    file: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if file == "a.wav":
        soundfile.write(tmp_path / file, tone(), RATE)
    elif file == "a.amr":
        (tmp_path / file).write_bytes(b"#!AMR\n" + b"\x7c" * 50)
    else:
        (tmp_path / file).write_bytes(tiny_m4a())
    monkeypatch.setattr(audio, "find_spec", lambda name: None if name == package else object())
    with AudioReader() as fresh, pytest.raises(ToolError) as caught:
        fresh.read(tmp_path / file, relative=file)
    assert caught.value.code == "CHI-TL-010"
    assert file[2:].upper() in caught.value.message
    assert f'pip install "chiasm[{extra}]"' in caught.value.remedy


def tiny_m4a() -> bytes:
    """Headers only, as far as they are read."""

    def box(name: bytes, *inside: bytes) -> bytes:
        return struct.pack(">I", sum(map(len, inside)) + 8) + name + b"".join(inside)

    entry = box(b"mp4a", bytes(16), struct.pack(">HHII", 1, 16, 0, RATE << 16))
    media = box(b"mdhd", bytes(12), struct.pack(">II", RATE, RATE), bytes(4)) + box(
        b"hdlr", bytes(8), b"soun", bytes(12)
    )
    track = box(b"trak", box(b"mdia", media, box(b"minf", box(b"stbl", box(b"stsd", bytes(8), entry)))))
    return box(b"ftyp", b"M4A ") + box(b"moov", track) + box(b"mdat", bytes(100))


@pytest.mark.parametrize(
    ("file", "codec", "rate", "channels"),
    [
        ("a.m4a", "aac", 44_100, 2),
        ("a.m4a", "alac", 16_000, 1),
        ("a.aac", "aac", 16_000, 1),
        ("a.mp4", "aac", 48_000, 1),
    ],
)
def test_mpeg_4_and_aac_are_decoded_in_the_child(
    file: str, codec: str, rate: int, channels: int, reader: AudioReader, tmp_path: Path
) -> None:
    av = pytest.importorskip("av", reason="the package av is not installed")
    sound = tone(440, seconds=2, rate=rate)
    with av.open(str(tmp_path / file), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "stereo" if channels == 2 else "mono"
        frame = av.AudioFrame.from_ndarray(np.tile(sound, (channels, 1)), format="fltp", layout=stream.layout.name)
        frame.rate = rate
        converter = av.AudioResampler(
            format=stream.format, layout=stream.layout.name, rate=rate, frame_size=stream.frame_size
        )
        for plain in [*converter.resample(frame), *converter.resample(None)]:
            container.mux(stream.encode(plain))
        container.mux(stream.encode(None))
    clip = reader.read(tmp_path / file)
    assert clip.rate == rate
    assert clip.duration_s == pytest.approx(2, abs=0.15)  # delay and padding of the coder
    spectrum = np.abs(np.fft.rfft(clip.samples[: 2 * rate]))
    assert spectrum.argmax() / 2 == pytest.approx(440, abs=1)
    assert clip.samples[rate // 2 : rate].std() == pytest.approx(sound.std(), rel=0.05)


def test_amr_is_decoded_in_the_child(reader: AudioReader, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the package av is not installed")
    speech, gap = (b"\x3c" + np.random.default_rng(0).bytes(31)) * 50, b"\x7c" * 50
    (tmp_path / "a.amr").write_bytes(b"#!AMR\n" + speech + gap + speech)
    clip = reader.read(tmp_path / "a.amr")
    assert (clip.rate, clip.duration_s) == (8000, 3.0)
    loudness = clip.samples.reshape(3, -1).std(axis=1)
    assert loudness[1] == 0 < loudness[[0, 2]].min(), "a gap keeps its length, so that what follows keeps its time"
    (tmp_path / "b.m4a").write_bytes(tiny_m4a())
    with pytest.raises(InputError, match="CHI-IN-213"):
        reader.read(tmp_path / "b.m4a")


@pytest.mark.parametrize(("before", "after"), [(44_100, 16_000), (8_000, 22_050), (16_000, 16_000)])
def test_resampling_keeps_the_tone_and_removes_what_does_not_fit(before: int, after: int) -> None:
    clip = resample(Clip(tone(1000, rate=before), before), after)
    assert clip.rate == after
    assert clip.samples.dtype == np.float32
    middle = slice(after // 4, 3 * after // 4)
    np.testing.assert_allclose(clip.samples[middle], tone(1000, rate=after)[middle], atol=2e-3)
    if before > after:
        gone = resample(Clip(tone(12_000, rate=before), before), after)
        assert np.abs(gone.samples[middle]).max() < 1e-3


def test_an_impossible_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="rate must lie in"):
        resample(Clip(tone(), RATE), 0)


def test_a_written_file_is_read_back_to_the_sample_and_samples_are_never_wrapped(
    reader: AudioReader, tmp_path: Path
) -> None:
    steps = np.arange(-32_768, 32_768, 7, dtype=np.int32)
    clip = Clip((steps / 32_768).astype(np.float32), 22_050)
    write_wav(tmp_path / "new" / "a.wav", clip)
    again = reader.read(tmp_path / "new" / "a.wav")
    np.testing.assert_array_equal(again.samples, clip.samples)
    assert again.rate == 22_050
    write_wav(tmp_path / "b.wav", Clip(np.array([1.0, -1.0, 1.5, -1.5], np.float32), RATE))
    np.testing.assert_array_equal(soundfile.read(tmp_path / "b.wav", dtype="int16")[0], [32767, -32768, 32767, -32768])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.wav"]


def test_what_the_child_imports_has_no_torch() -> None:
    probe = "import sys, chiasm.data.audio; sys.exit('torch' in sys.modules or 'soundfile' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_codes_lie_in_their_range() -> None:
    assert all("CHI-IN-211" <= code <= "CHI-IN-214" or code == "CHI-TL-010" for code in CODES)
