"""An unpickler that can only describe tensors: no name in a file is ever looked up in a real module.

A pickle is a program that may name any function. Here `find_class` answers a short list of names with small classes of
this file and everything else with an inert placeholder, so that nothing in the file can run. torch is not needed.
"""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

STORAGE_TYPES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
}  # fmt: skip
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32", "int16": "I16",
    "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
NUMPY_CODES = {
    "f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8", "u1": "U8", "b1": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class StorageRef:
    """Bytes elsewhere in the file: their key, their type and how many items there are."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class TensorRecord:
    """A tensor as described in the file; nothing about it has been checked yet."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any
    dtype: str | None = None


class Inert:
    """Stands for an object of a class that is not on the list; keeps what it is given and does nothing."""

    name = ""
    state: Any = None

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Make one from any arguments, which are dropped."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take any arguments."""

    def __call__(self, *_: Any) -> Inert:
        """Stand for its own result too, where a file calls what a call gave."""
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, _: Any) -> None:
        """Take an item of a list subclass."""

    def extend(self, _: Any) -> None:
        """Take items of a list subclass."""

    def add(self, _: Any) -> None:
        """Take an item of a set subclass."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take an item of a dict subclass."""


class NumpyArray:
    """A numpy array or its dtype as described in the file."""

    def __init__(self, *args: Any) -> None:
        self.arguments = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def record(self) -> TensorRecord | None:
        """Return the array as a tensor, or None where it holds anything but plain little-endian numbers."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, dtype, is_fortran, raw = self.state
        code = dtype.arguments[0] if isinstance(dtype, NumpyArray) and dtype.arguments else None
        order = dtype.state[1] if isinstance(dtype, NumpyArray) and isinstance(dtype.state, tuple) else "|"
        name = NUMPY_CODES.get(code) if isinstance(code, str) else None
        if name is None or order not in {"<", "|", "="} or not isinstance(raw, bytes) or not isinstance(shape, tuple):
            return None
        if not all(type(side) is int and side >= 0 for side in shape):
            return None
        stride, step = [], 1
        for side in shape if is_fortran else reversed(shape):
            stride.append(step)
            step *= side
        return TensorRecord(raw, 0, shape, tuple(stride if is_fortran else reversed(stride)), name)


class _Rebuild:
    """A function that a file may call. An object without attributes, so that a file cannot change it either."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("a listed name may not be changed")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> TensorRecord:
    return TensorRecord(storage, offset, shape, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("only latin1 bytes are read")
    return text.encode("latin1")


def _size(sides: Any = ()) -> tuple[Any, ...]:
    return tuple(sides)


def _nothing(*_: Any) -> None:
    return None


_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
LISTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _Rebuild(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Rebuild(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Rebuild(_parameter),
    ("torch", "Size"): _Rebuild(_size),
    ("torch", "device"): _Rebuild(_nothing),
    ("_codecs", "encode"): _Rebuild(_latin1),
    ("numpy", "dtype"): NumpyArray,
    ("numpy", "ndarray"): "numpy.ndarray",
    **{(module, "_reconstruct"): NumpyArray for module in _NUMPY_MODULES},
    **{(module, "scalar"): _Rebuild(_nothing) for module in _NUMPY_MODULES},
    **{("torch", name): name for name in STORAGE_TYPES},
    **{("torch.storage", name): name for name in STORAGE_TYPES},
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}
"""(module, name) in a file -> what stands for it here. torch's own names describe tensors; the rest wraps plain values."""


class TensorUnpickler(pickle.Unpickler):
    """Reads a pickle into dicts, lists, plain values, `TensorRecord` and `Inert`.

    Parameters
    ----------
    stream : binary file
    inert : Counter
        Gets the full names of the placeholders that were needed.
    """

    def __init__(self, stream: IO[bytes], inert: Counter[str]) -> None:
        super().__init__(stream, encoding="latin1")
        self.inert = inert

    def find_class(self, module: str, name: str) -> Any:
        """Answer a listed name with its stand-in and any other with a placeholder; nothing is imported."""
        listed = LISTED.get((module, name))
        if listed is not None:
            return listed
        full = f"{module}.{name}"
        self.inert[full] += 1
        return type("Inert", (Inert,), {"name": full})

    def persistent_load(self, pid: Any) -> Any:
        """Describe a storage: ('storage', type, key, location, number of items, ...)."""
        if isinstance(pid, tuple) and len(pid) >= 2 and pid[0] == "module":
            return pid[1]  # legacy files of whole models name a class with its source text; the class is a placeholder
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("an unknown kind of reference")
        kind, key, numel = pid[1], pid[2], pid[4]
        if not isinstance(kind, str) or kind not in STORAGE_TYPES or not isinstance(key, str):
            raise pickle.UnpicklingError("an unknown kind of storage")
        if type(numel) is not int or numel < 0:
            raise pickle.UnpicklingError("a storage without a size")
        return StorageRef(key, STORAGE_TYPES[kind], numel)
