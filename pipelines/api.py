"""``chiasm.load``: a pipeline as an object that is called with a patient folder, a file or arrays."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..data.discovery import ChannelRule, discover
from ..data.errors import InputError, RecipeError
from ..data.patients import Recording, Session
from ..data.volumes import Affine, Grid
from .engine.options import RunOptions
from .engine.plan import Plan
from .engine.stage import Context, Pipeline
from .recipes import Recipe, load_recipe, with_weights

if TYPE_CHECKING:
    from .fmri_api import ImageReader
    from .speech_api import SpeechAnswerer

CODES = {
    "CHI-IN-084": "chiasm.load takes one patient at a time.",
    "CHI-RC-023": "Arrays without an affine, or without a channel that the recipe needs.",
}


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a segmentation pipeline gives for one patient.

    Parameters
    ----------
    labels : ndarray of unsigned integers, shape of the input
    affine : ndarray, shape (4, 4)
        The input's, voxel to RAS+ mm.
    volumes_ml : dict of str to float
    label_names : dict of int to str
    flags : tuple of str
        Quality flags in words.
    """

    labels: NDArray[np.generic]
    affine: Affine
    volumes_ml: dict[str, float]
    label_names: dict[int, str]
    flags: tuple[str, ...] = field(default=())


class Predictor:
    """A loaded pipeline; components stay in memory between calls. Use `chiasm.load`."""

    def __init__(self, recipe: Recipe, plan: Plan, components: Mapping[str, Any], pipeline: Pipeline) -> None:
        self.recipe, self.plan = recipe, plan
        self._components, self._pipeline = components, pipeline

    def __call__(
        self, patient: str | Path | Mapping[str, NDArray[Any]] | NDArray[Any], affine: Affine | None = None
    ) -> Segmentation:
        """Segment one patient.

        Parameters
        ----------
        patient : path, array or mapping of channel to array
            A patient folder or file, or arrays of shape (X, Y, Z), one a channel of the recipe.
        affine : ndarray, shape (4, 4)
            Of the arrays, voxel to RAS+ mm; needed with arrays.

        Raises
        ------
        ChiasmError
            As ``chiasm run`` would report it for the patient.
        """
        with tempfile.TemporaryDirectory(prefix="chiasm-") as scratch:
            session = self._session(patient, affine, Path(scratch))
            context = Context(components=self._components, plan=self.plan, out=Path(scratch) / "out")
            item: Any = session
            for stage in self._pipeline.stages:
                item = stage.run(item, context)
                if stage.name == "measure":
                    break
            measured = item
        labelled = measured.labelled
        return Segmentation(
            labels=labelled.labels,
            affine=labelled.case.grid.affine,
            volumes_ml={measure.name: measure.volume_ml for measure in measured.measures},
            label_names=self.recipe.label_names,
            flags=tuple(context.flags),
        )

    def _session(self, patient: Any, affine: Affine | None, scratch: Path) -> Session:
        if isinstance(patient, str | Path):
            rules = {
                name: ChannelRule(suffixes=c.suffixes, keywords=c.keywords, optional=c.optional)
                for name, c in self.recipe.channels.items()
            }
            sessions = discover(Path(patient), rules)
            if len(sessions) != 1:
                raise InputError(
                    "CHI-IN-084",
                    f"chiasm.load takes one patient at a time, and {len(sessions)} were found.",
                    "Use chiasm run for a cohort.",
                )
            return sessions[0]
        return self._from_arrays(patient, affine, scratch)

    def _from_arrays(self, arrays: Any, affine: Affine | None, scratch: Path) -> Session:
        from ..data.nifti import write_values

        names = list(self.recipe.channels)
        if not isinstance(arrays, Mapping):
            arrays = {names[0]: arrays} if len(names) == 1 else dict(zip(names, arrays, strict=False))
        missing = [n for n, c in self.recipe.channels.items() if n not in arrays and not c.optional]
        if missing or affine is None:
            what = f"channels {', '.join(missing)}" if missing else "the affine"
            raise RecipeError(
                "CHI-RC-023",
                f"{what} missing.",
                f"Give every channel ({', '.join(names)}) and affine=, voxel to RAS+ mm.",
            )
        recordings: list[Recording] = []
        for name, values in arrays.items():
            array = np.asarray(values)
            path = scratch / f"{len(recordings)}.nii"
            write_values(path, array.astype(np.float32, copy=False), Grid(array.shape, np.asarray(affine, np.float64)))
            recordings.append(Recording(channel=name, kind="nifti", files=(path,), relative=f"array '{name}'"))
        return Session(patient="array", recordings=tuple(recordings))


def load(
    recipe: str | Path,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    seed: int = 0,
) -> Predictor | SpeechAnswerer | ImageReader:
    """Load a pipeline by recipe name or file.

    Parameters
    ----------
    recipe : str or Path
        ``"brain-tissue"``, ``"brain-tumour"``, ``"dementia"``, ``"fmri-images"`` ... or a YAML file.
    weights : str or Path, optional
        Other weights for the recipe's main network: a name in the store or a folder.
    device : str
    threads : int, optional
        Of torch; the default leaves torch as it is.

    Returns
    -------
    Predictor, SpeechAnswerer or ImageReader
        Call it with a patient's folder.

    Raises
    ------
    RecipeError, WeightsError
    """
    import torch

    loaded = load_recipe(recipe)
    if weights is not None:
        loaded = with_weights(loaded, weights)
    if threads is not None:
        torch.set_num_threads(threads)
    plan = Plan(device=device, seed=seed, threads=torch.get_num_threads(), batch_size=1 if device == "cpu" else 4)
    if isinstance(loaded, Recipe):
        from .engine.components import load_components
        from .engine.tasks import build_pipeline

        return Predictor(loaded, plan, load_components(loaded, device), build_pipeline(loaded, RunOptions()))
    from .fmri_api import ImageReader
    from .fmri_recipe import FmriRecipe
    from .speech_api import SpeechAnswerer

    return ImageReader(loaded, plan) if isinstance(loaded, FmriRecipe) else SpeechAnswerer(loaded, plan)
