"""``chiasm phantom NAME OUT``: a synthetic cohort with a known answer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

PHANTOMS = {
    "adress": "ADReSS-IS2020 layout: interviews with planted markers of speech and language",
    "brats": "BraTS 2021 layout: four contrasts and labels of planted tumours",
    "dicom": "the same heads as DICOM series, one a contrast",
    "heads": "whole-head T1w volumes as BIDS, the true tissue in derivatives/truth",
    "nsd": "NSD layout: brains that look at real images, through a known forward model",
}


def register(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser("phantom", help="make a synthetic cohort with a known answer")
    kinds = parser.add_subparsers(dest="phantom", metavar="NAME", required=True)
    for name, text in PHANTOMS.items():
        kind = kinds.add_parser(name, help=text, description=f"{text}.")
        kind.add_argument("out", metavar="OUT", type=lambda text: Path(text).resolve(), help="a new folder")
        if name == "adress":
            _interview_arguments(kind)
            continue
        if name == "nsd":
            _brain_arguments(kind)
            continue
        kind.add_argument("--patients", type=int, default=4, metavar="N", help="how many (default: 4)")
        kind.add_argument("--seed", type=int, default=0, help="equal seeds give equal bytes (default: 0)")
        kind.add_argument(
            "--shape", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels (default: 240 x 240 x 155 mm)"
        )
        kind.add_argument(
            "--spacing", type=float, default=1.0, metavar="MM", help="voxel size (default: 1; 3 is quick)"
        )
        if name != "heads":
            kind.add_argument(
                "--strength", type=float, default=1.0, help="contrast of the tumours, 0 to 2 (default: 1; 0: none)"
            )
        if name == "dicom":
            kind.add_argument("--orientation", choices=("axial", "oblique"), default="axial")
        kind.set_defaults(handler=_phantom)


def _interview_arguments(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--train", type=int, default=108, metavar="N", help="persons to train on (default: 108)")
    kind.add_argument("--test", type=int, default=500, metavar="N", help="persons to test on (default: 500)")
    kind.add_argument("--seed", type=int, default=0, help="equal seeds give equal bytes (default: 0)")
    kind.add_argument(
        "--strength", type=float, default=1.0, help="size of every planted effect, 0 to 2 (default: 1; 0: none)"
    )
    kind.add_argument("--rate", type=int, default=16000, metavar="HZ", help="samples a second (default: 16000)")
    kind.add_argument(
        "--synthesiser",
        choices=("auto", "espeak", "formant"),
        default="auto",
        help="who speaks: espeak-ng, or a rough voice that needs nothing (default: espeak-ng where it is installed)",
    )
    kind.add_argument("--chunks", action="store_true", help="write the normalised chunks too (as much space again)")
    kind.set_defaults(handler=_interviews)


def _brain_arguments(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--subjects", type=int, default=3, metavar="N", help="how many (default: 3)")
    kind.add_argument(
        "--stimuli",
        default="fashion-mnist",
        metavar="SOURCE",
        help="fashion-mnist, fashion-mnist-small (needs nothing), emoji, or a folder of images (default: fashion-mnist)",
    )
    kind.add_argument("--stimuli-folder", type=Path, metavar="FOLDER", help="where the source lies, if not as usual")
    kind.add_argument(
        "--images", type=int, metavar="N", help="a subject's own images (default: 1500, or what the source has)"
    )
    kind.add_argument("--shared", type=int, default=200, metavar="N", help="test images that all see (default: 200)")
    kind.add_argument("--repeats", type=int, default=3, metavar="N", help="how often each is shown (default: 3)")
    kind.add_argument("--seed", type=int, default=0, help="equal seeds give equal bytes (default: 0)")
    kind.add_argument(
        "--strength", type=float, default=1.0, help="size of the signal, 0 to 2 (default: 1; 0: pure noise)"
    )
    kind.add_argument(
        "--noise-ceiling",
        type=float,
        default=40.0,
        metavar="PERCENT",
        help="median over voxels of the explainable variance of three-repeat means (default: 40)",
    )
    kind.add_argument("--bold", action="store_true", help="write the first session's BOLD and events too (as fMRIPrep)")
    kind.set_defaults(handler=_brains)


def _brains(namespace: argparse.Namespace) -> int:
    from ...data.phantoms.nsd.cohort import NsdCohort, write_nsd
    from ...data.phantoms.nsd.forward_model import ForwardModel
    from ..console import say

    cohort = NsdCohort(
        subjects=namespace.subjects,
        images=namespace.images,
        shared=namespace.shared,
        repeats=namespace.repeats,
        seed=namespace.seed,
        strength=namespace.strength,
        stimuli=namespace.stimuli,
        stimuli_folder=namespace.stimuli_folder,
        bold=namespace.bold,
        model=ForwardModel(noise_ceiling=namespace.noise_ceiling),
    )
    names = write_nsd(namespace.out, cohort)
    say(
        f"{len(names)} phantom brains in {namespace.out}: {names[0]} to {names[-1]}. Synthetic: no person was measured."
    )
    return 0


def _interviews(namespace: argparse.Namespace) -> int:
    from ...data.phantoms.interviews import InterviewCohort, write_adress
    from ..console import say

    cohort = InterviewCohort(
        train=namespace.train,
        test=namespace.test,
        seed=namespace.seed,
        strength=namespace.strength,
        rate=namespace.rate,
        synthesiser=namespace.synthesiser,
        chunks=namespace.chunks,
    )
    names = write_adress(namespace.out, cohort)
    say(
        f"{len(names)} phantom interviews in {namespace.out}: {cohort.train} to train on, {cohort.test} to test on. "
        "Synthetic: no person was recorded."
    )
    return 0


def _phantom(namespace: argparse.Namespace) -> int:
    from ...data.phantoms.brats import Tumours, write_brats
    from ...data.phantoms.heads import Cohort, shape_for, write_heads
    from ..console import say

    cohort = Cohort(
        patients=namespace.patients,
        seed=namespace.seed,
        shape=tuple(namespace.shape) if namespace.shape else shape_for(namespace.spacing),
        spacing_mm=namespace.spacing,
    )
    if namespace.phantom == "heads":
        names = write_heads(namespace.out, cohort)
    elif namespace.phantom == "brats":
        names = write_brats(namespace.out, cohort, tumours=Tumours(strength=namespace.strength))
    else:
        from ...data.phantoms.dicom import write_dicom

        tumours = Tumours(strength=namespace.strength)
        names = write_dicom(namespace.out, cohort, orientation=namespace.orientation, tumours=tumours)
    say(
        f"{len(names)} phantom patients in {namespace.out}: {names[0]} to {names[-1]}. Synthetic: no person was measured."
    )
    return 0
