"""What the whole cohort gets: ``participants.tsv``, ``dataset_description.json`` and the group page, from the records alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ...data.atomic import write_json, write_text, write_tsv
from .inventory import Identity
from .records import PatientRecord, iterate_records, label_of

FIXED = ("participant_id", "session_id", "status", "code", "message", "flags")
BIDS_IGNORE = "*.html\n*_record.json\n*_results.tsv\n*_volumes.tsv\n*.dcm\nassets/\nlogs/\n**/figures/\n"
"""What stands beside the derivative and is no part of the standard."""


def write_group_outputs(out: Path, recipe_name: str, title: str, identity: Identity) -> list[Path]:
    """Write the group outputs; equal records give equal bytes, whoever wrote the records and in what order."""
    from ..reports.group import GroupRow, write_group_page
    from ..stages.report import report_path_of

    records = list(iterate_records(out, recipe_name))
    label = label_of(recipe_name)
    columns = list(dict.fromkeys(name for record in records for name in record.row))
    table = out / f"desc-{label}_results.tsv"
    write_tsv(table, [_row(record) for record in records], [*FIXED, *columns])
    write_tsv(out / "participants.tsv", _participants(records, columns), ["participant_id", "status", "code", *columns])
    write_json(out / "dataset_description.json", _description(identity))
    write_text(out / ".bidsignore", BIDS_IGNORE)
    rows = [
        GroupRow(
            key=record.key,
            href=report_path_of(record.patient, record.session, recipe_name),
            status=record.status,
            code=record.code,
            message=f"{record.file}: {record.message}" if record.file else record.message,
            remedy=record.remedy,
            flags=tuple(record.flags),
            values=dict(record.row),
        )
        for record in records
    ]
    page = out / f"desc-{label}_report.html"
    write_group_page(page, rows, title=title)
    return [table, out / "participants.tsv", out / "dataset_description.json", page]


def _row(record: PatientRecord) -> dict[str, Any]:
    return {
        "participant_id": f"sub-{record.patient}",
        "session_id": f"ses-{record.session}" if record.session else None,
        "status": record.status,
        "code": record.code or None,
        "message": record.message or None,
        "flags": "; ".join(record.flags) or None,
        **record.row,
    }


def _participants(records: list[PatientRecord], columns: list[str]) -> list[dict[str, Any]]:
    """One row a patient (BIDS demands it), failed where any session failed; values where there is a single session."""
    rows: dict[str, dict[str, Any]] = {}
    counts = Counter(record.patient for record in records)
    for record in records:
        row = rows.setdefault(
            record.patient, {"participant_id": f"sub-{record.patient}", "status": "done", "code": None}
        )
        if record.status == "failed":
            row.update(status="failed", code=row["code"] or record.code)
        if counts[record.patient] == 1:
            row.update({name: record.row.get(name) for name in columns})
    return list(rows.values())


def _description(identity: Identity) -> dict[str, Any]:
    return {
        "Name": "Chiasm derivatives",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [
            {"Name": "chiasm", "Version": identity.version, "Description": f"recipe {identity.recipe_name}"}
        ],
    }
