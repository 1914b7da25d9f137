"""Before a session starts: how much memory it will take, from headers alone, and whether that is there."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

import psutil

from ...data.errors import ChiasmError, ResourceError
from ...data.patients import Session
from .stage import Pipeline

CODES = {
    "CHI-RES-001": "A session is predicted to need more memory than there is.",
    "CHI-RES-002": "Memory ran out although it was predicted to suffice; every smaller plan was tried.",
}
WORKER_BYTES = 900 * 1024**2
"""Resident bytes of a worker before its first patient: torch, the networks' weights, allocator slack (measured)."""


@dataclass(frozen=True)
class Prediction:
    """What a session needs beside the worker itself.

    Parameters
    ----------
    n_voxels : int
        Of the largest recording.
    session_bytes : int
        The session's own arrays, at their peak.
    network_bytes : int
        Activations of one forward pass: shared by the sessions of a worker.
    """

    n_voxels: int
    session_bytes: int
    network_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """Both together."""
        return self.session_bytes + self.network_bytes


def predict(session: Session, pipeline: Pipeline, network_bytes: int = 0) -> Prediction:
    """Predict a session's peak memory from its headers; a file that cannot be read counts nothing (it fails later, by name)."""
    n_voxels = max((_voxels(recording.kind, recording.files) for recording in session.recordings), default=0)
    stages = max((stage.predict_bytes(n_voxels) for stage in pipeline.stages), default=0)
    return Prediction(n_voxels, stages, network_bytes)


def _voxels(kind: str, files: tuple[Path, ...]) -> int:
    if kind == "dicom":  # 16-bit pixels, seldom compressed: bytes on disk are the safer bound
        return sum(path.stat().st_size for path in files if path.is_file()) // 2
    if kind == "transcript":
        return 0
    if kind == "audio":
        return _samples(files[0])
    if kind == "betas":  # read in pieces; the stage bounds what it holds
        return sum(path.stat().st_size for path in files if path.is_file()) // 2
    from ...data.nifti import read_header

    try:
        x, y, z = read_header(files[0]).grid.shape
    except ChiasmError:
        return 0
    return int(x) * int(y) * int(z)


def _samples(path: Path) -> int:
    """Samples of a recording once decoded; where the header does not tell, the most that its bytes could hold."""
    from ...data.audio_header import read_audio_header

    try:
        header = read_audio_header(path)
    except ChiasmError:
        return 0
    if header.duration_s is None:
        return 16 * header.n_bytes
    return int(header.duration_s * header.rate) * max(1, header.channels)


def available_bytes() -> int:
    """Memory that this process may still take: the least of the machine, the control group and the address-space limit."""
    limits = [psutil.virtual_memory().available]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(max(0, soft - psutil.Process().memory_info().vms))
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            text = (Path("/sys/fs/cgroup") / limit_name).read_text().strip()
            used = int((Path("/sys/fs/cgroup") / used_name).read_text())
        except (OSError, ValueError):
            continue
        if text.isdigit() and int(text) < 1 << 60:
            limits.append(max(0, int(text) - used))
    return min(limits)


def check(prediction: Prediction, limit_bytes: int) -> None:
    """Refuse a session that cannot fit.

    Raises
    ------
    ResourceError
        ``CHI-RES-001``.
    """
    if prediction.peak_bytes > limit_bytes:
        need, have = prediction.peak_bytes / 2**30, limit_bytes / 2**30
        raise ResourceError(
            "CHI-RES-001",
            f"this session is predicted to need {need:.1f} GiB and {have:.1f} GiB are allowed.",
            "Run it on a machine with more memory, or raise --memory-gb.",
        )
