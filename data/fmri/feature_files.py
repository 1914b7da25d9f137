"""Targets of a stimulus set on disk, so that a large encoder runs once: rows of a .npy file and what they were made of.

A file belongs to one target space, one encoder, one preprocessing and one stimulus set, all in the JSON beside it; it is
refused where any of them differs. Extraction writes under a hidden name, goes on after an interruption, and gives the file
its name when every row is there.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from ..atomic import resource_error, write_json
from ..errors import InputError
from .decoding_set import Stimuli
from .npy import HEADER_BYTES, npy_header

CODES: dict[str, str] = {
    "CHI-IN-320": "a file of target features lacks its JSON description, or the description cannot be read",
    "CHI-IN-321": "target features were made for another target, encoder, preprocessing or stimulus set",
    "CHI-IN-322": "a file of target features is damaged or has another shape than its description",
    "CHI-IN-323": "a row of target features is asked for that the file does not have",
    "CHI-IN-324": "an encoder gave features that are not finite numbers, or too large for the type they are kept in",
    "CHI-IN-325": "another process is extracting the same target features",
}

Compute = Callable[[NDArray[np.int64]], NDArray[np.float32]]
Progress = Callable[[int, int], None]
SAMPLE, SAMPLE_SIZE = 512, 32
"""How many stimuli, and at which size, are hashed beside the names of all."""


@dataclass(frozen=True, kw_only=True)
class FeatureAbout:
    """What features were made of.

    Parameters
    ----------
    target : str
        Name of the target space.
    encoder : str
        Sha256 of the encoder's weights; empty where there are none.
    preprocessing : str
        In words: the space's normalisation.
    stimuli : str
        Sha256, as `stimuli_sha256` makes it.
    rows : int
        Stimuli.
    tokens, width : int
        Shape (N, d) of one row.
    """

    target: str
    encoder: str
    preprocessing: str
    stimuli: str
    rows: int
    tokens: int
    width: int

    @property
    def short(self) -> str:
        """Twelve digits that differ where anything differs."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


class FeatureFile:
    """Features on disk, read by position and not mapped into memory.

    Parameters
    ----------
    path : Path
        The .npy file.
    about : FeatureAbout
    dtype : dtype
        As stored.
    offset : int
        Bytes before the first row.
    """

    def __init__(self, path: Path, about: FeatureAbout, dtype: np.dtype[np.floating], offset: int) -> None:
        self.path, self.about, self._dtype, self._offset = path, about, dtype, offset

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, tokens, width."""
        return self.about.rows, self.about.tokens, self.about.width

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows, (k, N, d), in the order asked for; a row may be asked for twice.

        Raises
        ------
        InputError
            ``CHI-IN-322`` where the file has become shorter, ``CHI-IN-323``.
        ResourceError
            As `atomic.resource_error`.
        """
        n, *shape = self.shape
        if len(rows) and (rows.min() < 0 or rows.max() >= n):
            raise InputError(
                "CHI-IN-323",
                f"row {int(rows.max() if rows.max() >= n else rows.min())} of features with {n} rows is asked for.",
                "Stimuli count from 0.",
                file=self.path.name,
            )
        found = np.empty((len(rows), *shape), dtype=np.float32)
        size = shape[0] * shape[1] * self._dtype.itemsize
        with _coded(self.path.name), self.path.open("rb", buffering=0) as file:
            for i, row in enumerate(rows):
                data = os.pread(file.fileno(), size, self._offset + int(row) * size)
                if len(data) != size:
                    raise _damaged(self.path.name, "it ends too early")
                found[i] = np.frombuffer(data, dtype=self._dtype).reshape(shape)
        return found


def stimuli_sha256(stimuli: Stimuli) -> str:
    """Hash a stimulus set: how many, their names, and the pixels of all (up to 512) or of 512 spread over the set."""
    total = hashlib.sha256(json.dumps([stimuli.n, list(stimuli.names)]).encode())
    chosen = np.unique(np.linspace(0, stimuli.n - 1, min(SAMPLE, stimuli.n)).round().astype(np.int64))
    for start in range(0, len(chosen), 64):
        total.update(np.ascontiguousarray(stimuli.read(chosen[start : start + 64], size=SAMPLE_SIZE)).tobytes())
    return total.hexdigest()


def feature_path(folder: Path, about: FeatureAbout) -> Path:
    """Return where features belong in a cache: two sets that differ in anything have two names."""
    return folder / f"{about.target}-{about.short}.npy"


def open_features(path: Path, about: FeatureAbout) -> FeatureFile:
    """Open finished features.

    Raises
    ------
    InputError
        ``CHI-IN-320`` to ``CHI-IN-322``.
    """
    found = _description(path.with_suffix(".json"))
    wanted = asdict(about)
    other = [name for name in wanted if found.get(name) != wanted[name]]
    if other:
        listed = "; ".join(f"{name} is '{str(found.get(name))[:60]}', not '{str(wanted[name])[:60]}'" for name in other)
        raise InputError(
            "CHI-IN-321",
            f"the features were made of something else: {listed}.",
            "Name another cache folder, or remove the file and its JSON so that they are made again.",
            file=path.name,
        )
    try:
        with path.open("rb") as file:
            header = npy_header(file.read(HEADER_BYTES), size=path.stat().st_size, relative=path.name)
    except OSError as error:
        raise _damaged(path.name, f"it cannot be read ({type(error).__name__})") from error
    except InputError as error:
        raise _damaged(path.name, error.message.removeprefix("the array cannot be used: ")) from error
    shape = (about.rows, about.tokens, about.width)
    if header.shape != shape or header.fortran or header.dtype.str not in ("<f2", "<f4"):
        raise _damaged(
            path.name, f"it holds {header.shape} values of type {header.dtype.str}, and {shape} are described"
        )
    return FeatureFile(path, about, header.dtype, header.offset)


