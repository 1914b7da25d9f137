"""What a synthetic person says of a picture of a kitchen: a small grammar whose habits are numbers.

Clauses say something of the scene or nothing; subjects and objects are nouns or pronouns; words come from short or long
lists of synonyms; fillers, repetitions, revisions and pauses are laid over the finished clauses in given numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

TokenKind = Literal["word", "filler", "repeat", "revision", "pause"]

BULLET = "\x15"

# Noun alternatives, the plainest first; then the pronoun as subject and as object.
_ENTITIES: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "boy": (("boy", "lad", "brother", "son"), "he", "him"),
    "girl": (("girl", "daughter", "sister", "youngster"), "she", "her"),
    "woman": (("woman", "mother", "lady", "housewife"), "she", "her"),
    "stool": (("stool", "footstool", "chair"), "it", "it"),
    "jar": (("jar", "container", "pot"), "it", "it"),
    "cookie": (("cookie", "biscuit", "snack"), "it", "it"),
    "sink": (("sink", "basin", "washbasin"), "it", "it"),
    "water": (("water", "flood", "stream"), "it", "it"),
    "tap": (("tap", "faucet", "spigot"), "it", "it"),
    "dishes": (("dishes", "plates", "crockery"), "they", "them"),
    "cloth": (("cloth", "towel", "rag"), "it", "it"),
    "window": (("window", "pane", "casement"), "it", "it"),
    "curtains": (("curtains", "drapes", "hangings"), "they", "them"),
    "cupboard": (("cupboard", "cabinet", "closet"), "it", "it"),
    "floor": (("floor", "tiles", "ground"), "it", "it"),
    "garden": (("garden", "yard", "lawn"), "it", "it"),
    "counter": (("counter", "worktop", "ledge"), "it", "it"),
}

FACTS: tuple[str, ...] = (
    "<boy> {is taking|grabs|snatches|is stealing} <cookie>",
    "<boy> {is standing|balances|perches|wobbles} on <stool>",
    "<stool> {is falling|tips|topples|tilts} over",
    "<boy> {is getting|reaches|climbs|stretches} up to <jar>",
    "<girl> {is asking|begs|pleads|calls} for <cookie>",
    "<girl> {is holding|lifts|raises|extends} up a hand",
    "<girl> {is laughing|giggles|smiles|chuckles} at <boy>",
    "<woman> {is drying|wipes|polishes|rubs} <dishes>",
    "<woman> {is standing|stays|waits|lingers} by <sink>",
    "<woman> {is looking|stares|gazes|peers} at <garden>",
    "<woman> {is holding|grips|clutches|carries} <cloth>",
    "<water> {is running|spills|pours|gushes} on <floor>",
    "<sink> {is filling|overflows|floods|brims} up",
    "<tap> {is running|flows|drips|gushes} into <sink>",
    "<window> {is standing|looks|opens|faces} onto <garden>",
    "<curtains> {are hanging|drape|dangle|billow} beside <window>",
    "<cupboard> {is standing|gapes|hangs|swings} open",
    "<dishes> {are standing|rest|sit|lie} on <counter>",
    "<woman> {is standing|steps|wades|splashes} in <water>",
    "<woman> {is not seeing|ignores|overlooks|neglects} <boy>",
    "<jar> {is standing|sits|rests|hides} in <cupboard>",
    "<boy> {is giving|hands|passes|offers} a treat to <girl>",
)
"""What there is to say of the scene: each is one information unit."""

EMPTY: tuple[str, ...] = (
    "<woman> {is doing|manages|performs|undertakes} some sort of thing",
    "<boy> {is doing|attempts|tries|does} something or other",
    "<girl> {is having|has|enjoys|owns} a kind of thing",
    "<woman> {is doing|handles|does|continues} that sort of stuff",
    "<boy> {is being|seems|appears|looks} that kind of way",
    "<girl> {is being|remains|stays|lingers} some place or other",
    "there is something going on with <woman>",
    "there is some sort of thing by <boy>",
    "there is a lot of stuff near <girl>",
    "that is the thing with <woman>",
)
"""Clauses that say nothing of the scene."""

OPENERS: tuple[str, str] = ("right here", "well now")
"""How a person of textual habit 0 and of habit 1 begins most utterances; these words occur nowhere else."""

OPENED = 0.75

OPENING_PROMPT = "tell me everything that you see in this picture"
PROMPTS: tuple[str, ...] = ("anything else", "can you tell me more", "what else do you see", "is there more")
CLOSING = "okay thank you"
FILLERS: tuple[str, str] = ("uh", "um")


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one person talks.

    Parameters
    ----------
    clauses : int
        How many are said; no marker.
    informative : float
        Share of clauses that say something new of the scene.
    pronouns : float
        Share of subjects and objects that are pronouns.
    richness : float
        Chance that a word is taken from the whole list of synonyms rather than its head.
    repeats, fillers, revisions, pauses : float
        Per 100 words of the finished clauses.
    pause_s : float
        Median length of a pause within an utterance.
    words_per_utterance : float
    opener : int
        0 or 1: which of `OPENERS`.
    """

    clauses: int
    informative: float
    pronouns: float
    richness: float
    repeats: float
    fillers: float
    revisions: float
    pauses: float
    pause_s: float
    words_per_utterance: float
    opener: int


