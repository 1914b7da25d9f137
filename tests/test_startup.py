"""What an import and `chiasm --help` load: counted in modules, since times are measured in `make bench`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "torch", "torchvision", "monai", "transformers", "numpy", "scipy", "nibabel", "nilearn", "pydantic", "pydicom",
    "highdicom", "matplotlib", "pandas", "sklearn", "PIL", "jinja2", "yaml", "rich", "safetensors", "isal", "psutil",
    "sqlite3",
}  # fmt: skip
REPORT = "import json, sys; sys.stderr.write('MODULES ' + json.dumps(sorted(sys.modules)))"


def modules_after(code: str) -> set[str]:
    """Run `code` in a fresh interpreter and return the names of what it imported."""
    script = f"import atexit\natexit.register(lambda: exec({REPORT!r}))\n{code}\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.rpartition("MODULES ")[2]))


def run_cli(*arguments: str) -> str:
    """Code that runs the command and swallows its exit."""
    return (
        f"import sys\nsys.argv = ['chiasm', *{list(arguments)!r}]\nfrom chiasm.pipelines.cli.main import main\n"
        "try:\n    code = main()\nexcept SystemExit as stop:\n    code = stop.code\n"
        "assert not code, code"
    )


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert modules_after("import chiasm; chiasm.__version__") & HEAVY == set()


def test_the_package_lists_load_without_loading_it() -> None:
    assert modules_after("import chiasm; assert 'load' in dir(chiasm)") & HEAVY == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("run", "--help"),
        ("train", "--help"),
        ("phantom", "--help"),
        ("weights", "--help"),
        ("info", "--help"),
    ],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    loaded = modules_after(run_cli(*arguments))
    assert loaded & HEAVY == set()


def test_info_does_not_import_torch() -> None:
    loaded = modules_after(run_cli("info", "--json"))
    assert loaded & {"torch", "monai", "transformers"} == set()


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import chiasm

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = chiasm.no_such_name  # type: ignore[attr-defined]


def test_the_module_runs_as_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chiasm", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: chiasm")
