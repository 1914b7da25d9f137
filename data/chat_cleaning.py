"""From one CHAT utterance to the words that were said, one switch a step, with counts of what the marks say.

Source: the CHAT manual of TalkBank (MacWhinney), chapters on words, utterances and scoped symbols.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass

COUNTS = (
    *("utterances", "words", "fillers", "fragments", "repeats", "revisions"),
    *("pauses", "long_pauses", "unintelligible", "events", "errors"),
)
"""What is counted, for the participant."""

LONG_PAUSE_S = 2.0
"""A pause of a written length is long from here; ``(...)`` always is."""

# Alternatives begin with different characters and hold one repeated class each: time is linear whatever the text.
_PIECE = re.compile(
    r"""(?P<code>\[[^\[\]]*\])
      | (?P<mark>(?<!\S)\+(?:<|[".,^+≈≋=/?!]+))
      | (?P<open><) | (?P<close>>)
      | (?P<token>[^\s\[\]<>]+)""",
    re.VERBOSE,
)
_EXCLUDED = re.compile(r"\[\+[ \t]?exc\]")
_PAUSE = re.compile(r"\((?P<length>\.+|[\d:.]{1,12})\)")
_ELIDED = re.compile(r"\([^()]*\)")
_TIMES = re.compile(r"x\s*(\d{1,3})")
_TRAILING = ".,?!;"
_MAX_BETWEEN = 16  # tokens for pauses between a word and the code that speaks of it
_FILLERS = frozenset("ah eh em er erm hm hmm huh mhm mm mmm oh uh uhhuh uhm um umm ums".split())
_UNINTELLIGIBLE = frozenset("xx xxx yy yyy www".split())
_RETRACINGS = frozenset(("//", "///", "/-", "/?"))
# Prosody, overlap and conversation-analysis signs, quotation marks, stress, blocking.
_SIGNS = str.maketrans("", "", '‡„↑↓↗↘→↫^≠⌈⌉⌊⌋∆∇°▁▔☺∬Ϋ∮§⁎♋∙≋≈≡ˈˌ“”„"~*\\|{}')


@dataclass(frozen=True, kw_only=True)
class CleaningOptions:
    """One switch for each cleaning step; the defaults keep disfluencies, for they are signal.

    Parameters
    ----------
    participant : str
        The speaker code to take as the participant (``PAR``); empty: the one that the header names.
    keep_investigator : bool
        Keep the words of the other speakers too, each marked with its speaker. Turns are kept in any case.
    keep_excluded : bool
        Keep utterances that the transcriber marked as outside the task (``[+ exc]``).
    normalise_errors : bool
        Put the target of ``[: target]`` in the place of what was said.
    keep_repeats, keep_revisions : bool
        Keep what ``[/]``, and what ``[//]``, ``[///]``, ``[/-]`` and ``[/?]``, say was repeated, or said anew.
    keep_fillers, keep_fragments : bool
        Keep ``&-uh`` as ``uh``, and ``&+fr`` as ``fr``.
    pause_token : str
        What stands for ``(.)``, ``(..)``, ``(...)`` and ``(2.5)``; empty drops them.
    restore_elided : bool
        ``goin(g)`` becomes ``going``, else ``goin``.
    keep_punctuation : bool
        Attach ``.``, ``?``, ``!`` and ``,`` to the word before; ``+...`` and its like become ``.`` or ``?``.
    unintelligible_token : str
        What stands for ``xxx``, ``yyy`` and ``www``; empty drops them.
    strip_form_markers : bool
        ``woof@o`` becomes ``woof``.
    split_compounds : bool
        ``ice_cream`` and ``ice+cream`` become two words.
    strip_signs : bool
        Drop lengthening, stress and prosody signs: ``no:``, ``↑``, ``‡`` ...
    """

    participant: str = ""
    keep_investigator: bool = True
    keep_excluded: bool = True
    normalise_errors: bool = False
    keep_repeats: bool = True
    keep_revisions: bool = True
    keep_fillers: bool = True
    keep_fragments: bool = True
    pause_token: str = ""
    restore_elided: bool = True
    keep_punctuation: bool = False
    unintelligible_token: str = ""
    strip_form_markers: bool = True
    split_compounds: bool = True
    strip_signs: bool = True

    def __post_init__(self) -> None:
        for token in (self.pause_token, self.unintelligible_token):
            if token.split() not in ([], [token]):
                raise ValueError("a token that stands for a pause or an unintelligible word holds no white space")


def excluded(text: str) -> bool:
    """Whether an utterance is marked as no part of the task."""
    return _EXCLUDED.search(text) is not None


def clean_utterance(text: str, options: CleaningOptions, counts: MutableMapping[str, int]) -> list[str]:
    """Return the words of a stretch of an utterance.

    Parameters
    ----------
    text : str
        A main tier, or the part of it before a bullet: without speaker code and bullets.
    options : CleaningOptions
    counts : mutable mapping
        The numbers of `COUNTS` (all but ``utterances``) are added here, whatever is kept.

    Returns
    -------
    list of str
        None holds white space or is empty.
    """
    utterance = _Utterance(options, counts)
    # The one event that older transcripts of the Pitt corpus write with a blank.
    for piece in _PIECE.finditer(text.replace("&=clears throat", "&=clears:throat")):
        utterance.add(str(piece.lastgroup), piece[0])
    counts["words"] += sum(is_word for _, is_word in utterance.items)
    return [text for text, _ in utterance.items]


class _Utterance:
    """The words so far, where the open ``<`` are, and what the next ``[code]`` speaks of."""

    def __init__(self, options: CleaningOptions, counts: MutableMapping[str, int]) -> None:
        self.options, self.counts = options, counts
        self.items: list[tuple[str, bool]] = []  # text, and whether it is a word rather than a token for something else
        self.opened: list[int] = []
        self.scope = (0, 0)

    def add(self, kind: str, text: str) -> None:
        if kind == "code":
            self._code(text[1:-1].strip())
        elif kind == "open":
            self.opened.append(len(self.items))
        elif kind == "close":
            if self.opened:
                self.scope = (min(self.opened.pop(), len(self.items)), len(self.items))
        elif kind == "mark":
            self._punctuate(text)
        else:
            self._token(text)

    def _code(self, code: str) -> None:
        if code == "/":
            self.counts["repeats"] += 1
            if not self.options.keep_repeats:
                self._replace_scope([])
        elif code in _RETRACINGS:
            self.counts["revisions"] += 1
            if not self.options.keep_revisions:
                self._replace_scope([])
        elif times := _TIMES.fullmatch(code):
            self.counts["repeats"] += max(int(times[1]) - 1, 0)
        elif code.startswith("*"):
            self.counts["errors"] += 1
        elif code.startswith(":") and self.options.normalise_errors:
            target = [word for text in code.lstrip(": ").split() for word in self._plain(text.rstrip(_TRAILING))]
            self._replace_scope(target)

    def _replace_scope(self, words: Iterable[str]) -> None:
        start, stop = self.scope
        if len(self.items) - stop > _MAX_BETWEEN:
            return
        self.items[start:stop] = [(word, True) for word in words]
        self.scope = (start, len(self.items))

    def _token(self, text: str) -> None:
        token = text.rstrip(_TRAILING)
        if pause := _PAUSE.fullmatch(token):
            self._pause(long=_is_long(pause["length"]))
        elif token.startswith("#"):  # files from before the round brackets
            self._pause(long=len(token) > 1)
        elif token.startswith("&"):
            self._ampersand(token)
        elif token.split("@", 1)[0].lower() in _UNINTELLIGIBLE:
            self.counts["unintelligible"] += 1
            self._put([self.options.unintelligible_token], is_word=False)
        elif _has_letters(token) and not _omitted(token):
            self._put(self._plain(token))
        if len(token) < len(text):
            self._punctuate(text[len(token) :])

    def _pause(self, *, long: bool) -> None:
        self.counts["pauses"] += 1
        self.counts["long_pauses"] += long
        if self.options.pause_token:
            self.items.append((self.options.pause_token, False))  # the scope stays: "the (.) [/] the" repeats "the"

    def _ampersand(self, token: str) -> None:
        sign, word = token[1:2], token[2:]
        if sign in {"=", "{", "}"}:
            self.counts["events"] += sign != "}"
            return
        if sign == "*":  # said by someone else meanwhile
            return
        if sign not in {"-", "+", "~"}:
            word = token[1:]
            sign = "-" if word.split("@", 1)[0].replace(":", "").lower() in _FILLERS else "+"
        if not _has_letters(word):
            return
        self.counts["fillers" if sign == "-" else "fragments"] += 1
        if self.options.keep_fillers if sign == "-" else self.options.keep_fragments:
            self._put(self._plain(word))
        else:
            self.scope = (len(self.items), len(self.items))

    def _put(self, words: Iterable[str], *, is_word: bool = True) -> None:
        start = len(self.items)
        self.items.extend((word, is_word) for word in words if word)
        self.scope = (start, len(self.items))

    def _plain(self, token: str) -> list[str]:
        """Return the words of a token: none, one, or several where it is a compound."""
        options = self.options
        token = token.replace("\u2019", "'")
        if not options.restore_elided:
            token = _ELIDED.sub("", token)
        token = token.replace("(", "").replace(")", "")
        if options.strip_form_markers:
            token = token.split("@", 1)[0].split("$", 1)[0]
        if options.split_compounds:
            token = token.replace("_", " ").replace("+", " ")
        if options.strip_signs:
            token = token.translate(_SIGNS).replace(":", "")
        return [word for word in token.split() if _has_letters(word)]

    def _punctuate(self, mark: str) -> None:
        sign = mark[-1]
        if not self.options.keep_punctuation or sign not in ".?!," or mark == "+,":
            return
        if self.items and self.items[-1][1] and self.items[-1][0][-1] not in ".?!,":
            self.items[-1] = (self.items[-1][0] + sign, True)


def _is_long(length: str) -> bool:
    """Whether a pause of three dots or more, or of so many seconds or minutes:seconds, is long."""
    if not any(character.isdigit() for character in length):
        return length.count(".") >= 3
    minutes, _, seconds = length.rpartition(":")
    try:
        return float(minutes or 0) * 60 + float(seconds or 0) >= LONG_PAUSE_S
    except ValueError:
        return False


def _has_letters(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _omitted(text: str) -> bool:
    """Whether a token is ``0`` (an action without words) or ``0word`` (a word that was left out)."""
    return text == "0" or (text[:1] == "0" and text[1:2].isalpha())