@dataclass(frozen=True)
class Token:
    """A word or group of words, or a pause of `seconds`."""

    kind: TokenKind
    text: str = ""
    seconds: float = 0.0


Utterance = tuple[Token, ...]


def style_of(markers: Mapping[str, float], rng: np.random.Generator) -> Style:
    """Turn a person's planted values (`interview_markers`) into habits of speech; `rng` draws what is no marker."""
    z = {name: float(np.clip(value, -3.0, 3.0)) for name, value in markers.items()}
    return Style(
        clauses=int(np.clip(round(10.0 * np.exp(0.12 * rng.standard_normal())), 7, 16)),
        informative=_logistic(0.8 + 1.3 * z["information_units"]),
        pronouns=_logistic(-0.8 + 1.2 * z["pronouns"]),
        richness=_logistic(1.6 * z["vocabulary"]),
        repeats=4.0 * float(np.exp(0.6 * z["repetitions"])),
        fillers=5.0 * float(np.exp(0.6 * z["fillers"])),
        revisions=3.0 * float(np.exp(0.6 * z["revisions"])),
        pauses=9.0 * float(np.exp(0.4 * z["pause_count"])),
        pause_s=0.5 * float(np.exp(0.4 * z["pause_length"])),
        words_per_utterance=9.5 * float(np.exp(0.35 * z["utterance_length"])),
        opener=int(markers["habit_opener"]),
    )


def write_script(style: Style, rng: np.random.Generator) -> list[Utterance]:
    """Let a person talk.

    Parameters
    ----------
    style : Style
    rng : Generator

    Returns
    -------
    list of tuple of Token
        One utterance an entry.
    """
    utterances = _joined(_clauses(style, rng), style, rng)
    opened = _chosen(rng, len(utterances), OPENED * len(utterances))
    words = [
        (OPENERS[style.opener].split() if i in opened else []) + utterance for i, utterance in enumerate(utterances)
    ]
    tokens = [[Token("word", word) for word in utterance] for utterance in words]
    n_words = sum(map(len, words))

    def number(per_100: float) -> int:
        return int(per_100 * n_words / 100 + rng.random())

    for _ in range(number(style.revisions)):
        _revise(tokens, rng)
    for _ in range(number(style.repeats)):
        _repeat(tokens, rng)
    for _ in range(number(style.fillers)):
        _insert(tokens, Token("filler", FILLERS[int(rng.integers(2))]), rng)
    n_pauses = number(style.pauses)
    # One stream of lengths whatever their number, so that count and length stay independent.
    for length in np.exp(0.4 * rng.standard_normal(n_pauses)):
        _insert(tokens, Token("pause", seconds=float(max(0.2, style.pause_s * length))), rng, inside=True)
    return [tuple(utterance) for utterance in tokens]


def to_chat(utterance: Sequence[Token]) -> str:
    """Write an utterance as the main line of CHAT, without speaker, terminator and bullet."""
    return " ".join(map(_chat_token, utterance))


def spoken(utterance: Sequence[Token]) -> list[str | float]:
    """Return what is to be heard: stretches of words, and between them pauses in seconds."""
    parts: list[str | float] = []
    for token in utterance:
        if token.kind == "pause":
            parts.append(token.seconds)
        elif parts and isinstance(parts[-1], str):
            parts[-1] += f" {token.text}"
        else:
            parts.append(token.text)
    return parts


def counts(utterances: Sequence[Utterance]) -> dict[str, int]:
    """Count what was said: ``utterances``, ``words`` (without retraced ones and fillers), and each other kind."""
    tokens = [token for utterance in utterances for token in utterance]
    by_kind = {kind: sum(token.kind == kind for token in tokens) for kind in ("filler", "repeat", "revision", "pause")}
    return {
        "utterances": len(utterances),
        "words": sum(token.kind == "word" for token in tokens),
    } | {f"{kind}s": n for kind, n in by_kind.items()}


