"""``chiasm demo OUT``: the main job on a real MRI, in a small cohort with one deliberately broken patient."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..console import say


def register(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser("demo", help="segment a real MRI among a small cohort, one patient of it broken")
    parser.add_argument(
        "out", metavar="OUT", type=lambda text: Path(text).resolve(), help="a folder for input/ and output/"
    )
    parser.add_argument("--device", default="auto")
    parser.set_defaults(handler=_demo)


def _demo(namespace: argparse.Namespace) -> int:
    from ..demonstration import make_cohort
    from .main import main

    source, out = namespace.out / "input", namespace.out / "output"
    for line in make_cohort(source):
        say(line)
    say(f"\n$ chiasm run brain-tissue {source} {out}")
    code = main(["run", "brain-tissue", str(source), str(out), "--device", namespace.device, "--retry-failed"])
    # Exit 1 is what this cohort must give: one of its patients is broken on purpose. Anything else is a failure of the demo.
    return 0 if code == 1 else code or 70
