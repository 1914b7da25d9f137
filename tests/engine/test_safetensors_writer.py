"""The writer: the library's own bytes, without its copies."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from chiasm.pipelines.engine.safetensors_writer import TYPES, write_safetensors

TENSORS = {
    **{f"of {name}": (torch.arange(6).reshape(2, 3) % 2).to(dtype) for dtype, name in TYPES.items()},
    "b": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "a": torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).T,
    "of nothing": torch.zeros(0, 5),
    "one": torch.tensor(2.5),
    "größe.größe": torch.ones(1),
}


def test_the_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", TENSORS)
    assert (tmp_path / "x.safetensors").read_bytes() == save({k: v.contiguous() for k, v in TENSORS.items()})


def test_half_stores_floating_point_as_float16_and_leaves_the_rest(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", TENSORS, half=True)
    found = load_file(tmp_path / "x.safetensors")
    for name, tensor in TENSORS.items():
        expected = tensor.half() if tensor.is_floating_point() else tensor
        assert found[name].dtype == expected.dtype
        assert torch.equal(found[name], expected)


def test_tensors_that_share_their_memory_are_written_each(tmp_path: Path) -> None:
    base = torch.arange(8.0)
    write_safetensors(tmp_path / "x.safetensors", {"whole": base, "part": base[2:4], "again": base})
    found = load_file(tmp_path / "x.safetensors")
    assert found["part"].tolist() == [2, 3]
    assert torch.equal(found["again"], base)


def test_no_copy_of_everything_is_made(tmp_path: Path) -> None:
    tensors = {str(i): torch.zeros(1 << 18) for i in range(16)}  # 16 MiB
    tracemalloc.start()
    write_safetensors(tmp_path / "x.safetensors", tensors)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert (tmp_path / "x.safetensors").stat().st_size > 16 << 20


def test_nothing_is_left_of_a_file_that_failed(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_safetensors(tmp_path / "x.safetensors", {"c": torch.zeros(2, dtype=torch.complex64)})
    assert not list(tmp_path.iterdir())
