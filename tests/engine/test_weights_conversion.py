"""Conversion: published files in every container become the right tensors, and nothing in a pickle ever runs."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from chiasm.data.errors import ChiasmError, SeveralErrors, WeightsError
from chiasm.pipelines.engine.components import build_network
from chiasm.pipelines.engine.conversion.archives import LEGACY_MAGIC, open_archive
from chiasm.pipelines.engine.conversion.child import read_foreign, summary
from chiasm.pipelines.engine.conversion.convert import Description, convert
from chiasm.pipelines.engine.conversion.flatten import named_tensors, write_raw
from chiasm.pipelines.engine.conversion.keys import swin_encoder, swin_unetr, without_wrappers
from chiasm.pipelines.engine.tensors import read_tensors
from chiasm.pipelines.engine.weights import open_folder

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
SWIN = {"in_channels": 4, "out_channels": 3, "feature_size": 12, "num_heads": [1, 1, 1, 1], "depths": [1, 1, 1, 1]}


def save(value: object, path: Path, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def read_here(path: Path) -> tuple[dict[str, torch.Tensor], Counter[str]]:
    """Read in this process: the same code as in the child, without its half second."""
    from safetensors.torch import load_file

    archive = open_archive(path)
    write_raw(archive, named_tensors(archive.tree), path.with_suffix(".safetensors"))
    return load_file(path.with_suffix(".safetensors")), archive.inert


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(ChiasmError) as error:
        action()
    return error.value.code


# --- what is read


@FORMATS
def test_tensors_of_every_type_and_layout_are_read_exactly(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    state = OrderedDict(
        plain=base, transposed=base.t(), view=base[1:, 2:5], parameter=nn.Parameter(base), scalar=torch.tensor(3.0),
        empty=torch.zeros(0, 3), double=base.double(), half=base.half(), bfloat=base.bfloat16(), long=torch.arange(3),
        small=torch.arange(3, dtype=torch.int8), byte=torch.arange(3, dtype=torch.uint8), flag=torch.tensor([True, False]),
    )  # fmt: skip
    tensors, inert = read_here(save(state, tmp_path / "x.pt", zipped))
    assert set(tensors) == set(state)
    for name, value in state.items():
        assert tensors[name].dtype == value.dtype, name
        assert torch.equal(tensors[name], value.detach()), name
    assert not inert


@FORMATS
def test_the_network_is_found_beside_epoch_score_and_optimiser(tmp_path: Path, zipped: bool) -> None:
    network = nn.Linear(2, 3)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    checkpoint = {
        "epoch": 300, "best_acc": np.float64(0.9), "state_dict": network.state_dict(), "optimizer": optimiser.state_dict(),
    }  # fmt: skip
    tensors, inert = read_here(save(checkpoint, tmp_path / "x.pt", zipped))
    assert set(tensors) == {"weight", "bias"}
    assert torch.equal(tensors["weight"], network.weight)
    assert not inert


@FORMATS
def test_a_whole_pickled_model_is_seen_through(tmp_path: Path, zipped: bool) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    tensors, inert = read_here(save(network, tmp_path / "x.pt", zipped))
    assert set(tensors) == set(network.state_dict())
    assert "torch.nn.modules.conv.Conv2d" in inert


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_read_as_data(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    torch.jit.trace(network, torch.zeros(1, 1, 8, 8)).save(str(tmp_path / "x.pt"))
    tensors, inert = read_here(tmp_path / "x.pt")
    assert set(tensors) >= {"0.weight", "0.bias", "1.weight", "1.running_var"}
    assert torch.equal(tensors["0.weight"], network[0].weight)
    assert summary(inert)[0].startswith("__torch__ (")


def test_numpy_arrays_are_read_in_both_orders(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3)
    tensors, inert = read_here(save({"c": array, "f": np.asfortranarray(array), "i": np.arange(3)}, tmp_path / "x.pt"))
    for name in ("c", "f"):
        np.testing.assert_array_equal(tensors[name].numpy(), array)
    assert not inert


# --- what is never run


class Evil:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def evils(marker: Path) -> dict[str, object]:
    import builtins
    import functools
    import subprocess

    command = f"touch {marker}"
    return {
        "os.system": Evil(os.system, command),
        "subprocess": Evil(subprocess.call, ["touch", str(marker)]),
        "eval": Evil(builtins.eval, f"open({str(marker)!r}, 'w')"),
        "exec": Evil(builtins.exec, f"open({str(marker)!r}, 'w')"),
        "open": Evil(builtins.open, str(marker), "w"),
        "getattr chain": Evil(getattr, Evil(__import__, "os"), "system"),
        "partial": Evil(functools.partial, os.system, command),
        "pickle in pickle": Evil(pickle.loads, pickle.dumps(Evil(os.system, command))),
        "torch bytes": Evil(torch.storage._load_from_bytes, b"x"),
        "path": Evil(Path.touch, marker),
    }


@FORMATS
@pytest.mark.parametrize("name", list(evils(Path("x"))))
def test_a_malicious_pickle_executes_nothing(tmp_path: Path, name: str, zipped: bool) -> None:
    marker = tmp_path / "ran"
    path = save({"state_dict": {"w": torch.ones(2)}, "evil": evils(marker)[name]}, tmp_path / "x.pt", zipped)
    tensors, inert = read_here(path)
    assert tensors["w"].tolist() == [1.0, 1.0]
    assert inert, "the name must be reported"
    assert not marker.exists()


def test_the_child_reports_placeholders_and_executes_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = save({"state_dict": {"w": torch.ones(2)}, "evil": Evil(os.system, f"touch {marker}")}, tmp_path / "x.pt")
    assert read_foreign(path, tmp_path / "out.safetensors") == ["posix.system"]
    assert read_tensors(tmp_path / "out.safetensors")["w"].tolist() == [1.0, 1.0]
    assert not marker.exists()


OPCODES = {
    "build on a listed function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x09\x00\x00\x00_functionX\x01\x00\x00\x00xsb.",
    "build on a placeholder class": b"\x80\x02cos\nsystem\n}X\x01\x00\x00\x00aK\x01sb.",
    "build on a listed class": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",
    "inst": b"\x80\x02(X\x04\x00\x00\x00trueios\nsystem\n.",
    "extension registry": b"\x80\x02\x82\x01.",
    "unknown persistent id": b"\x80\x02X\x04\x00\x00\x00evilQ.",
    "stack underflow": b"\x80\x02R.",
    "deep tuples": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
    "no stop": b"\x80\x02}",
    "nothing": b"",
}


@pytest.mark.parametrize("name", OPCODES)
def test_hand_made_pickles_end_in_a_coded_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", OPCODES[name])
    assert code_of(lambda: read_here(path)) in {"CHI-WT-011", "CHI-WT-012"}


def test_a_pickle_that_asks_for_all_memory_ends_its_child_only(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02Nr\xff\xff\xff\x7f.")  # memo index 2^31: 32 GB of table
    assert code_of(lambda: read_foreign(path, tmp_path / "out")) == "CHI-WT-013"


# --- damage and lies


@FORMATS
@pytest.mark.parametrize("keep", [0.0, 0.2, 0.6, 0.97])
def test_a_truncated_file_is_a_coded_error(tmp_path: Path, keep: float, zipped: bool) -> None:
    path = save({"w": torch.zeros(1000)}, tmp_path / "x.pt", zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    assert code_of(lambda: read_here(path)) in {"CHI-WT-010", "CHI-WT-011"}


def record(
    shape: tuple[int, ...], stride: tuple[int, ...], *, offset: int = 0, numel: int = 4, key: str = "0"
) -> bytes:
    """Pickle one tensor record by hand, with a storage of four floats in the zip beside it."""

    class Writer(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, key, "cpu", numel) if value == "STORAGE" else None

    class Record:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, ("STORAGE", offset, shape, stride, False, OrderedDict())

    stream = io.BytesIO()
    Writer(stream, protocol=2).dump({"w": Record()})
    return stream.getvalue()


LIES = {
    "past the end": record((5,), (1,)),
    "offset past the end": record((4,), (1,), offset=1),
    "stride past the end": record((2, 2), (3, 1)),
    "negative offset": record((1,), (1,), offset=-1),
    "negative shape": record((-1,), (1,)),
    "negative stride": record((2,), (-1,)),
    "expanded": record((1000, 1000), (0, 0)),
    "huge": record((2**40,), (0,)),
    "shape and stride of other lengths": record((2, 2), (1,)),
    "more items than stored": record((8,), (1,), numel=8),
    "missing storage": record((4,), (1,), key="9"),
    "storage elsewhere": record((4,), (1,), key="../../etc/passwd"),
    "too many dimensions": record((1,) * 9, (1,) * 9),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path: Path, lie: str) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", LIES[lie])
        archive.writestr("x/data/0", b"\0" * 16)
    assert code_of(lambda: read_here(path)) == "CHI-WT-011"


def test_one_storage_seen_many_times_cannot_fill_the_disk(tmp_path: Path) -> None:
    base = torch.zeros(100_000)
    path = save({f"w{index}": base for index in range(50)}, tmp_path / "x.pt")
    assert code_of(lambda: read_here(path)) == "CHI-WT-011"


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * 50_000_000)
    assert code_of(lambda: read_here(path)) == "CHI-WT-011"


def test_a_zip_with_the_checkpoint_inside_says_so(tmp_path: Path) -> None:
    path = tmp_path / "fold0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fold0/model.pt", b"x")
    with pytest.raises(WeightsError, match=r"holds fold0/model\.pt"):
        read_here(path)


@pytest.mark.parametrize("data", [b"", b"PK", b"hello", b"\x80\x02K\x01.", b"\x93NUMPY" + b"\0" * 50])
def test_another_format_is_named_as_such(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    assert code_of(lambda: read_here(path)) in {"CHI-WT-010", "CHI-WT-011"}


def test_a_legacy_storage_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    path = save({"w": torch.zeros(4)}, tmp_path / "x.pt", False)
    path.write_bytes(path.read_bytes().replace(struct.pack("<q", 4), struct.pack("<q", 2**60)))
    assert pickle.dumps(LEGACY_MAGIC, 2) in path.read_bytes()
    assert code_of(lambda: read_here(path)) == "CHI-WT-011"


def test_a_checkpoint_without_tensors_says_so(tmp_path: Path) -> None:
    assert code_of(lambda: read_here(save({"epoch": 3}, tmp_path / "x.pt"))) == "CHI-WT-012"


def test_a_child_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    path = save({"w": torch.zeros(4)}, tmp_path / "x.pt")
    assert code_of(lambda: read_foreign(path, tmp_path / "out", wall_s=0.001)) == "CHI-WT-013"


# --- names


def test_wrappers_are_dropped_only_where_every_name_has_them() -> None:
    assert without_wrappers({"module._orig_mod.a": 1, "module._orig_mod.b": 2}) == {"a": 1, "b": 2}
    assert without_wrappers({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}


def test_the_self_supervised_encoder_gets_the_names_of_the_network() -> None:
    published = {
        "module.patch_embed.proj.weight": 1,
        "module.layers1.0.blocks.0.mlp.fc1.weight": 2,
        "module.layers4.0.downsample.reduction.weight": 3,
        "module.rotation_head.weight": 4,
    }
    assert swin_encoder(published) == {
        "swinViT.patch_embed.proj.weight": 1,
        "swinViT.layers1.0.blocks.0.mlp.linear1.weight": 2,
        "swinViT.layers4.0.downsample.reduction.weight": 3,
    }
    assert swin_encoder({"module.swin_vit.layers2.0.blocks.1.mlp.fc2.bias": 5}) == {
        "swinViT.layers2.0.blocks.1.mlp.linear2.bias": 5
    }


def test_names_of_the_published_folds_stay_as_they_are() -> None:
    names = dict.fromkeys(build_network("swin-unetr", SWIN).state_dict(), 0)
    assert swin_unetr(names) == names
    assert swin_unetr({f"module.{name}": 0 for name in names}) == names


# --- the whole way


def test_a_fold_in_the_published_form_becomes_a_folder_that_computes_the_same(tmp_path: Path) -> None:
    network = build_network("swin-unetr", {**SWIN, "merging": "legacy"}).eval()
    checkpoint = {
        "epoch": 299,
        "best_acc": np.float64(0.88),
        "state_dict": network.state_dict(),
        "optimizer": {"state": {}},
    }
    source = save(checkpoint, tmp_path / "model.pt")
    description = Description(
        kind="swin-unetr", parameters={**SWIN, "merging": "legacy"}, channels=("flair", "t1ce", "t1", "t2")
    )
    assert convert(source, tmp_path / "fold0", description) == []
    folder = open_folder(tmp_path / "fold0")
    assert folder.config["channels"] == ["flair", "t1ce", "t1", "t2"]
    again = build_network("swin-unetr", folder.config["parameters"]).eval()
    again.load_state_dict(read_tensors(folder.files["model"]))
    x = torch.randn(1, 4, 32, 32, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(x), network(x), atol=0, rtol=0)


def test_a_bundle_checkpoint_of_another_network_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    source = save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "model.pt")
    assert (
        code_of(lambda: convert(source, tmp_path / "out", Description(kind="swin-unetr", parameters=SWIN)))
        == "CHI-WT-005"
    )
    assert not (tmp_path / "out").exists()


def test_a_file_with_another_hash_than_the_list_names_is_refused(tmp_path: Path) -> None:
    source = save({"w": torch.ones(2)}, tmp_path / "model.pt")
    description = Description(kind="unet3d", files={"model": "model.pt"}, hashes={"model": "0" * 64})
    assert code_of(lambda: convert(source, tmp_path / "out", description)) == "CHI-WT-016"


def test_every_part_that_is_wrong_is_listed(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        save({"epoch": 3}, tmp_path / name)
    with pytest.raises(SeveralErrors) as error:
        convert(tmp_path, tmp_path / "out", Description(kind="brain-mask", files={"coarse": "a.pt", "fine": "b.pt"}))
    assert "a.pt" in str(error.value)
    assert "b.pt" in str(error.value)


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    description = Description(kind="brain-mask", files={"coarse": "bbox_model.pt", "fine": "model.pt"})
    with pytest.raises(WeightsError, match=r"no bbox_model\.pt, model\.pt"):
        convert(tmp_path, tmp_path / "out", description)
    assert code_of(lambda: convert(tmp_path / "none.pt", tmp_path / "out", Description(kind="unet3d"))) == "CHI-WT-015"
