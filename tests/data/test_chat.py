"""CHAT transcripts: every mark becomes the right words and counts, whoever wrote the file and however it is encoded."""

from __future__ import annotations

import random
import time
from dataclasses import fields
from pathlib import Path

import pytest

from chiasm.data.chat import CODES, CleaningOptions, chat_header, read_chat
from chiasm.data.chat_cleaning import COUNTS
from chiasm.data.errors import InputError
from chiasm.data.transcripts import Turn

CORPUS = [
    line.split("\t") for line in (Path(__file__).parent / "chat_corpus.tsv").read_text("utf-8").split("\n")[1:] if line
]
HEADER = "@UTF8\n@Begin\n@Languages:\teng\n@Participants:\tPAR Participant, INV Investigator\n"
IDS = "@ID:\teng|Pitt|PAR|57;06.|male|ProbableAD||Participant|18||\n@ID:\teng|Pitt|INV|||||Investigator|||\n"


SWITCHES = [field.name for field in fields(CleaningOptions) if isinstance(field.default, bool)]


def chat(folder: Path, body: str, *, header: str = HEADER + IDS, encoding: str = "utf-8") -> Path:
    path = folder / "S001.cha"
    path.write_bytes((header + body + "@End\n").encode(encoding))
    return path


def options(text: str) -> CleaningOptions:
    pairs = [pair.split("=") for pair in text.split(",") if pair]
    return CleaningOptions(**{name: value if "token" in name else value == "1" for name, value in pairs})  # type: ignore[arg-type]


def code(path: Path, chosen: CleaningOptions | None = None) -> str:
    with pytest.raises(InputError) as caught:
        read_chat(path, chosen)
    assert caught.value.code in CODES
    assert caught.value.file == path.name
    return caught.value.code


# ---- cleaning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", CORPUS, ids=[row[0] for row in CORPUS])
def test_odd_chat_becomes_these_words_and_counts(row: list[str], tmp_path: Path) -> None:
    _, tier, chosen, words, counted = row
    transcript = read_chat(chat(tmp_path, "*PAR:\t" + tier.replace("␕", "\x15") + "\n"), options(chosen))
    assert transcript.text == words
    expected = dict.fromkeys(COUNTS, 0) | {"utterances": 1}
    expected |= {name: int(n) for name, n in (pair.split("=") for pair in counted.split(","))}
    assert dict(transcript.counts) == expected


