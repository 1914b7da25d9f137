"""From files to what was heard: levelled sound of one speaker, words, where there is speech, quality, all in the recording's time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ....data.audio import AudioReader, Clip, resample
from ....data.audio_header import read_audio_header
from ....data.audio_quality import Quality, assess, check_usable, level
from ....data.background import background, only, participant_spans
from ....data.chat_cleaning import CleaningOptions
from ....data.errors import InputError
from ....data.spans import Span, intersection, merged, total_s
from ....data.transcript_files import read_transcript
from ....data.transcripts import Speaker, Transcript, Turn, Word
from ....encoders.silero_vad import RATE, SileroVad, speech_spans
from ...speech_recipe import SpeechRecipe

CODES: dict[str, str] = {
    "CHI-IN-240": "A patient has neither a recording nor a transcript that can be used.",
    "CHI-IN-241": "A modality is missing, and the model was trained without modality dropout.",
    "CHI-IN-242": "A transcript has no word of the participant.",
    "CHI-IN-243": "There is no speech in the recording.",
    "CHI-IN-244": "Too little silence for the background control.",
    "CHI-IN-245": "No marked investigator for the investigator control.",
}
View = Literal["participant", "background", "investigator"]
"""What a model hears: the person; nothing but the room (a control); nothing but the investigator (a control)."""
BACKGROUND_S = 1.5
"""Length of background-only audio, the same for everyone. Who has less is left out, and who that is depends on pauses: so it is short."""
MIN_INVESTIGATOR_S = 1.0
_NOT_IN_CONTROL = "The person is left out of the {} control."
_EDGES = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The files of one interview; `relative` names are for messages and never absolute."""

    audio: Path | None = None
    transcript: Path | None = None
    segments: Path | None = None
    audio_name: str = ""
    transcript_name: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Heard:
    """One interview as read.

    Parameters
    ----------
    clip : Clip, optional
        What the model hears: one speaker, level set, at the recipe's rate. None where there is no recording.
    kept : tuple of Span
        The parts of the recording that `clip` joins, in the recording's seconds.
    speech : tuple of Span
        Where anybody speaks, in the recording's seconds.
    duration_s : float
        Of the recording.
    transcript : Transcript, optional
    quality : Quality, optional
    facts : dict
        What the header says: rate_hz, bits, channels, format, bytes. For the metadata control, never for the model.
    warnings : tuple of str
    """

    clip: Clip | None = None
    kept: tuple[Span, ...] = ()
    speech: tuple[Span, ...] = ()
    duration_s: float = 0.0
    transcript: Transcript | None = None
    quality: Quality | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def recording_span(self, start_s: float, end_s: float) -> Span:
        """Return where in the recording a stretch of `clip` lies: inside the one kept part that holds its middle."""
        offset = 0.0
        for index, span in enumerate(self.kept):
            if (start_s + end_s) / 2 < offset + span.seconds or index == len(self.kept) - 1:
                shift = span.start_s - offset
                start_s, end_s = (min(max(time + shift, span.start_s), span.end_s) for time in (start_s, end_s))
                break
            offset += span.seconds
        return Span(start_s, end_s)

    def recording_time(self, seconds: float) -> float:
        """Return the recording's time of a time in `clip`."""
        for span in self.kept:
            if seconds <= span.seconds:
                return span.start_s + seconds
            seconds -= span.seconds
        return self.kept[-1].end_s if self.kept else seconds


