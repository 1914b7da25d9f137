"""What the demo works on: real heads where there are any and a patient that is broken on purpose; then a phantom brain."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from ..data.atomic import write_bytes
from ..data.errors import ToolError

CODES = {"CHI-TL-002": "The package that carries the demo's real MRI is not installed."}
COLIN27 = Path("/usr/share/mricron/templates/ch2.nii.gz")
"""Colin27, one man's head averaged over 27 scans: Debian package ``mricron-data``."""
BRAIN_IMAGES, BRAIN_SHARED = 300, 24
"""Of the phantom brain: pictures to learn from, and to decode."""
MNI152 = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


def make_cohort(folder: Path) -> Iterator[str]:
    """Write the cohort (once) and yield one line a patient.

    Raises
    ------
    ToolError
        ``CHI-TL-002``: nilearn, which carries MNI152, is missing.
    """
    template = mni152_t1()
    _place(template, folder / "mni152" / "t1.nii.gz")
    yield f"mni152   the MNI152 template (nilearn): {NOTICE}"
    if COLIN27.is_file():
        _place(COLIN27, folder / "colin27" / "t1.nii.gz")
        yield "colin27  a real head that no network here has seen (mricron-data)"
    else:
        yield "         (Colin27 joins where the Debian package mricron-data is installed)"
    broken = folder / "broken" / "t1.nii.gz"
    if not broken.is_file():
        broken.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(broken, template.read_bytes()[:60_000])
    yield "broken   the first 60 kB of a file, as an interrupted copy leaves it: it must fail, alone"


def make_brain(folder: Path) -> str:
    """Write a phantom brain that looked at pictures (once) and say in a line what it is.

    Raises
    ------
    ToolError
        ``CHI-TL-020``: h5py is missing.
    """
    if not (folder / "phantom.json").is_file():  # the last file that is written
        from ..data.phantoms.nsd.cohort import NsdCohort, write_nsd

        shutil.rmtree(folder, ignore_errors=True)
        cohort = NsdCohort(subjects=1, images=BRAIN_IMAGES, shared=BRAIN_SHARED, stimuli="fashion-mnist-small")
        write_nsd(folder, cohort)
    return (
        f"images from fMRI: {BRAIN_IMAGES} real pictures of clothes to learn from, {BRAIN_SHARED} to decode. "
        "The brain and its responses are SYNTHETIC, drawn by a known forward model: no person was measured."
    )


NOTICE = "the template that the tissue network was trained from, so its result is no evidence of accuracy"


def mni152_t1() -> Path:
    """Return the MNI152 T1 (1 mm, skull-stripped) that nilearn carries; see `make_cohort` for the error."""
    try:
        path = Path(str(resources.files("nilearn.datasets").joinpath("data", MNI152)))
    except ModuleNotFoundError:
        path = Path()
    if not path.is_file():
        raise ToolError(
            "CHI-TL-002",
            "the package nilearn, which carries the MNI152 image, is not installed.",
            "pip install nilearn",
        )
    return path


def _place(source: Path, target: Path) -> None:
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
