"""Trials from disk, beside numpy's memory map with torch's DataLoader and beside h5py: trials/s, CPU seconds, peak anonymous memory.

    OMP_NUM_THREADS=1 python benchmarks/fmri/loading.py [--repeats 3] [--steps 50] [--subjects 8] [--trials 30000] [--voxels 15724]

Sparse files of 8 x 30,000 x 15,724 float32 (15 GB that take no room): what is timed is what the readers do, not a disk. The page cache
is emptied before every run. All ways read the same rows in the same steps (markers in the first voxel show it), scale them by session and
hand over one tensor a subject and step; ours alone also refuses NaN. ``training`` is the step of `fit` on top of our stream, with the
network of the small recipe (hidden 384) and an averaged copy. Memory: highest anonymous memory of the process and its workers, a page
that several share counted in parts (Pss_Anon); the page cache and mapped files do not count. Results: benchmarks/results/fmri_loading.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import numpy as np
import torch

from chiasm.data.fmri.betas import ArrayBetas, Betas, StoredBetas
from chiasm.data.fmri.decoding_set import BrainSubject
from chiasm.data.fmri.scaling import KINDS, VoxelScaler
from chiasm.data.fmri.trials import Trials, by_image
from chiasm.pipelines.training.fmri.streams import SubjectSource, TrialStream

RESULTS = Path(__file__).parents[1] / "results" / "fmri_loading.json"
BATCH, REPEATS, SESSIONS, WORKERS, SEED = 96, 3, 40, 2, 0
LIMIT_MB = 4096
Sizes = dict[str, int]
Steps = Iterator[dict[str, torch.Tensor]]


def header(path: Path, sizes: Sizes) -> int:
    """Write a sparse file; returns where its values begin."""
    with path.open("wb") as file:
        shape = (sizes["trials"], sizes["voxels"])
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        offset = file.tell()
        file.truncate(offset + 4 * shape[0] * shape[1])
    return offset


def stream_of(betas: dict[str, Betas], sizes: Sizes, *, scaled: bool) -> TrialStream:
    """Three trials an image, spread over the sessions; statistics as a scaler would have fitted them."""
    n = sizes["trials"]
    trials = Trials(
        row=np.arange(n),
        image=np.arange(n) % (n // REPEATS),
        session=1 + np.arange(n) * SESSIONS // n,
        repeat=np.arange(n) // (n // REPEATS),
        split=np.zeros(n, dtype=np.int8),
    )
    images, mean, sd = by_image(trials), *tables(sizes)
    state = {"kind": np.array([KINDS.index("session-zscore" if scaled else "none")]), "mean": mean[0], "sd": sd[0]}
    scaler = VoxelScaler.from_state(
        {**state, "sessions": np.arange(1, SESSIONS + 1), "session_mean": mean, "session_sd": sd}
    )
    sources = {
        name: SubjectSource(subject=BrainSubject(name=name, betas=one, trials=trials), images=images, scaler=scaler)
        for name, one in betas.items()
    }
    return TrialStream(sources, batch_size=BATCH, repeats="cycle", seed=SEED)


def tables(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Mean and SD of every session, the same for all subjects."""
    rng = np.random.default_rng(1)
    shape = (SESSIONS, sizes["voxels"])
    return rng.standard_normal(shape, dtype=np.float32), 1 + rng.random(shape, dtype=np.float32)


def rows_of(sizes: Sizes) -> list[dict[str, np.ndarray]]:
    """Which rows each step reads: our stream over betas whose only voxel is the number of the row."""
    numbers = np.arange(sizes["trials"], dtype=np.float32)[:, None]
    stream = stream_of(dict.fromkeys(names(sizes), ArrayBetas(numbers)), sizes, scaled=False)
    found = [
        {name: batch.voxels[:, 0].astype(np.int64) for name, batch in stream.step(step).items()}
        for step in range(sizes["steps"])
    ]
    stream.close()
    return found


def names(sizes: Sizes) -> list[str]:
    return [f"{number + 1:02d}" for number in range(sizes["subjects"])]


def by_chiasm(folder: Path, sizes: Sizes, _rows: list[dict[str, np.ndarray]]) -> Steps:
    stream = stream_of({name: StoredBetas(folder / f"{name}.npy") for name in names(sizes)}, sizes, scaled=True)
    for step in range(sizes["steps"]):
        yield {name: torch.from_numpy(batch.voxels) for name, batch in stream.step(step).items()}
    stream.close()


