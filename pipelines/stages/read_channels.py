"""Files to one case: every channel read once, checked and hashed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ...data.errors import ChiasmError, InputError, SeveralErrors
from ...data.nifti import read_volume
from ...data.patients import Recording, Session
from ...data.volumes import Grid, Volume
from ..engine.records import hash_inputs, sha256_of_recording
from ..engine.stage import Context, Stage
from ..recipes import Recipe
from .items import BoolArray, Case, MaskSource
from .skull_stripped import is_background_zero

CODES: dict[str, str] = {
    "CHI-IN-090": "A volume holds NaN or infinite voxels.",
    "CHI-IN-091": "A volume is empty or constant: it shows nothing.",
    "CHI-IN-092": "The channels of a session do not lie on one grid.",
    "CHI-IN-093": "A channel that the recipe needs is missing.",
    "CHI-IN-094": "A mask does not lie on the grid of the channels.",
    "CHI-IN-095": "A mask is empty.",
    "CHI-IN-096": "The recipe needs skull-stripped volumes (exact zeros around the brain), and these are not.",
}
MASK_CHANNEL = "mask"


class ReadChannels(Stage):
    """Read what the network needs, and a mask where the input has one.

    Parameters
    ----------
    recipe : Recipe
        Its channels, in the network's order.
    mask_folder : str
        Folder of masks ``<key>*.nii.gz`` that replace the mask network; empty: none.
    prepare : bool
        Whether a later stage brings the channels onto one grid and strips the skull.
    """

    name = "read"
    consumes = Session
    produces = Case

    def __init__(self, recipe: Recipe, *, mask_folder: str = "", prepare: bool = False) -> None:
        self.recipe, self.mask_folder, self.prepare = recipe, mask_folder, prepare
        self.channels = {name: spec for name, spec in recipe.channels.items() if name != MASK_CHANNEL}

    def run(self, item: Session, context: Context) -> Case:
        """Read one session.

        Raises
        ------
        SeveralErrors
            Everything that is wrong with the session's files, at once.
        """
        _raise_all([*item.problems])
        wanted = {name: item.channel(name) for name in self.channels}
        problems: list[ChiasmError] = [
            _missing(name, list(self.channels))
            for name, found in wanted.items()
            if found is None and not self.channels[name].optional
        ]
        hashes: dict[str, str] = {}
        volumes: dict[str, Volume] = {}
        for name, recording in wanted.items():
            if recording is None:
                continue
            try:
                volumes[name] = _checked(read_recording(recording, hashes), recording.relative)
            except ChiasmError as error:
                problems.append(error)
        _raise_all(problems)
        if not self.prepare:
            _raise_all(_grid_problems(volumes, item))
            self._require_stripped(volumes, item)
        grid = next(iter(volumes.values())).grid
        mask, source = self._mask(item, grid, hashes)
        context.notes["sources"] = dict(sorted(hashes.items()))
        context.notes["inputs"] = hash_inputs(item, hashes)
        return Case(session=item, channels=volumes, mask=mask, mask_source=source)

    def _mask(self, session: Session, grid: Grid, hashes: dict[str, str]) -> tuple[BoolArray | None, MaskSource]:
        recording = self._mask_recording(session)
        if recording is None:
            return None, "none"
        volume = read_recording(recording, hashes)
        if not volume.grid.same_as(grid):
            raise InputError(
                "CHI-IN-094",
                f"the mask has {_shape(volume.grid)} voxels and the channels have {_shape(grid)}, or it lies elsewhere in space.",
                "Resample the mask onto the first channel, or remove it so that the mask is computed.",
                file=recording.relative,
            )
        mask: BoolArray = np.greater(volume.values, 0)
        if not mask.any():
            raise InputError(
                "CHI-IN-095", "the mask is empty.", "Give a mask whose brain voxels are > 0.", file=recording.relative
            )
        return mask, "input"

    def _mask_recording(self, session: Session) -> Recording | None:
        own = session.channel(MASK_CHANNEL)
        if not self.mask_folder:
            return own
        folder = Path(self.mask_folder)
        files = (
            [folder]
            if folder.is_file()
            else sorted(p for p in folder.glob(f"{session.key}*") if is_mask_of(p.name, session.key))
        )
        if not files:
            return own
        return Recording(channel=MASK_CHANNEL, kind="nifti", files=(files[0],), relative=f"--mask/{files[0].name}")

    def _require_stripped(self, volumes: dict[str, Volume], session: Session) -> None:
        # A recipe that crops to the foreground says thereby that its background is exactly zero.
        if self.recipe.space.crop != "foreground":
            return
        _raise_all(
            [
                InputError(
                    "CHI-IN-096",
                    f"channel '{name}' is not skull-stripped (hardly any voxel is exactly 0), which this recipe needs.",
                    "Give skull-stripped volumes, or run with --prepare.",
                    file=_relative(session, name),
                )
                for name, volume in volumes.items()
                if not is_background_zero(volume.values)
            ]
        )

    def predict_bytes(self, n_voxels: int) -> int:
        """All channels in float32 and, for one of them, the bytes as they came out of the file."""
        return n_voxels * (4 * len(self.channels) + 8)


def is_mask_of(name: str, key: str) -> bool:
    """Whether a file name is that of a mask of session `key` (``sub-1`` must not take the mask of ``sub-10``)."""
    rest = name.removeprefix(key)
    return rest != name and not rest[:1].isalnum() and name.endswith((".nii", ".nii.gz"))


def read_recording(recording: Recording, hashes: dict[str, str]) -> Volume:
    """Read a NIfTI file (one volume of it where it is 4-D) or a DICOM series, and note its sha256 in `hashes`.

    Raises
    ------
    InputError
        As the readers: ``CHI-IN-001`` to ``059``.
    """
    if recording.kind == "dicom":
        from ...data.dicom import read_series

        volume = read_series(recording.files, relative=recording.relative)
        hashes[recording.relative] = sha256_of_recording(recording)
        return volume
    digest = hashlib.sha256()  # fed while the file is read, so that no file is read twice
    volume = read_volume(recording.files[0], index=recording.volume_index, relative=recording.relative, digest=digest)
    hashes[recording.relative] = digest.hexdigest()
    return volume


def _checked(volume: Volume, relative: str) -> Volume:
    # min and max carry NaN and infinity along without a temporary array of the volume's size.
    low, high = float(volume.values.min()), float(volume.values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int(volume.values.size - np.isfinite(volume.values).sum())
        raise InputError(
            "CHI-IN-090",
            f"{count} of {volume.values.size} voxels are NaN or infinite.",
            "Replace them (by 0 where they are background) and run again.",
            file=relative,
        )
    if low == high:
        raise InputError(
            "CHI-IN-091",
            "every voxel has the same value: the volume shows nothing.",
            "Export this recording again.",
            file=relative,
        )
    return volume


def _grid_problems(volumes: dict[str, Volume], session: Session) -> list[ChiasmError]:
    first_name, first = next(iter(volumes.items()))
    return [
        InputError(
            "CHI-IN-092",
            f"channel '{name}' ({_shape(volume.grid)} voxels) does not lie on the grid of '{first_name}' ({_shape(first.grid)} voxels).",
            "Register the channels to one grid, or run with --prepare, which does it.",
            file=_relative(session, name),
        )
        for name, volume in volumes.items()
        if not volume.grid.same_as(first.grid)
    ]


def _missing(name: str, wanted: list[str]) -> InputError:
    return InputError(
        "CHI-IN-093",
        f"channel '{name}' is missing; the recipe needs {', '.join(wanted)}.",
        "Add the recording, or name it in a --manifest.",
    )


def _relative(session: Session, channel: str) -> str:
    recording = session.channel(channel)
    return recording.relative if recording else ""


def _shape(grid: Grid) -> str:
    return " x ".join(str(n) for n in grid.shape)


def _raise_all(problems: list[ChiasmError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise SeveralErrors(problems)
