"""Recordings as samples: decoded in a guarded child, mixed to one channel, resampled, written."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .atomic import write_bytes
from .audio_claims import AGAIN, CONVERT
from .audio_header import MAX_CHANNELS, MAX_RATE, MIN_RATE, AudioHeader, read_audio_header, refuse_cut, seconds_in_words
from .errors import InputError, ToolError
from .guard import GuardedReader, Limits

CODES: dict[str, str] = {
    "CHI-IN-211": "the recording is longer than audio.max_duration_s",
    "CHI-IN-212": "the recording holds samples that are not finite",
    "CHI-IN-213": "the recording is damaged: it cannot be decoded",
    "CHI-IN-214": "the recording has more samples than are held in memory",
    "CHI-TL-010": "a package that decodes this audio format is not installed",
}

JOBS = {"decode_audio": "chiasm.data.audio:decode_audio"}
"""What the guarded child may be asked for."""

MAX_SAMPLES = 1 << 28
"""Of one recording, a gigabyte: 93 minutes at 48 kHz."""
_BLOCK = 1 << 16
_TOLERATED_S = 0.5  # encoders add delay and padding; a decoder may drop a damaged last frame
_SILENT_SHARE = 1e-3  # of the loudest channel's peak: -60 dB
_ABSURD = 1e30  # float samples that large overflow when channels are added
_DEMUXERS = {"m4a": "mov", "aac": "aac", "amr": "amr"}


@dataclass(frozen=True, eq=False)
class Clip:
    """Samples of one channel.

    Parameters
    ----------
    samples : ndarray of float32, shape (n,)
        -1..1.
    rate : int
        Hz.
    """

    samples: NDArray[np.float32]
    rate: int

    @property
    def duration_s(self) -> float:
        """Its length in seconds."""
        return len(self.samples) / self.rate


class AudioReader:
    """Reads recordings; what decodes them runs in one long-lived child with limits. Use as a context manager.

    Parameters
    ----------
    limits : Limits, optional
        Of one recording.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._guard = GuardedReader(JOBS, limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        self._guard.close()

    def read(self, path: Path, *, max_duration_s: float = 1800.0, relative: str = "") -> Clip:
        """Read a recording as one channel at its own sample rate.

        The channels that hold sound are averaged; silent ones (60 dB below the loudest) are left out. Float samples beyond -1..1 are
        scaled back as a whole.

        Parameters
        ----------
        path : Path
            WAV, AIFF, FLAC, Ogg, MP3; M4A, AAC, AMR where the package `av` is installed.
        max_duration_s : float
            Longer recordings are refused, from the header where it tells the length.
        relative : str
            The file's name for messages, relative to the input folder.

        Raises
        ------
        InputError
            CHI-IN-200 to 210 from the header, CHI-IN-211 to 214.
        ToolError
            CHI-TL-010.
        ResourceError
            CHI-RES-030 to 033, where decoding breaks a limit.
        """
        header = read_audio_header(path, relative=relative)
        if header.duration_s is not None and header.duration_s > max_duration_s:
            raise _too_long(seconds_in_words(header.duration_s), max_duration_s, relative)
        _check_installed(header.format, relative)
        wanted = {"path": str(path), "name": header.format, "max_duration_s": max_duration_s}
        value, arrays = self._guard.run("decode_audio", wanted, file=relative)
        samples = arrays["samples"]
        try:
            _check_as_promised(header, value["rate"], len(samples) / value["rate"])
        except InputError as error:
            raise InputError(error.code, error.message, error.remedy, file=relative) from None
        return Clip(samples, value["rate"])


def _check_as_promised(header: AudioHeader, rate: int, seconds: float) -> None:
    if seconds == 0:
        raise InputError("CHI-IN-213", "the file has a header, and nothing in it can be decoded.", CONVERT)
    if (
        header.bits is not None and rate != header.rate
    ):  # lossy codings may have two rates: with and without their extension
        raise InputError("CHI-IN-213", "the decoder finds another sample rate than the header says.", CONVERT)
    if header.duration_s is not None and seconds < header.duration_s - max(_TOLERATED_S, 0.001 * header.duration_s):
        refuse_cut(seconds, header.duration_s)


def _check_installed(name: str, relative: str) -> None:
    # Looked for here, not in the child: a missing package is not the file's fault.
    package, extra = ("av", "asr") if name in _DEMUXERS else ("soundfile", "speech")
    if find_spec(package) is None:
        raise ToolError(
            "CHI-TL-010",
            f"{name.upper()} files are decoded by the package {package}, which is not installed.",
            f'Install it with `pip install "chiasm[{extra}]"`, or convert the file to WAV.',
            file=relative,
        )


def _too_long(length: str, max_duration_s: float, relative: str = "") -> InputError:
    return InputError(
        "CHI-IN-211",
        f"the recording lasts {length}; audio.max_duration_s allows {seconds_in_words(max_duration_s)}.",
        "A picture description lasts minutes: cut the recording to it, or raise audio.max_duration_s.",
        file=relative,
    )


# In the child ---------------------------------------------------------------------------------------------------------


def decode_audio(path: str, name: str, max_duration_s: float) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Decode a recording to one channel (a job of the guarded child).

    Parameters
    ----------
    path : str
    name : str
        The format, as the header's reader found it.
    max_duration_s : float

    Returns
    -------
    dict
        ``rate`` in Hz, ``peak`` of the loudest channel, ``n_active`` channels.
    dict
        ``samples``, float32 (n,).
    """
    mixer = _Mixer(max_duration_s)
    blocks = _through_av(path, name) if name in _DEMUXERS else _through_soundfile(path)
    for rate, block in blocks:
        mixer.add(rate, block)
    return mixer.result()


class _Mixer:
    """Sums channels block by block, so that 64 channels never lie in memory at once."""

    def __init__(self, max_duration_s: float) -> None:
        self._max_duration_s = max_duration_s
        self._blocks: list[NDArray[np.float32]] = []
        self._peaks: NDArray[np.float32] | None = None
        self._rate = self._n = 0

    def add(self, rate: int, block: NDArray[np.float32]) -> None:
        """Take (n, channels)."""
        if self._peaks is None:
            if not MIN_RATE <= rate <= MAX_RATE or not 1 <= block.shape[1] <= MAX_CHANNELS:
                raise InputError("CHI-IN-213", "what the decoder finds in the file is not possible.", CONVERT)
            self._rate, self._peaks = rate, np.zeros(block.shape[1], np.float32)
        if rate != self._rate or block.shape[1] != len(self._peaks):
            raise InputError("CHI-IN-213", "the sample rate or the channels change within the recording.", CONVERT)
        if not len(block):
            return
        self._peaks = np.maximum(self._peaks, np.abs(block).max(axis=0))
        if not (self._peaks < _ABSURD).all():  # NaN survives both maxima, and is not less
            raise InputError(
                "CHI-IN-212",
                "the recording holds samples that are not finite numbers.",
                "Export it again from its source.",
            )
        self._n += len(block)
        if self._n > self._max_duration_s * rate:
            raise _too_long(f"more than {seconds_in_words(self._max_duration_s)}", self._max_duration_s)
        if self._n > MAX_SAMPLES:
            raise InputError(
                "CHI-IN-214",
                f"the recording has more than {MAX_SAMPLES:,} samples a channel.",
                "Resample it to 48 kHz or less.",
            )
        self._blocks.append(block.sum(axis=1, dtype=np.float32))

    def result(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return rate and samples of the mean of the channels that hold sound."""
        if self._peaks is None:
            raise InputError("CHI-IN-213", "the file has a header, and nothing in it can be decoded.", CONVERT)
        peak = float(self._peaks.max())
        # What a silent channel adds to the sum is 60 dB down: only the divisor has to know about it.
        n_active = max(int((self._peaks > _SILENT_SHARE * peak).sum()), 1)
        scale = n_active * max(peak, 1.0)
        samples = np.empty(self._n, np.float32)
        place = 0
        self._blocks.reverse()
        while self._blocks:  # each block is freed when it is copied
            block = self._blocks.pop()
            np.divide(block, scale, out=samples[place : place + len(block)])
            place += len(block)
        return {"rate": self._rate, "peak": peak, "n_active": n_active}, {"samples": samples}


def _through_soundfile(path: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
    import soundfile

    class Forward(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            """Say no: else soundfile seeks after every read, which fails at the end of a FLAC stream of unsaid length."""
            return False

    seconds = 0.0
    try:
        with Forward(path) as stream:
            yield stream.samplerate, np.zeros((0, stream.channels), np.float32)
            while len(block := stream.read(_BLOCK, dtype="float32", always_2d=True)):
                seconds += len(block) / stream.samplerate
                yield stream.samplerate, block
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise _damaged(seconds) from error


def _damaged(seconds: float) -> InputError:
    after = f" after about {seconds_in_words(seconds)}" if seconds else ""
    return InputError("CHI-IN-213", f"the recording is damaged: its decoder gave up{after}.", AGAIN)


def _through_av(path: str, name: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
    import av

    # The demuxer is named, so that no playlist is followed and no other file is opened.
    options = {"protocol_whitelist": "file"}
    seconds = 0.0
    try:
        with av.open(path, format=_DEMUXERS[name], options=options) as container:
            stream = container.streams.audio[0]
            stream.codec_context.thread_count = 1
            converter = av.AudioResampler(format="fltp")
            for packet in container.demux(stream):
                try:
                    frames = stream.codec_context.decode(packet)
                except av.error.FFmpegError:
                    if name != "amr":
                        raise
                    # A frame of AMR in which nobody speaks carries no sound, and FFmpeg makes none: 20 ms of silence.
                    yield stream.rate, np.zeros((stream.rate // 50, 1), np.float32)
                    continue
                for plain in (plain for frame in frames for plain in converter.resample(frame)):
                    seconds += plain.samples / plain.sample_rate
                    yield plain.sample_rate, plain.to_ndarray().T.astype(np.float32, copy=False)
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise _damaged(seconds) from error


# Out of the child -----------------------------------------------------------------------------------------------------


def resample(clip: Clip, rate: int) -> Clip:
    """Return the clip at another sample rate (soxr, high quality); the clip itself where it has that rate.

    Raises
    ------
    ToolError
        CHI-TL-010 where the package `soxr` is not installed.
    """
    if rate == clip.rate:
        return clip
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"rate must lie in {MIN_RATE} to {MAX_RATE} Hz, got {rate}")
    try:
        import soxr
    except ImportError as error:
        raise ToolError(
            "CHI-TL-010",
            "Recordings are resampled by the package soxr, which is not installed.",
            'Install it with `pip install "chiasm[speech]"`.',
        ) from error
    samples = soxr.resample(clip.samples, clip.rate, rate, quality="HQ")
    return Clip(np.clip(samples, -1.0, 1.0).astype(np.float32, copy=False), rate)


def write_wav(path: Path, clip: Clip) -> None:
    """Write a mono 16-bit WAV file atomically; samples that were read from 16 bits come back unchanged.

    Raises
    ------
    ResourceError
        CHI-RES-010 to 014, as `atomic.write_bytes`.
    """
    scaled = np.clip(np.round(clip.samples.astype(np.float64) * 32768.0), -32768, 32767).astype("<i2")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, clip.rate, clip.rate * 2, 2, 16)
    head = struct.pack("<4sI4s", b"RIFF", 36 + scaled.nbytes, b"WAVE") + form
    write_bytes(path, head + struct.pack("<4sI", b"data", scaled.nbytes), scaled.tobytes())