class _Samples(torch.utils.data.Dataset[torch.Tensor]):
    """A trial an item, scaled."""

    def __init__(self, read: Callable[[str, int], np.ndarray], sizes: Sizes) -> None:
        self.read, self.n, (self.mean, self.sd) = read, sizes["trials"], tables(sizes)

    def __getitem__(self, which: tuple[str, int]) -> torch.Tensor:
        name, row = which
        session = row * SESSIONS // self.n
        return torch.from_numpy((self.read(name, row) - self.mean[session]) / self.sd[session])


def _loaded(samples: _Samples, rows: list[dict[str, np.ndarray]], workers: int) -> Steps:
    order = [[(name, int(row)) for name, found in step.items() for row in found] for step in rows]
    loader = torch.utils.data.DataLoader(samples, batch_sampler=order, num_workers=workers)
    for step, batch in zip(rows, loader, strict=True):
        yield dict(zip(step, batch.split([len(found) for found in step.values()]), strict=True))


def by_memmap(folder: Path, sizes: Sizes, rows: list[dict[str, np.ndarray]], workers: int = WORKERS) -> Steps:
    maps = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names(sizes)}
    return _loaded(_Samples(lambda name, row: maps[name][row], sizes), rows, workers)


def by_h5py(folder: Path, sizes: Sizes, rows: list[dict[str, np.ndarray]]) -> Steps:
    import h5py

    tables = {name: h5py.File(folder / f"{name}.h5", "r")["betas"] for name in names(sizes)}
    return _loaded(_Samples(lambda name, row: tables[name][row], sizes), rows, 0)


WAYS: dict[str, Callable[[Path, Sizes, list[dict[str, np.ndarray]]], Steps]] = {
    "chiasm TrialStream": by_chiasm,
    "numpy memmap, DataLoader, 2 workers": by_memmap,
    "numpy memmap, DataLoader, no worker": lambda folder, sizes, rows: by_memmap(folder, sizes, rows, 0),
    "h5py row by row": by_h5py,
}
TRAINING = "training"


