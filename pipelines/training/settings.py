"""What the `training:` block of a recipe may say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...data.errors import ChiasmError, RecipeError, SeveralErrors, did_you_mean

CODES: dict[str, str] = {
    "CHI-RC-080": "The recipe has no training block.",
    "CHI-RC-081": "A field of the training block is unknown, missing or has a value outside what is allowed.",
}

Positive = Annotated[float, Field(gt=0)]
Size = tuple[Annotated[int, Field(ge=4)], Annotated[int, Field(ge=4)], Annotated[int, Field(ge=4)]]
Contrast = Literal["t1", "pd", "inverted", "any"]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Phase(_Block):
    """A stretch of steps with one patch size.

    `spacing_mm` is the range that generated samples draw their voxel size from; real cases come at the recipe's spacing.
    `learning_rate` starts a new cosine from that peak, over this phase and those after it that set none.
    """

    steps: Annotated[int, Field(ge=1)]
    patch: Size
    batch: Annotated[int, Field(ge=1)] = 1
    spacing_mm: tuple[Positive, Positive] = (1.0, 1.0)
    learning_rate: Positive | None = None


class TestSet(_Block):
    """Generated volumes that no training step sees (their seed is not the training's), fixed before training."""

    __test__ = False  # not a pytest class

    seed: int
    volumes: Annotated[int, Field(ge=1)] = 40
    contrasts: tuple[Contrast, ...] = ("t1", "pd", "inverted")
    separation: tuple[Positive, Positive] = (3.0, 25.0)
    shape: Size = (160, 192, 160)
    spacing_mm: Positive = 1.0


class Generator(_Block):
    """Samples made from label maps instead of read from a data set; the rest are fields of `label_maps.Ranges`."""

    maps: Literal["mni152"] = "mni152"
    ranges: dict[str, object] = Field(default_factory=dict)
    validation: TestSet | None = None
    test: TestSet | None = None


class Augmentation(_Block):
    """Changes made to patches of real cases."""

    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1
    shift: Annotated[float, Field(ge=0)] = 0.1
    noise: Annotated[float, Field(ge=0)] = 0.05


class TrainingSettings(_Block):
    """Everything a training run depends on, beside the network and the data.

    `foreground` is the share of patches centred on a labelled voxel; `ema` the decay of the averaged weights that are
    validated and exported; `clip_norm` the largest gradient norm; `initial` the weights to start from (random ones where
    absent); `control: permuted-labels` is the negative control that must learn nothing but where labels lie on average.
    """

    seed: int = 0
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)]
    loss: Literal["dice-ce", "dice-focal"] = "dice-ce"
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warm_up_steps: Annotated[int, Field(ge=0)] = 50
    final_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    clip_norm: Positive = 5.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    deep_supervision: bool = False
    foreground: Annotated[float, Field(ge=0, le=1)] = 0.5
    augmentation: Augmentation = Augmentation()
    control: Literal["none", "permuted-labels"] = "none"
    folds: Annotated[int, Field(ge=2)] = 5
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    validate_every: Annotated[int, Field(ge=0)] = 0
    generator: Generator | None = None
    initial: str | None = None

    @property
    def identity(self) -> str:
        """What the settings add to a run's identity: everything that was set, so that a new field with a default adds nothing."""
        kept = self.model_dump(mode="json", exclude_defaults=True, exclude={"checkpoint_every"})
        return json.dumps(kept, sort_keys=True)

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> tuple[Phase, int]:
        """Return the phase that a step (from 0) belongs to, and how many samples were drawn before that step."""
        seen = 0
        samples = 0
        for phase in self.phases:
            if step < seen + phase.steps:
                return phase, samples + (step - seen) * phase.batch
            seen += phase.steps
            samples += phase.steps * phase.batch
        return self.phases[-1], samples + (step - seen) * self.phases[-1].batch

    def rate_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then half a cosine down to `final_share` of the peak, once a cycle."""
        peak, first, last = self._cycle_at(step)
        if first == 0:
            if step < self.warm_up_steps:
                return peak * (step + 1) / self.warm_up_steps
            first = self.warm_up_steps
        progress = (step - first) / max(1, last - first)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return peak * (self.final_share + (1 - self.final_share) * cosine)

    def _cycle_at(self, step: int) -> tuple[float, int, int]:
        """Return the peak rate of the cycle that holds a step, and the cycle's first step and the one after its last."""
        peak, first, seen = self.phases[0].learning_rate or self.learning_rate, 0, 0
        for phase in self.phases:
            if phase.learning_rate is not None and seen:
                if step < seen:
                    break
                peak, first = phase.learning_rate, seen
            seen += phase.steps
        return peak, first, seen


def read_settings(block: Mapping[str, Any] | None, *, name: str) -> TrainingSettings:
    """Check a recipe's `training:` block.

    Raises
    ------
    RecipeError, SeveralErrors
        There is none (CHI-RC-080), or fields are wrong (CHI-RC-081, each of them).
    """
    if block is None:
        raise RecipeError(
            "CHI-RC-080",
            f"recipe '{name}' has no training block.",
            "Add one (docs/training.md), or use it with `chiasm run`.",
        )
    try:
        return TrainingSettings.model_validate(block)
    except ValidationError as error:
        found: list[ChiasmError] = []
        for item in error.errors(include_url=False):
            path = ".".join(["training", *(str(part) for part in item["loc"])])
            near = ""
            if item["type"] == "extra_forbidden" and len(item["loc"]) == 1:
                near = did_you_mean(str(item["loc"][0]), list(TrainingSettings.model_fields))
            found.append(RecipeError("CHI-RC-081", f"recipe '{name}', {path}: {item['msg']}.{near}"))
        raise SeveralErrors(found) from None
