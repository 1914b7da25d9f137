"""What is left to do: compares each session with its done-record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...data.patients import Session
from .ledger import Ledger
from .records import PatientRecord, hash_inputs, read_record, record_path, sha256_of_recording

Verdict = Literal["skip", "run", "changed"]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What, beside its input, an output depends on."""

    recipe_name: str
    recipe: str
    options: str
    version: str
    weights: dict[str, str]
    device: str
    mode: str


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do with a session, and why in words."""

    session: Session
    verdict: Verdict
    reason: str
    record: PatientRecord | None = None


def decide(session: Session, out: Path, identity: Identity, ledger: Ledger, *, retry_failed: bool) -> Decision:
    """Compare a session with its done-record.

    Done with equal hashes is skipped; done with another recipe, weights, options, version or input is ``changed``; a failed
    one runs again when its files changed, when the failure was of resources, or on request.
    """
    record = read_record(record_path(out, session, identity.recipe_name))
    if record is None:
        return Decision(session=session, verdict="run", reason="new")
    hashes = current_hashes(session, ledger)
    if record.status == "failed":
        if retry_failed or not record.code.startswith("CHI-IN-"):
            return Decision(session=session, verdict="run", reason=f"failed before ({record.code})", record=record)
        problems = session.problems[0].code if session.problems else ""
        same = hashes == record.inputs and (not session.problems or problems == record.code)
        if same and not differences(record, identity):
            return Decision(
                session=session, verdict="skip", reason=f"failed before ({record.code}), file unchanged", record=record
            )
        return Decision(session=session, verdict="run", reason="failed before, changed since", record=record)
    changed = differences(record, identity)
    if hashes != record.inputs:
        changed.append("input")
    if changed:
        return Decision(session=session, verdict="changed", reason=f"{', '.join(changed)} changed", record=record)
    missing = [name for name in record.outputs if not (out / name).is_file()]
    if missing:
        return Decision(session=session, verdict="run", reason=f"{len(missing)} output files are gone", record=record)
    return Decision(session=session, verdict="skip", reason="done", record=record)


def differences(record: PatientRecord, identity: Identity) -> list[str]:
    """Name what differs between a record and the present run."""
    pairs = {
        "recipe": (record.recipe, identity.recipe),
        "options": (record.options, identity.options),
        "code version": (record.version, identity.version),
        "weights": (record.weights, identity.weights),
        "mode": (record.plan.get("mode", identity.mode), identity.mode),
    }
    return [name for name, (before, now) in pairs.items() if before != now]


def current_hashes(session: Session, ledger: Ledger) -> dict[str, str]:
    """Return relative file -> sha256, from the ledger's cache where size and time are unchanged."""
    cached: dict[str, str] = {}
    fresh: dict[Path, str] = {}
    for recording in session.recordings:
        if len(recording.files) != 1:
            continue
        path = recording.files[0]
        value = ledger.cached_hash(path)
        if value is None:
            try:
                value = fresh[path] = sha256_of_recording(recording)
            except OSError:
                continue
        cached[recording.relative] = value
    ledger.remember_hashes(fresh)
    return hash_inputs(session, cached)


def clear_leftovers(session: Session, out: Path, decision: Decision, recipe_name: str) -> None:
    """Before a session runs: remove the record that no longer holds and temporary files of a killed run."""
    record_path(out, session, recipe_name).unlink(missing_ok=True)
    folder = out / session.folder
    if folder.is_dir():
        for leftover in folder.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)
    if decision.record is not None:
        for name in decision.record.outputs:
            target = (out / name).resolve()
            if target.is_relative_to((out / session.folder).resolve()):
                target.unlink(missing_ok=True)