class Listener:
    """Reads interviews; holds the guarded decoder and the voice activity detector. Use as a context manager, or `close`.

    Parameters
    ----------
    recipe : SpeechRecipe
    detector : SileroVad
    recogniser : object, optional
        With ``transcribe(clip) -> Transcript`` and ``other_language(clip) -> str``, as `recognition.Recogniser`; where the recipe asks for
        speech recognition.
    """

    def __init__(self, recipe: SpeechRecipe, detector: SileroVad, recogniser: Any = None) -> None:
        self.recipe, self.detector, self.recogniser = recipe, detector, recogniser
        self.reader = AudioReader()
        self.cleaning = CleaningOptions(**recipe.transcript.cleaning)  # type: ignore[arg-type]

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the decoder's process."""
        self.reader.close()

    def hear(self, sources: Sources, *, view: View = "participant") -> Heard:
        """Read one interview.

        Raises
        ------
        InputError
            ``CHI-IN-240``, ``CHI-IN-242`` to ``245``, and all that the readers say of a file.
        """
        if sources.audio is None and sources.transcript is None:
            raise InputError("CHI-IN-240", "there is no recording and no transcript.", "Add one of them.")
        transcript = None
        if sources.transcript is not None:
            transcript = read_transcript(sources.transcript, self.cleaning, relative=sources.transcript_name)
        if sources.audio is None:
            return self._words_only(transcript, sources, view)
        header = read_audio_header(sources.audio, relative=sources.audio_name)
        limit = self.recipe.audio.max_duration_s
        clip = self.reader.read(sources.audio, max_duration_s=limit, relative=sources.audio_name)
        check_usable(clip, hop_length=max(1, clip.rate // 100), relative=sources.audio_name)
        speech = self._speech(clip)
        heard = Heard(
            speech=tuple(speech),
            duration_s=clip.duration_s,
            quality=assess(clip, speech),
            facts={"rate_hz": header.rate, "bits": header.bits, "channels": header.channels, "format": header.format},
        )
        heard = replace(heard, warnings=tuple(heard.quality.warnings() if heard.quality else ()))
        if not speech and view == "participant":
            raise InputError(
                "CHI-IN-243",
                "no speech was found in the recording.",
                "Check that it is the right file.",
                file=sources.audio_name,
            )
        turns = self._turns(transcript, sources)
        part, kept = self._part(clip, turns, speech, view)
        if view != "background" and self.recipe.audio.level_dbfs is not None:
            part = level(part, _within(kept, speech), self.recipe.audio.level_dbfs)
        resampled = resample(part, self.recipe.audio.sample_rate)
        check_usable(resampled, hop_length=self.recipe.audio.hop_length, relative=sources.audio_name)
        heard = replace(heard, clip=resampled, kept=tuple(kept))
        if transcript is None and self.recogniser is not None and view != "background":
            transcript, warnings = self._recognised(part, heard, turns, view)
            heard = replace(heard, warnings=(*heard.warnings, *warnings))
        return replace(heard, transcript=self._words(transcript, sources, view))

    def _recognised(
        self, part: Clip, heard: Heard, turns: Sequence[Turn], view: View
    ) -> tuple[Transcript, tuple[str, ...]]:
        """Return what the recogniser hears in `part`, in the recording's time and cleaned as written words are, and its warnings."""
        written = self.recogniser.transcribe(part)
        language = self.recogniser.other_language(part)
        words = []
        for word in written.words:
            text = word.text if self.cleaning.keep_punctuation else _EDGES.sub("", word.text).replace("\u2019", "'")
            if not text:
                continue
            timed = word.start_s is not None and word.end_s is not None
            span = heard.recording_span(word.start_s, word.end_s) if timed else (None, None)
            speaker: Speaker = "investigator" if view == "investigator" else "participant"
            words.append(Word(text=text, speaker=speaker, start_s=span[0], end_s=span[1]))
        warnings = (f"The recording seems to be in another language ({language}).",) if language else ()
        return replace(written, words=tuple(words), turns=tuple(turns)), warnings

    def _words_only(self, transcript: Transcript | None, sources: Sources, view: View) -> Heard:
        if view == "background":
            raise InputError("CHI-IN-244", "there is no recording.", _NOT_IN_CONTROL.format(view))
        return Heard(transcript=self._words(transcript, sources, view))

    def _words(self, transcript: Transcript | None, sources: Sources, view: View) -> Transcript | None:
        if transcript is None or view == "background":
            return None
        if view == "investigator":
            own = tuple(replace(word, speaker="participant") for word in transcript.said_by("investigator"))
            if not own:
                raise InputError(
                    "CHI-IN-245", "the transcript has no word of the investigator.", _NOT_IN_CONTROL.format(view)
                )
            # The marks that were counted are the participant's: they would tell about the person after all.
            return replace(transcript, words=own, counts={})
        if not transcript.said_by("participant"):
            recognised = transcript.source == "asr"
            raise InputError(
                "CHI-IN-242",
                "speech recognition found no word." if recognised else "the transcript has no word of the participant.",
                "Listen to the recording, and give a transcript."
                if recognised
                else "Check who speaks in it (CHAT: the code that @Participants names), or leave the file out.",
                file=sources.audio_name if recognised else sources.transcript_name,
            )
        return transcript

    def _speech(self, clip: Clip) -> list[Span]:
        probabilities = self.detector.probabilities(resample(clip, RATE).samples)[0]
        return speech_spans(probabilities, clip.duration_s)

    def _turns(self, transcript: Transcript | None, sources: Sources) -> tuple[Turn, ...]:
        if transcript is not None and transcript.turns:
            return transcript.turns
        if sources.segments is not None:
            from ....data.datasets.adresso import read_segments

            return read_segments(sources.segments)
        return ()

    def _part(self, clip: Clip, turns: Sequence[Turn], speech: Sequence[Span], view: View) -> tuple[Clip, list[Span]]:
        """Return the samples of a view, and which parts of the recording they are."""
        if view == "background":
            # Speech is what the detector heard or the transcript marks: neither may leave a syllable behind.
            spoken = merged([*speech, *(Span(turn.start_s, turn.end_s) for turn in turns)])
            part = background(clip, spoken, length_s=BACKGROUND_S, seed=0)
            if part is None:
                raise InputError(
                    "CHI-IN-244",
                    f"there are less than {BACKGROUND_S:g} s without speech.",
                    _NOT_IN_CONTROL.format(view),
                )
            return part, [Span(0.0, part.duration_s)]
        if view == "investigator":
            own = merged(Span(turn.start_s, turn.end_s) for turn in turns if turn.speaker == "investigator")
            if total_s(own) < MIN_INVESTIGATOR_S:
                raise InputError(
                    "CHI-IN-245",
                    "the investigator is not marked, or says next to nothing.",
                    _NOT_IN_CONTROL.format(view),
                )
            return only(clip, own), own
        if self.recipe.audio.speaker == "everyone" or not turns:
            return clip, [Span(0.0, clip.duration_s)]
        kept = participant_spans(turns, clip.duration_s)
        return only(clip, kept), kept


def _within(kept: Sequence[Span], speech: Sequence[Span]) -> list[Span]:
    """Return the speech inside the kept parts, in the seconds of their concatenation."""
    out, offset = [], 0.0
    for span in kept:
        shift = offset - span.start_s
        out += [Span(piece.start_s + shift, piece.end_s + shift) for piece in intersection([span], speech)]
        offset += span.seconds
    return merged(out)
