"""Whether the packages that speech needs are there: said in one sentence before anything is read."""

from __future__ import annotations

from importlib.util import find_spec

from ....data.errors import ToolError

CODES: dict[str, str] = {"CHI-TL-014": "A package that dementia from speech needs is not installed."}
NEEDED = ("transformers", "soundfile", "soxr")


def check_installed() -> None:
    """Refuse to begin without the packages of the extra `speech`.

    Raises
    ------
    ToolError
        ``CHI-TL-014``, all that are missing.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ToolError(
            "CHI-TL-014",
            f"dementia from speech needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            'Install them with `pip install "chiasm[speech]"`.',
        )