def _logistic(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def _chosen(rng: np.random.Generator, n: int, expected: float) -> set[int]:
    """Choose about `expected` of `n`: the number is rounded at random, so its mean is exact."""
    return set(rng.permutation(n)[: min(n, int(expected + rng.random()))].tolist())


def _clauses(style: Style, rng: np.random.Generator) -> list[list[str]]:
    n = style.clauses
    informative = _chosen(rng, n, style.informative * n)
    facts, empty = rng.permutation(len(FACTS)), rng.permutation(len(EMPTY))
    texts = [FACTS[facts[i % len(FACTS)]] if i in informative else EMPTY[empty[i % len(EMPTY)]] for i in range(n)]
    slots = sum(text.count("<") for text in texts)
    as_pronoun = _chosen(rng, slots, style.pronouns * slots)
    clauses, slot = [], 0
    for text in texts:
        words: list[str] = []
        for part in re.findall(r"<\w+>|\{[^}]*\}|[\w ]+", text):
            if part[0] == "<":
                words += _reference(part[1:-1], slot in as_pronoun, subject=not words, style=style, rng=rng)
                slot += 1
            elif part[0] == "{":
                words += _pick(part[1:-1].split("|"), style, rng).split()
            else:
                words += part.split()
        clauses.append(words)
    return clauses


def _reference(name: str, as_pronoun: bool, *, subject: bool, style: Style, rng: np.random.Generator) -> list[str]:
    nouns, nominative, accusative = _ENTITIES[name]
    noun = _pick(nouns, style, rng)
    return [nominative if subject else accusative] if as_pronoun else ["the", noun]


def _pick(alternatives: Sequence[str], style: Style, rng: np.random.Generator) -> str:
    rich, index = rng.random() < style.richness, int(rng.integers(len(alternatives)))
    return alternatives[index if rich else 0]


def _joined(clauses: list[list[str]], style: Style, rng: np.random.Generator) -> list[list[str]]:
    """Join clauses with "and" so that utterances have about the wanted mean length."""
    utterances: list[list[str]] = []
    for clause in clauses:
        missing = style.words_per_utterance - len(utterances[-1]) if utterances else 0.0
        if rng.random() < missing / (len(clause) + 1):
            utterances[-1] += ["and", *clause]
        else:
            utterances.append(list(clause))
    return utterances


def _place(tokens: list[list[Token]], rng: np.random.Generator, *, inside: bool = False) -> tuple[list[Token], int]:
    """Draw a place, equally likely before any word (`inside`: but the first of an utterance)."""
    skip = int(inside)
    lengths = np.array([max(0, len(utterance) - skip) for utterance in tokens])
    index = int(rng.integers(lengths.sum()))
    row = int(np.searchsorted(np.cumsum(lengths), index, side="right"))
    return tokens[row], index - int(lengths[:row].sum()) + skip


def _insert(tokens: list[list[Token]], token: Token, rng: np.random.Generator, *, inside: bool = False) -> None:
    utterance, at = _place(tokens, rng, inside=inside)
    utterance.insert(at, token)


def _repeat(tokens: list[list[Token]], rng: np.random.Generator) -> None:
    """Say one or two words twice."""
    utterance, at = _place(tokens, rng)
    group = [token.text for token in utterance[at : at + 1 + int(rng.integers(2))] if token.kind == "word"]
    utterance.insert(at, Token("repeat", " ".join(group or ["the"])))


def _revise(tokens: list[list[Token]], rng: np.random.Generator) -> None:
    """Begin with another noun, or another clause, and correct it."""
    utterance, at = _place(tokens, rng)
    articles = [i for i, token in enumerate(utterance) if token.text == "the"]
    nouns = list(_ENTITIES)
    if articles:
        at = articles[at % len(articles)]
        wrong = f"the {nouns[int(rng.integers(len(nouns)))]}"
    else:
        at, wrong = 0, "there is"
    utterance.insert(at, Token("revision", wrong))


def _chat_token(token: Token) -> str:
    if token.kind == "filler":
        return f"&-{token.text}"
    if token.kind in ("repeat", "revision"):
        group = f"<{token.text}>" if " " in token.text else token.text
        return f"{group} {'[/]' if token.kind == 'repeat' else '[//]'}"
    if token.kind == "pause":
        return "(.)" if token.seconds < 0.6 else "(..)" if token.seconds < 1.5 else "(...)"
    return token.text
