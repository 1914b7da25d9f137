"""``chiasm demo OUT``: the main job on a real MRI, one patient broken on purpose; then images from a phantom brain."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..console import complain, say


def register(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser("demo", help="segment a real MRI among a small cohort, one patient of it broken")
    parser.add_argument(
        "out", metavar="OUT", type=lambda text: Path(text).resolve(), help="a folder for inputs and outputs"
    )
    parser.add_argument("--device", default="auto")
    parser.set_defaults(handler=_demo)


def _demo(namespace: argparse.Namespace) -> int:
    segmented = _segment(namespace.out, namespace.device)
    seen = _images(namespace.out, namespace.device)
    say("\nwhat the demo made:")
    say(f"  brains in a cohort: {_page(namespace.out / 'output' / 'desc-braintissue_report.html', segmented)}")
    say(f"  images seen and reconstructed (synthetic): {_page(namespace.out / 'images' / 'report.html', seen)}")
    return segmented or seen


def _segment(out: Path, device: str) -> int:
    """Segment the cohort; exit 1 is what it must give: one of its patients is broken on purpose."""
    from ..demonstration import make_cohort
    from .main import main

    source, target = out / "input", out / "output"
    for line in make_cohort(source):
        say(line)
    say(f"\n$ chiasm run brain-tissue {source} {target}")
    code = main(["run", "brain-tissue", str(source), str(target), "--device", device, "--retry-failed"])
    return 0 if code == 1 else code or 70


def _images(out: Path, device: str) -> int:
    """Reconstruct what a phantom brain looked at; what goes wrong here leaves the first part's result as it is."""
    from ...data.errors import ChiasmError
    from ..demonstration import make_brain
    from .main import main

    try:
        say(f"\n{make_brain(out / 'phantom')}")
    except ChiasmError as error:
        complain(str(error))
        return error.exit_code
    say(f"\n$ chiasm train fmri-ridge {out / 'phantom'} {out / 'images'}")
    return main(["train", "fmri-ridge", str(out / "phantom"), str(out / "images"), "--device", device])


def _page(page: Path, code: int) -> str:
    return str(page) if code == 0 else f"failed (exit {code}), see above"
