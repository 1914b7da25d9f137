"""One long-lived child process with limits, in which foreign parsers run.

A decoder written in C may crash, hang or eat the memory on a crafted file. It does so here in a child with limits on
address space, processor time and wall-clock time; the parent gets a coded error and starts a new child for the next
file. Requests and answers are JSON lines, arrays pass through shared memory: nothing that comes back is executed.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import shared_memory
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from .errors import ChiasmError, InputError, ResourceError

CODES: dict[str, str] = {
    "CHI-RES-030": "Decoding a file took too long.",
    "CHI-RES-031": "Decoding a file took too much memory.",
    "CHI-RES-032": "The decoder crashed.",
    "CHI-RES-033": "The decoder's process could not be started.",
}
_KINDS: dict[str, type[ChiasmError]] = {"InputError": InputError, "ResourceError": ResourceError}
_MAX_ANSWER = 1 << 20
_START_S = 60.0
_REMEDY = "Look at the file with another program; convert it to an uncompressed form."


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one job may take.

    Parameters
    ----------
    memory_bytes : int
        Address space of the child, libraries included.
    cpu_s, wall_s : float
        Of one job.
    """

    memory_bytes: int = 4 << 30
    cpu_s: float = 60.0
    wall_s: float = 90.0


class GuardedReader:
    """Runs named jobs in one child that is started when first needed and replaced after a breach.

    Thread-safe: one job at a time. Use as a context manager, or call `close`.

    Parameters
    ----------
    jobs : mapping of str to str
        Name -> ``module:function``. The function takes JSON arguments and returns (JSON value, named arrays).
    limits : Limits
    """

    def __init__(self, jobs: Mapping[str, str], limits: Limits | None = None) -> None:
        self._jobs, self._limits = dict(jobs), limits or Limits()
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._count = 0
        self.restarts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self, job: str, arguments: Mapping[str, Any], *, file: str = ""
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Run one job and return its value and arrays (copies that this process owns).

        Raises
        ------
        InputError
            What the job found wrong with the file.
        ResourceError
            ``CHI-RES-030`` time, ``CHI-RES-031`` memory, ``CHI-RES-032`` death of the child.
        """
        if job not in self._jobs:
            raise ValueError(f"no such job: {job}")
        with self._lock:
            child = self._running()
            self._count += 1
            prefix = f"chiasm-{os.getpid()}-{id(self) & 0xFFFFFF:x}-{self._count}"
            request = json.dumps({"job": job, "arguments": dict(arguments), "prefix": prefix}) + "\n"
            try:
                answer = self._ask(child, request, file)
            except ChiasmError:
                self._end()
                _sweep(prefix)
                raise
        if "error" in answer:
            raise _error(answer["error"], file)
        return answer["value"], {name: _take(**where) for name, where in answer["arrays"].items()}

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._child = self._start()
        return self._child

    def _start(self) -> subprocess.Popen[bytes]:
        limits = self._limits
        settings = json.dumps({"jobs": self._jobs, "memory_bytes": limits.memory_bytes, "cpu_s": limits.cpu_s})
        # One thread a library: each thread pool reserves address space, which is limited.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            child = subprocess.Popen(  # noqa: S603  (this interpreter, fixed arguments; paths of patients go by pipe)
                [sys.executable, "-c", "from chiasm.data.guard import serve; serve()", settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C belongs to the driver
            )
        except OSError as error:
            raise ResourceError(
                "CHI-RES-033", f"The decoder's process could not be started ({error.strerror}).", "Try again."
            ) from error
        self._child = child
        try:
            self._read(child, _START_S, "")
        except ChiasmError:
            self._end()
            raise
        return child

    def _ask(self, child: subprocess.Popen[bytes], request: str, file: str) -> dict[str, Any]:
        try:
            _pipe(child.stdin).write(request.encode())
            _pipe(child.stdin).flush()
        except OSError:
            raise self._death(child, file) from None
        return self._read(child, self._limits.wall_s, file)

    def _read(self, child: subprocess.Popen[bytes], seconds: float, file: str) -> dict[str, Any]:
        """Read one line of JSON, however the child behaves."""
        stream = _pipe(child.stdout)
        deadline = time.monotonic() + seconds
        data = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while not data.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise ResourceError("CHI-RES-030", f"Decoding took longer than {seconds:g} s.", _REMEDY, file=file)
                chunk = os.read(stream.fileno(), 1 << 16)
                if not chunk:
                    raise self._death(child, file)
                data += chunk
                if len(data) > _MAX_ANSWER:
                    raise ResourceError("CHI-RES-032", "The decoder answered without end.", _REMEDY, file=file)
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ResourceError("CHI-RES-032", "The decoder answered nonsense.", _REMEDY, file=file)
        return answer

    def _death(self, child: subprocess.Popen[bytes], file: str) -> ResourceError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=5)
        status = child.returncode
        if status == -signal.SIGXCPU:
            return ResourceError(
                "CHI-RES-030",
                f"Decoding took longer than {self._limits.cpu_s:g} s of processor time.",
                _REMEDY,
                file=file,
            )
        return ResourceError("CHI-RES-032", f"The decoder died (status {status}).", _REMEDY, file=file)

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        self.restarts += 1
        with contextlib.suppress(OSError):
            _pipe(child.stdin).close()
        if child.poll() is None:
            child.kill()
        child.wait()
        _pipe(child.stdout).close()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise RuntimeError("the child was started without pipes")
    return stream


def _error(details: Mapping[str, str], file: str) -> ChiasmError:
    kind = _KINDS.get(details["kind"], ResourceError)
    return kind(details["code"], details["message"], details["remedy"], file=file or details["file"])


def _take(*, name: str, shape: list[int], dtype: str) -> NDArray[Any]:
    memory = shared_memory.SharedMemory(name=name)
    try:
        view: NDArray[Any] = np.ndarray(tuple(shape), np.dtype(dtype), buffer=memory.buf)
        array = view.copy()
        del view
    finally:
        memory.close()
        memory.unlink()
    return array


def _sweep(prefix: str, n_arrays: int = 4) -> None:
    """Free the shared memory that a child left when it was killed."""
    for index in range(n_arrays):
        with contextlib.suppress(OSError):
            memory = shared_memory.SharedMemory(name=f"{prefix}-{index}")
            memory.close()
            memory.unlink()


def serve() -> None:
    """Answer requests until stdin closes (the child's main function)."""
    settings = json.loads(sys.argv[1])
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not write into the answers
    functions = _functions(settings["jobs"])
    _limit_memory(settings["memory_bytes"])
    _send(answers, {"ready": True})
    for line in requests:
        request = json.loads(line)
        _limit_cpu(settings["cpu_s"])
        _send(answers, _answer(functions[request["job"]], request["arguments"], request["prefix"]))


def _functions(jobs: Mapping[str, str]) -> dict[str, Any]:
    from importlib import import_module

    found = {}
    for job, target in jobs.items():
        module, _, name = target.partition(":")
        found[job] = getattr(import_module(module), name)
    return found


def _send(stream: IO[bytes], value: Mapping[str, Any]) -> None:
    stream.write(json.dumps(value).encode() + b"\n")
    stream.flush()


def _answer(function: Any, arguments: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    try:
        value, arrays = function(**arguments)
        placed = {name: _place(array, f"{prefix}-{index}") for index, (name, array) in enumerate(arrays.items())}
        return {"value": value, "arrays": placed}
    except MemoryError:
        details = ("ResourceError", "CHI-RES-031", "Decoding took too much memory.", _REMEDY, "")
    except ChiasmError as error:
        details = (type(error).__name__, error.code, error.message, error.remedy, error.file)
    except Exception:  # noqa: BLE001  (the boundary around foreign parsers; their texts may hold header values)
        details = ("InputError", "CHI-IN-047", "The file cannot be decoded.", _REMEDY, "")
    return {"error": dict(zip(("kind", "code", "message", "remedy", "file"), details, strict=True))}


def _place(array: NDArray[Any], name: str) -> dict[str, Any]:
    from multiprocessing import resource_tracker

    memory = shared_memory.SharedMemory(name=name, create=True, size=max(array.nbytes, 1))
    target: NDArray[Any] = np.ndarray(array.shape, array.dtype, buffer=memory.buf)
    target[...] = array
    del target
    memory.close()
    # The parent unlinks it; this process's tracker would do so too, and complain.
    resource_tracker.unregister(f"/{name}", "shared_memory")
    return {"name": name, "shape": list(array.shape), "dtype": array.dtype.str}


def _limit_memory(n_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit: wall-clock time still holds
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_cpu(seconds: float) -> None:
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
