"""Resume: what is skipped, what runs again, and what is refused, from done-records alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chiasm.data.errors import InputError, RecipeError, ResourceError
from chiasm.data.patients import Recording, Session
from chiasm.pipelines.engine.driver import RunRequest, plan_work, select, shard_of
from chiasm.pipelines.engine.inventory import Identity, clear_leftovers, decide
from chiasm.pipelines.engine.ledger import Ledger
from chiasm.pipelines.engine.lock import FolderLock
from chiasm.pipelines.engine.records import PatientRecord, hash_inputs, record_path

IDENTITY = Identity(
    recipe_name="r", recipe="a", options="o", version="1", weights={"network": "w"}, device="cpu", mode="exact"
)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    path = tmp_path / "in" / "t1.nii"
    path.parent.mkdir()
    path.write_bytes(b"voxels")
    recording = Recording(channel="T1w", kind="nifti", files=(path,), relative="t1.nii")
    return Session(patient="01", recordings=(recording,))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "work")


def write_record(session: Session, out: Path, **changes: object) -> PatientRecord:
    fields = {
        "key": session.key, "patient": "01", "session": "", "status": "done", "inputs": hash_inputs(session), "recipe": "a",
        "options": "o", "version": "1", "weights": {"network": "w"}, "outputs": {"sub-01/x.txt": "0"}, **changes,
    }  # fmt: skip
    record = PatientRecord(**fields)  # type: ignore[arg-type]
    (out / session.folder).mkdir(parents=True, exist_ok=True)
    (out / "sub-01" / "x.txt").write_text("x")
    record.write(record_path(out, session, "r"))
    return record


def verdict(session: Session, out: Path, ledger: Ledger, *, retry: bool = False, **identity: object) -> tuple[str, str]:
    decision = decide(session, out, replace(IDENTITY, **identity), ledger, retry_failed=retry)  # type: ignore[arg-type]
    return decision.verdict, decision.reason


def test_without_a_record_a_session_runs(session: Session, ledger: Ledger, tmp_path: Path) -> None:
    assert verdict(session, tmp_path / "out", ledger) == ("run", "new")


def test_a_done_session_is_skipped(session: Session, ledger: Ledger, tmp_path: Path) -> None:
    write_record(session, tmp_path / "out")
    assert verdict(session, tmp_path / "out", ledger)[0] == "skip"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"recipe": "b"}, "recipe"),
        ({"weights": {"network": "v"}}, "weights"),
        ({"options": "p"}, "options"),
        ({"version": "2"}, "code version"),
    ],
)
def test_a_changed_computation_is_named(
    session: Session, ledger: Ledger, tmp_path: Path, change: dict[str, object], named: str
) -> None:
    write_record(session, tmp_path / "out")
    assert verdict(session, tmp_path / "out", ledger, **change) == ("changed", f"{named} changed")


def test_a_changed_input_is_noticed_although_the_hash_was_cached(
    session: Session, ledger: Ledger, tmp_path: Path
) -> None:
    write_record(session, tmp_path / "out")
    assert verdict(session, tmp_path / "out", ledger)[0] == "skip"
    session.recordings[0].files[0].write_bytes(b"other voxels")
    assert verdict(session, tmp_path / "out", ledger) == ("changed", "input changed")


def test_a_done_session_whose_output_is_gone_runs_again(session: Session, ledger: Ledger, tmp_path: Path) -> None:
    write_record(session, tmp_path / "out")
    (tmp_path / "out" / "sub-01" / "x.txt").unlink()
    assert verdict(session, tmp_path / "out", ledger)[0] == "run"


def test_an_input_error_is_tried_again_only_when_the_file_changed_or_on_request(
    session: Session, ledger: Ledger, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_record(session, out, status="failed", code="CHI-IN-005")
    assert verdict(session, out, ledger)[0] == "skip"
    assert verdict(session, out, ledger, retry=True)[0] == "run"
    session.recordings[0].files[0].write_bytes(b"mended voxels")
    assert verdict(session, out, ledger)[0] == "run"


def test_a_resource_error_is_always_tried_again(session: Session, ledger: Ledger, tmp_path: Path) -> None:
    write_record(session, tmp_path / "out", status="failed", code="CHI-RES-001")
    assert verdict(session, tmp_path / "out", ledger)[0] == "run"


def test_changed_sessions_are_refused_with_the_list_unless_update(
    session: Session, ledger: Ledger, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_record(session, out)
    request = RunRequest(out=out, work=tmp_path, title="t", identity=replace(IDENTITY, recipe="b"))
    with pytest.raises(RecipeError, match=r"sub-01 \(recipe changed\)") as caught:
        plan_work([session], request, ledger)
    assert caught.value.code == "CHI-RC-020"
    assert plan_work([session], replace(request, update=True), ledger)[0].verdict == "changed"


def test_leftovers_of_a_killed_run_and_old_outputs_are_cleared(
    session: Session, ledger: Ledger, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_record(session, out, outputs={"sub-01/x.txt": "0", "../../in/t1.nii": "0"})
    (out / "sub-01" / ".y.nii.gz.123.tmp").write_bytes(b"half")
    decision = decide(session, out, replace(IDENTITY, recipe="b"), ledger, retry_failed=False)
    clear_leftovers(session, out, decision, "r")
    assert list((out / "sub-01").iterdir()) == []
    assert session.recordings[0].files[0].is_file()  # a record that points outside its folder deletes nothing there


def test_shards_part_the_cohort_and_keep_a_patient_together() -> None:
    sessions = [Session(patient=f"{number:03d}", session=visit) for number in range(50) for visit in ("a", "b")]
    parts = [select(sessions, shard=(index, 4)) for index in (1, 2, 3, 4)]
    assert sorted(s.key for part in parts for s in part) == sorted(s.key for s in sessions)
    assert all(len({shard_of(s, 4) for s in sessions if s.patient == p}) == 1 for p in {s.patient for s in sessions})
    assert min(len(part) for part in parts) > 10


def test_participants_are_chosen_with_or_without_prefix_and_a_stranger_is_named() -> None:
    sessions = [Session(patient=label) for label in ("01", "02", "03")]
    assert [s.patient for s in select(sessions, participants=["sub-01", "03"])] == ["01", "03"]
    with pytest.raises(InputError, match="no such participant in the input: 99"):
        select(sessions, participants=["99"])


def test_a_second_driver_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first = FolderLock(tmp_path, "r")
    with pytest.raises(ResourceError, match="another run"):
        FolderLock(tmp_path, "r")
    first.release()
    FolderLock(tmp_path, "r").release()
