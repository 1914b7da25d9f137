"""Write docs/errors.md from the CODES tables of the package: `python docs/make_errors.py` (`--check` only compares)."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "errors.md"
ROOMS = ("data", "encoders", "fusion", "heads", "pipelines")
AREAS = {
    "IN": ("Input", "An input file or folder cannot be used as it is. Mend the file, or leave the patient out."),
    "RC": (
        "Recipe and command line",
        "A recipe or an argument is wrong; all mistakes are listed at once. Exit code 2.",
    ),
    "WT": ("Weights", "Weights are missing, damaged or not those that the recipe needs. Exit code 126."),
    "RES": (
        "Resources",
        "Memory, disk, a worker or a time limit ran out. Such patients are tried again by the next run.",
    ),
    "TL": ("Tools", "An optional program or package is not installed. Exit code 127."),
    "INT": ("Internal", "A defect of Chiasm. Please report it with the log's lines; they hold no patient data."),
}
HEAD = """# Error codes

Every failure that a user can act on has a stable code. It stands in the message, in `participants.tsv`, in the
patient's record and in the report. This page is made by `python docs/make_errors.py` from the tables in the code.
"""


def codes_of(path: Path) -> dict[str, str]:
    """Return the literal `CODES` table of one module, read without importing it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if (
            isinstance(target, ast.Name)
            and target.id == "CODES"
            and isinstance(node, ast.Assign | ast.AnnAssign)
            and node.value
        ):
            return dict(ast.literal_eval(node.value))
    return {}


def modules() -> list[Path]:
    """Return every module of the package."""
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def collect() -> dict[str, list[tuple[str, str]]]:
    """Return code -> [(meaning, module)]; more than one entry is a mistake that tests/test_docs.py names."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in modules():
        for code, meaning in codes_of(path).items():
            found.setdefault(code, []).append((meaning, path.relative_to(ROOT).as_posix()))
    return found


def used() -> dict[str, str]:
    """Return every code that stands in a string of the package -> one module that uses it."""
    return {
        code: path.relative_to(ROOT).as_posix()
        for path in modules()
        for code in re.findall(r"[\"'](CHI-[A-Z]+-\d{3})[\"']", path.read_text(encoding="utf-8"))
    }


def page() -> str:
    """Return the text of docs/errors.md."""
    found, parts = collect(), [HEAD]
    for area, (title, meaning) in AREAS.items():
        rows = sorted(code for code in found if code.split("-")[1] == area)
        if not rows:
            continue
        parts.append(f"## {title} (`CHI-{area}-...`)\n\n{meaning}\n\n| code | meaning | where |\n| --- | --- | --- |")
        parts.append(
            "\n".join(f"| `{code}` | {text} | `{where}` |" for code in rows for text, where in found[code]) + "\n"
        )
    return "\n".join(parts)


def main() -> int:
    """Write the page, or compare it."""
    text = page()
    if "--check" in sys.argv[1:]:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
