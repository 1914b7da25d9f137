"""People are found in every layout, in one order; what is wrong with one person stays with that person."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from chiasm.data.errors import InputError
from chiasm.data.patients import Session
from chiasm.data.speech_discovery import CODES, speech_sessions
from chiasm.data.speech_files import looks_like_audio

SOUNDS = {
    "wav": b"RIFF\x24\0\0\0WAVEfmt ",
    "rf64": b"RF64\xff\xff\xff\xffWAVEds64",
    "flac": b"fLaC\0\0\0\x22" + b"\0" * 8,
    "ogg": b"OggS\0\x02" + b"\0" * 10,
    "mp3 with tags": b"ID3\x04\0\0\0\0\0\0" + b"\0" * 6,
    "mp3": b"\xff\xfb\x90\x64" + b"\0" * 12,
    "mp3 of MPEG 2": b"\xff\xf3\x40\xc4" + b"\0" * 12,
    "m4a": b"\0\0\0\x20ftypM4A " + b"\0" * 4,
    "amr": b"#!AMR\n" + b"\0" * 10,
    "aac": b"\xff\xf1\x50\x80" + b"\0" * 12,
    "aiff": b"FORM\0\0\0\x20AIFFCOMM",
    "caf": b"caff\0\1\0\0desc" + b"\0" * 4,
}
NOT_SOUNDS = {
    "avi": b"RIFF\x24\0\0\0AVI LIST",
    "UTF-16 text": "@Begin *P".encode("utf-16"),
    "UTF-16 big": b"\xfe\xff\0@\0B\0e\0g\0i\0n\0\n",
    "text": b"@Begin\n*PAR:\tthe",
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\0",
    "zip": b"PK\3\4" + b"\0" * 12,
    "empty": b"",
    "two bytes": b"\xff\xfb",
    "nifti": b"\x5c\1\0\0" + b"\0" * 12,
}
CHAT = b"@Begin\n*PAR:\tthe boy .\n@End\n"


def put(root: Path, *names: str, content: bytes | None = None) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sound = path.suffix in {".wav", ".mp3", ".dat"}
        path.write_bytes(content if content is not None else SOUNDS["wav"] if sound else CHAT)


def found(root: Path, **more: list[str]) -> dict[str, dict[str, str]]:
    """Return key -> channel -> relative path."""
    return {s.key: {r.channel: r.relative for r in s.recordings} for s in speech_sessions(root, **more)}


def codes(sessions: list[Session]) -> dict[str, list[str]]:
    return {s.key: [p.code for p in s.problems] for s in sessions}


# ---- what is sound --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOUNDS)
def test_sound_is_known_by_its_content_whatever_its_name(name: str, tmp_path: Path) -> None:
    assert looks_like_audio(SOUNDS[name][:16])
    put(tmp_path, "p1/interview.bin", "p2/a.wav", content=SOUNDS[name])
    sessions = speech_sessions(tmp_path)
    assert [[(r.channel, r.kind) for r in s.recordings] for s in sessions] == [[("audio", "audio")]] * 2
    assert sessions[0].recordings[0].files == (tmp_path.resolve() / "p1/interview.bin",)


@pytest.mark.parametrize("name", NOT_SOUNDS)
def test_other_content_is_no_sound(name: str) -> None:
    assert not looks_like_audio(NOT_SOUNDS[name][:16])


def test_a_damaged_file_named_like_sound_is_kept_for_the_reader(tmp_path: Path) -> None:
    put(tmp_path, "p1/a.wav", content=b"")
    assert found(tmp_path) == {"sub-p1": {"audio": "p1/a.wav"}}


# ---- what is a transcript -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.cha", CHAT),
        ("a.txt", b"the boy is on the stool"),
        ("a.txt", CHAT),
        ("a.txt", "the boy".encode("utf-16")),
        ("a.tsv", b"word\tstart\tend\nthe\t0\t1\n"),
        ("a.csv", b"start,end,word\n0,1,the\n"),
        ("a.json", b'{"language": "en", "segments": []}'),
        ("a.srt", b"1\n00:00:00,000 --> 00:00:01,000\nthe boy\n"),
        ("a.vtt", b"WEBVTT\n\n00:00.000 --> 00:01.000\nthe boy\n"),
    ],
)
def test_transcripts(name: str, content: bytes, tmp_path: Path) -> None:
    put(tmp_path, f"p1/{name}", content=content)
    assert found(tmp_path) == {"sub-p1": {"transcript": f"p1/{name}"}}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.txt", b"the boy is on the stool"),
        ("LICENSE.txt", b"you may"),
        ("meta_data.txt", b"ID ; age\nS001 ; 60\n"),
        ("list.txt", b"ID ; age\nS001 ; 60\n"),
        ("participants.tsv", b"participant_id\tgroup\n"),
        ("events.tsv", b"onset\tduration\n0\t1\n"),
        ("segments.csv", b"speaker,begin,end\nPAR,0,1\n"),
        ("sidecar.json", b'{"SamplingFrequency": 16000}'),
        ("empty.txt", b""),
        ("numbers.txt", b"1 2 3\n"),
        ("binary.txt", b"abc\0def"),
        ("paper.pdf", b"%PDF the boy"),
        ("page.html", b"<html>the boy"),
    ],
)
def test_other_text_is_no_transcript(name: str, content: bytes, tmp_path: Path) -> None:
    put(tmp_path, "p1/a.wav")
    put(tmp_path, f"p1/{name}", f"{name}", content=content)
    assert found(tmp_path) == {"sub-p1": {"audio": "p1/a.wav"}}


def test_of_the_files_that_a_recogniser_writes_side_by_side_one_is_taken(tmp_path: Path) -> None:
    put(tmp_path, "p1/a.wav")
    put(tmp_path, "p1/a.txt", content=b"the boy")
    put(tmp_path, "p1/a.srt", content=b"1\n00:00:00,000 --> 00:00:01,000\nthe boy\n")
    put(tmp_path, "p1/a.json", content=b'{"segments": []}')
    assert found(tmp_path)["sub-p1"] == {"audio": "p1/a.wav", "transcript": "p1/a.json"}
    put(tmp_path, "p1/a.cha")
    assert found(tmp_path)["sub-p1"]["transcript"] == "p1/a.cha"


# ---- layouts --------------------------------------------------------------------------------------------------------


def test_folders_of_people(tmp_path: Path) -> None:
    put(
        tmp_path, "b/sound.wav", "b/words.cha", "a/x/y/z/deep.mp3", "c/only.cha", "derivatives/d/a.wav", ".hidden/a.wav"
    )
    put(tmp_path, "d/1/2/3/4/5/too_deep.wav")
    sessions = speech_sessions(tmp_path)
    assert codes(sessions) == {"sub-a": [], "sub-b": [], "sub-c": [], "sub-d": ["CHI-IN-186"]}
    assert found(tmp_path)["sub-b"] == {"audio": "b/sound.wav", "transcript": "b/words.cha"}
    assert found(tmp_path)["sub-a"] == {"audio": "a/x/y/z/deep.mp3"}


def test_groups_of_folders_of_people(tmp_path: Path) -> None:
    put(
        tmp_path,
        "clinic A/p1/a.wav",
        "clinic A/p2/a.wav",
        "clinic A/p2/a.cha",
        "clinic B/p3/audio/a.wav",
        "clinic B/p4/a.wav",
    )
    assert found(tmp_path) == {
        "sub-p1": {"audio": "clinic A/p1/a.wav"},
        "sub-p2": {"audio": "clinic A/p2/a.wav", "transcript": "clinic A/p2/a.cha"},
        "sub-p3": {"audio": "clinic B/p3/audio/a.wav"},
        "sub-p4": {"audio": "clinic B/p4/a.wav"},
    }


@pytest.mark.parametrize(
    ("audio", "words"), [("", ""), ("audio/", "transcripts/"), ("cc/", "cc/"), ("train/wav/cd/", "")]
)
def test_a_flat_folder_pairs_by_stem(audio: str, words: str, tmp_path: Path) -> None:
    put(
        tmp_path,
        f"{audio}S002.wav",
        f"{audio}S001_audio.wav",
        f"{words}S001_transcript.cha",
        f"{words}S003.cha",
        "README.txt",
    )
    assert found(tmp_path) == {
        "sub-S001": {"audio": f"{audio}S001_audio.wav", "transcript": f"{words}S001_transcript.cha"},
        "sub-S002": {"audio": f"{audio}S002.wav"},
        "sub-S003": {"transcript": f"{words}S003.cha"},
    }


def test_a_bids_like_tree(tmp_path: Path) -> None:
    put(
        tmp_path,
        "sub-01/ses-a/beh/sub-01_ses-a_task-cookie_recording-mic_audio.wav",
        "sub-01/ses-b/audio/sub-01_ses-b_audio.wav",
    )
    put(
        tmp_path,
        "sub-01/ses-a/beh/sub-01_ses-a_task-cookie_transcript.cha",
        "sub-02/audio/sub-02_task-cookie_recording.wav",
    )
    put(tmp_path, "sub-01/ses-a/beh/sub-01_ses-a_task-cookie_audio.json", content=b'{"SamplingFrequency": 1}')
    put(tmp_path, "dataset_description.json", content=b'{"Name": "text"}')
    put(tmp_path, "participants.tsv", content=b"participant_id\tgroup\nsub-01\tFTD\n")
    assert found(tmp_path) == {
        "sub-01_ses-a": {
            "audio": "sub-01/ses-a/beh/sub-01_ses-a_task-cookie_recording-mic_audio.wav",
            "transcript": "sub-01/ses-a/beh/sub-01_ses-a_task-cookie_transcript.cha",
        },
        "sub-01_ses-b": {"audio": "sub-01/ses-b/audio/sub-01_ses-b_audio.wav"},
        "sub-02": {"audio": "sub-02/audio/sub-02_task-cookie_recording.wav"},
    }


def test_flat_bids_names(tmp_path: Path) -> None:
    put(tmp_path, "sub-01_ses-2_task-x_audio.wav", "sub-01_ses-2_task-x_transcript.cha")
    assert found(tmp_path) == {
        "sub-01_ses-2": {"audio": "sub-01_ses-2_task-x_audio.wav", "transcript": "sub-01_ses-2_task-x_transcript.cha"}
    }


@pytest.mark.parametrize(
    ("name", "key", "channel"), [("S 1.wav", "sub-S1", "audio"), ("sub-07_task-x_words.cha", "sub-07", "transcript")]
)
def test_one_file(name: str, key: str, channel: str, tmp_path: Path) -> None:
    put(tmp_path, name, "other.wav")
    assert found(tmp_path / name) == {key: {channel: name}}


def test_a_published_data_set_is_a_session_an_interview(tmp_path: Path) -> None:
    put(
        tmp_path,
        "train/Full_wave_enhanced_audio/cc/S001.wav",
        "train/transcription/cc/S001.cha",
        "train/transcription/cd/S080.cha",
    )
    put(tmp_path, "train/Normalised_audio-chunks/cc/S001-1.wav", "train/Normalised_audio-chunks/cc/S001-2.wav")
    assert found(tmp_path) == {
        "sub-S001": {
            "audio": "train/Full_wave_enhanced_audio/cc/S001.wav",
            "transcript": "train/transcription/cc/S001.cha",
        },
        "sub-S080": {"transcript": "train/transcription/cd/S080.cha"},
    }


def test_several_visits_of_pitt_are_sessions_of_their_own(tmp_path: Path) -> None:
    put(tmp_path, "Control/cookie/002-0.cha", "Dementia/cookie/001-0.cha", "Dementia/cookie/001-1.cha")
    assert list(found(tmp_path)) == ["sub-001v0", "sub-001v1", "sub-002v0"]


# ---- problems -------------------------------------------------------------------------------------------------------


def test_two_recordings_without_a_rule_are_that_persons_problem(tmp_path: Path) -> None:
    put(tmp_path, "p1/a.wav", "p1/b.wav", "p1/a.cha", "p2/a.wav", "p3/a.cha", "p3/b.cha")
    sessions = speech_sessions(tmp_path)
    assert codes(sessions) == {"sub-p1": ["CHI-IN-185"], "sub-p2": [], "sub-p3": ["CHI-IN-185"]}
    assert sessions[0].problems[0].args[0] == "2 recordings for one person: p1/a.wav, p1/b.wav; no rule to choose."


def test_two_folders_with_one_label_collide(tmp_path: Path) -> None:
    put(tmp_path, "p-1/a.wav", "P1/a.wav", "p2/a.wav")
    sessions = speech_sessions(tmp_path)
    assert sorted(code for s in sessions for code in codes([s])[s.key]) == ["CHI-IN-066"]
    assert len(sessions) == 2


def test_links_out_of_the_input_are_that_persons_problem(tmp_path: Path) -> None:
    put(tmp_path, "outside/a.wav", "in/p1/a.cha", "in/p2/a.wav")
    (tmp_path / "in/p1/a.wav").symlink_to(tmp_path / "outside/a.wav")
    (tmp_path / "in/p3").symlink_to(tmp_path / "outside")
    (tmp_path / "in/p4.wav").symlink_to(tmp_path / "nowhere.wav")
    sessions = speech_sessions(tmp_path / "in")
    assert codes(sessions) == {
        "sub-p1": ["CHI-IN-067"],
        "sub-p2": [],
        "sub-p3": ["CHI-IN-067"],
        "sub-p4": ["CHI-IN-068"],
    }


def test_links_inside_the_input_are_followed(tmp_path: Path) -> None:
    put(tmp_path, "store.d/x/1.dat", "p2/a.wav")
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1/a.wav").symlink_to(tmp_path / "store.d/x/1.dat")
    assert found(tmp_path)["sub-p1"] == {"audio": "p1/a.wav"}


def test_the_participants_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "p1/a.wav", "p2/a.wav")
    assert list(found(tmp_path, participants=["sub-p2"])) == ["sub-p2"]
    with pytest.raises(InputError) as caught:
        speech_sessions(tmp_path, participants=["p3"])
    assert caught.value.code == "CHI-IN-071"


def test_nothing_to_do(tmp_path: Path) -> None:
    put(tmp_path, "docs/README.txt", "docs/a.pdf", content=b"x")
    for root, code in (
        (tmp_path, "CHI-IN-187"),
        (tmp_path / "docs/a.pdf", "CHI-IN-187"),
        (tmp_path / "none", "CHI-IN-061"),
    ):
        with pytest.raises(InputError) as caught:
            speech_sessions(root)
        assert caught.value.code == code


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    put(tmp_path, "p1/a.wav", "p2/a.wav")
    (tmp_path / "p1/again").symlink_to(tmp_path / "p1")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert codes(speech_sessions(tmp_path)) == {"sub-loop": ["CHI-IN-068"], "sub-p1": [], "sub-p2": []}


def test_a_thousand_people_are_found_in_a_second(tmp_path: Path) -> None:
    for n in range(1_000):
        put(tmp_path, f"p{n:04d}/a.wav")
    start = time.process_time()
    assert len(speech_sessions(tmp_path)) == 1_000
    assert time.process_time() - start < 2.0


def test_codes_are_in_the_range() -> None:
    assert all("CHI-IN-185" <= code <= "CHI-IN-189" for code in CODES)
