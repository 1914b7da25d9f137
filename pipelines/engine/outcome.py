"""From a finished flow to a done-record on disk; from an error to a failed record and its page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.errors import ChiasmError, SeveralErrors
from ...data.patients import Session
from .plan import Plan
from .records import PatientRecord, hash_inputs, record_path, sha256_of_file

if TYPE_CHECKING:
    from .scheduler import Flow
    from .worker import WorkerSettings


def done_record(session: Session, flow: Flow, settings: WorkerSettings) -> PatientRecord:
    """Write the done-record of a session whose outputs are on disk: the last write, so that resume may trust it."""
    record = PatientRecord(
        status="done",
        row=dict(flow.value.row),
        flags=list(flow.context.flags),
        outputs=dict(sorted(flow.value.outputs.items())),
        **_common(session, flow.context.plan, settings, flow.context.notes.get("inputs")),
    )
    record.write(record_path(settings.out, session, settings.identity.recipe_name))
    return record


def failed_record(session: Session, error: ChiasmError, plan: Plan, settings: WorkerSettings) -> PatientRecord:
    """Write the page and the record of a session that failed.

    Where even that cannot be written (a full disk, say) the record is returned all the same: the ledger and the terminal show
    it, and the next run tries again.
    """
    first = error.errors[0] if isinstance(error, SeveralErrors) else error
    message = first.message if not isinstance(error, SeveralErrors) else " ".join(e.message for e in error.errors)
    record = PatientRecord(
        status="failed",
        code=first.code,
        message=message,
        remedy=first.remedy,
        file=first.file,
        **_common(session, plan, settings),
    )
    try:
        outputs = {
            _relative(path, settings.out): sha256_of_file(path) for path in _failed_page(session, record, settings)
        }
        record = PatientRecord(**{**record.__dict__, "outputs": outputs})
        record.write(record_path(settings.out, session, settings.identity.recipe_name))
    except (ChiasmError, OSError):
        return record
    return record


def _common(
    session: Session, plan: Plan, settings: WorkerSettings, inputs: dict[str, str] | None = None
) -> dict[str, Any]:
    identity = settings.identity
    return {
        "key": session.key,
        "patient": session.patient,
        "session": session.session,
        "inputs": hash_inputs(session) if inputs is None else inputs,
        "recipe": identity.recipe,
        "options": identity.options,
        "version": identity.version,
        "weights": identity.weights,
        "plan": plan.as_json(),
    }


def _relative(path: Path, out: Path) -> str:
    return path.relative_to(out).as_posix()


def _failed_page(session: Session, record: PatientRecord, settings: WorkerSettings) -> list[Path]:
    from ..reports.patient import PatientReport, ReportError, write_patient_report
    from ..stages.report import group_path, report_path

    name = settings.identity.recipe_name
    page = report_path(settings.out, session, name)
    report = PatientReport(
        key=session.key,
        title=settings.recipe.title,
        status="failed",
        error=ReportError(code=record.code, message=record.message, remedy=record.remedy, file=record.file),
        notices=settings.recipe.notices,
        provenance={
            "inputs": record.inputs,
            "recipe": record.recipe,
            "version": record.version,
            "weights": record.weights,
            "plan": record.plan,
        },
        methods=settings.recipe.methods,
        citations=settings.recipe.citations,
        group_href=Path(os.path.relpath(group_path(settings.out, name), page.parent)).as_posix(),
    )
    return write_patient_report(page, report)
