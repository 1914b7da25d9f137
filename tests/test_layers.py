"""The shape of the house: sizes of files and functions, imports of a command line, nothing unsafe, nothing local."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_socket import SocketConnectBlockedError

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("data", "encoders", "fusion", "heads", "pipelines", "configs")
MAX_LINES_OF_FILE = 500
MAX_LINES_OF_FUNCTION = 100
HEAVY = (
    "torch",
    "monai",
    "transformers",
    "numpy",
    "nibabel",
    "scipy",
    "pydantic",
    "pydicom",
    "matplotlib",
    "rich",
    "yaml",
)


def tracked(*patterns: str) -> list[Path]:
    """Files of the commit and of the working tree that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    try:
        found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for line in found.stdout.splitlines() if (path := ROOT / line).is_file()]


def package_files() -> list[Path]:
    """Python files that are installed."""
    return [
        ROOT / "__init__.py",
        ROOT / "__main__.py",
        *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))),
    ]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a file, nested ones too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_file_is_longer_than_the_limit() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in tracked("*.py")}
    assert {path: n for path, n in lengths.items() if n > MAX_LINES_OF_FILE} == {}


def test_no_function_is_longer_than_the_limit() -> None:
    too_long = {
        f"{path.relative_to(ROOT)}:{node.name}": length
        for path in tracked("*.py")
        for node in functions(path)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_LINES_OF_FUNCTION
    }
    assert too_long == {}


def test_public_functions_and_classes_of_the_package_have_docstrings() -> None:
    missing = [
        f"{path.relative_to(ROOT)}:{node.name}"
        for path in package_files()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert missing == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    banned = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
    assert [path for path in package_files() if path.stem in banned] == []


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"\bshell\s*=\s*True", "a shell reads its arguments as code"),
        (r"(?<![\w.])eval\(", "eval runs its input"),
        (r"\bextractall\(", "an archive may point out of its folder"),
        (
            r"yaml\.(full_load|unsafe_load)|yaml\.load\((?!.*Safe)|(Full|Unsafe)Loader",
            "only safe_load builds no objects",
        ),
        (r"weights_only\s*=\s*False", "such a checkpoint runs code"),
        (r"trust_remote_code\s*=\s*True", "such a model runs code"),
    ],
)
def test_unsafe_calls_are_absent_from_the_package(pattern: str, why: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}" for path in package_files() if re.search(pattern, path.read_text(encoding="utf-8"))
    ]
    assert found == [], why


def test_pickle_is_imported_only_by_the_conversion_child() -> None:
    # ENGINEERING rule: a published file that is a pickle is read with a closed list of names, in its own process.
    allowed = ROOT / "pipelines" / "engine" / "conversion"
    importing = [
        path.relative_to(ROOT)
        for path in package_files()
        if re.search(
            r"^\s*(import|from) (pickle|cloudpickle|dill|joblib|shelve|marshal)\b",
            path.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        and allowed not in path.parents
    ]
    assert importing == []


def test_command_line_modules_import_nothing_heavy_at_their_top() -> None:
    heavy = []
    for path in sorted((ROOT / "pipelines" / "cli").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and node.level == 0
                else []
            )
            heavy += [f"{path.name}: {name}" for name in names if name.split(".")[0] in HEAVY]
    assert heavy == []


def test_no_tracked_text_names_a_registry_or_a_place_on_a_machine() -> None:
    # Patterns are put together here so that this file does not find itself.
    words = [
        "index" + "-url",
        "find" + "-links",
        "trusted" + "-host",
        "/ho" + "me/",
        "/roo" + "t/",
        "/op" + "t/",
        "/Us" + "ers/",
    ]
    pattern = re.compile("|".join(map(re.escape, words)))
    suffixes = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".cfg", ".jsonl", ".tsv", ".csv", ""}
    found = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix in suffixes
        and "vendor" not in path.parts
        and pattern.search(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []


def test_pins_are_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line)] == []


def test_shipped_weights_are_small_and_carry_a_card() -> None:
    folders = {path.parent for path in tracked("encoders/weights") if path.suffix == ".safetensors"}
    for folder in sorted(folders):
        assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= 10 * 2**20, folder.name
        assert max(path.stat().st_size for path in folder.glob("*.safetensors")) <= 8 * 2**20, folder.name
        assert (folder / "README.md").is_file(), folder.name
        assert (folder / "config.json").is_file(), folder.name


def test_a_test_cannot_reach_the_network() -> None:
    # As an error of its own, or already as the warning before it, which is an error here.
    refused = pytest.raises((SocketConnectBlockedError, UserWarning), match="tried to use socket")
    with refused, socket.create_connection(("192.0.2.1", 80), timeout=1):
        pass