def train(folder: Path, sizes: Sizes) -> None:
    """Steps of our training with the small recipe's network for all subjects, weights averaged; no checkpoint is written."""
    from chiasm.encoders.mindeye2 import MindEye2Config, MindEye2Network
    from chiasm.pipelines.training.checkpoints import State
    from chiasm.pipelines.training.fmri.fit import FitData, _step, decay_groups
    from chiasm.pipelines.training.fmri.model import BrainModel
    from chiasm.pipelines.training.fmri.settings import FmriTraining

    stream = stream_of({name: StoredBetas(folder / f"{name}.npy") for name in names(sizes)}, sizes, scaled=True)
    config = MindEye2Config(hidden=384, n_blocks=2, tokens=16, width=64, projector_hidden=128)
    model = BrainModel("mindeye2", MindEye2Network(config, dict.fromkeys(names(sizes), sizes["voxels"])), None)
    targets = torch.randn(sizes["trials"] // REPEATS, 16, 64, generator=torch.Generator().manual_seed(0))
    data, settings = FitData(stream=stream, targets=lambda images: targets[torch.from_numpy(images)]), FmriTraining()
    optimizer = torch.optim.AdamW(decay_groups(model, settings.weight_decay), lr=settings.learning_rate)
    state = State(model, copy.deepcopy(model).requires_grad_(False).eval(), optimizer)
    for _ in range(sizes["steps"]):
        _step(state, data, settings, 10 * sizes["steps"])
    stream.close()


class Memory:
    """Highest anonymous memory of this process and its children while a block runs, in MB."""

    def __enter__(self) -> Memory:
        self.peak, self._over = 0.0, threading.Event()
        self._watch = threading.Thread(target=self._run)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _run(self) -> None:
        while True:
            own = os.getpid()
            children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
            self.peak = max(self.peak, sum(anonymous_mb(process) for process in (str(own), *children)))
            if self._over.wait(0.02):
                return


def anonymous_mb(process: str) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # it ended
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")) / 1024


def cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def child(way: str, folder: Path, sizes: Sizes) -> None:
    """One way in a fresh process: a run a line of input, so that the parent can interleave."""
    torch.set_num_threads(1)
    rows = rows_of(sizes)
    for _ in sys.stdin:
        markers, trials = 0.0, 0
        with Memory() as memory:
            cpu, wall = cpu_s(), time.perf_counter()
            if way == TRAINING:
                train(folder, sizes)
                trials = sum(len(found) for step in rows for found in step.values())
            else:
                for number, step in enumerate(WAYS[way](folder, sizes, rows)):
                    markers += (number + 1) * sum(float(batch[:, 0].double().sum()) for batch in step.values())
                    trials += sum(len(batch) for batch in step.values())
            row = {"cpu_s": cpu_s() - cpu, "wall_s": time.perf_counter() - wall, "trials": trials}
        sys.stdout.write(json.dumps({**row, "markers": markers, "anonymous_mb": memory.peak}) + "\n")
        sys.stdout.flush()


def write_files(folder: Path, sizes: Sizes) -> None:
    """Sparse .npy files, each also as a table of an HDF5 file over the same bytes; rows that are read carry their number."""
    import h5py

    for name in names(sizes):
        path = folder / f"{name}.npy"
        offset = header(path, sizes)
        shape = (sizes["trials"], sizes["voxels"])
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file.create_dataset("betas", shape, "<f4", external=[(str(path), offset, 4 * shape[0] * shape[1])])
    for step in rows_of(sizes):
        for name, rows in step.items():
            values = np.load(folder / f"{name}.npy", mmap_mode="r+")
            values[rows, 0] = rows


def forget_pages(folder: Path) -> None:
    for path in folder.glob("*.npy"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(folder: Path, sizes: Sizes, repeats: int) -> dict[str, list[dict[str, Any]]]:
    options = [f"--{name}={value}" for name, value in sizes.items()]
    workers = {
        way: subprocess.Popen(
            [sys.executable, __file__, "--child", way, str(folder), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for way in (*WAYS, TRAINING)
    }
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in workers}
    for repeat in range(repeats + 1):
        for way, worker in workers.items():
            if way == TRAINING and repeat != 1:
                continue  # once, for its memory
            forget_pages(folder)
            worker.stdin.write("run\n")
            worker.stdin.flush()
            row = json.loads(worker.stdout.readline())
            found[way] += [row] if repeat else []  # the first run warms up
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in {"repeats": 3, "steps": 50, "subjects": 8, "trials": 30_000, "voxels": 15_724}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--child", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="for the sparse files (default: the system's temporary folder)")
    given = parser.parse_args()
    sizes = {name: getattr(given, name) for name in ("steps", "subjects", "trials", "voxels")}
    if given.child:
        child(given.child[0], Path(given.child[1]), sizes)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        write_files(Path(folder), sizes)
        found = measure(Path(folder), sizes, given.repeats)
    loading = {way: found[way] for way in WAYS}
    per_s = {way: statistics.median(r["trials"] / r["wall_s"] for r in runs) for way, runs in loading.items()}
    cpu = {way: statistics.median(1e3 * r["cpu_s"] / r["trials"] for r in runs) for way, runs in loading.items()}
    markers = {way: runs[0]["markers"] for way, runs in loading.items()}
    peaks = {way: round(max(r["anonymous_mb"] for r in runs)) for way, runs in found.items()}
    ours = next(iter(WAYS))
    training = found[TRAINING][0]
    result = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/fmri/loading.py "
        + " ".join(f"--{name} {value}" for name, value in {"repeats": given.repeats, **sizes}.items()),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
        "versions": {name: version(name) for name in ("torch", "numpy", "h5py")},
        **sizes,
        "batch_size": BATCH,
        "trials_per_s": {way: round(value) for way, value in per_s.items()},
        "cpu_ms_per_trial": {way: round(value, 3) for way, value in cpu.items()},
        "cpu_ratio": {way: round(value / cpu[ours], 2) for way, value in cpu.items() if way != ours},
        "peak_anonymous_mb": peaks,
        "markers": markers,
        # Sums over float32 batches: their order differs, so their last digits may.
        "same_rows": max(markers.values()) - min(markers.values()) <= 1e-6 * abs(max(markers.values())),
        "training": {
            "steps": sizes["steps"],
            "cpu_s_per_step": round(training["cpu_s"] / sizes["steps"], 3),
            "peak_anonymous_mb": peaks[TRAINING],
            "within_4_gb": peaks[TRAINING] <= LIMIT_MB,
        },
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
