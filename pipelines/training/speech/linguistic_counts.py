"""Counts of an English transcript: how rich, how pronominal, how halting the words are (after Fraser et al. 2016), without a parser."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
PRONOUNS = frozenset(
    "i you he she it we they me him her us them mine yours his hers ours theirs this that these those "
    "something anything everything someone somebody".split()
)
DETERMINERS = frozenset("a an the".split())
FILLERS = frozenset("uh um er erm eh ah hm hmm mhm uhm".split())
WINDOW = 25
MARKED = ("fillers", "repeats", "revisions", "pauses", "unintelligible")
NAMES = (
    "n_words",
    "type_token_ratio",
    "moving_type_token_ratio",
    "mean_word_length",
    "pronoun_share",
    "determiner_share",
    "filler_share",
    "repeat_share",
    *(f"marked_{name}_per_word" for name in MARKED),
)


def linguistic_counts(text: str, marked: Mapping[str, int]) -> NDArray[np.float64]:
    """Return the features `NAMES` of one transcript, shape (13,).

    Parameters
    ----------
    text : str
        What the participant said.
    marked : mapping of str to int
        Counts from the transcript's own marks; NaN features where it has none.
    """
    words = [word.lower() for word in WORD.findall(text)]
    n = len(words)
    of_marks = [marked[name] / n if n and name in marked else np.nan for name in MARKED]
    if not n:
        return np.array([0.0] * (len(NAMES) - len(MARKED)) + of_marks)
    windows = [len(set(words[i : i + WINDOW])) / WINDOW for i in range(n - WINDOW + 1)]
    ratio = len(set(words)) / n
    values = [
        n,
        ratio,
        float(np.mean(windows)) if windows else ratio,
        float(np.mean([len(word) for word in words])),
        sum(word in PRONOUNS for word in words) / n,
        sum(word in DETERMINERS for word in words) / n,
        sum(word in FILLERS for word in words) / n,
        sum(one == two for one, two in pairwise(words)) / n,
    ]
    return np.array([*values, *of_marks], dtype=np.float64)
