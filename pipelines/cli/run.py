"""``chiasm run RECIPE IN OUT``: a cohort in, a BIDS derivative and a report out (BIDS-App shape)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def _shard(text: str) -> tuple[int, int]:
    try:
        index, total = (int(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not i/n, such as 2/8") from None
    if not 1 <= index <= total:
        raise argparse.ArgumentTypeError(f"'{text}': i runs from 1 to n")
    return index, total


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"'{text}' does not exist")
    return path.resolve()


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number >= 1")
    return int(text)


def register(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser("run", help="run a recipe on every patient of a folder")
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's name (see 'chiasm info') or a .yaml file")
    parser.add_argument(
        "source",
        metavar="IN",
        type=_folder,
        help="a BIDS dataset, a folder of patient folders, a DICOM tree, or one file",
    )
    parser.add_argument(
        "out", metavar="OUT", type=lambda text: Path(text).resolve(), help="output folder (a BIDS derivative)"
    )
    parser.add_argument(
        "level",
        nargs="?",
        choices=("participant", "group"),
        default="participant",
        help="group: only the group page, from what is there",
    )
    _add_selection(parser)
    _add_computation(parser)
    _add_output(parser)
    parser.set_defaults(handler=_run)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which sessions")
    group.add_argument(
        "--participant-label",
        nargs="+",
        default=(),
        metavar="LABEL",
        help="only these patients (with or without 'sub-')",
    )
    group.add_argument(
        "--manifest",
        type=_folder,
        metavar="TSV",
        help="table with patient, session, channel, path: overrides discovery",
    )
    group.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="i/n", help="only the i-th of n parts of the cohort"
    )
    group.add_argument("--resume", action="store_true", default=True, help="skip what is done (always on)")
    group.add_argument(
        "--update", action="store_true", help="compute finished sessions again where recipe, weights or input changed"
    )
    group.add_argument(
        "--retry-failed", action="store_true", help="try failed sessions again although their files are unchanged"
    )
    group.add_argument("--stop-on-first-failure", action="store_true", help="end at the first session that fails")
    group.add_argument("--dry-run", action="store_true", help="show what would run, with memory and time, and end")


def _add_computation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it is computed")
    group.add_argument(
        "--weights",
        metavar="FOLDER",
        help="other weights of the recipe's main network: a name in the store, or a folder",
    )
    group.add_argument("--executor", choices=("local", "ray", "slurm"), default="local", help="where workers run")
    group.add_argument("--device", default="auto", help="auto, cpu, mps, cuda:0, cuda:0,1 or all (default: auto)")
    group.add_argument("--workers", type=_positive, default=1, help="workers on the CPU (default: 1)")
    group.add_argument(
        "--threads", type=_positive, help="threads of a worker (default: the cores there are, shared by the workers)"
    )
    group.add_argument(
        "--batch-size", type=_positive, help="windows a forward pass (default: 1 on the CPU, 4 elsewhere)"
    )
    group.add_argument(
        "--mode",
        choices=("exact", "fast"),
        default="exact",
        help="fast: bfloat16, and the crop where the model card allows it",
    )
    group.add_argument(
        "--memory-gb", type=float, help="memory that all workers may take (default: 80 %% of what is free)"
    )
    group.add_argument("--compile", action="store_true", help="torch.compile (pays on CUDA only)")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument(
        "--work-dir",
        type=lambda text: Path(text).resolve(),
        metavar="W",
        help="ledger and locks (default: OUT/.chiasm)",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is written")
    group.add_argument("--probabilities", action="store_true", help="also probability maps")
    group.add_argument(
        "--mask", type=_folder, metavar="FOLDER", help="brain masks (<key>*.nii.gz) to use instead of the mask network"
    )
    group.add_argument(
        "--prepare", action="store_true", help="register the channels to one another, mask the brain and resample first"
    )
    group.add_argument("--single-file", action="store_true", help="reports with everything inside one file")


def _run(namespace: argparse.Namespace) -> int:
    from ..cohort import run

    return run(namespace)
