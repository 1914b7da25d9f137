"""What is installed: the wheel is built from the tracked files, installed in its own place, and imported from there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["setuptools"]["packages"]

PROBE = """
import importlib, importlib.resources, json, sys
import yaml
packages, recipes = json.loads(sys.argv[1]), {}
where = [importlib.import_module(name).__file__ for name in packages]
for entry in importlib.resources.files("chiasm.configs").iterdir():
    if entry.name.endswith(".yaml"):
        recipes[entry.name] = sorted(yaml.safe_load(entry.read_text(encoding="utf-8")))
print(json.dumps({"where": where, "recipes": recipes}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, without network: a build in the tree would see what earlier builds left."""
    copy, dist = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    for line in listing.stdout.splitlines():
        if (ROOT / line).is_file() and not line.startswith(("tests/golden/", "benchmarks/results/")):
            (copy / line).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / line, copy / line)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dist, copy, cwd=dist)
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into a new environment that sees this one's packages; return its interpreter."""
    place = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    python = place / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip())
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel, cwd=place)
    here = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    # A plain path line: .pth files of that folder, the editable install among them, are not read again.
    (site / "test-environment.pth").write_text(f"{here}\n", encoding="utf-8")
    return python


def test_every_package_of_the_tree_is_listed() -> None:
    found = {
        ".".join(["chiasm", *path.parent.relative_to(ROOT).parts])
        for room in ("configs", "data", "encoders", "fusion", "heads", "pipelines")
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert found | {"chiasm"} == set(PACKAGES)


def test_every_folder_with_code_is_a_package() -> None:
    rooms = ("configs", "data", "encoders", "fusion", "heads", "pipelines")
    folders = {path.parent for room in rooms for path in (ROOT / room).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_the_version_is_the_same_everywhere() -> None:
    import chiasm

    assert PROJECT["project"]["version"] == chiasm.__version__


def test_the_wheel_holds_the_package_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"chiasm", f"chiasm-{PROJECT['project']['version']}.dist-info"}
    assert [name for name in names if name.startswith(("chiasm/tests/", "chiasm/docs/", "chiasm/benchmarks/"))] == []


def test_the_wheel_holds_every_recipe_template_and_shipped_weight(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = {
        f"chiasm/{path.relative_to(ROOT).as_posix()}"
        for folder in ("configs", "encoders/weights", "pipelines/reports/templates", "pipelines/reports/vendor")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".tmp"
    }
    assert wanted - names == set()


def test_the_installed_wheel_imports_every_package_and_reads_every_recipe(installed: Path, tmp_path: Path) -> None:
    answer = json.loads(run(installed, "-I", "-c", PROBE, json.dumps(PACKAGES), cwd=tmp_path))
    home = installed.parents[1]
    assert [file for file in answer["where"] if not Path(file).is_relative_to(home)] == []
    assert set(answer["recipes"]) == {path.name for path in (ROOT / "configs").glob("*.yaml")}
    recipes = {
        name: keys for name, keys in answer["recipes"].items() if name != "weights.yaml"
    }  # a list of checkpoints
    assert recipes
    whole, on_a_base = {"recipe", "pipeline", "title"}, {"base", "title"}
    assert [name for name, keys in recipes.items() if not (whole <= set(keys) or on_a_base <= set(keys))] == []


def test_the_installed_wheel_has_the_command(installed: Path, tmp_path: Path) -> None:
    code = """
from importlib.metadata import entry_points
print(entry_points(group="console_scripts", name="chiasm")["chiasm"].value)
"""
    assert run(installed, "-I", "-c", code, cwd=tmp_path).strip() == "chiasm.pipelines.cli.main:main"


def test_no_module_of_the_package_imports_under_a_global_name(installed: Path, tmp_path: Path) -> None:
    # `data` and `configs` are names of other packages on the registry: they must stay free.
    code = """
from importlib.util import find_spec
print([n for n in ("data", "encoders", "fusion", "heads", "pipelines", "configs") if find_spec(n)])
"""
    assert run(installed, "-I", "-c", code, cwd=tmp_path).strip() == "[]"
