"""Log-Mel pictures beside librosa's, interleaved, one thread: CPU seconds a minute of audio, agreement, peak RSS.

    python benchmarks/dementia/features.py [--repeats 15]

Two jobs: samples at 22.05 kHz to the picture of three planes; and a wav file of 44.1 kHz to the picture, read and resampled
with soundfile and soxr on both sides. librosa runs in its documented form and with freed memory kept, as ours does.
Results: benchmarks/results/features.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import numpy as np
import soundfile
import soxr

RESULTS = Path(__file__).parents[1] / "results" / "features.json"
RATE, FILE_RATE, MINUTES = 22050, 44100, 1.0


def recording(rate: int) -> np.ndarray:
    """A minute that is like speech in what matters here: harmonics that move, pauses, a noise floor."""
    rng, t = np.random.default_rng(0), np.arange(int(60 * MINUTES * rate)) / rate
    pitch = 140 + 40 * np.sin(2 * np.pi * 0.3 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * np.clip(np.sin(2 * np.pi * 0.9 * t) + 0.4, 0, None)
    return np.float32(0.1 * voice + 3e-4 * rng.standard_normal(len(t)))


def read(path: str) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(samples, rate, RATE)


def by_librosa() -> Callable[[np.ndarray], np.ndarray]:
    import librosa

    def picture(samples: np.ndarray) -> np.ndarray:
        power = librosa.feature.melspectrogram(y=samples, sr=RATE, n_fft=2048, hop_length=512, n_mels=224)
        decibels = librosa.power_to_db(power)
        return np.stack([decibels, librosa.feature.delta(decibels), librosa.feature.delta(decibels, order=2)])

    return picture


def by_chiasm() -> Callable[[np.ndarray], np.ndarray]:
    import torch

    from chiasm.encoders.log_mel import LogMelConfig, LogMelImage

    torch.set_num_threads(1)
    maker = LogMelImage(LogMelConfig())
    return lambda samples: maker(torch.from_numpy(samples)[None])[0][0].numpy()


WAYS = {"librosa": by_librosa, "chiasm": by_chiasm}


def child(way: str, keep: bool, path: str) -> None:
    """One way in a fresh process: per line of input one timed run, so that the parent can interleave."""
    if keep:
        from chiasm.pipelines.engine.memory import keep_freed_memory

        keep_freed_memory()
    picture, samples = WAYS[way](), recording(RATE)
    np.save(f"{path}.{way}.npy", picture(samples))
    for line in sys.stdin:
        job = line.strip()
        start, wall = time.process_time(), time.perf_counter()
        picture(samples if job == "picture" else read(path))
        row = {"cpu_s": time.process_time() - start, "wall_s": time.perf_counter() - wall}
        row["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--child", nargs=3, metavar=("WAY", "KEEP", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, keep, path = arguments.child
        child(way, keep == "keep", path)
        return
    forms = {"librosa": ("librosa", "plain"), "librosa, memory kept": ("librosa", "keep"), "chiasm": ("chiasm", "keep")}
    rows: dict[str, dict[str, list[dict[str, float]]]] = {
        job: {name: [] for name in forms} for job in ("picture", "file")
    }
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "a.wav")
        soundfile.write(path, recording(FILE_RATE), FILE_RATE, subtype="PCM_16")
        for job, of_job in rows.items():  # processes of their own for each job: peak RSS is of the job
            workers = {
                name: subprocess.Popen(
                    [sys.executable, __file__, "--child", *form, path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for name, form in forms.items()
            }
            for repeat in range(arguments.repeats + 1):
                for name, worker in workers.items():
                    worker.stdin.write(job + "\n")
                    worker.stdin.flush()
                    row = json.loads(worker.stdout.readline())
                    if repeat:  # the first run warms up
                        of_job[name].append(row)
            for worker in workers.values():
                worker.stdin.close()
                worker.wait()
        theirs, ours = (np.load(f"{path}.{way}.npy").astype(np.float64) for way in WAYS)
    medians = {
        job: {name: statistics.median(row["cpu_s"] for row in runs) / MINUTES for name, runs in of_job.items()}
        for job, of_job in rows.items()
    }
    result = {
        "command": f"python benchmarks/dementia/features.py --repeats {arguments.repeats}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
        "versions": {name: version(name) for name in ("torch", "librosa", "numpy", "soxr")},
        "cpu_ms_per_minute": {job: {name: round(1e3 * v, 1) for name, v in of.items()} for job, of in medians.items()},
        "wall_ms_per_minute": {
            job: {
                name: round(1e3 * statistics.median(r["wall_s"] for r in runs) / MINUTES, 1)
                for name, runs in of.items()
            }
            for job, of in rows.items()
        },
        "ratio": {
            job: {name: round(of[name] / of["chiasm"], 2) for name in forms if name != "chiasm"}
            for job, of in medians.items()
        },
        "peak_rss_mb": {
            job: {name: max(r["peak_rss_mb"] for r in runs) for name, runs in of.items()} for job, of in rows.items()
        },
        "largest_difference": dict(
            zip(("log_mel_db", "delta", "delta_delta"), np.abs(ours - theirs).max((1, 2)).tolist(), strict=True)
        ),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
