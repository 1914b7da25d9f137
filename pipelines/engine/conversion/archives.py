"""The containers that torch writes: the zip of 1.6 and later (TorchScript too) and the legacy stream before it."""

from __future__ import annotations

import io
import pickle  # for its exception only: reading goes through TensorUnpickler
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO, Any

from ....data.errors import WeightsError
from ..safetensors_header import ITEM_BYTES
from .unpickler import StorageRef, TensorUnpickler

CODES = {
    "CHI-WT-010": "The file is not a checkpoint of a format that can be read.",
    "CHI-WT-011": "A checkpoint is damaged: what it describes and the bytes that it has do not agree.",
}

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_PICKLE_BYTES = 256 * 1024 * 1024
MAX_RATIO = 200


class Archive:
    """An opened checkpoint: the tree of objects that it describes, and its storages' bytes on request.

    Parameters
    ----------
    tree : object
        Dicts, lists, plain values, `TensorRecord`, `Inert`.
    inert : Counter
        Names that became placeholders.
    """

    def __init__(self, tree: Any, inert: Counter[str], size: int) -> None:
        self.tree, self.inert, self.size = tree, inert, size

    def read(self, storage: StorageRef) -> bytes:
        """Return a storage's bytes, little-endian, exactly as many as it declares."""
        raise NotImplementedError


def open_archive(path: Path) -> Archive:
    """Open a ``.pt``, ``.pth``, ``.ckpt`` or TorchScript file.

    Raises
    ------
    WeightsError
        ``CHI-WT-010`` another format, ``CHI-WT-011`` damaged.
    """
    with path.open("rb") as stream:
        start = stream.read(2)
    try:
        if start == b"PK":
            return _ZipArchive(path)
        if start[:1] == b"\x80":
            return _LegacyArchive(path)
    except (pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, UnicodeDecodeError) as error:
        raise damaged(type(error).__name__) from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        # What the pickle machine raises on nonsense; a child process runs this, so that nothing else can be hurt.
        raise damaged(type(error).__name__) from None
    raise WeightsError(
        "CHI-WT-010", "not a file that torch.save wrote.", "Give the authors' .pt or .pth file, or a safetensors file."
    )


def damaged(why: str) -> WeightsError:
    """Return the error for a file whose description and bytes do not agree."""
    return WeightsError(
        "CHI-WT-011",
        f"the checkpoint is damaged ({why}).",
        "Fetch it again and compare its size or hash with the source.",
    )


class _ZipArchive(Archive):
    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        members = {info.filename: info for info in self._zip.infolist()}
        size = path.stat().st_size
        if sum(info.file_size for info in members.values()) > MAX_RATIO * size:
            raise damaged("it expands more than any checkpoint does")
        trees = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(trees) != 1:
            inner = [name for name in members if name.endswith((".pt", ".pth"))]
            what = f"it is a zip that holds {inner[0]}" if inner else "it is a zip without data.pkl"
            raise WeightsError(
                "CHI-WT-010", f"not a file that torch.save wrote: {what[:200]}.", "Unpack it and give the file inside."
            )
        self._prefix = trees[0].removesuffix("data.pkl")
        if members[trees[0]].file_size > MAX_PICKLE_BYTES:
            raise damaged("its description is longer than any checkpoint's")
        order = self._zip.read(f"{self._prefix}byteorder") if f"{self._prefix}byteorder" in members else b"little"
        if order != b"little":
            raise WeightsError(
                "CHI-WT-010", "the checkpoint was written on a big-endian machine.", "Save it again on another machine."
            )
        self._members = members
        inert: Counter[str] = Counter()
        super().__init__(TensorUnpickler(io.BytesIO(self._zip.read(trees[0])), inert).load(), inert, size)

    def read(self, storage: StorageRef) -> bytes:
        info = self._members.get(f"{self._prefix}data/{storage.key}")
        wanted = storage.numel * ITEM_BYTES[storage.dtype]
        if info is None or info.file_size != wanted:
            raise damaged(f"a storage of {wanted} bytes is missing or has another size")
        try:
            return self._zip.read(info.filename)
        except (zipfile.BadZipFile, EOFError, ValueError):
            raise damaged("a storage cannot be read") from None


class _LegacyArchive(Archive):
    """Five pickles in a row (magic, protocol, system, objects, storage keys), then each storage with its length."""

    def __init__(self, path: Path) -> None:
        inert: Counter[str] = Counter()
        size = path.stat().st_size
        self._path = path
        self._where: dict[str, tuple[int, int]] = {}
        with path.open("rb") as stream:
            if TensorUnpickler(stream, inert).load() != LEGACY_MAGIC:
                raise WeightsError(
                    "CHI-WT-010", "a pickle, but not one that torch.save wrote.", "Give the authors' .pt or .pth file."
                )
            TensorUnpickler(stream, inert).load()
            system = TensorUnpickler(stream, inert).load()
            if isinstance(system, dict) and system.get("little_endian") is False:
                raise WeightsError(
                    "CHI-WT-010",
                    "the checkpoint was written on a big-endian machine.",
                    "Save it again on another machine.",
                )
            recorder = _Recorder(stream, inert)
            tree = recorder.load()
            keys = TensorUnpickler(stream, inert).load()
            self._index(stream, keys, recorder.item_bytes, size)
        super().__init__(tree, inert, size)

    def _index(self, stream: IO[bytes], keys: Any, item_bytes: dict[str, int], size: int) -> None:
        if not isinstance(keys, list):
            raise damaged("it has no list of storages")
        for key in keys:
            if not isinstance(key, str) or key not in item_bytes:
                raise damaged("a storage that nothing refers to")
            (numel,) = struct.unpack("<q", stream.read(8))
            n_bytes = numel * item_bytes[key]
            here = stream.tell()
            if not 0 <= n_bytes <= size - here:
                raise damaged(f"a storage of {n_bytes} bytes is cut short")
            self._where[key] = (here, n_bytes)
            stream.seek(here + n_bytes)

    def read(self, storage: StorageRef) -> bytes:
        start, n_bytes = self._where.get(storage.key, (0, -1))
        wanted = storage.numel * ITEM_BYTES[storage.dtype]
        if wanted != n_bytes:
            raise damaged(f"a storage of {wanted} bytes is missing or has another size")
        with self._path.open("rb") as stream:
            stream.seek(start)
            return stream.read(n_bytes)


class _Recorder(TensorUnpickler):
    """Remembers each storage's item size, which the legacy format states nowhere else."""

    def __init__(self, stream: IO[bytes], inert: Counter[str]) -> None:
        super().__init__(stream, inert)
        self.item_bytes: dict[str, int] = {}

    def persistent_load(self, pid: Any) -> Any:
        ref = super().persistent_load(pid)
        if isinstance(ref, StorageRef):
            self.item_bytes[ref.key] = ITEM_BYTES[ref.dtype]
        return ref
