"""Recipes: YAML files that name components from an allow-list and set their parameters.

A recipe is data. It is read with a safe loader (no tags, no aliases, no repeated keys) and checked as a whole, so that
every mistake is listed at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..data.errors import ChiasmError, RecipeError, SeveralErrors, did_you_mean

if TYPE_CHECKING:
    from .fmri_recipe import FmriRecipe
    from .speech_recipe import SpeechRecipe

CODES = {
    "CHI-RC-003": "No recipe of that name or file.",
    "CHI-RC-004": "The recipe is not readable YAML, or uses what a recipe may not use (tags, aliases, repeated keys).",
    "CHI-RC-005": "A recipe field is unknown, missing or has a value outside what is allowed.",
    "CHI-RC-006": "A recipe of another task than the command works on.",
}
TASKS = ("segmentation", "dementia", "fmri-images")
MAX_RECIPE_BYTES = 256 * 1024

ComponentKind = Literal[
    "brain-mask",
    "unet3d",
    "swin-unetr",
    "monai",
    "text-transformer",
    "image-transformer",
    "whisper-encoder",
    "silero-vad",
    "two-stream",
    "target-encoder",
    "latent-encoder",
    "mindeye",
    "mindeye2",
    "mindbridge",
    "ridge",
    "diffusion-prior",
    "small-diffusion",
    "versatile-diffusion",
    "sdxl-unclip",
    "stable-unclip",
    "ip-adapter-sdxl",
]


class Fields(BaseModel):
    """A block of a recipe: no field that is not listed, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ChannelSpec(Fields):
    """How a channel is recognised: BIDS suffixes, and words in a loose file's name."""

    suffixes: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    optional: bool = False


class ComponentSpec(Fields):
    """A network: its kind (allow-list), the weights that it needs and its parameters."""

    kind: ComponentKind
    weights: str | tuple[str, ...] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """All weights folders that the component wants, one a fold."""
        if self.weights is None:
            return ()
        return (self.weights,) if isinstance(self.weights, str) else self.weights


class SpaceSpec(Fields):
    """The space that the network sees: spacing (null: the input's own) and crop."""

    spacing_mm: Annotated[float, Field(ge=0.1, le=20)] | None = None
    crop: Literal["none", "mask", "foreground"] = "none"
    margin_mm: Annotated[float, Field(ge=0, le=100)] = 8.0


class WindowsSpec(Fields):
    """Sliding windows, in voxels of the model space."""

    size: tuple[
        Annotated[int, Field(ge=16, le=512)], Annotated[int, Field(ge=16, le=512)], Annotated[int, Field(ge=16, le=512)]
    ] = (96, 96, 96)
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    blend: Literal["gaussian", "constant"] = "gaussian"


class RegionSpec(Fields):
    """A nested region: which labels belong to it and what it writes; later regions overwrite earlier ones."""

    name: str
    labels: tuple[int, ...]
    write: Annotated[int, Field(ge=1, le=65535)]


class BaseRecipe(Fields):
    """What every recipe has, whatever its task."""

    recipe: Literal[1]
    pipeline: str
    title: str
    name: str = ""
    channels: dict[str, ChannelSpec] = Field(min_length=1)
    components: dict[str, ComponentSpec]
    notices: tuple[str, ...] = ()
    citations: tuple[str, ...] = ()
    methods: str = ""
    training: dict[str, Any] | None = None

    def sha256(self) -> str:
        """Hash of everything that can change an output; titles, citations and training settings cannot."""
        kept = self.model_dump(mode="json", exclude={"training", "title", "citations", "methods", "notices"})
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


AnyRecipe = TypeVar("AnyRecipe", bound=BaseRecipe)


