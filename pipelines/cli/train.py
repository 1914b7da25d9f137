"""``chiasm train RECIPE DATA OUT``: train a recipe's network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

CODES: dict[str, str] = {"CHI-RC-124": "An option of `chiasm train` that a recipe of this task does not have."}


def _data(text: str) -> Path | None:
    if text == "-":
        return None
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is not a folder")
    return path.resolve()


def _steps(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number >= 1")
    return int(text)


def register(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser("train", help="train a recipe's network")
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's name (see 'chiasm info') or a .yaml file")
    parser.add_argument(
        "data",
        metavar="DATA",
        type=_data,
        help="a folder in one of the layouts that docs/training.md and docs/dementia.md list; - for a recipe that makes its own samples",
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        type=lambda text: Path(text).resolve(),
        help="output folder; a checkpoint in it is continued",
    )
    parser.add_argument(
        "--fold",
        metavar="K",
        help="hold out this fold only, or 'all' to train on every case (default: each fold in turn)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, mps or cuda:0 (default: auto)")
    parser.add_argument(
        "--steps", type=_steps, metavar="N", help="stop after N steps in all; the same command without it goes on"
    )
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    _add_study(parser)
    _add_brain(parser)
    parser.add_argument("--restart", action="store_true", help="start over where OUT holds a checkpoint")
    parser.set_defaults(handler=_train)


def _add_study(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("dementia recipes: the study")
    group.add_argument(
        "--protocol", choices=("challenge", "k-fold", "leave-one-person-out"), help="instead of the recipe's"
    )
    group.add_argument("--seeds", type=int, nargs="+", metavar="N", default=(), help="instead of the recipe's")
    group.add_argument("--folds", type=_steps, metavar="K", help="of k-fold, instead of the recipe's")
    group.add_argument(
        "--control-seeds",
        type=int,
        default=20,
        metavar="N",
        help="seeds of every control; 0: no controls (default: 20)",
    )
    group.add_argument("--ablation", action="store_true", help="also every shipped variant of the recipe")
    group.add_argument("--jobs", type=int, default=0, metavar="N", help="processes (default: one a core)")
    group.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="of features, to share between studies (default: OUT/features)"
    )


def _add_brain(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("recipes of images from fMRI")
    group.add_argument("--subjects", nargs="+", metavar="S", default=(), help="train on these (default: all in DATA)")
    group.add_argument("--new-subject", metavar="S", help="then adapt the model to this subject")
    group.add_argument(
        "--hours", type=float, metavar="H", help="of the new subject (else of all): first sessions, one an hour"
    )
    group.add_argument("--length", type=_steps, metavar="N", help="training images of the new subject (else of all)")
    group.add_argument("--from", dest="start", metavar="WEIGHTS", help="a trained model to begin with: name or folder")
    group.add_argument("--epochs", type=_steps, metavar="N", help="instead of the recipe's")
    group.add_argument("--no-baselines", action="store_true", help="score the model alone")


def _train(namespace: argparse.Namespace) -> int:
    from ..recipes import load_recipe

    pipeline = load_recipe(namespace.recipe).pipeline
    if pipeline == "dementia":
        return _study(namespace)
    if pipeline == "fmri-images":
        return _brain(namespace)
    from ..training.command import train

    return train(
        namespace.recipe,
        namespace.data,
        namespace.out,
        device=namespace.device,
        seed=namespace.seed,
        resume=not namespace.restart,
        steps=namespace.steps,
        fold=namespace.fold,
    )


def _study(namespace: argparse.Namespace) -> int:
    from ...data.errors import RecipeError
    from ..training.speech.command import StudyOptions, train_dementia

    foreign = [name for name in ("fold", "steps") if getattr(namespace, name) is not None]
    if foreign:
        raise RecipeError(
            "CHI-RC-124",
            f"--{' and --'.join(foreign)}: a dementia recipe trains whole studies.",
            "Use --protocol, --folds and --seeds; `training.epochs` in the recipe says how long.",
        )
    seeds = tuple(namespace.seeds) or (() if namespace.seed is None else (namespace.seed,))
    options = StudyOptions(
        seeds=seeds,
        protocol=namespace.protocol or "",
        folds=namespace.folds,
        control_seeds=namespace.control_seeds,
        ablation=namespace.ablation,
        jobs=namespace.jobs,
        cache=namespace.cache.resolve() if namespace.cache else None,
        restart=namespace.restart,
        device="cpu" if namespace.device == "auto" else namespace.device,
    )
    return train_dementia(namespace.recipe, namespace.data, namespace.out, options)


def _brain(namespace: argparse.Namespace) -> int:
    from ...data.errors import RecipeError
    from ..training.fmri.command import BrainOptions, train_fmri

    given = {"--fold": namespace.fold, "--steps": namespace.steps, "--protocol": namespace.protocol}
    foreign = [name for name, value in given.items() if value is not None]
    if foreign:
        raise RecipeError(
            "CHI-RC-124",
            f"{', '.join(foreign)}: not an option of a recipe of images from fMRI.",
            "See `chiasm train --help`.",
        )
    return train_fmri(
        namespace.recipe,
        namespace.data,
        namespace.out,
        BrainOptions(
            subjects=tuple(namespace.subjects),
            new_subject=namespace.new_subject or "",
            hours=namespace.hours,
            length=namespace.length,
            start=namespace.start or "",
            epochs=namespace.epochs,
            seed=namespace.seed,
            baselines=not namespace.no_baselines,
            device=namespace.device,
            restart=namespace.restart,
        ),
    )
