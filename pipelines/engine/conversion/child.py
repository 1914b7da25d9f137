"""Read an authors' checkpoint in a process of its own, with limits, and leave its tensors as safetensors.

The parent and the child speak JSON: a child that was taken over could not hand a pickle back.
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from ....data.errors import WeightsError

CODES = {
    "CHI-WT-013": "Reading a checkpoint took more memory or time than a checkpoint of its size can need, or crashed.",
}

WALL_S = 600.0
CPU_S = 300
SPARE_BYTES = 768 * 1024 * 1024
MEMORY_PER_BYTE = 3
SHOWN_NAMES = 20


def read_foreign(source: Path, target: Path, *, wall_s: float = WALL_S) -> list[str]:
    """Turn a ``.pt``, ``.pth``, ``.ckpt`` or TorchScript file into safetensors with the file's own names.

    Parameters
    ----------
    source : Path
        The authors' file; only read.
    target : Path
        The safetensors file to write.
    wall_s : float
        Seconds after which the child is ended.

    Returns
    -------
    list of str
        Names in the file that were replaced by inert placeholders, for the log.

    Raises
    ------
    WeightsError
        ``CHI-WT-010`` to ``CHI-WT-013``.
    """
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_main, args=(str(source), str(target), there), daemon=True)
    child.start()
    there.close()
    try:
        answer = here.recv_bytes(1 << 20) if here.poll(wall_s) else b""
    except (EOFError, OSError):  # it died without a word
        answer = b""
    finally:
        if child.is_alive() and not here.closed:
            child.join(5)
        if child.is_alive():
            child.kill()
        child.join()
        here.close()
    try:
        said = json.loads(answer)
    except ValueError:
        raise WeightsError(
            "CHI-WT-013",
            "the reader of the checkpoint was ended: it needed too much memory or time, or crashed.",
            "Compare the file's size or hash with its source; nothing of it was run.",
            file=source.name,
        ) from None
    if said.get("code"):
        raise WeightsError(said["code"], said["message"], said["remedy"], file=source.name)
    return [str(name) for name in said["inert"]]


def _main(source: str, target: str, answer: Connection) -> None:
    """Run in the child; whatever happens is told in JSON or, failing that, by silence."""
    from .archives import open_archive
    from .flatten import named_tensors, write_raw

    _limit(Path(source).stat().st_size)
    said: dict[str, object]
    try:
        archive = open_archive(Path(source))
        write_raw(archive, named_tensors(archive.tree), Path(target))
        said = {"inert": summary(archive.inert)}
    except WeightsError as error:
        said = {"code": error.code, "message": error.message, "remedy": error.remedy}
    except MemoryError:
        return
    with suppress(OSError):
        answer.send_bytes(json.dumps(said).encode())
        answer.close()


def summary(inert: Counter[str]) -> list[str]:
    """Return placeholders' names; those of TorchScript, of which each layer has its own, as one."""
    script = sum(1 for name in inert if name.startswith("__torch__"))
    names = sorted(name[:200] for name in inert if not name.startswith("__torch__"))
    more = [f"and {len(names) - SHOWN_NAMES} more"] if len(names) > SHOWN_NAMES else []
    return [*([f"__torch__ ({script} TorchScript classes)"] if script else []), *names[:SHOWN_NAMES], *more]


def _limit(size: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits; the wall clock of the parent remains
        return
    limits: Iterable[tuple[int, int]] = (
        (resource.RLIMIT_AS, _address_space() + SPARE_BYTES + MEMORY_PER_BYTE * size),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_FSIZE, 4 * size + (1 << 20)),
        (resource.RLIMIT_CORE, 0),
    )
    for kind, value in limits:
        with suppress(ValueError, OSError):  # a lower limit stands already, or the system does not know this one
            resource.setrlimit(kind, (value, value))


def _address_space() -> int:
    import psutil

    return int(psutil.Process().memory_info().vms)
