"""The tumour recipe says what the published weights were trained with."""

from __future__ import annotations

from pathlib import Path

import pytest

from chiasm.heads.regions import BRATS, RegionTable
from chiasm.pipelines.cli.main import main
from chiasm.pipelines.recipes import load_recipe
from chiasm.pipelines.training.settings import read_settings


def test_channels_regions_and_windows_are_those_of_the_published_weights() -> None:
    recipe = load_recipe("brain-tumour")
    assert list(recipe.channels) == ["flair", "t1ce", "t1", "t2"]
    assert [region.name for region in recipe.regions] == ["TC", "WT", "ET"]
    assert recipe.space.spacing_mm is None
    assert recipe.intensity == "zscore-nonzero"
    assert (recipe.windows.size, recipe.windows.overlap, recipe.windows.blend) == ((128, 128, 128), 0.6, "constant")
    network = recipe.components["network"]
    assert network.weight_names == tuple(f"brain-tumour/fold{k}" for k in range(5))
    assert network.parameters["merging"] == "legacy"


@pytest.mark.parametrize("name", ["brain-tumour", "brain-tumour-phantom"])
def test_the_recipes_region_table_is_that_of_brats(name: str) -> None:
    table = RegionTable(load_recipe(name).regions)
    ours = [(r.name, set(r.labels), r.write) for r in table.regions]
    assert ours == [(r.name, set(r.labels), r.write) for r in BRATS.regions]
    assert [table.names[k] for k in table.writing_order] == ["WT", "TC", "ET"]


@pytest.mark.parametrize("name", ["brain-tumour", "brain-tumour-phantom"])
def test_training_settings_are_whole(name: str) -> None:
    recipe = load_recipe(name)
    settings = read_settings(recipe.training, name=name)
    assert all(side % 32 == 0 for phase in settings.phases for side in phase.patch)
    assert settings.warm_up_steps < settings.steps


def test_without_weights_the_run_ends_with_126_and_names_what_to_bring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIASM_WEIGHTS", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert main(["phantom", "brats", str(tmp_path / "in"), "--patients", "1", "--spacing", "6"]) == 0
    assert main(["run", "brain-tumour", str(tmp_path / "in"), str(tmp_path / "out")]) == 126
    told = capsys.readouterr().err
    assert "brain-tumour/fold0" in told
    assert "brain-tumour/fold4" in told
