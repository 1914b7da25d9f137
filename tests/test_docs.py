"""Documentation that is true: commands parse, links lead somewhere, error codes are listed, cheap blocks run."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from chiasm.pipelines.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
RUN_MARK = "<!-- test: run -->"
PLACEHOLDERS = {"RECIPE": "brain-tissue"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    run: bool

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> list[Block]:
    """Every fenced block of every page."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
            before = text[: match.start()].rstrip()
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, match[1], match[2], before.endswith(RUN_MARK)))
    return found


def commands() -> list[tuple[str, str]]:
    """(where, command) for every line of every shell block."""
    lines = [(b, line) for b in blocks() if b.language == "bash" for line in b.text.replace("\\\n", " ").splitlines()]
    return [(block.name, line.strip()) for block, line in lines if line.strip() and not line.startswith("#")]


CHIASM = [(where, c) for where, c in commands() if Path(c.split()[0]).name == "chiasm"]
MAKE = [(where, c) for where, c in commands() if c.split()[0] == "make"]


@pytest.fixture(scope="module")
def errors_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_errors", ROOT / "docs" / "make_errors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_has_its_two_commands() -> None:
    assert {command for where, command in MAKE if where.startswith("README")} >= {"make demo", "make test"}
    assert [command for where, command in CHIASM if where.startswith("README") and " run " in command]


@pytest.mark.parametrize(("where", "command"), CHIASM, ids=[f"{where} {command}" for where, command in CHIASM])
def test_a_documented_command_parses(
    where: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command, comments=True)[1:] if word != "[options]"]
    for word in words[1:]:  # what the reader is expected to have
        if not word.startswith("-") and not Path(word).suffix:
            Path(word).mkdir(parents=True, exist_ok=True)
        elif not word.startswith("-"):
            Path(word).touch()
    code: object = 0
    try:
        build_parser(words[0]).parse_args(words)
    except SystemExit as stop:
        code = stop.code
    assert not code, f"{where}: {capsys.readouterr().err}"


@pytest.mark.parametrize(("where", "command"), MAKE, ids=[f"{where} {command}" for where, command in MAKE])
def test_a_documented_make_target_exists(where: str, command: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(command.split()[1:]) <= targets, where


@pytest.mark.parametrize("block", [b for b in blocks() if b.run], ids=lambda block: block.name)
def test_a_cheap_block_runs(block: Block, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-e", "-c", block.text],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "python"], ids=lambda block: block.name)
def test_documented_python_compiles_and_names_what_exists(block: Block) -> None:
    import chiasm

    compile(block.text, block.name, "exec")
    for name in re.findall(r"\bchiasm\.(\w+)", block.text):
        assert callable(getattr(chiasm, name)), name


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "yaml"], ids=lambda block: block.name)
def test_a_documented_recipe_is_valid(block: Block) -> None:
    from chiasm.pipelines.engine.components import build_network
    from chiasm.pipelines.recipes import parse_recipe
    from chiasm.pipelines.training.speech.settings import read_speech_training

    recipe = parse_recipe(block.text, name="documented")
    if (
        recipe.pipeline == "dementia"
    ):  # its classifier takes its widths from the encoders, so that none can be built here
        assert read_speech_training(recipe.training, name=recipe.name).folds > 0
        return
    network = recipe.components["network"]
    assert any(parameter.requires_grad for parameter in build_network(network.kind, network.parameters).parameters())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[\w-]+)?\)", text)
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_code_that_a_page_names_exists(page: Path, errors_script: ModuleType) -> None:
    assert set(re.findall(r"CHI-[A-Z]+-\d{3}", page.read_text(encoding="utf-8"))) <= set(errors_script.collect())


def test_the_page_of_error_codes_is_the_one_that_the_code_gives(errors_script: ModuleType) -> None:
    assert errors_script.PAGE.read_text(encoding="utf-8") == errors_script.page(), "run `make docs`"


def test_every_code_has_one_meaning(errors_script: ModuleType) -> None:
    several = {code: entries for code, entries in errors_script.collect().items() if len(entries) > 1}
    assert several == {}


def test_every_code_that_is_raised_is_listed(errors_script: ModuleType) -> None:
    listed = set(errors_script.collect())
    assert {code: where for code, where in errors_script.used().items() if code not in listed} == {}


def test_every_recipe_has_its_line_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [path.stem for path in (ROOT / "configs").glob("*.yaml") if path.stem != "weights"]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_exit_codes_of_the_page_are_those_of_the_errors() -> None:
    from chiasm.data import errors

    text = (ROOT / "docs" / "cohorts.md").read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)}
    raised = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ChiasmError)
    }
    assert raised <= listed


def test_measured_figures_of_the_readme_name_their_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("## Measured", 1)[1].split("## ", 1)[0]
    rows = [line for line in table.splitlines() if line.startswith("|") and not line.startswith(("| ---", "| what"))]
    assert rows
    assert [row for row in rows if not re.search(r"\|\s*`[^`]+`\s*\|$", row)] == []