class Recipe(BaseRecipe):
    """A segmentation recipe; ``docs/design.md`` shows one."""

    pipeline: Literal["segmentation"]
    space: SpaceSpec = SpaceSpec()
    intensity: Literal["zscore-nonzero", "percentile", "none"] = "zscore-nonzero"
    windows: WindowsSpec = WindowsSpec()
    labels: dict[Annotated[int, Field(ge=1, le=65535)], str] = Field(default_factory=dict)
    regions: tuple[RegionSpec, ...] = ()
    plausible_ml: dict[str, tuple[float, float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> Recipe:
        wrong = []
        if not self.labels and not self.regions:
            wrong.append("labels or regions: one of them is needed")
        if "network" not in self.components:
            wrong.append("components.network: missing")
        if self.space.crop == "mask" and "mask" not in self.components and "mask" not in self.channels:
            wrong.append("space.crop: 'mask' needs a component or a channel called mask")
        known = set(self.labels.values()) | {region.name for region in self.regions}
        wrong += [
            f"plausible_ml.{name}: not a label or region of this recipe"
            for name in self.plausible_ml
            if name not in known
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def n_outputs(self) -> int:
        """Channels of the network's answer: one a region, or one a label with 0 as background."""
        return len(self.regions) if self.regions else max(self.labels) + 1

    @property
    def label_names(self) -> dict[int, str]:
        """Value in the output file -> name in words."""
        if self.regions:
            return self.labels or {region.write: region.name for region in self.regions}
        return dict(self.labels)


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases (bombs) and without repeated keys (one of them would be lost in silence)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in a recipe")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.YAMLError(f"a key is repeated near line {node.start_mark.line + 1}")
        return mapping


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("chiasm.configs")
    return sorted(
        entry.name[: -len(".yaml")]
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml") and entry.name != "weights.yaml"
    )


def load_recipe(name_or_file: str | Path) -> Recipe | SpeechRecipe | FmriRecipe:
    """Read a recipe by name (in ``configs/``) or from a file.

    Raises
    ------
    RecipeError, SeveralErrors
        ``CHI-RC-003`` not found, ``CHI-RC-004`` not plain YAML, ``CHI-RC-005`` every field that is wrong.
    """
    name, text = _text(name_or_file)
    return parse_recipe(text, name=name)


def parse_recipe(text: str, *, name: str) -> Recipe | SpeechRecipe | FmriRecipe:
    """Check the text of a recipe; see `load_recipe` for the errors."""
    try:
        tree = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a SafeLoader with more refusals
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where is not None else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(
            "CHI-RC-004", f"recipe '{name}' is not plain YAML{line}: {reason}.", "Correct that line."
        ) from None
    if not isinstance(tree, Mapping):
        raise RecipeError(
            "CHI-RC-004", f"recipe '{name}' is not a mapping of fields.", "See configs/brain-tissue.yaml for the form."
        )
    if "base" in tree:
        tree = _on_base(dict(tree), name)
    kind = _kind_of(tree.get("pipeline"), name)
    try:
        return kind.model_validate({"name": name, **tree})
    except ValidationError as error:
        raise SeveralErrors(list(_field_errors(error, name, kind))) from None


def segmentation_recipe(name_or_file: str | Path) -> Recipe:
    """Read a recipe that must be one of segmentation, as `load_recipe`.

    Raises
    ------
    RecipeError
        ``CHI-RC-006`` the recipe is of another task.
    """
    recipe = load_recipe(name_or_file)
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            "CHI-RC-006",
            f"recipe '{recipe.name}' is of the task '{recipe.pipeline}', and a segmentation is needed here.",
            "`chiasm info` lists recipes by task.",
        )
    return recipe


def recipe_base(name: str) -> str:
    """Return the recipe that a shipped recipe is a variant of, or an empty text."""
    tree = yaml.load(_text(name)[1], Loader=_PlainLoader)  # noqa: S506 - a SafeLoader with more refusals
    return str(tree.get("base", ""))


def _on_base(tree: dict[str, Any], name: str) -> Mapping[str, Any]:
    """Lay a variant's fields over those of the shipped recipe that it names; mappings are merged, all else is replaced."""
    base = tree.pop("base")
    if base not in recipe_names():
        near = did_you_mean(str(base), recipe_names())
        raise RecipeError(
            "CHI-RC-003",
            f"recipe '{name}', base: there is no shipped recipe '{base}'.{near}",
            f"Name one of: {', '.join(recipe_names())}.",
        )
    under = yaml.load(_text(str(base))[1], Loader=_PlainLoader)  # noqa: S506 - a SafeLoader with more refusals
    if "base" in under:
        raise RecipeError(
            "CHI-RC-003", f"recipe '{name}', base: '{base}' is a variant itself.", "Name its base instead."
        )
    merged: dict[str, Any] = _merged(under, tree)
    # `NAME: null` takes a component of the base away, or a parameter of one.
    if isinstance(merged.get("components"), Mapping):
        kept = {name: spec for name, spec in merged["components"].items() if spec is not None}
        merged["components"] = {name: _without_nulls(spec) for name, spec in kept.items()}
    return merged


def _without_nulls(spec: Any) -> Any:
    if not isinstance(spec, Mapping) or not isinstance(spec.get("parameters"), Mapping):
        return spec
    return {**spec, "parameters": {name: value for name, value in spec["parameters"].items() if value is not None}}


def _merged(under: Any, over: Any) -> Any:
    if not (isinstance(under, Mapping) and isinstance(over, Mapping)):
        return over
    return {
        key: _merged(under[key], over[key]) if key in under and key in over else over.get(key, under.get(key))
        for key in {**under, **over}
    }


def _kind_of(pipeline: object, name: str) -> type[Recipe] | type[SpeechRecipe] | type[FmriRecipe]:
    if pipeline == "dementia":
        from .speech_recipe import SpeechRecipe

        return SpeechRecipe
    if pipeline == "fmri-images":
        from .fmri_recipe import FmriRecipe

        return FmriRecipe
    if pipeline is not None and pipeline != "segmentation":
        near = did_you_mean(str(pipeline), TASKS)
        raise RecipeError(
            "CHI-RC-005",
            f"recipe '{name}', pipeline: there is no task '{pipeline}'.{near}",
            f"Allowed: {', '.join(TASKS)}.",
        )
    return Recipe


MAIN_COMPONENTS = {"segmentation": "network", "dementia": "classifier", "fmri-images": "network"}


def with_weights(recipe: AnyRecipe, weights: str | Path) -> AnyRecipe:
    """Return the recipe with other weights for its main component: a name in the store or a folder."""
    main = MAIN_COMPONENTS[recipe.pipeline]
    name = str(weights)
    if Path(name).is_dir() and not name.startswith(("./", "../", "~/", "/")):
        name = f"./{name}"
    changed = recipe.components[main].model_copy(update={"weights": name})
    return recipe.model_copy(update={"components": {**recipe.components, main: changed}})


def _text(name_or_file: str | Path) -> tuple[str, str]:
    path = Path(name_or_file)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        try:
            data = path.read_bytes()[: MAX_RECIPE_BYTES + 1]
        except OSError as error:
            raise RecipeError(
                "CHI-RC-003", f"recipe file '{path.name}' cannot be read: {error.strerror}.", "Check the path."
            ) from None
        if len(data) > MAX_RECIPE_BYTES:
            raise RecipeError(
                "CHI-RC-004",
                f"recipe '{path.name}' is larger than {MAX_RECIPE_BYTES} bytes.",
                "A recipe is a short text.",
            )
        try:
            return path.stem, data.decode("utf-8")
        except UnicodeDecodeError:
            raise RecipeError("CHI-RC-004", f"recipe '{path.name}' is not UTF-8 text.", "Save it as UTF-8.") from None
    names = recipe_names()
    if str(name_or_file) not in names:
        near = did_you_mean(str(name_or_file), names)
        raise RecipeError(
            "CHI-RC-003",
            f"there is no recipe '{name_or_file}'.{near}",
            f"Give a .yaml file, or one of: {', '.join(names)}.",
        )
    return str(name_or_file), resources.files("chiasm.configs").joinpath(f"{name_or_file}.yaml").read_text("utf-8")


def _field_errors(error: ValidationError, name: str, kind: type[BaseRecipe]) -> Iterator[ChiasmError]:
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"]) or "recipe"
        got = item.get("input")
        got_text = f", got {got!r}" if isinstance(got, str | int | float | bool) and len(repr(got)) < 60 else ""
        near = ""
        if item["type"] == "extra_forbidden":
            near = did_you_mean(str(item["loc"][-1]), _fields_at(item["loc"][:-1], kind))
        elif item["type"] == "literal_error" and isinstance(got, str):
            near = did_you_mean(got, [str(choice) for choice in _choices(item["loc"], kind)])
        message = item["msg"].removeprefix("Value error, ")
        yield RecipeError("CHI-RC-005", f"recipe '{name}', {path}: {message[0].lower() + message[1:]}{got_text}.{near}")


_BLOCKS: dict[str, type[Fields]] = {"channels": ChannelSpec, "components": ComponentSpec, "regions": RegionSpec}
"""Blocks whose fields stand one level deeper than their name; the others are found through the recipe's own fields."""


def _block(location: tuple[int | str, ...], kind: type[BaseRecipe]) -> type[BaseModel]:
    if not location:
        return kind
    name = str(location[0])
    field = kind.model_fields.get(name)
    own = field.annotation if field is not None else None
    return _BLOCKS.get(name) or (own if isinstance(own, type) and issubclass(own, BaseModel) else kind)


def _fields_at(location: tuple[int | str, ...], kind: type[BaseRecipe]) -> list[str]:
    return list(_block(location, kind).model_fields)


def _choices(location: tuple[int | str, ...], kind: type[BaseRecipe]) -> tuple[Any, ...]:
    field = _block(location[:-1], kind).model_fields.get(str(location[-1]))
    return get_args(field.annotation) if field is not None else ()
