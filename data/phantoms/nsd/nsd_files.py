"""Files of the Natural Scenes Dataset's layout, in bytes that depend on their content only."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...atomic import atomic_path, write_text
from ...errors import ToolError

CODES: dict[str, str] = {"CHI-TL-022": "h5py, which reads and writes HDF5, is not installed"}

BETA_SCALE = 300
"""NSD stores percent BOLD change times 300 as int16."""

PRF_LABELS = ("Unknown", "V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4")
STREAM_LABELS = ("Unknown", "early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal")
STREAM_OF = {"hV4": 2, "ventral": 5, "lateral": 6}
"""Number of the stream of an area; V1 to V3 are early (1)."""


def h5py_module() -> Any:
    """Return h5py.

    Raises
    ------
    ToolError
        CHI-TL-022.
    """
    try:
        import h5py
    except ImportError as error:
        raise ToolError(
            "CHI-TL-022", "h5py is not installed.", "Run `pip install 'chiasm[images]'` in this environment."
        ) from error
    return h5py


def write_hdf5(path: Path, name: str, values: NDArray[Any]) -> None:
    """Write one data set, a chunk a row, compressed."""
    h5py = h5py_module()
    with atomic_path(path) as temporary, h5py.File(temporary, "w", libver=("v108", "v108")) as file:
        file.create_dataset(
            name,
            data=values,
            chunks=(1, *values.shape[1:]),
            compression="gzip",
            compression_opts=4,
            shuffle=True,
            track_times=False,
        )


def stored_betas(
    betas: NDArray[np.floating], voxel: NDArray[np.int64], shape: tuple[int, int, int]
) -> NDArray[np.int16]:
    """Return betas (n, V) in percent as NSD's int16 volumes with axes trial, z, y, x."""
    volumes = np.zeros((len(betas), *shape[::-1]), dtype=np.int16)
    limits = np.iinfo(np.int16)
    x, y, z = voxel.T
    volumes[:, z, y, x] = np.clip(np.rint(betas * BETA_SCALE), limits.min, limits.max)
    return volumes


def write_mat(path: Path, tables: Mapping[str, NDArray[Any]]) -> None:
    """Write a MATLAB 5 file without the time of day in its header."""
    from scipy.io import savemat

    values = {name: np.asarray(table, dtype=np.float64) for name, table in tables.items()}
    with atomic_path(path) as temporary:
        savemat(temporary, values, appendmat=False, do_compression=True)
        with temporary.open("r+b") as stream:
            stream.write(b"MATLAB 5.0 MAT-file, written by chiasm phantom".ljust(116))


def write_labels(path: Path, labels: Sequence[str]) -> None:
    """Write a table of labels as NSD does (FreeSurfer's .ctab): number and name."""
    write_text(path, "".join(f"{number} {name}\n" for number, name in enumerate(labels)))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table with commas, as NSD's, its first column the unnamed index."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["", *rows[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"": i, **row} for i, row in enumerate(rows))
    write_text(path, stream.getvalue())