def extract_features(
    path: Path,
    about: FeatureAbout,
    compute: Compute,
    *,
    batch: int = 64,
    dtype: Literal["float16", "float32"] = "float16",
    on_progress: Progress | None = None,
) -> FeatureFile:
    """Return the features of `path`, made first where they are not there; goes on where an earlier run was interrupted.

    Parameters
    ----------
    path : Path
        Ends in ``.npy``; its JSON stands beside it.
    about : FeatureAbout
    compute : callable
        Numbers of stimuli (k,) -> features (k, N, d).
    batch : int
        Stimuli a call.
    dtype : 'float16' or 'float32'
        How they are kept.
    on_progress : callable, optional
        Called with rows done and rows in all after every batch.

    Raises
    ------
    InputError
        ``CHI-IN-320`` to ``CHI-IN-322`` for a file that is there and differs, ``CHI-IN-324``, ``CHI-IN-325``.
    ResourceError
        ``CHI-RES-010`` to ``014``; on a full disk nothing is left behind, as the room is taken first.
    """
    description = path.with_suffix(".json")
    if path.is_file() and description.is_file():
        return open_features(path, about)
    partial = path.with_name(f".{path.name}.part")
    with _coded(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not "a+b": what is written at a position goes to the end of a file that is open for appending.
        with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            _lock(file, path.name)
            done = _begin(file, partial, about, dtype)
            for start in range(done, about.rows, batch):
                rows = np.arange(start, min(start + batch, about.rows), dtype=np.int64)
                _append(file, _checked(compute(rows), rows, about, dtype), partial, int(rows[-1]) + 1)
                if on_progress:
                    on_progress(int(rows[-1]) + 1, about.rows)
            # A description of earlier features must not stand beside these for a moment.
            description.unlink(missing_ok=True)
            os.replace(partial, path)
        write_json(description, {**asdict(about), "dtype": dtype})
        _state(partial).unlink(missing_ok=True)
    return open_features(path, about)


def _header(about: FeatureAbout, dtype: str) -> bytes:
    stream = BytesIO()
    shape = (about.rows, about.tokens, about.width)
    np.lib.format.write_array_header_1_0(
        stream, {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def _state(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _begin(file: IO[bytes], partial: Path, about: FeatureAbout, dtype: str) -> int:
    """Return how many rows are there already, after taking the room for all of them."""
    header = _header(about, dtype)
    row = about.tokens * about.width * np.dtype(dtype).itemsize
    same = {**asdict(about), "dtype": dtype}
    try:
        state = json.loads(_state(partial).read_text("utf-8"))
    except (OSError, ValueError):
        state = {}
    done = state.pop("done", 0) if isinstance(state, dict) else 0
    whole = len(header) + row * about.rows
    if state != same or not isinstance(done, int) or os.fstat(file.fileno()).st_size != whole:
        done = 0
        file.truncate(0)
        try:
            _take_room(file, whole)
        except OSError:
            partial.unlink(missing_ok=True)
            _state(partial).unlink(missing_ok=True)
            raise
        os.pwrite(file.fileno(), header, 0)
        write_json(_state(partial), {**same, "done": 0})
    return done


def _take_room(file: IO[bytes], size: int) -> None:
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        file.truncate(size)  # a file system that cannot promise room


def _append(file: IO[bytes], values: NDArray[np.floating], partial: Path, done: int) -> None:
    row = values[0].nbytes
    offset = os.fstat(file.fileno()).st_size
    state = json.loads(_state(partial).read_text("utf-8"))
    offset -= (state["rows"] - done + len(values)) * row
    data = memoryview(np.ascontiguousarray(values).tobytes())
    while data:
        written = os.pwrite(file.fileno(), data, offset)
        data, offset = data[written:], offset + written
    os.fsync(file.fileno())  # or the count could be on disk before the rows
    write_json(_state(partial), {**state, "done": done})


def _checked(
    values: NDArray[np.float32], rows: NDArray[np.int64], about: FeatureAbout, dtype: str
) -> NDArray[np.floating]:
    shape = (len(rows), about.tokens, about.width)
    if values.shape != shape:
        raise ValueError(f"compute must return {shape}, not {values.shape}")
    with np.errstate(over="ignore"):
        kept = values.astype(np.dtype(dtype).newbyteorder("<"))
    if not np.isfinite(kept).all():
        raise InputError(
            "CHI-IN-324",
            f"the encoder '{about.target}' gave values that are not finite in {dtype} for stimuli {rows[0]} to {rows[-1]}.",
            "Keep the features as float32; where they are not finite then, the weights are damaged.",
        )
    return kept


def _description(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(
            "CHI-IN-320",
            "the description of the target features is missing or is no JSON object.",
            "Remove the .npy file beside it; the features are made again.",
            file=path.name,
        )
    return found


def _damaged(name: str, why: str) -> InputError:
    return InputError(
        "CHI-IN-322",
        f"the target features cannot be used: {why.rstrip('.')}.",
        "Remove the file and its JSON; they are made again.",
        file=name,
    )


def _lock(file: IO[bytes], name: str) -> None:
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system drops it when the process ends
    except BlockingIOError as error:
        raise InputError(
            "CHI-IN-325",
            "another process is extracting these features.",
            "Wait until it has finished, or name another cache folder.",
            file=name,
        ) from error


@contextmanager
def _coded(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        coded = resource_error(error, name)
        if coded is None:
            raise
        raise coded from error
