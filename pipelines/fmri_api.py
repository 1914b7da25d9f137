"""``chiasm.load("fmri-images")``: one subject's folder, or an array of betas, in; images out."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.errors import InputError
from ..data.fmri.betas import ArrayBetas
from ..data.fmri.decoding_set import BrainSubject
from ..data.fmri.scaling import fit_scaler
from ..data.fmri.trials import Trials, by_image
from ..data.fmri_discovery import fmri_sessions
from ..data.phantoms.marker import is_phantom
from .engine.components import load_components
from .engine.options import RunOptions
from .engine.plan import Plan
from .engine.stage import Context
from .engine.tasks import build_pipeline
from .engine.weights import check_synthetic, find
from .fmri_recipe import FmriRecipe
from .stages.fmri.components import TrainedModel
from .stages.fmri.items import Decoded, DecodedCase
from .stages.fmri.predictor import predict


@dataclass(frozen=True, eq=False, kw_only=True)
class FmriResult:
    """What was decoded.

    Parameters
    ----------
    image : ndarray of int64, shape (m,)
        Numbers of the stimuli (of an array: 0, 1, ...).
    reconstruction : ndarray of uint8, shape (m, S, S, 3), optional
    projected : ndarray of float32, shape (m, N, d)
        For retrieval among tokens of one's own.
    spread : ndarray of float64, shape (m,)
        Between samples of the prior.
    retrieved : ndarray of int64, shape (m, k), optional
        Numbers of the stimuli that fit best, where there are stimuli.
    scores : dict
        Metric -> value, where there are stimuli.
    warnings : tuple of str
    """

    image: NDArray[np.int64]
    reconstruction: NDArray[np.uint8] | None
    projected: NDArray[np.float32]
    spread: NDArray[np.float64]
    retrieved: NDArray[np.int64] | None
    scores: dict[str, float]
    warnings: tuple[str, ...]


class ImageReader:
    """A loaded pipeline; components stay in memory between calls. Use `chiasm.load`."""

    def __init__(self, recipe: FmriRecipe, plan: Plan) -> None:
        self.recipe, self.plan = recipe, plan
        # Whose betas will come is not known yet: whether phantom-trained weights are allowed is asked at every call.
        self._components: dict[str, Any] = load_components(recipe, plan.device, input_is_phantom=True)
        self._pipeline = build_pipeline(recipe, RunOptions())

    def __call__(
        self, patient: str | Path | NDArray[np.floating], *, subject: str = "", synthetic: bool = False
    ) -> FmriResult:
        """Decode one subject's folder, or rows of betas.

        Parameters
        ----------
        patient : str, Path or ndarray of shape (n, V)
            A folder with one subject (or with several, and `subject`), or betas, a row an image.
        subject : str
            Label; needed with an array.
        synthetic : bool
            Whether an array's betas are a phantom's: a model trained on phantoms answers to nothing else.

        Raises
        ------
        ChiasmError
            As ``chiasm run`` would report it; ``CHI-WT-007`` for phantom-trained weights on a real subject.
        """
        is_array = isinstance(patient, np.ndarray)
        phantom = synthetic if isinstance(patient, np.ndarray) else is_phantom(Path(patient))
        for name in self.recipe.components["network"].weight_names:
            check_synthetic(find(name).config, self.recipe.pipeline, phantom)
        return self._array(np.asarray(patient), subject) if is_array else self._folder(Path(str(patient)), subject)

    def _folder(self, root: Path, subject: str) -> FmriResult:
        sessions = fmri_sessions(root, participants=[subject] if subject else ())
        if len(sessions) != 1:
            raise InputError(
                "CHI-IN-084",
                f"chiasm.load takes one patient at a time, and {len(sessions)} were found.",
                "Name one with subject=, or use chiasm run for a cohort.",
            )
        with tempfile.TemporaryDirectory(prefix="chiasm-") as scratch:
            context = Context(components=self._components, plan=self.plan, out=Path(scratch))
            item: Any = sessions[0]
            for stage in self._pipeline.stages:
                item = stage.run(item, context)
                if isinstance(item, DecodedCase):
                    break
        retrieved = item.found.top if item.found is not None else None
        scores = dict(item.scores["summary"]) if item.scores is not None else {}
        return _result(item.decoded, retrieved, scores, context.flags)

    def _array(self, betas: NDArray[np.floating], subject: str) -> FmriResult:
        trained: TrainedModel = self._components["trained"]
        known = trained.model.n_voxels
        if subject not in known or betas.ndim != 2 or betas.shape[1] != known[subject]:
            raise InputError(
                "CHI-IN-346",
                f"betas of shape {betas.shape} for subject '{subject}'.",
                f"Give (images, voxels) and subject=, one of: {', '.join(f'{k} ({v} voxels)' for k, v in known.items())}.",
            )
        n = len(betas)
        trials = Trials(
            row=np.arange(n),
            image=np.arange(n),
            session=np.zeros(n, dtype=np.int64),
            repeat=np.zeros(n, dtype=np.int64),
            split=np.full(n, 2, dtype=np.int8),
        )
        one = BrainSubject(name=subject, betas=ArrayBetas(betas), trials=trials)
        scaler = trained.scalers.get(subject) or fit_scaler(one.betas, trials, "none")
        predicted = predict(trained.model, one, by_image(trials), scaler, repeats=self.recipe.betas.test_repeats)
        decoded = self._components["maker"].make(trained.model, predicted, trials.image, seed=self.plan.seed)
        return _result(decoded, None, {}, [])


def _result(
    decoded: Decoded, retrieved: NDArray[np.int64] | None, scores: dict[str, float], flags: list[str]
) -> FmriResult:
    return FmriResult(
        image=decoded.image,
        reconstruction=decoded.reconstruction,
        projected=decoded.projected,
        spread=decoded.spread,
        retrieved=retrieved,
        scores=scores,
        warnings=tuple(flags),
    )