def test_the_corpus_is_odd_enough_and_each_line_has_its_own_name() -> None:
    assert len(CORPUS) >= 60
    assert len({row[0] for row in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("mark", ["[+ exc]", "[+exc]", "[+ gram] [+ exc]"])
def test_an_excluded_utterance_goes_only_when_asked_and_is_not_counted_then(mark: str, tmp_path: Path) -> None:
    path = chat(tmp_path, f"*PAR:\t&-uh shall I start ? {mark} \x150_5\x15\n*PAR:\tthe boy .\n")
    assert read_chat(path).counts["utterances"] == 2
    transcript = read_chat(path, CleaningOptions(keep_excluded=False))
    assert transcript.text == "the boy"
    assert (transcript.counts["utterances"], transcript.counts["fillers"]) == (1, 0)


@pytest.mark.parametrize("name", ["pause_token", "unintelligible_token"])
def test_a_token_with_white_space_is_a_programmers_mistake(name: str) -> None:
    with pytest.raises(ValueError, match="white space"):
        CleaningOptions(**{name: "two words"})


# ---- tiers and speakers ---------------------------------------------------------------------------------------------


def test_dependent_tiers_and_their_continuations_are_no_words(tmp_path: Path) -> None:
    body = (
        "*PAR:\tthe boy\n\tis on the stool . \x15100_900\x15\n%mor:\tdet|the n|boy\n\tcop|be prep|on\n%gra:\t1|2|DET\n"
    )
    assert read_chat(chat(tmp_path, body)).text == "the boy is on the stool"


def test_investigators_words_are_marked_and_can_be_left_out_but_their_turns_stay(tmp_path: Path) -> None:
    body = "*INV:\ttell me . \x150_1000\x15\n*PAR:\tthe boy . \x151000_3000\x15\n*SP3:\tcough \x153000_3500\x15\n"
    path = chat(tmp_path, body)
    transcript = read_chat(path)
    assert [(word.text, word.speaker) for word in transcript.words] == [
        ("tell", "investigator"),
        ("me", "investigator"),
        ("the", "participant"),
        ("boy", "participant"),
        ("cough", "other"),
    ]
    alone = read_chat(path, CleaningOptions(keep_investigator=False))
    assert [word.text for word in alone.words] == ["the", "boy"]
    turns = (Turn(speaker="investigator", start_s=0, end_s=1), Turn(speaker="participant", start_s=1, end_s=3))
    assert transcript.turns == alone.turns == (*turns, Turn(speaker="other", start_s=3, end_s=3.5))


def test_only_the_participant_is_counted(tmp_path: Path) -> None:
    transcript = read_chat(chat(tmp_path, "*INV:\t&-uh yes [/] yes (.) .\n*PAR:\tthe boy .\n"))
    assert {name: n for name, n in transcript.counts.items() if n} == {"utterances": 1, "words": 2}


@pytest.mark.parametrize(
    ("header", "tier"),
    [
        ("@Participants:\tSUB Participant, INV Investigator\n", "*SUB:"),
        ("@Participants:\tP01 Mary Participant, EXA Examiner\n", "*P01:"),
        ("@Participants:\tp01 participant, INV Investigator\n", "*P01:"),
        ("@Participants:\tXYZ Target_Adult\n", "*XYZ:"),
        ("@ID:\teng|corpus|ABC|70;|female|||Patient|||\n", "*ABC:"),
        ("", "*PAR:"),
        ("@Participants:\tINV Investigator\n", "*PAR:"),
        ("@Participants:\tPAR Participant, INV\n\tInvestigator, SP3 Participant\n", "*PAR:"),
    ],
)
def test_the_participant_is_found_by_role(header: str, tier: str, tmp_path: Path) -> None:
    path = chat(tmp_path, f"*INV:\thello .\n{tier}\tthe boy .\n", header="@Begin\n" + header)
    assert read_chat(path).text == "the boy"


def test_several_participants_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    header = "@Begin\n@Participants:\tPA1 Participant, PA2 Participant\n"
    path = chat(tmp_path, "*PA1:\tthe boy .\n*PA2:\tthe girl .\n", header=header)
    with pytest.raises(InputError, match=r"2 speakers .* participant: PAR") as caught:
        read_chat(path)
    assert caught.value.code == "CHI-IN-163"
    assert read_chat(path, CleaningOptions(participant="pa2")).text == "the girl"
    assert code(path, CleaningOptions(participant="PA3")) == "CHI-IN-162"


# ---- times ----------------------------------------------------------------------------------------------------------


def test_words_share_the_time_of_their_utterance_by_characters(tmp_path: Path) -> None:
    transcript = read_chat(chat(tmp_path, "*PAR:\ta bbb cccc . \x151000_9000\x15\n"))
    assert transcript.estimated
    assert [(word.text, word.start_s, word.end_s) for word in transcript.words] == [
        ("a", 1.0, 2.0),
        ("bbb", 2.0, 5.0),
        ("cccc", 5.0, 9.0),
    ]


@pytest.mark.parametrize("bullet", ["\x15500_900\x15", '\x15%snd:"a_1_2"_500_900\x15', "•%snd:x_500_900•", "500_900"])
def test_every_form_of_bullet_gives_the_same_turn(bullet: str, tmp_path: Path) -> None:
    transcript = read_chat(chat(tmp_path, f"*PAR:\tthe boy . {bullet}\n"))
    assert transcript.turns == (Turn(speaker="participant", start_s=0.5, end_s=0.9),)
    assert transcript.text == "the boy"


def test_two_bullets_in_one_utterance_time_the_words_before_each(tmp_path: Path) -> None:
    transcript = read_chat(chat(tmp_path, "*PAR:\tyes \x150_100\x15 no \x15500_600\x15 and\n"))
    assert [(word.start_s, word.end_s) for word in transcript.words] == [(0.0, 0.1), (0.5, 0.6), (None, None)]


@pytest.mark.parametrize(
    "bullet", ["\x15900_500\x15", "\x155_5\x15", "\x15_\x15", "\x15x\x15", "\x15" + "9" * 40 + "_1\x15", ""]
)
def test_a_bullet_without_a_length_gives_no_times(bullet: str, tmp_path: Path) -> None:
    transcript = read_chat(chat(tmp_path, f"*PAR:\tthe boy . {bullet}\n"))
    assert transcript.text == "the boy"
    assert transcript.turns == ()
    assert not transcript.estimated
    assert all(word.start_s is None for word in transcript.words)


def test_turns_are_sorted_by_time_and_words_stay_in_order(tmp_path: Path) -> None:
    transcript = read_chat(chat(tmp_path, "*PAR:\tlate . \x15500_900\x15\n*PAR:\tearly . \x150_400\x15\n"))
    assert [turn.start_s for turn in transcript.turns] == [0.0, 0.5]
    assert transcript.text == "late early"


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"])
def test_encodings_and_line_ends_do_not_matter(encoding: str, tmp_path: Path) -> None:
    path = chat(tmp_path, "*PAR:\tdas Mädchen\n\tfällt .\n", encoding=encoding)
    assert read_chat(path).text == "das Mädchen fällt"
    for line_end in ("\r\n", "\r"):
        path.write_bytes(path.read_bytes().decode(encoding).replace("\n", line_end).encode(encoding))
        assert read_chat(path).text == "das Mädchen fällt"


def test_a_file_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    assert code(tmp_path / "absent.cha") == "CHI-IN-160"
    assert code(chat(tmp_path, "*PAR:\tthe\0 boy .\n")) == "CHI-IN-160"
    assert code(chat(tmp_path, "*PAR:\tthe boy .\n", header="")) == "CHI-IN-161"
    assert code(chat(tmp_path, "*INV:\ttell me .\n")) == "CHI-IN-162"
    assert code(chat(tmp_path, "")) == "CHI-IN-162"
    big = tmp_path / "big.cha"
    big.write_bytes(b"@Begin\n*PAR:\t" + b"a" * (8 << 20))
    assert code(big) == "CHI-IN-160"


def test_messages_quote_neither_text_nor_codes(tmp_path: Path) -> None:
    header = "@Begin\n@Participants:\tPA1 CANARY Participant, PA2 CANARY Participant\n"
    for body in ("*PA1:\tCANARY .\n*PA2:\tCANARY .\n", "*INV:\tCANARY .\n"):
        with pytest.raises(InputError) as caught:
            read_chat(chat(tmp_path, body, header=header))
        assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "[[[[<<<<",
        "<",
        "[",
        "(",
        "\x15",
        "+<",
        "&",
        "#",
        "]>",
        "[/] ",
        "a [: b] ",
        "1_",
        "\x151_",
        "<a ",
        "+.+/",
        "[x 9",
        "_",
        "@",
    ],
)
def test_marks_without_end_are_read_in_linear_time(text: str, tmp_path: Path) -> None:
    size = 1_000_000 if text == "[[[[<<<<" else 250_000
    path = chat(tmp_path, "*PAR:\tthe boy " + text * (size // len(text)) + "\n")
    chosen = CleaningOptions(normalise_errors=True, keep_repeats=False, pause_token="[p]", restore_elided=False)
    start = time.process_time()
    read_chat(path, chosen)
    assert time.process_time() - start < 4.0  # quadratic would be hours


def test_thousands_of_lines_are_read_in_linear_time(tmp_path: Path) -> None:
    start = time.process_time()
    assert read_chat(chat(tmp_path, "\ta\n" + "*PAR:\ta\n\tb\n" * 30_000)).counts["words"] == 60_000
    assert time.process_time() - start < 8.0


@pytest.mark.parametrize("seed", range(40))
def test_any_mixture_of_marks_gives_sound_words_or_a_code(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    marks = [row[1].replace("␕", "\x15") for row in CORPUS]
    signs = [*"[]<>()&=+/.:#@_^0*%\x15\t\n é", "*PAR:\t", "*INV:\t", "%mor:\t", "1_2", "xxx", "word", *marks]
    body = "".join(rng.choice(signs) for _ in range(400))
    chosen = CleaningOptions(**{name: rng.random() < 0.5 for name in SWITCHES}, pause_token=rng.choice(["", "[p]"]))  # type: ignore[arg-type]
    transcript = read_chat(chat(tmp_path, "*PAR:\t" + body + "\n"), chosen)
    assert all(word.text and not any(sign.isspace() for sign in word.text) for word in transcript.words)
    assert all(n >= 0 for n in transcript.counts.values())
    assert transcript.counts["words"] == sum(w.text != "[p]" for w in transcript.said_by("participant"))
    assert transcript.counts["long_pauses"] <= transcript.counts["pauses"]
    for word in transcript.words:
        assert (word.start_s is None) == (word.end_s is None)
        assert word.start_s is None or word.end_s is None or 0 <= word.start_s <= word.end_s
    assert list(transcript.turns) == sorted(transcript.turns, key=lambda turn: (turn.start_s, turn.end_s))


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_give_a_code(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "S001.cha"
    path.write_bytes(random.Random(seed).randbytes(2_000))
    assert code(path) in {"CHI-IN-160", "CHI-IN-161"}


# ---- header ---------------------------------------------------------------------------------------------------------


def test_the_header_of_the_participant(tmp_path: Path) -> None:
    header = chat_header(chat(tmp_path, "*PAR:\tthe boy .\n"))
    assert (header.participant, header.group, header.sex, header.mmse) == ("PAR", "ProbableAD", "male", 18.0)
    assert header.age_years == 57.5


@pytest.mark.parametrize(
    ("fields", "age", "sex", "mmse"),
    [
        ("eng|Pitt|PAR|66;00.|female|Control||Participant|30||", 66.0, "female", 30.0),
        ("eng|Pitt|PAR|74;|male|Control||Participant|||", 74.0, "male", None),
        ("eng|Pitt|PAR|74|Male|Control||Participant|31||", 74.0, "male", None),
        ("eng|Other|PAR|74;|female|Control||Participant|12||", 74.0, "female", None),
        ("eng|Other|PAR|||Control||Participant|12|MMSE: 23|", None, None, 23.0),
        ("eng|Other|PAR|old|f|Control||Participant", None, None, None),
        ("eng|Other", None, None, None),
    ],
)
def test_header_fields(fields: str, age: float | None, sex: str | None, mmse: float | None, tmp_path: Path) -> None:
    path = chat(tmp_path, "*PAR:\tthe boy .\n", header=f"@Begin\n@Participants:\tPAR Participant\n@ID:\t{fields}\n")
    header = chat_header(path)
    assert (header.age_years, header.sex, header.mmse) == (age, sex, mmse)
