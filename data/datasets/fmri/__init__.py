"""On-disk layouts of fMRI responses to images, found by themselves and brought into one form."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from ...errors import InputError
from ...fmri.decoding_set import DecodingSet

__all__ = ["CODES", "open_decoding_set", "subject_names"]

CODES: dict[str, str] = {"CHI-IN-271": "The folder has none of the layouts of responses to images."}
_LAYOUTS = {
    "nsd": "NSD (nsddata/, nsddata_betas/)",
    "mindeye2": "MindEye2 (betas_all_subj01*.hdf5, wds/)",
    "mindeye_tars": "MindEye's tars (train/train_subj01_0.tar)",
    "bids_betas": "a BIDS derivative of betas (sub-01/func/*_betas.nii.gz)",
    "fmriprep": "an fMRIPrep derivative with events",
    "plain": "a plain folder (betas.npy or betas.nii.gz with mask.nii.gz, trials.tsv, stimuli/)",
}
"""Module -> what it reads, in the order in which they are asked: what is more special comes first."""


class _Layout(Protocol):
    def matches(self, root: Path) -> bool: ...

    def subject_names(self, root: Path) -> list[str]: ...

    def open_set(
        self, root: Path, *, subjects: Sequence[str] = (), roi: str = "nsdgeneral", cache: Path | None = None
    ) -> DecodingSet: ...


def open_decoding_set(
    root: Path, *, subjects: Sequence[str] = (), roi: str = "nsdgeneral", cache: Path | None = None
) -> DecodingSet:
    """Open a data set, whatever its layout.

    Parameters
    ----------
    root : Path
    subjects : sequence of str
        Labels; all where none is given. Errors of one subject do not concern a call that asks for others.
    roi : str
        Which voxels, where the layout has a choice.
    cache : Path, optional
        Folder for betas that must be gathered from volumes; without one they stay in memory, up to 1 GiB a subject.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-271``, and what the layout's reader raises: ``CHI-IN-260`` to ``CHI-IN-299``.
    ResourceError
        Where the cache cannot be written.
    """
    return _layout(root).open_set(root, subjects=subjects, roi=roi, cache=cache)


def subject_names(root: Path) -> list[str]:
    """Return the labels of a data set's subjects, sorted, from names of files only.

    Raises
    ------
    InputError
        ``CHI-IN-271``.
    """
    return _layout(root).subject_names(root)


def _layout(root: Path) -> _Layout:
    for name in _LAYOUTS:
        layout = cast("_Layout", import_module(f".{name}", __name__))
        if layout.matches(root):
            return layout
    raise InputError(
        "CHI-IN-271",
        "The folder holds no responses to images that can be read." if root.is_dir() else "There is no such folder.",
        f"Looked for: {'; '.join(_LAYOUTS.values())}.",
        file=root.name,
    )
