"""The same words come out of every format; damaged files say what is wrong; what is written reads back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chiasm.data.chat import CleaningOptions
from chiasm.data.errors import InputError
from chiasm.data.transcript_files import CODES, read_transcript, write_words
from chiasm.data.transcripts import Transcript, Turn, Word

WORDS = [("the", 0.5, 0.75), ("boy", 0.75, 1.25), ("falls", 2.0, 2.5)]
TABLE = [("word", "start", "end"), *[(w, str(a), str(b)) for w, a, b in WORDS]]
SRT = "1\n00:00:00,500 --> 00:00:01,250\nthe boy\n\n2\n00:01:02,000 --> 01:00:03,500\n<i>falls</i>\ndown.\n"


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def timed(transcript: Transcript) -> list[tuple[str, float | None, float | None]]:
    return [(word.text, word.start_s, word.end_s) for word in transcript.words]


def code(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_transcript(path, relative="sub/file")
    assert caught.value.file == "sub/file"
    assert "CANARY" not in str(caught.value)
    return caught.value.code


FILES = {
    "words.tsv": "\n".join("\t".join(row) for row in TABLE),
    "words.csv": "\r\n".join(",".join(f'"{cell}"' for cell in row) for row in TABLE),
    "semicolons.csv": "\n".join(" ; ".join(row) for row in TABLE),
    "milliseconds.csv": "Word,start_ms,end_ms\nthe,500,750\nboy,750,1250\n\nfalls,2000,2500\n",
    "words.txt": "\n".join("\t".join(row) for row in TABLE),
    "list.json": json.dumps([{"word": w, "start": a, "end": b} for w, a, b in WORDS]),
    "words.json": json.dumps({"words": [{"text": w, "start_s": a, "end_s": b} for w, a, b in WORDS]}),
    "whisper.json": json.dumps(
        {
            "language": "en",
            "segments": [
                {
                    "start": 0.5,
                    "end": 2.5,
                    "text": " The boy falls.",
                    "words": [{"word": f" {w}", "start": a, "end": b, "probability": 0.9} for w, a, b in WORDS],
                }
            ],
        }
    ),
    "chunks.json": json.dumps({"text": "x", "chunks": [{"text": w, "timestamp": [a, b]} for w, a, b in WORDS]}),
}


@pytest.mark.parametrize("name", FILES)
def test_words_with_times_from_every_format(name: str, tmp_path: Path) -> None:
    transcript = read_transcript(put(tmp_path, name, FILES[name]))
    assert timed(transcript) == WORDS
    assert transcript.text == "the boy falls"
    assert transcript.turns == (Turn(speaker="participant", start_s=0.5, end_s=2.5),)
    assert (transcript.source, transcript.estimated, dict(transcript.counts)) == ("words", False, {})


def test_plain_text_is_all_the_participants_without_times(tmp_path: Path) -> None:
    path = put(tmp_path, "a.txt", "The boy,\nuh, isn\u2019t - on the \u201cstool\u201d.\n")
    transcript = read_transcript(path)
    assert transcript.text == "The boy uh isn't on the stool"
    assert (transcript.source, transcript.turns, transcript.estimated) == ("text", (), False)
    assert read_transcript(path, CleaningOptions(keep_punctuation=True)).text.startswith("The boy, uh,")


@pytest.mark.parametrize("name", ["S001.cha", "S001.txt", "S001"])
def test_chat_is_known_by_its_content(name: str, tmp_path: Path) -> None:
    transcript = read_transcript(put(tmp_path, name, "@UTF8\n@Begin\n*PAR:\tthe [/] the boy .\n@End\n"))
    assert (transcript.source, transcript.text, transcript.counts["repeats"]) == ("chat", "the the boy", 1)


@pytest.mark.parametrize("name", ["a.srt", "a.vtt", "a.txt"])
def test_subtitles_spread_words_over_a_cue(name: str, tmp_path: Path) -> None:
    text = "WEBVTT\n\n" + SRT.replace(",500", ".500") if name == "a.vtt" else SRT
    transcript = read_transcript(put(tmp_path, name, text))
    assert transcript.text == "the boy falls down"
    assert transcript.estimated
    assert timed(transcript)[:2] == [("the", 0.5, 0.875), ("boy", 0.875, 1.25)]
    assert (transcript.words[2].start_s, transcript.words[3].end_s) == (62.0, 3603.5)


def test_speakers_make_turns_and_the_investigator_can_be_left_out(tmp_path: Path) -> None:
    rows = ["speaker\tword\tstart\tend", "INV\ttell\t0\t1", "INV\tme\t1\t2", "PAR\tboy\t3\t4", "nurse\thm\t5\t6"]
    path = put(tmp_path, "a.tsv", "\n".join(rows))
    transcript = read_transcript(path)
    assert [word.speaker for word in transcript.words] == ["investigator", "investigator", "participant", "other"]
    assert [(t.speaker, t.start_s, t.end_s) for t in transcript.turns] == [
        ("investigator", 0, 2),
        ("participant", 3, 4),
        ("other", 5, 6),
    ]
    assert len(read_transcript(path, CleaningOptions(keep_investigator=False)).words) == 1


def test_a_segments_speaker_is_that_of_its_words(tmp_path: Path) -> None:
    words = [{"word": "tell"}, {"word": "boy", "speaker": "participant"}]
    text = json.dumps({"segments": [{"speaker": "investigator", "words": words}]})
    assert [w.speaker for w in read_transcript(put(tmp_path, "a.json", text)).words] == ["investigator", "participant"]


def test_a_table_may_lack_times_or_some_of_them(tmp_path: Path) -> None:
    transcript = read_transcript(put(tmp_path, "a.tsv", "word\tstart\tend\nthe\tn/a\tn/a\nboy\t1\t2\nfalls\n"))
    assert timed(transcript) == [("the", None, None), ("boy", 1.0, 2.0), ("falls", None, None)]
    assert read_transcript(put(tmp_path, "b.csv", "word\nboy\n")).text == "boy"


def test_a_table_with_two_words_in_a_field_spreads_them(tmp_path: Path) -> None:
    transcript = read_transcript(put(tmp_path, "a.tsv", "word\tstart\tend\na bcd\t1\t2\n"))
    assert timed(transcript) == [("a", 1.0, 1.25), ("bcd", 1.25, 2.0)]
    assert transcript.estimated


def test_quotation_marks_in_tabs_are_characters(tmp_path: Path) -> None:
    transcript = read_transcript(put(tmp_path, "a.tsv", 'word\tstart\tend\n"oh\t1\t2\nno"\t2\t3\n'))
    assert transcript.text == "oh no"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.mp3", "CANARY", "CHI-IN-164"),
        ("a.srt", "CANARY", "CHI-IN-164"),
        ("a.tsv", "CANARY\tCANARY2\n1\t2\n", "CHI-IN-165"),
        ("a.csv", "", "CHI-IN-165"),
        ("a.csv", "word,start\n" + "a" * 200_000, "CHI-IN-165"),
        ("a.json", "CANARY", "CHI-IN-165"),
        ("a.json", "[" * 100_000, "CHI-IN-165"),
        ("a.json", '{"CANARY": 1}', "CHI-IN-165"),
        ("a.json", '["CANARY"]', "CHI-IN-165"),
        ("a.json", '[{"CANARY": 1}]', "CHI-IN-165"),
        ("a.json", '[{"words": ["CANARY"]}]', "CHI-IN-165"),
        ("a.json", '[{"word": "CANARY", "start": NaN, "end": 1}]', "CHI-IN-166"),
        ("a.json", '[{"word": "CANARY", "start": [1], "end": 1}]', "CHI-IN-166"),
        ("a.tsv", "word\tstart\tend\nCANARY\t1\t0.5\n", "CHI-IN-166"),
        ("a.tsv", "word\tstart\tend\nCANARY\tCANARY\t0.5\n", "CHI-IN-166"),
        ("a.tsv", "word\tstart\tend\nCANARY\t-1\t0.5\n", "CHI-IN-166"),
        ("a.tsv", "word\tstart\tend\nCANARY\t1\tinf\n", "CHI-IN-166"),
        ("a.txt", " \n", "CHI-IN-167"),
        ("a.txt", ". . .\n", "CHI-IN-167"),
        ("a.tsv", "word\tspeaker\nCANARY\tINV\n", "CHI-IN-167"),
        ("a.cha", "CANARY", "CHI-IN-161"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(name: str, text: str, expected: str, tmp_path: Path) -> None:
    assert code(put(tmp_path, name, text)) == expected


def test_codes_are_in_the_range() -> None:
    assert all("CHI-IN-164" <= each <= "CHI-IN-169" for each in CODES)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    words = (
        Word(text="n/a", start_s=0.1, end_s=0.1 + 0.2),
        Word(text="it's", start_s=1 / 3, end_s=2 / 3, speaker="investigator"),
        Word(text='"oh'),
        Word(text="fällt.", speaker="other"),
    )
    write_words(tmp_path / "words.tsv", Transcript(words=words))
    assert read_transcript(tmp_path / "words.tsv", CleaningOptions(keep_punctuation=True)).words == words
    assert (
        (tmp_path / "words.tsv")
        .read_text()
        .startswith("word\tstart_s\tend_s\tspeaker\nn/a\t0.1\t0.30000000000000004\t")
    )


def test_words_of_a_chat_file_survive_the_table(tmp_path: Path) -> None:
    path = put(tmp_path, "a.cha", "@Begin\n*INV:\tgo . \x150_7\x15\n*PAR:\t&-uh the b(oy) (.) . \x1510_777\x15\n@End\n")
    transcript = read_transcript(path, CleaningOptions(pause_token="[pause]"))
    write_words(tmp_path / "words.tsv", transcript)
    assert read_transcript(tmp_path / "words.tsv").words == transcript.words
