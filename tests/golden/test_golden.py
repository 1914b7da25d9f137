"""Numbers computed with the authors' public code, held against our modules.

Driven by the folder ``$CHIASM_GOLDEN`` (default: this one): every JSON is a test. ``<system>_parity.py`` beside this
file says how a system's modules are run: ``MODULES[module](hyperparameters, state, inputs)`` returns arrays under the
file's names, the prefix ``output/`` optional. A system with no such file is skipped by name; a module that its
system's file does not know fails.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("CHIASM_GOLDEN") or HERE)
FILES = sorted(FOLDER.rglob("*.json"))
COMPARED = ("output/", "loss/", "grad/")

pytestmark = pytest.mark.golden


def modules_of(system: str) -> Mapping[str, Callable[..., dict[str, Any]]] | None:
    """Return the modules of a system, or None when the project does not have it yet."""
    path = HERE / f"{system}_parity.py"
    if not system.isidentifier() or not path.exists():
        return None
    spec = importlib.util.spec_from_file_location(f"golden_{system}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MODULES


def differences(path: Path) -> list[str]:
    """Run the module of one golden file and return what differs, one line a tensor."""
    golden = json.loads(path.read_text())
    system, name = golden["system"], golden["module"]
    modules = modules_of(system)
    if modules is None:
        pytest.skip(f"golden system not in the project yet: {system}")
    if name not in modules:
        return [f"system '{system}' is known, its module '{name}' is not (known: {', '.join(modules)})"]
    tensors = load_file(path.with_suffix(".safetensors"))
    expected = {key: value for key, value in tensors.items() if key.startswith(COMPARED)}
    promised = {key for key in golden["tensors"] if key.startswith(COMPARED)}
    lines = [f"{key}: named by the JSON, not in the tensors" for key in sorted(promised - set(expected))]
    ours = modules[name](golden["hyperparameters"], _part(tensors, "state/"), _part(tensors, "input/"))
    ours = {key if key.startswith(COMPARED) else f"output/{key}": value for key, value in ours.items()}
    for key, theirs in sorted(expected.items()):
        tolerance = golden["tensors"].get(key, {}).get("tolerance") or golden["tolerance"]
        lines += [f"{key}: {line}" for line in _compare(ours.get(key), theirs, tolerance)]
    return lines if expected else ["the file has nothing to compare"]


def _part(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _compare(ours: Any, theirs: np.ndarray, tolerance: Mapping[str, float]) -> list[str]:
    if ours is None:
        return ["not computed"]
    ours = np.asarray(ours)
    if ours.shape != theirs.shape:
        return [f"shape {ours.shape} instead of {theirs.shape}"]
    if not np.issubdtype(theirs.dtype, np.inexact):
        wrong = int(np.count_nonzero(ours != theirs))
        return [f"{wrong} of {theirs.size} integers differ"] if wrong else []
    wide = np.complex128 if np.iscomplexobj(theirs) else np.float64
    ours, theirs = ours.astype(wide), theirs.astype(wide)
    close = np.isclose(ours, theirs, rtol=tolerance["rel"], atol=tolerance["abs"], equal_nan=True)
    if close.all():
        return []
    worst = float(np.nanmax(np.abs(ours - theirs)[~close], initial=0.0))
    return [f"{np.count_nonzero(~close)} of {theirs.size} differ, by up to {worst:.3g} (allowed {dict(tolerance)})"]


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(FOLDER)) for path in FILES])
def test_our_module_gives_the_published_numbers(path: Path) -> None:
    found = differences(path)
    assert not found, "\n".join(found)


def test_the_golden_folder_is_not_empty() -> None:
    assert FILES, f"no golden file under {FOLDER}"


def _write(folder: Path, **changes: Any) -> Path:
    golden = json.loads((HERE / "metrics" / "segmentation.json").read_text())
    tensors = load_file(HERE / "metrics" / "segmentation.safetensors")
    tensors.update(changes.pop("tensors", {}))
    golden.update(changes)
    save_file({key: np.array(value, order="C") for key, value in tensors.items()}, folder / "file.safetensors")
    (folder / "file.json").write_text(json.dumps(golden))
    return folder / "file.json"


def test_a_number_outside_its_tolerance_is_found(tmp_path: Path) -> None:
    moved = load_file(HERE / "metrics" / "segmentation.safetensors")["output/medpy_dc"] + 1e-5
    found = differences(_write(tmp_path, tensors={"output/medpy_dc": np.asarray(moved)}))
    assert len(found) == 1
    assert found[0].startswith("output/medpy_dc: 1 of 1 differ")


def test_a_tensor_that_we_do_not_compute_is_found(tmp_path: Path) -> None:
    assert differences(_write(tmp_path, tensors={"grad/new": np.zeros(3)})) == ["grad/new: not computed"]


def test_an_unknown_module_of_a_known_system_is_a_failure(tmp_path: Path) -> None:
    assert "its module 'other' is not" in differences(_write(tmp_path, module="other"))[0]


def test_an_unknown_system_is_skipped_by_name(tmp_path: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match="unheard_of"):
        differences(_write(tmp_path, system="unheard_of"))


def test_another_size_is_checked_without_a_change(tmp_path: Path) -> None:
    medpy = pytest.importorskip("medpy.metric.binary")
    rng = np.random.default_rng(5)
    pred, truth = (rng.random((9, 7, 11)) > share for share in (0.4, 0.7))
    spacing = [1.0, 2.5, 0.7]
    scores = {
        "output/medpy_hd95": medpy.hd95(pred, truth, spacing),
        "output/medpy_assd": medpy.assd(pred, truth, spacing),
        "output/medpy_jc": medpy.jc(pred, truth),
    }
    (tmp_path / "deep" / "metrics").mkdir(parents=True)
    golden = json.loads((HERE / "metrics" / "segmentation.json").read_text())
    golden["hyperparameters"] = {"spacing": spacing}
    golden["tensors"] = {key: {} for key in scores}
    path = tmp_path / "deep" / "metrics" / "other.json"
    path.write_text(json.dumps(golden))
    tensors = {"input/pred": pred.astype(np.uint8), "input/gt": truth.astype(np.uint8)}
    save_file(tensors | {key: np.array(value) for key, value in scores.items()}, path.with_suffix(".safetensors"))
    assert differences(path) == []
