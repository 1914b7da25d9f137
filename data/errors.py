"""The errors that Chiasm raises on purpose: each has a stable code, says what was got and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class ChiasmError(Exception):
    """A failure that the user can act on.

    Parameters
    ----------
    code : str
        Stable identifier, ``CHI-<AREA>-<number>``; ``docs/errors.md`` lists them all.
    message : str
        One sentence: what is wrong and what was got. Never a value from a header, a name or a transcript
        (such text may identify a person).
    remedy : str
        One sentence: what to do about it.
    file : str, optional
        The input file concerned, relative to the input folder.
    """

    area: ClassVar[str] = "INT"
    exit_code: ClassVar[int] = 70

    def __init__(self, code: str, message: str, remedy: str = "", *, file: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.remedy, self.file = code, message, remedy, file

    def __str__(self) -> str:
        where = f"{self.file}: " if self.file else ""
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"[{self.code}] {where}{self.message}{remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling between worker and driver.
        return _rebuild, (type(self), self.code, self.message, self.remedy, self.file)


class InputError(ChiasmError):
    """An input file or folder cannot be used as it is (``CHI-IN-...``)."""

    area = "IN"
    exit_code = 3


class RecipeError(ChiasmError):
    """A recipe or a command line is wrong (``CHI-RC-...``)."""

    area = "RC"
    exit_code = 2


class WeightsError(ChiasmError):
    """Weights are missing, damaged or not those the recipe needs (``CHI-WT-...``)."""

    area = "WT"
    exit_code = 126


class ResourceError(ChiasmError):
    """Memory, disk, a worker or a time limit ran out (``CHI-RES-...``): worth another try."""

    area = "RES"
    exit_code = 1


class ToolError(ChiasmError):
    """An optional program or package is not installed (``CHI-TL-...``)."""

    area = "TL"
    exit_code = 127


class SeveralErrors(ChiasmError):
    """Every mistake at once, not the first one only."""

    def __init__(self, errors: Sequence[ChiasmError]) -> None:
        first = errors[0]
        text = "; ".join(str(error) for error in errors)
        super().__init__(first.code, text)
        self.errors = tuple(errors)
        self.exit_code_of_first = first.exit_code

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)

    def __reduce__(self) -> tuple[object, ...]:
        return SeveralErrors, (self.errors,)


def _rebuild(kind: type[ChiasmError], code: str, message: str, remedy: str, file: str) -> ChiasmError:
    return kind(code, message, remedy, file=file)


def did_you_mean(word: str, allowed: Sequence[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the allowed word nearest to `word`, or an empty string."""
    from difflib import get_close_matches

    near = get_close_matches(word, allowed, n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
