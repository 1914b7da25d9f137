"""The patient's page: volumes, flags, slices, provenance."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...data.geometry import Canonical
from ...data.patients import Session
from ..engine.records import label_of, sha256_of_file
from ..engine.stage import Context, Stage
from ..engine.weights import find
from ..recipes import Recipe
from .items import Written

ASSETS = "assets"


def report_path_of(patient: str, session: str, recipe_name: str) -> str:
    """Return the page of a session relative to OUT (POSIX), for links from the group page."""
    whom = Session(patient=patient, session=session)
    return f"{whom.folder}/{whom.key}_desc-{label_of(recipe_name)}_report.html"


def report_path(out: Path, session: Session, recipe_name: str) -> Path:
    """Return where the page of a session lies."""
    return out / report_path_of(session.patient, session.session, recipe_name)


def group_path(out: Path, recipe_name: str) -> Path:
    """Return where the group page lies."""
    return out / f"desc-{label_of(recipe_name)}_report.html"


class Report(Stage):
    """Write the page of a patient that was segmented.

    Parameters
    ----------
    recipe : Recipe
    single_file : bool
        Figures and viewer inside the page.
    """

    name = "report"
    consumes = Written
    produces = Written

    def __init__(self, recipe: Recipe, *, single_file: bool = False) -> None:
        self.recipe, self.single_file = recipe, single_file

    def run(self, item: Written, context: Context) -> Written:
        """Write the page; returns the item with the page among its outputs."""
        from ..reports.patient import PatientReport, write_patient_report

        case = item.measured.labelled.case
        page = report_path(context.out, case.session, self.recipe.name)
        shown = case.target or case.first
        canonical = Canonical.from_affine(shown.grid.affine)
        report = PatientReport(
            key=case.session.key,
            title=self.recipe.title,
            status="done",
            rows=self._rows(item),
            flags=tuple(context.flags),
            notices=self.recipe.notices,
            provenance=self._provenance(context),
            methods=self.recipe.methods,
            citations=self.recipe.citations,
            background=canonical.forward(shown.values),
            labels=np.asarray(canonical.forward(item.measured.labelled.labels)),
            spacing_mm=canonical.grid(shown.grid).spacing_mm,
            label_table=self._table(),
            group_href=Path(os.path.relpath(group_path(context.out, self.recipe.name), page.parent)).as_posix(),
        )
        files = write_patient_report(page, report, assets=context.out / ASSETS, single_file=self.single_file)
        hashes = {path.relative_to(context.out).as_posix(): sha256_of_file(path) for path in files}
        return replace(item, outputs={**item.outputs, **hashes})

    def _rows(self, item: Written) -> list[Any]:
        from ..reports.colours import hex_colour
        from ..reports.patient import VolumeRow

        colours = self._colours()
        shown = [m for m in item.measured.measures if m.values]  # the brain mask is not a label
        total = sum(m.volume_ml for m in shown if m.exclusive)
        return [
            VolumeRow(
                label=m.values[0] if m.exclusive else self._written(m.name),
                name=m.name,
                colour=hex_colour(colours[m.name]),
                volume_ml=m.volume_ml,
                # Parts of one whole only where labels exclude each other; nested regions do not add up.
                share=m.volume_ml / total if m.exclusive and total > 0 and not self.recipe.regions else None,
            )
            for m in shown
        ]

    def _written(self, region: str) -> int:
        return next(r.write for r in self.recipe.regions if r.name == region)

    def _colours(self) -> Mapping[str, tuple[int, int, int]]:
        from ..reports.colours import default_colour

        names = [*self.recipe.label_names.values(), *(r.name for r in self.recipe.regions)]
        return {name: default_colour(index) for index, name in enumerate(dict.fromkeys(names))}

    def _table(self) -> dict[int, tuple[str, tuple[int, int, int]]]:
        colours = self._colours()
        return {value: (name, colours[name]) for value, name in self.recipe.label_names.items()}

    def _provenance(self, context: Context) -> dict[str, Any]:
        weights = {name: find(name).sha256 for spec in self.recipe.components.values() for name in spec.weight_names}
        return {
            "inputs": dict(context.notes.get("sources", {})),
            "recipe": {"name": self.recipe.name, "sha256": self.recipe.sha256()},
            "weights": weights,
            "plan": context.plan.as_json(),
            "brain mask": context.notes.get("brain_mask", "none"),
            "preparation": list(context.notes.get("preparation", [])),
        }

    def predict_bytes(self, n_voxels: int) -> int:
        """Background, labels and the viewer's copies."""
        return n_voxels * 16
