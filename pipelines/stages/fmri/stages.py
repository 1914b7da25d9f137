"""The stages: open a subject's betas, decode them, score what can be scored, write images and tables, write the page."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ....data.atomic import write_bytes, write_json, write_tsv
from ....data.datasets.fmri import open_decoding_set
from ....data.errors import InputError, SeveralErrors
from ....data.fmri.scaling import own_scaler
from ....data.fmri.trials import by_image
from ....data.fmri_discovery import root_of
from ....data.patients import Session
from ...engine.records import hash_inputs, label_of, sha256_of_file
from ...engine.stage import Context, Stage
from ...engine.weights import find
from ...fmri_recipe import FmriRecipe
from ..report import ASSETS, group_path, report_path
from .components import TrainedModel
from .importance import voxel_importance
from .items import BetasCase, DecodedCase, Images, WrittenCase
from .predictor import predict
from .scoring import score_subject

CODES: dict[str, str] = {
    "CHI-IN-345": "The model was not trained for this subject.",
    "CHI-IN-346": "The betas have another number of voxels than the model was trained with.",
    "CHI-IN-347": "A subject has no trial that could be decoded.",
}
SUFFIX_FOLDER = "func"
HELD_BYTES = 1 << 30
"""Of betas that are gathered in memory, at most; larger ones go to a file in the work folder."""


class OpenBetas(Stage):
    """Open one subject.

    Parameters
    ----------
    recipe : FmriRecipe
    """

    name = "open"
    consumes = Session
    produces = BetasCase
    needs = ("trained",)

    def __init__(self, recipe: FmriRecipe) -> None:
        self.recipe = recipe

    def run(self, item: Session, context: Context) -> BetasCase:
        """Open betas, trials and stimuli.

        Raises
        ------
        InputError, SeveralErrors
            What discovery and the readers say; ``CHI-IN-345`` to ``CHI-IN-347``.
        """
        if item.problems:
            raise item.problems[0] if len(item.problems) == 1 else SeveralErrors(list(item.problems))
        trained: TrainedModel = context.components["trained"]
        root = root_of(item)
        known = _known(item.patient, trained)
        cache = context.out / ".chiasm" / "betas"
        data = open_decoding_set(root, subjects=(item.patient,), roi=self.recipe.betas.roi, cache=cache)
        subject = data.subjects[0]
        if subject.n_voxels != trained.model.n_voxels[known]:
            raise InputError(
                "CHI-IN-346",
                f"{subject.n_voxels} voxels in the region '{self.recipe.betas.roi}', and the model was trained with "
                f"{trained.model.n_voxels[known]}.",
                "Use the mask that it was trained with; voxels are told apart by their place alone.",
                file=item.recordings[0].relative,
            )
        side = "test" if len(subject.trials.of("test")) else "all"
        trials = by_image(subject.trials.of("test") if side == "test" else subject.trials)
        if not len(trials):
            raise InputError(
                "CHI-IN-347", "there is no trial.", "Check the table of trials.", file=item.recordings[0].relative
            )
        context.notes["inputs"] = hash_inputs(item)
        return BetasCase(
            session=item,
            data=replace(data, subjects=(replace(subject, name=known),)),
            trials=trials,
            side=side,
        )

    def predict_bytes(self, n_voxels: int) -> int:
        """Of betas with so many values."""
        return min(8 * n_voxels, HELD_BYTES)


class DecodeImages(Stage):
    """Decode a subject's betas and score what has a true image.

    Parameters
    ----------
    recipe : FmriRecipe
    """

    name = "decode"
    consumes = BetasCase
    produces = DecodedCase
    device = "accelerator"
    needs = ("trained", "encoder", "maker")

    def __init__(self, recipe: FmriRecipe) -> None:
        self.recipe = recipe

    def run(self, item: BetasCase, context: Context) -> DecodedCase:
        """Decode one subject."""
        trained: TrainedModel = context.components["trained"]
        subject = item.subject
        scaler = trained.scalers.get(subject.name) or own_scaler(subject, self.recipe.betas.scaling)
        unseen = scaler.unseen(np.unique(item.trials.session))
        if unseen:
            context.flags.append(
                f"{len(unseen)} sessions were not seen in training: scaled by statistics of all training trials."
            )
        predicted = predict(trained.model, subject, item.trials, scaler, repeats=self.recipe.betas.test_repeats)
        maker = context.components["maker"]
        decoded = maker.make(trained.model, predicted, item.trials.image, seed=context.plan.seed)
        found, scores = None, None
        if item.data.stimuli is not None:
            found, scores = score_subject(
                item, decoded, self.recipe, context.components["encoder"], scaler=scaler, seed=context.plan.seed
            )
        importance = voxel_importance(trained.model, subject, item.trials, scaler)
        return DecodedCase(case=item, decoded=decoded, found=found, scores=scores, importance=importance)


class WriteImages(Stage):
    """Write reconstructions, retrieved candidates, scores and the map of voxels as a BIDS derivative.

    Parameters
    ----------
    recipe : FmriRecipe
    """

    name = "write"
    consumes = DecodedCase
    produces = WrittenCase

    def __init__(self, recipe: FmriRecipe) -> None:
        self.recipe, self.desc = recipe, label_of(recipe.name)

    def run(self, item: DecodedCase, context: Context) -> WrittenCase:
        """Write; returns the hashes for the done-record."""
        session, decoded = item.case.session, item.decoded
        stem = context.out / session.folder / SUFFIX_FOLDER / f"{session.key}_desc-{self.desc}"
        files = []
        folder = stem.with_name(stem.name + "_images")
        if decoded.reconstruction is not None:
            for number, pixels in zip(decoded.image, decoded.reconstruction, strict=True):
                files.append(_write_png(folder / f"image-{int(number):05d}.png", pixels))
        table = stem.with_name(stem.name + "_trials.tsv")
        rows, columns = _rows(item)
        write_tsv(table, rows, columns)
        files.append(table)
        if item.importance is not None and item.case.subject.mask is not None:
            files.append(_write_map(stem.with_name(stem.name + "_voxels.nii.gz"), item))
        result = stem.with_name(stem.name + "_result.json")
        write_json(result, self._result(item, context))
        files.append(result)
        outputs = {path.relative_to(context.out).as_posix(): sha256_of_file(path) for path in files}
        return WrittenCase(decoded=item, outputs=outputs, row=_row(item))

    def _result(self, item: DecodedCase, context: Context) -> Mapping[str, Any]:
        spec = self.recipe.reconstruction
        return {
            "subject": item.case.session.patient,
            "trials": item.case.side,
            "images": len(item.decoded.image),
            "voxels": item.case.subject.n_voxels,
            "region": self.recipe.betas.roi,
            "target": self.recipe.target,
            "candidates": {
                "samples": spec.samples,
                "select": spec.select,
                "true image used": False,
                "start_strength": spec.start_strength,
                "blend": spec.blend,
            },
            "scores": item.scores,
            "warnings": list(context.flags),
            "Sources": dict(sorted(context.notes["inputs"].items())),
            "Recipe": self.recipe.name,
            "RecipeSha256": self.recipe.sha256(),
            "Models": {n: find(n).sha256 for s in self.recipe.components.values() for n in s.weight_names},
            "Plan": context.plan.as_json(),
            "Notice": "Research use only.",
        }


class ImagesReport(Stage):
    """Write the page of a subject.

    Parameters
    ----------
    recipe : FmriRecipe
    single_file : bool
        Figures inside the page.
    """

    name = "report"
    consumes = WrittenCase
    produces = WrittenCase

    def __init__(self, recipe: FmriRecipe, *, single_file: bool = False) -> None:
        self.recipe, self.single_file = recipe, single_file

    def run(self, item: WrittenCase, context: Context) -> WrittenCase:
        """Write the page; returns the item with the page among its outputs."""
        from ...reports.fmri_subject import write_fmri_subject_report
        from .page import subject_report

        page = report_path(context.out, item.decoded.case.session, self.recipe.name)
        group = Path(os.path.relpath(group_path(context.out, self.recipe.name), page.parent)).as_posix()
        report = subject_report(item.decoded, self.recipe, context, group_href=group)
        files = write_fmri_subject_report(page, report, assets=context.out / ASSETS, single_file=self.single_file)
        hashes = {path.relative_to(context.out).as_posix(): sha256_of_file(path) for path in files}
        return replace(item, outputs={**item.outputs, **hashes})


def _known(label: str, trained: TrainedModel) -> str:
    short = {name.lstrip("0"): name for name in trained.model.n_voxels}
    if label.lstrip("0") not in short:
        raise InputError(
            "CHI-IN-345",
            f"the model does not know subject '{label}'; it was trained for {', '.join(trained.model.n_voxels)}.",
            "A brain is decoded by a model of itself: `chiasm train RECIPE DATA OUT --from WEIGHTS --new-subject "
            f"{label}` adapts one.",
        )
    return short[label.lstrip("0")]


def _write_png(path: Path, pixels: Images) -> Path:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())
    return path


def _write_map(path: Path, item: DecodedCase) -> Path:
    from ....data.nifti import write_values
    from ....data.volumes import Grid

    mask = item.case.subject.mask
    if mask is None or item.importance is None:
        raise ValueError("a map needs a mask")
    values = np.zeros(mask.inside.shape, dtype=np.float32)
    values[mask.inside] = item.importance
    write_values(path, values, Grid(shape=mask.inside.shape, affine=mask.affine))
    return path


def _rows(item: DecodedCase) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    stimuli, decoded, found = item.case.data.stimuli, item.decoded, item.found
    rows = []
    for index, number in enumerate(decoded.image):
        row: dict[str, Any] = {
            "image": int(number),
            "name": stimuli.names[int(number)] if stimuli is not None else None,
            "repeats": int(item.case.trials.n_repeats[index]),
            "spread": f"{decoded.spread[index]:.5f}",
            "agreement": _number(decoded.agreement[index]),
            "retrieved": None,
            "cosine": None,
            "rank": None,
        }
        if found is not None and stimuli is not None:
            row["retrieved"] = ",".join(stimuli.names[int(one)] for one in found.top[index])
            row["cosine"] = ",".join(f"{value:.4f}" for value in found.cosine[index])
            row["rank"] = int(found.rank[index])
        rows.append(row)
    return rows, ("image", "name", "repeats", "spread", "agreement", "retrieved", "cosine", "rank")


def _number(value: float) -> str | None:
    return None if np.isnan(value) else f"{value:.5f}"


def _row(item: DecodedCase) -> dict[str, float | str]:
    row: dict[str, float | str] = {
        "images": float(len(item.decoded.image)),
        "voxels": float(item.case.subject.n_voxels),
        "spread": round(float(item.decoded.spread.mean()), 4),
    }
    if item.scores is not None:
        row |= {name: round(float(value), 4) for name, value in item.scores["summary"].items() if value is not None}
    return row
