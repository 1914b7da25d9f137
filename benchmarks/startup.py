"""Start-up time: `chiasm --help` and `import chiasm`, in fresh interpreters, beside an empty interpreter.

Goals: `chiasm --help` <= 0.15 s, `import chiasm` <= 0.1 s (medians). Writes benchmarks/results/startup.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMAND = Path(sys.executable).with_name("chiasm")
CASES: dict[str, tuple[list[str], float | None]] = {
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "import chiasm": ([sys.executable, "-c", "import chiasm"], 0.10),
    "chiasm --help": ([str(COMMAND), "--help"], 0.15),
    "chiasm run --help": ([str(COMMAND), "run", "--help"], 0.15),
}


def measure(repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Return (wall, CPU) seconds per case, interleaved so that a busy moment falls on all of them."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    for round_ in range(repeats + 1):
        for name, (command, _) in CASES.items():
            before, start = cpu_of_children(), time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if round_:  # the first round fills the disk cache and writes byte code
                seconds[name].append((time.perf_counter() - start, cpu_of_children() - before))
    return seconds


def cpu_of_children() -> float:
    """Return user and system seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def processor() -> str:
    """Return the processor's name, without anything that identifies the machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> int:
    """Measure, print and write; return 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "startup.json")
    arguments = parser.parse_args()
    seconds = measure(arguments.repeats)
    rows = {
        name: {
            "median_s": round(statistics.median(wall for wall, _ in values), 4),
            "quartiles_s": [round(q, 4) for q in statistics.quantiles((wall for wall, _ in values), n=4)[::2]],
            "median_cpu_s": round(statistics.median(cpu for _, cpu in values), 4),
            "goal_s": CASES[name][1],
        }
        for name, values in seconds.items()
    }
    missed = [name for name, row in rows.items() if row["goal_s"] is not None and row["median_s"] > row["goal_s"]]
    for name, row in rows.items():
        goal = f"  goal {row['goal_s']:.2f} s" if row["goal_s"] else ""
        print(
            f"{name:20s} {row['median_s']:.3f} s ({row['median_cpu_s']:.3f} s CPU){goal}{'  MISSED' if name in missed else ''}"
        )
    result = {
        "command": "python benchmarks/startup.py",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": {"processor": processor(), "system": platform.system()},
        "versions": {"python": platform.python_version(), "chiasm": metadata.version("chiasm")},
        "repeats": arguments.repeats,
        "cases": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
