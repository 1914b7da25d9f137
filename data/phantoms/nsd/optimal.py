"""The best that any decoder could do on a phantom: maximum likelihood over candidates under the true forward model and noise."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from .brain import PhantomBrain, grow_brain, sessions
from .cohort import BETAS_FOLDER, VERSION
from .forward_model import ForwardModel, Values, channels
from .nsd_files import BETA_SCALE, h5py_module

CODES: dict[str, str] = {
    "CHI-IN-333": "a folder is no cohort of phantom brains, or of another version of the generator",
    "CHI-IN-334": "a file of a cohort of phantom brains is missing, damaged, or was changed",
}

_MAX_BYTES = 1 << 20


class OptimalDecoder:
    """Rebuild a cohort's forward model and noise from its ``phantom.json``, and decode with them.

    Parameters
    ----------
    root : Path
        Written by `chiasm phantom nsd`.

    Raises
    ------
    InputError
        CHI-IN-333, CHI-IN-334.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = _recipe(root)
        self.model = _model(self.recipe["forward_model"])
        self._brains: dict[str, PhantomBrain] = {}
        self._signals: dict[str, Values] = {}

    def brain(self, subject: str) -> PhantomBrain:
        """Return a subject's brain; ``subj01``, ``01`` and ``1`` are the same."""
        name = _name(subject)
        if name not in self.recipe["subjects"]:
            raise InputError(
                "CHI-IN-333",
                "the phantom has no such subject.",
                f"It has {', '.join(sorted(self.recipe['subjects']))}.",
            )
        if name not in self._brains:
            self._brains[name] = grow_brain(
                int(name[4:]), seed=self.recipe["seed"], strength=self.recipe["strength"], model=self.model
            )
        return self._brains[name]

    def predicted(self, subject: str) -> Values:
        """Return the mean response to every stimulus, in standard deviations of the signal at strength 1.

        Returns
        -------
        ndarray of float32, shape (n_stimuli, V)
            Of the voxels of nsdgeneral, in C order of the volume.
        """
        name = _name(subject)
        if name not in self._signals:
            brain = self.brain(name)
            self._signals[name] = brain.signal(self._driven, self._categories)[:, brain.cortex.visual]
        return self._signals[name]

    def observed(self, subject: str, images: NDArray[np.int64], *, repeats: int) -> tuple[Values, NDArray[np.int64]]:
        """Average the written betas of the first repeats of some images, sessions' gains and shifts undone.

        Returns
        -------
        ndarray of float32, shape (m, V)
            As `predicted`, plus error.
        ndarray of int64, shape (m,)
            How many trials were averaged.
        """
        brain, shown = self.brain(subject), self._shown(subject)
        place = {int(image): i for i, image in enumerate(images)}
        total = np.zeros((len(images), int(brain.cortex.visual.sum())), dtype=np.float64)
        count = np.zeros(len(images), dtype=np.int64)
        where = brain.cortex.voxel[brain.cortex.visual]
        for session, trials in enumerate(sessions(len(shown)), 1):
            rows = [place.get(int(image), -1) for image in shown[trials]]
            if max(rows) < 0:
                continue
            betas = self._session(subject, session, len(trials), where)
            full = np.zeros((len(betas), len(brain.mean)), dtype=np.float32)
            full[:, brain.cortex.visual] = betas
            signal = brain.undo_session(full, session)[:, brain.cortex.visual]
            for row, values in zip(rows, signal, strict=True):
                if row >= 0 and count[row] < repeats:
                    total[row] += values
                    count[row] += 1
        if (count == 0).any():
            raise ValueError(f"{_name(subject)} never saw {int((count == 0).sum())} of the images")
        return (total / count[:, None]).astype(np.float32), count

    def log_likelihood(
        self, subject: str, betas: NDArray[np.floating], candidates: NDArray[np.int64], *, n_repeats: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the log-likelihood of averaged betas under each candidate, up to a constant per row.

        The noise is marginal over trials: its covariance over voxels is exact; that the errors of neighbouring trials are
        correlated is left unused.

        Parameters
        ----------
        subject : str
        betas : ndarray, shape (m, V)
            As of `observed`.
        candidates : ndarray of int64, shape (c,)
            Numbers of stimuli from 0.
        n_repeats : ndarray of int64, shape (m,)
        """
        brain = self.brain(subject)
        noise = brain.noise.at(brain.cortex.visual)
        seen, expected = noise.whiten(betas), noise.whiten(self.predicted(subject)[candidates])
        squared = (seen**2).sum(axis=1)[:, None] + (expected**2).sum(axis=1)[None] - 2 * seen @ expected.T
        scores: NDArray[np.float64] = -0.5 * n_repeats[:, None] * squared
        return scores

    @cached_property
    def _images(self) -> NDArray[np.uint8]:
        path = Path("nsddata_stimuli", "stimuli", "nsd", "nsd_stimuli.hdf5")
        images = _hdf5(self.root / path, "imgBrick", path.as_posix())
        if hashlib.sha256(images.tobytes()).hexdigest() != self.recipe["stimuli"]["sha256"]:
            raise _changed(path.as_posix())
        return images.astype(np.uint8, copy=False)

    @cached_property
    def _driven(self) -> Values:
        return channels(self._images, self.model)

    @cached_property
    def _categories(self) -> list[str]:
        import csv

        path = Path("nsddata", "experiments", "nsd", "nsd_stim_info_merged.csv")
        try:
            with (self.root / path).open(encoding="utf-8", newline="") as stream:
                found = [row["category"] for row in csv.DictReader(stream)]
        except (OSError, KeyError, ValueError, csv.Error) as error:
            raise _changed(path.as_posix()) from error
        if len(found) != len(self._images):
            raise _changed(path.as_posix())
        return found

    def _shown(self, subject: str) -> NDArray[np.int64]:
        """Stimulus of each trial, from 0."""
        from scipy.io import loadmat

        path = Path("nsddata", "experiments", "nsd", "nsd_expdesign.mat")
        try:
            design = loadmat(self.root / path)
            own = design["subjectim"][int(_name(subject)[4:]) - 1].astype(np.int64) - 1
            shown: NDArray[np.int64] = own[design["masterordering"].ravel().astype(np.int64) - 1]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise _changed(path.as_posix()) from error
        return shown

    def _session(self, subject: str, session: int, n: int, voxel: NDArray[np.int64]) -> Values:
        path = Path("nsddata_betas", "ppdata", _name(subject), "func1pt8mm", BETAS_FOLDER)
        path /= f"betas_session{session:02d}.hdf5"
        volumes = _hdf5(self.root / path, "betas", path.as_posix())
        if volumes.shape != (n, *self.brain(subject).cortex.shape[::-1]):
            raise _changed(path.as_posix())
        x, y, z = voxel.T
        percent: Values = volumes[:, z, y, x].astype(np.float32) / np.float32(BETA_SCALE)
        return percent


def optimal_retrieval(
    root: Path,
    subject: str,
    images: NDArray[np.int64],
    candidates: NDArray[np.int64] | None = None,
    *,
    repeats: int = 3,
) -> NDArray[np.float64]:
    """Score every candidate for every image that a subject saw: the upper bound of retrieval.

    Parameters
    ----------
    root : Path
        A cohort of `chiasm phantom nsd`.
    subject : str
    images : ndarray of int64, shape (m,)
        Stimuli from 0, whose betas are read.
    candidates : ndarray of int64, shape (c,), optional
        Stimuli from 0; default the images themselves.
    repeats : int
        How many trials of an image are averaged at most.

    Returns
    -------
    ndarray of float64, shape (m, c)
        Logarithms of the posterior over the candidates, all equally likely before. The highest of a row is the optimal
        decoder's choice of an image, the highest of a column that of a brain response.
    """
    from scipy.special import log_softmax

    decoder = OptimalDecoder(root)
    betas, count = decoder.observed(subject, images, repeats=repeats)
    chosen = images if candidates is None else candidates
    posterior: NDArray[np.float64] = log_softmax(
        decoder.log_likelihood(subject, betas, chosen, n_repeats=count), axis=1
    )
    return posterior


def _name(subject: str) -> str:
    digits = subject.removeprefix("subj").removeprefix("sub-")
    return f"subj{int(digits):02d}" if digits.isascii() and digits.isdigit() else subject


def _recipe(root: Path) -> dict[str, Any]:
    path = root / "phantom.json"
    try:
        tree = json.loads(path.read_text("utf-8")) if path.stat().st_size <= _MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict) or tree.get("kind") != "nsd" or tree.get("version") != VERSION:
        raise InputError(
            "CHI-IN-333",
            f"the folder holds no phantom.json of version {VERSION} of phantom brains.",
            "Give a folder that `chiasm phantom nsd` has written with this release.",
            file="phantom.json",
        )
    return tree


def _model(values: Any) -> ForwardModel:
    try:
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return ForwardModel(**given)
    except (TypeError, AttributeError) as error:
        raise _changed("phantom.json") from error


def _hdf5(path: Path, name: str, relative: str) -> NDArray[Any]:
    h5py = h5py_module()
    try:
        with h5py.File(path, "r") as file:
            values: NDArray[Any] = file[name][()]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _changed(relative) from error
    return values


def _changed(relative: str) -> InputError:
    return InputError(
        "CHI-IN-334",
        "the file is missing, damaged, or not as it was written.",
        "Make the phantom again with `chiasm phantom nsd`.",
        file=relative,
    )
