"""The weights store: found in order, hashed, and every lie of a safetensors file or a config is a coded error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chiasm.data.errors import SeveralErrors, WeightsError
from chiasm.pipelines.engine import weights
from chiasm.pipelines.engine.safetensors_header import read_header
from chiasm.pipelines.engine.tensors import fill, read_tensors, write_folder


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(WeightsError) as error:
        action()
    return error.value.code


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders of $CHIASM_WEIGHTS under one roof; the user's own folder is empty."""
    monkeypatch.setenv("CHIASM_WEIGHTS", f"{tmp_path / 'first'}:{tmp_path / 'second'}")
    monkeypatch.setattr(weights, "user_folder", lambda: tmp_path / "user")
    return tmp_path


def put(folder: Path, value: float = 1.0, **config: object) -> Path:
    return write_folder(folder, {"model": {"w": torch.full((2, 3), value)}}, config, "# card\n")


def raw(header: object, body: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


# --- finding


def test_the_first_folder_of_the_search_path_wins(store: Path) -> None:
    put(store / "second" / "net", 2.0)
    put(store / "user" / "net", 3.0)
    assert weights.find("net").path == store / "second" / "net"
    put(store / "first" / "net", 1.0)
    assert weights.find("net").path == store / "first" / "net"


def test_shipped_weights_are_found_with_and_without_their_prefix(store: Path) -> None:
    assert weights.find("chiasm/brain-mask").sha256 == weights.find("brain-mask").sha256
    assert store not in weights.find("chiasm/brain-mask").path.parents


def test_a_name_in_two_parts_and_a_folder_by_path_are_found(store: Path) -> None:
    folder = put(store / "user" / "brain-tumour" / "fold0")
    assert weights.find("brain-tumour/fold0").path == folder
    assert weights.find(str(folder)).path == folder


def test_what_is_missing_is_listed_at_once_with_where_to_put_it(store: Path) -> None:
    with pytest.raises(SeveralErrors) as error:
        weights.find_all(["one", "two", "chiasm/brain-mask"])
    text = str(error.value)
    assert error.value.exit_code_of_first == 126
    for part in ("'one'", "'two'", "CHI-WT-001", str(store / "user"), "$CHIASM_WEIGHTS", "chiasm weights convert"):
        assert part in text
    assert "brain-mask" not in text


@pytest.mark.parametrize("name", ["..", "a/../b", "a//b", "", "a/b/c", "a\\b", "a\0b", "~", ".hidden", "x" * 65])
def test_a_name_never_leaves_the_store(store: Path, name: str) -> None:
    assert code_of(lambda: weights.find(name)) == "CHI-WT-017"


def test_everything_installed_is_listed(store: Path) -> None:
    put(store / "user" / "a")
    put(store / "first" / "b" / "c")
    assert {"a", "b/c", "chiasm/brain-mask"} <= set(weights.installed())


def test_installing_copies_a_whole_folder_and_keeps_its_hash(store: Path) -> None:
    source = put(store / "source", 5.0, kind="unet3d")
    weights.install(source, weights.user_folder() / "mine")
    found = weights.find("mine")
    assert found.config == weights.open_folder(source).config
    assert found.sha256 == weights.open_folder(source).sha256
    assert found.card == "# card\n"


# --- hashes and configs


def test_the_hash_is_that_of_the_file(store: Path) -> None:
    import hashlib

    folder = put(store / "first" / "net")
    assert weights.find("net").sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_changed_byte_is_noticed(store: Path) -> None:
    folder = put(store / "first" / "net")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert code_of(lambda: weights.find("net")) == "CHI-WT-003"


def test_other_tensors_under_the_old_config_are_noticed(store: Path) -> None:
    folder, other = put(store / "first" / "net", 1.0), put(store / "other", 2.0)
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    assert code_of(lambda: weights.find("net")) == "CHI-WT-003"


@pytest.mark.parametrize("gone", ["model.safetensors", "config.json"])
def test_a_missing_file_is_named(store: Path, gone: str) -> None:
    (put(store / "first" / "net") / gone).unlink()
    with pytest.raises(WeightsError, match=gone) as error:
        weights.find("net")
    assert error.value.code == "CHI-WT-002"


@pytest.mark.parametrize(
    "text",
    ["", "3", "{", "[" * 100_000, '{"files": {"model": "../x"}}', '{"files": []}', '{"files": {}}', '{"files": {"a": 1}}',
     '{"sha256": 3}', '{"parameters": []}'],
)  # fmt: skip
def test_a_bad_config_is_a_coded_error(store: Path, text: str) -> None:
    (put(store / "first" / "net") / "config.json").write_text(text)
    assert code_of(lambda: weights.find("net")) == "CHI-WT-006"


# --- synthetic training data

SYNTHETIC = {"training_data": "synthetic", "statement": "anatomy"}


@pytest.mark.parametrize("task", ["dementia", "fmri-images", "eeg-images", "anything-new"])
def test_synthetic_weights_make_no_statement_about_a_real_person(task: str) -> None:
    assert code_of(lambda: weights.check_synthetic(SYNTHETIC, task, False)) == "CHI-WT-007"


def test_synthetic_weights_serve_for_anatomy_and_for_phantoms() -> None:
    weights.check_synthetic(SYNTHETIC, "segmentation", False)
    weights.check_synthetic(SYNTHETIC, "dementia", True)
    weights.check_synthetic({"training_data": "real"}, "dementia", False)


def test_the_config_can_say_that_its_output_is_about_a_person() -> None:
    config = {"training_data": "synthetic", "statement": "person"}
    assert code_of(lambda: weights.check_synthetic(config, "segmentation", False)) == "CHI-WT-007"


# --- safetensors lies

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LIES = {
    "empty": b"",
    "short": b"\x01\x00",
    "header longer than the file": raw({"w": ENTRY}, b"\0" * 8, length=10**6),
    "header of 2^63 bytes": raw({"w": ENTRY}, b"\0" * 8, length=2**63),
    "no JSON": raw(b"{{{{"),
    "not UTF-8": raw(b"\xff\xfe{}"),
    "deep JSON": raw(b"[" * 100_000),
    "a list": raw([]),
    "truncated body": raw({"w": ENTRY}, b"\0" * 7),
    "bytes left over": raw({"w": ENTRY}, b"\0" * 9),
    "shape larger than bytes": raw({"w": {**ENTRY, "shape": [2**40]}}, b"\0" * 8),
    "negative shape": raw({"w": {**ENTRY, "shape": [-2]}}, b"\0" * 8),
    "boolean shape": raw({"w": {**ENTRY, "shape": [True, 2]}}, b"\0" * 8),
    "overflowing shape": raw({"w": {**ENTRY, "shape": [2**32, 2**32, 2]}}, b"\0" * 8),
    "unknown type": raw({"w": {**ENTRY, "dtype": "object"}}, b"\0" * 8),
    "reversed offsets": raw({"w": {**ENTRY, "data_offsets": [8, 0]}}, b"\0" * 8),
    "overlap": raw({"w": ENTRY, "v": ENTRY}, b"\0" * 8),
    "gap": raw({"w": ENTRY, "v": {**ENTRY, "data_offsets": [16, 24]}}, b"\0" * 24),
    "repeated name": raw(b'{"w": %b, "w": %b}' % ((json.dumps(ENTRY).encode(),) * 2), b"\0" * 8),
    "entry that is a number": raw({"w": 3}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_safetensors_file_is_a_coded_error(tmp_path: Path, lie: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(LIES[lie])
    assert code_of(lambda: read_header(path)) == "CHI-WT-004"
    assert code_of(lambda: read_tensors(path)) == "CHI-WT-004"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 200), value=st.integers(0, 255))
def test_a_mutated_header_is_read_or_refused_and_nothing_else(tmp_path: Path, at: int, value: int) -> None:
    folder = put(tmp_path / "net")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[at % len(data)] = value
    path = tmp_path / "mutated.safetensors"
    path.write_bytes(data)
    code = "CHI-WT-004"
    try:
        read_tensors(path)
    except WeightsError as error:
        code = error.code
    assert code == "CHI-WT-004"


# --- tensors and networks


def test_half_precision_is_stored_small_and_read_as_float32(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "n", {"model": {"w": torch.tensor([1.0, 0.1]), "i": torch.tensor([3])}}, {}, "", half=True
    )
    assert read_header(folder / "model.safetensors")["w"].dtype == "F16"
    tensors = read_tensors(folder / "model.safetensors")
    assert tensors["w"].dtype == torch.float32
    assert tensors["w"].tolist() == torch.tensor([1.0, 0.1]).half().float().tolist()
    assert tensors["i"].dtype == torch.int64


def test_every_tensor_that_does_not_fit_is_named_and_nothing_is_copied() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    tensors = {
        "0.weight": torch.zeros(3, 2),
        "0.bias": torch.zeros(4),
        "1.weight": torch.zeros(1, 3),
        "2.bias": torch.zeros(1),
    }
    with pytest.raises(WeightsError) as error:
        fill(network, tensors, "mine")
    text = str(error.value)
    assert error.value.code == "CHI-WT-005"
    for part in (
        "1.bias is missing",
        "2.bias is not part of the network",
        "0.bias has shape (4,), the network needs (3,)",
    ):
        assert part in text
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_buffers_that_a_network_computes_itself_may_be_absent() -> None:
    network = torch.nn.BatchNorm1d(2)
    state = {key: value for key, value in network.state_dict().items() if key != "num_batches_tracked"}
    fill(network, {**state, "weight": torch.full((2,), 7.0)}, "mine")
    assert network.weight.tolist() == [7.0, 7.0]


def test_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    first, second = put(tmp_path / "a", kind="x"), put(tmp_path / "b", kind="x")
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
