"""What the whole cohort gets: ``participants.tsv``, ``dataset_description.json`` and the group page, from the records alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ...data.atomic import write_json, write_tsv
from .inventory import Identity
from .records import PatientRecord, iterate_records, label_of

FIXED = ("participant_id", "session_id", "status", "code", "message", "flags")


def write_group_outputs(out: Path, recipe_name: str, title: str, identity: Identity) -> list[Path]:
    """Write the group outputs; equal records give equal bytes, whoever wrote the records and in what order."""
    from ..reports.group import GroupRow, write_group_page
    from ..stages.report import report_path_of

    records = list(iterate_records(out, recipe_name))
    label = label_of(recipe_name)
    columns = list(dict.fromkeys(name for record in records for name in record.row))
    table = out / f"desc-{label}_results.tsv"
    write_tsv(table, [*FIXED, *columns], [_row(record, columns) for record in records])
    write_tsv(out / "participants.tsv", *_participants(out, recipe_name))
    write_json(out / "dataset_description.json", _description(identity))
    rows = [
        GroupRow(
            key=record.key, status=record.status, code=record.code, message=record.message, remedy=record.remedy, file=record.file,
            flags=tuple(record.flags), values=record.row, link=report_path_of(record.patient, record.session, recipe_name),
        )
        for record in records
    ]  # fmt: skip
    page = out / f"desc-{label}_report.html"
    write_group_page(page, rows, title=title)
    return [table, out / "participants.tsv", out / "dataset_description.json", page]


def _row(record: PatientRecord, columns: list[str]) -> list[Any]:
    fixed = [
        f"sub-{record.patient}",
        f"ses-{record.session}" if record.session else "n/a",
        record.status,
        record.code or "n/a",
        record.message or "n/a",
        "; ".join(record.flags) or "n/a",
    ]
    return fixed + [record.row.get(name, "n/a") for name in columns]


def _participants(out: Path, recipe_name: str) -> tuple[list[str], list[list[Any]]]:
    """One row a patient (BIDS demands it), with the status over all sessions; values where there is a single session."""
    records = list(iterate_records(out, recipe_name))
    columns = list(dict.fromkeys(name for record in records for name in record.row))
    counts = Counter(record.patient for record in records)
    rows: dict[str, list[Any]] = {}
    for record in records:
        values = [record.row.get(name, "n/a") if counts[record.patient] == 1 else "n/a" for name in columns]
        status = "failed" if record.status == "failed" or rows.get(record.patient, ["", "done"])[1] == "failed" else "done"
        rows[record.patient] = [f"sub-{record.patient}", status, record.code or "n/a", *values]
    return ["participant_id", "status", "code", *columns], list(rows.values())


def _description(identity: Identity) -> dict[str, Any]:
    return {
        "Name": "Chiasm derivatives",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "chiasm", "Version": identity.version, "Description": f"recipe {identity.recipe_name}"}],
    }
