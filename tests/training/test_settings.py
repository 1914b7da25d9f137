from __future__ import annotations

import pytest

from chiasm.data.errors import RecipeError, SeveralErrors
from chiasm.pipelines.recipes import load_recipe
from chiasm.pipelines.training.settings import TrainingSettings, read_settings

PHASES = [{"steps": 10, "patch": [8, 8, 8], "batch": 2}, {"steps": 5, "patch": [16, 16, 16], "batch": 3}]


def settings(**more: object) -> TrainingSettings:
    return read_settings({"phases": PHASES, **more}, name="test")


@pytest.mark.parametrize(("step", "side", "samples"), [(0, 8, 0), (9, 8, 18), (10, 16, 20), (14, 16, 32)])
def test_a_step_knows_its_phase_and_the_samples_before_it(step: int, side: int, samples: int) -> None:
    phase, before = settings().phase_at(step)
    assert (phase.patch[0], before) == (side, samples)


def test_the_rate_warms_up_and_falls_to_its_final_share() -> None:
    s = settings(learning_rate=1.0, warm_up_steps=5, final_share=0.1)
    rates = [s.rate_at(step) for step in range(s.steps)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert s.rate_at(10) == pytest.approx(0.1 + 0.9 * 0.5)
    assert s.rate_at(s.steps) == pytest.approx(0.1)


def test_a_phase_with_a_rate_starts_a_cosine_and_leaves_the_steps_before_as_they_were() -> None:
    more = [*PHASES, {"steps": 20, "patch": [8, 8, 8], "learning_rate": 0.4}, {"steps": 20, "patch": [8, 8, 8]}]
    short, long = settings(warm_up_steps=3), settings(warm_up_steps=3, phases=more)
    assert [long.rate_at(step) for step in range(15)] == [short.rate_at(step) for step in range(15)]
    assert long.rate_at(15) == pytest.approx(0.4)
    assert long.rate_at(35) == pytest.approx(0.4 * (0.01 + 0.99 * 0.5))
    assert long.rate_at(55) == pytest.approx(0.4 * 0.01)


def test_a_default_written_out_and_the_checkpoint_interval_do_not_change_the_identity() -> None:
    assert settings().identity == settings(ema=0.99, checkpoint_every=7).identity
    assert settings().identity != settings(ema=0.98).identity


def test_every_mistake_is_listed_with_what_was_meant() -> None:
    with pytest.raises(SeveralErrors) as caught:
        settings(learning_rat=1, ema=2, phases=[])
    text = str(caught.value)
    assert {error.code for error in caught.value.errors} == {"CHI-RC-081"}
    assert "Did you mean 'learning_rate'?" in text
    assert "training.ema" in text
    assert "training.phases" in text


def test_a_recipe_without_a_training_block_says_so() -> None:
    with pytest.raises(RecipeError, match="no training block"):
        read_settings(None, name="test")


def test_the_shipped_recipe_fixes_forty_test_volumes_under_another_seed_than_training() -> None:
    s = read_settings(load_recipe("brain-tissue").training, name="brain-tissue")
    assert s.generator is not None
    assert s.generator.test is not None
    assert s.generator.test.volumes == 40
    assert s.generator.test.seed == 20250907 != s.seed
    assert s.generator.test.separation[0] == 3.0
    assert set(s.generator.test.contrasts) == {"t1", "pd", "inverted"}
