"""Interviews with labels: each published layout with its traps, and every mistake in a table named without naming anyone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from chiasm.data.datasets.interview_tables import CODES, LABELS, canonical_label
from chiasm.data.datasets.interviews import labelled_interviews, layout_of, read_segments
from chiasm.data.errors import ChiasmError, InputError, SeveralErrors
from chiasm.data.interviews import Interview, InterviewSet
from chiasm.data.transcripts import Turn

WAV = b"RIFF\x24\0\0\0WAVEfmt "
PITT_HEADER = (
    "@Begin\n@Participants:\tPAR Participant\n@ID:\teng|Pitt|PAR|{}||Participant|{}||\n*PAR:\tthe boy .\n@End\n"
)


def put(root: Path, *names: str, text: str = "") -> None:
    """Write files: sound for audio names, CHAT or the text given for the others."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in {".wav", ".mp3"}:
            path.write_bytes(WAV)
        else:
            path.write_text(text or "@Begin\n*PAR:\tthe boy .\n@End\n")


def by_name(found: InterviewSet) -> dict[str, Interview]:
    return {interview.name: interview for interview in found.interviews}


def codes(root: Path) -> list[str]:
    with pytest.raises(ChiasmError) as caught:
        labelled_interviews(root)
    assert "CANARY" not in str(caught.value)
    errors = caught.value.errors if isinstance(caught.value, SeveralErrors) else [caught.value]
    return [error.code for error in errors]


# ---- ADReSS-IS2020 --------------------------------------------------------------------------------------------------


def adress(root: Path) -> Path:
    for group, name in (("cc", "S001"), ("cc", "S002"), ("cd", "S079"), ("cd", "S080")):
        put(root, f"train/Full_wave_enhanced_audio/{group}/{name}.wav", f"train/transcription/{group}/{name}.cha")
        put(
            root,
            f"train/Normalised_audio-chunks/{group}/{name}-1.wav",
            f"train/Normalised_audio-chunks/{group}/{name}-2.wav",
        )
    for name in ("S160", "S161"):
        put(root, f"test/Full_wave_enhanced_audio/{name}.wav", f"test/transcription/{name}.cha")
    put(
        root,
        "train/cc_meta_data.txt",
        text="ID   ; age ; gender ; mmse\nS001 ;  61 ;  male   ;  NA\nS002 ; 70; female ; 30\n",
    )
    put(
        root,
        "train/cd_meta_data.txt",
        text="ID   ; age ; gender ; mmse\nS079 ;  74 ;  female ;  18\nS080 ; 69; male ; 20\n",
    )
    put(root, "test/meta_data.txt", text="ID   ; age; gender\nS160 ; 57 ; 1\nS161 ; 66 ; 0\n")
    put(root, "test/test_results.txt", text="ID   ; Prediction\nS160 ; \nS161 ; \n")
    put(root, "README.md", text="ADReSS")
    return root


TEST_LABELS = "ID   ; age; gender ; Label ; mmse \nS160 ; 57 ; 1 ; 1 ; 22\nS161 ; 66 ; 0 ; 0 ; 29\n"


def test_adress_with_padded_fields_both_spellings_of_sex_and_the_missing_score(tmp_path: Path) -> None:
    put(adress(tmp_path), "test/meta_data_test.txt", text=TEST_LABELS)
    found = labelled_interviews(tmp_path)
    assert found.layout == "adress"
    assert [(i.name, i.label, i.split, i.age, i.sex, i.mmse) for i in found.interviews] == [
        ("S001", "CN", "train", 61.0, "male", None),
        ("S002", "CN", "train", 70.0, "female", 30.0),
        ("S079", "AD", "train", 74.0, "female", 18.0),
        ("S080", "AD", "train", 69.0, "male", 20.0),
        ("S160", "AD", "test", 57.0, "female", 22.0),
        ("S161", "CN", "test", 66.0, "male", 29.0),
    ]
    assert all(i.person == i.name for i in found.interviews)
    assert by_name(found)["S079"].audio == tmp_path.resolve() / "train/Full_wave_enhanced_audio/cd/S079.wav"
    assert by_name(found)["S160"].transcript == tmp_path.resolve() / "test/transcription/S160.cha"
    assert "train: 1 of 4 interview(s) without mmse." in found.notes
    assert any(note.startswith("train: 8 file(s) of chunks") for note in found.notes)


@pytest.mark.parametrize("place", ["test/meta_data_test.txt", "meta_data_test.txt", "test/labels.csv", "anything.tsv"])
def test_adress_test_labels_are_found_by_their_columns_wherever_they_lie(place: str, tmp_path: Path) -> None:
    put(adress(tmp_path), place, text=TEST_LABELS.replace(";", "," if place.endswith("csv") else ";"))
    assert [i.label for i in labelled_interviews(tmp_path).of_split("test")] == ["AD", "CN"]


def test_adress_without_test_labels_has_none_and_says_so(tmp_path: Path) -> None:
    found = labelled_interviews(adress(tmp_path))
    assert [(i.label, i.sex) for i in found.of_split("test")] == [(None, "female"), (None, "male")]
    assert "test: 2 of 2 interview(s) without label." in found.notes


def test_adress_missing_files_are_none_and_counted(tmp_path: Path) -> None:
    adress(tmp_path)
    (tmp_path / "train/transcription/cc/S001.cha").unlink()
    (tmp_path / "train/Full_wave_enhanced_audio/cd/S079.wav").unlink()
    (tmp_path / "train/transcription/cd/S080.cha").unlink()
    (tmp_path / "train/Full_wave_enhanced_audio/cd/S080.wav").unlink()
    found = labelled_interviews(tmp_path)
    assert by_name(found)["S001"].transcript is None
    assert by_name(found)["S079"].audio is None
    assert "S080" not in by_name(found)
    assert {"train: 1 of 3 interview(s) without audio.", "train: 1 of 3 interview(s) without transcript."} <= {
        *found.notes
    }
    assert "1 name(s) of the tables have no recording and no transcript: left out." in found.notes


@pytest.mark.parametrize("given", ["", "train", "above"])
def test_adress_is_known_from_above_and_from_one_part(given: str, tmp_path: Path) -> None:
    adress(tmp_path / "above" / "ADReSS-IS2020-data")
    root = tmp_path / "above" / "ADReSS-IS2020-data"
    found = labelled_interviews({"": root, "train": root / "train", "above": tmp_path / "above"}[given])
    assert len(found.of_split("train")) == 4
    assert by_name(found)["S079"].label == "AD"


def test_adress_transcripts_alone_and_the_folder_in_upper_case(tmp_path: Path) -> None:
    put(tmp_path, "train/Transcription/cc/S001.cha", "train/Transcription/cd/S079.cha")
    found = labelled_interviews(tmp_path)
    assert [(i.name, i.label, i.audio) for i in found.interviews] == [("S001", "CN", None), ("S079", "AD", None)]


def test_adress_folder_and_table_must_agree(tmp_path: Path) -> None:
    put(adress(tmp_path), "train/labels.csv", text="ID,Label\nS001,1\nS002,0\n")
    assert set(codes(tmp_path)) == {"CHI-IN-173"}


def test_adress_a_recording_in_both_groups_is_there_twice(tmp_path: Path) -> None:
    put(adress(tmp_path), "train/Full_wave_enhanced_audio/cd/S001.wav")
    assert "CHI-IN-172" in codes(tmp_path)


def test_adress_a_transcript_in_both_groups_is_there_twice(tmp_path: Path) -> None:
    put(adress(tmp_path), "train/transcription/cd/S001.cha")
    assert "CHI-IN-172" in codes(tmp_path)


def test_adress_train_and_test_may_not_share_a_name(tmp_path: Path) -> None:
    put(adress(tmp_path), "test/Full_wave_enhanced_audio/S001.wav")
    assert "CHI-IN-172" in codes(tmp_path)


def test_every_mistake_of_the_tables_is_told_once_and_quotes_nothing(tmp_path: Path) -> None:
    adress(tmp_path)
    table = "ID;Label;age;gender;mmse\nS160;CANARY;57;1;22\nS161;CANARY2;CANARY;CANARY;31\nS161;0;66;0;29\n"
    put(tmp_path, "CANARY.txt".lower(), text=table)
    assert sorted(codes(tmp_path)) == sorted(["CHI-IN-171", "CHI-IN-176", "CHI-IN-176", "CHI-IN-176", "CHI-IN-172"])
    with pytest.raises(SeveralErrors, match=r"2 row\(s\) have a label .* CN: cn, cc"):
        labelled_interviews(tmp_path)


def test_tables_of_features_are_no_tables_of_persons(tmp_path: Path) -> None:
    adress(tmp_path)
    (tmp_path / "features.csv").write_bytes(b"a,b\n" + b"1,2\n" * (3 << 20))
    (tmp_path / "binary.txt").write_bytes(b"ID;Label\0\0")
    put(tmp_path, "long.csv", text="a,b\n" + "x" * 200_000)
    assert len(labelled_interviews(tmp_path).interviews) == 6


def test_a_link_out_of_the_data_set_is_refused(tmp_path: Path) -> None:
    root = adress(tmp_path / "data")
    put(tmp_path, "outside/S003.wav")
    (root / "train/Full_wave_enhanced_audio/cc/S003.wav").symlink_to(tmp_path / "outside/S003.wav")
    assert codes(root) == ["CHI-IN-067"]
    (root / "train/Full_wave_enhanced_audio/cc/S003.wav").unlink()
    shutil.rmtree(root / "test/Full_wave_enhanced_audio")
    (root / "test/Full_wave_enhanced_audio").symlink_to(tmp_path / "outside")
    assert codes(root) == ["CHI-IN-067"]


@pytest.mark.parametrize("place", ["test/labels.txt", "labels.txt"])
def test_a_table_that_is_a_link_out_of_the_data_set_is_refused(place: str, tmp_path: Path) -> None:
    root = adress(tmp_path / "data")
    put(tmp_path, "labels.txt", text=TEST_LABELS)
    (root / place).symlink_to(tmp_path / "labels.txt")
    assert codes(root) == ["CHI-IN-067"]
    (root / place).unlink()
    (root / place).symlink_to(root / place)
    assert codes(root) == ["CHI-IN-068"]


# ---- ADReSSo-2021 ---------------------------------------------------------------------------------------------------


def adresso(root: Path) -> Path:
    base = "diagnosis/train"
    for group, name in (("ad", "adrso024"), ("ad", "adrso025"), ("cn", "adrso002")):
        put(root, f"{base}/audio/{group}/{name}.wav")
        put(root, f"{base}/segmentation/{group}/{name}.csv", text="speaker,begin,end\nINV,0,1000\nPAR,1000,2500\n")
    put(
        root,
        f"{base}/adresso-train-mmse-scores.csv",
        text=",adressfname,mmse,dx\n0,adrso024,20,ad\n1,adrso025,18,ad\n2,adrso002,29,cn\n",
    )
    put(root, "diagnosis/test-dist/audio/adrsdt15.wav", "diagnosis/test-dist/audio/adrsdt40.wav")
    put(root, "diagnosis/test-dist/segmentation/adrsdt15.csv", text="speaker,begin,end\n")
    put(root, "progression/train/audio/decline/adrsp003.wav", "progression/train/audio/no_decline/adrsp004.wav")
    return root


def test_adresso_with_segments_scores_and_test_tables(tmp_path: Path) -> None:
    put(adresso(tmp_path), "diagnosis/test-dist/task1.csv", text='"ID","Dx"\nadrsdt15,"Control"\nadrsdt40,ProbableAD\n')
    put(tmp_path, "diagnosis/test-dist/task2.csv", text="ID,MMSE\nadrsdt15,30\nadrsdt40,11\n")
    found = labelled_interviews(tmp_path)
    assert found.layout == "adresso"
    assert [(i.name, i.label, i.split, i.mmse, i.segments is not None) for i in found.interviews] == [
        ("adrsdt15", "CN", "test", 30.0, True),
        ("adrsdt40", "AD", "test", 11.0, False),
        ("adrso002", "CN", "train", 29.0, True),
        ("adrso024", "AD", "train", 20.0, True),
        ("adrso025", "AD", "train", 18.0, True),
    ]
    segments = by_name(found)["adrso024"].segments
    assert segments is not None
    assert segments.relative_to(tmp_path.resolve()).as_posix() == "diagnosis/train/segmentation/ad/adrso024.csv"
    assert all(i.transcript is None for i in found.interviews)
    assert any("progression" in note for note in found.notes)


def test_adresso_folder_and_table_must_agree(tmp_path: Path) -> None:
    put(
        adresso(tmp_path), "diagnosis/train/adresso-train-mmse-scores.csv", text="adressfname,mmse,dx\nadrso024,20,cn\n"
    )
    assert codes(tmp_path) == ["CHI-IN-173"]


def test_adresso_two_tables_must_agree(tmp_path: Path) -> None:
    put(adresso(tmp_path), "diagnosis/test-dist/task1.csv", text="ID,Dx\nadrsdt15,Control\n")
    put(tmp_path, "labels.csv", text="ID,Dx\nadrsdt15,ProbableAD\n")
    assert codes(tmp_path) == ["CHI-IN-173"]


def test_adresso_takes_transcripts_that_a_recogniser_wrote_beside(tmp_path: Path) -> None:
    put(adresso(tmp_path), "diagnosis/train/transcripts/adrso024.txt", text="the boy is on the stool")
    put(tmp_path, "diagnosis/train/transcripts/adrso024.tsv", text="word\tstart\tend\nthe\t0\t1\n")
    transcript = by_name(labelled_interviews(tmp_path))["adrso024"].transcript
    assert transcript is not None
    assert transcript.suffix == ".tsv"


def test_segments_in_milliseconds_by_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        '"","End","speaker","begin"\n"1",2500,"PAR",1000\n"2",1000,"INV",0\n"3",2600,"X",2550\n"4",9,"PAR",9\n'
    )
    assert read_segments(path) == (
        Turn(speaker="investigator", start_s=0.0, end_s=1.0),
        Turn(speaker="participant", start_s=1.0, end_s=2.5),
        Turn(speaker="other", start_s=2.55, end_s=2.6),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "speaker,begin\nPAR,1\n",
        "speaker,begin,end\nPAR,CANARY,2\n",
        "speaker,begin,end\nPAR,1\n",
        "speaker,begin,end\nPAR,-1,2\n",
        "a" * 200_000,
    ],
)
def test_damaged_segments_have_a_code(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_segments(path)
    assert caught.value.code == "CHI-IN-177"
    assert "CANARY" not in str(caught.value)


# ---- Pitt -----------------------------------------------------------------------------------------------------------


def test_pitt_visits_of_one_person_share_the_person_and_headers_refine_the_label(tmp_path: Path) -> None:
    put(tmp_path, "Dementia/cookie/001-0.cha", text=PITT_HEADER.format("57;|male|ProbableAD", 18))
    put(tmp_path, "Dementia/cookie/001-2.cha", text=PITT_HEADER.format("59;06.|male|ProbableAD", 12))
    put(tmp_path, "Dementia/cookie/010-1.cha", text=PITT_HEADER.format("70;|female|MCI", ""))
    put(tmp_path, "Dementia/cookie/011-0.cha", text=PITT_HEADER.format("70;|female|Vascular", 20))
    put(tmp_path, "Dementia/cookie/012-0.cha", text=PITT_HEADER.format("70;|female|Control", 20))
    put(tmp_path, "Dementia/fluency/001-0.cha", text=PITT_HEADER.format("57;|male|ProbableAD", 18))
    put(tmp_path, "Control/cookie/002-0.cha", text=PITT_HEADER.format("66;|female|", ""))
    put(tmp_path, "Control/cookie/002-0.mp3", "Control/cookie/notes-about-it.mp3")
    put(tmp_path, "Control/cookie/003-0.cha", text="no CHAT")
    put(tmp_path, "Control/fluency/020-0.cha")
    found = labelled_interviews(tmp_path)
    assert found.layout == "pitt"
    assert [(i.name, i.person, i.label, i.age, i.mmse) for i in found.interviews] == [
        ("001v0", "001", "AD", 57.0, 18.0),
        ("001v2", "001", "AD", 59.5, 12.0),
        ("002v0", "002", "CN", 66.0, None),
        ("003v0", "003", "CN", None, None),
        ("010v1", "010", "MCI", 70.0, None),
        ("011v0", "011", None, 70.0, 20.0),
        ("012v0", "012", None, 70.0, 20.0),
    ]
    audio = by_name(found)["002v0"].audio
    assert audio is not None
    assert audio.name == "002-0.mp3"
    assert "1 file(s) left out: not named <person>-<visit>" in found.notes
    assert "1 transcript(s) without a header that can be read" in found.notes
    assert sum("without label" in note for note in found.notes) == 2


def test_pitt_one_folder_above_and_in_lower_case(tmp_path: Path) -> None:
    put(tmp_path, "Pitt/control/cookie/cha/002-0.cha", "Pitt/dementia/cookie/cha/001-0.cha")
    assert [(i.name, i.label) for i in labelled_interviews(tmp_path).interviews] == [("001v0", "AD"), ("002v0", "CN")]


def test_pitt_one_visit_in_both_groups_is_there_twice(tmp_path: Path) -> None:
    put(tmp_path, "Control/cookie/001-0.cha", "Dementia/cookie/001-0.cha")
    assert codes(tmp_path) == ["CHI-IN-172"]


def test_pitt_a_group_that_is_a_link_out_of_the_input_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/cookie/001-0.cha", "Pitt/Control/cookie/002-0.cha")
    (tmp_path / "Pitt/Dementia").symlink_to(tmp_path / "elsewhere")
    assert codes(tmp_path / "Pitt") == ["CHI-IN-067"]


def test_empty_folders_of_a_layout_are_an_error(tmp_path: Path) -> None:
    for folder in ("Control", "Dementia"):
        (tmp_path / folder / "cookie").mkdir(parents=True)
    assert codes(tmp_path) == ["CHI-IN-174"]


# ---- participants.tsv -----------------------------------------------------------------------------------------------


def test_participants_with_folders_of_any_depth_and_bids_names(tmp_path: Path) -> None:
    rows = ["participant_id\tage\tsex\tdiagnosis\tMMSE\tsplit", "sub-01\t70\tF\thealthy control\t30\ttrain"]
    rows += [
        "sub-02\t71\tM\tAlzheimer's disease\tn/a\ttest",
        "P3\tn/a\tn/a\tMCI\tn/a\tn/a",
        "sub-04\t60\tF\tn/a\t29\t",
        "sub-05\t1\tF\tAD\t9\t",
    ]
    put(tmp_path, "participants.tsv", text="\n".join(rows))
    put(
        tmp_path,
        "sub-01/audio/sub-01_task-cookie_recording-mic_audio.wav",
        "sub-01/beh/sub-01_task-cookie_transcript.cha",
    )
    put(
        tmp_path,
        "sub-02/ses-a/x/y/a.wav",
        "sub-02/ses-b/beh/sub-02_ses-b_audio.wav",
        "P3.wav",
        "P3.cha",
        "sub-04/words.cha",
    )
    put(tmp_path, "sub-01/README.txt", text="notes of the study")
    put(tmp_path, "sub-99/a.wav", "derivatives/sub-01/a.wav")
    found = labelled_interviews(tmp_path)
    assert found.layout == "participants"
    assert [(i.name, i.person, i.label, i.split, i.sex, i.mmse) for i in found.interviews] == [
        ("01", "01", "CN", "train", "female", 30.0),
        ("02sesa", "02", "AD", "test", "male", None),
        ("02sesb", "02", "AD", "test", "male", None),
        ("04", "04", None, "", "female", 29.0),
        ("P3", "P3", "MCI", "", None, None),
    ]
    assert (by_name(found)["01"].audio is None, by_name(found)["01"].transcript is None) == (False, False)
    assert by_name(found)["04"].audio is None
    assert found.notes == (
        "1 folder(s) of persons who are not in participants.tsv are left out.",
        "1 person(s) of the table have no recording and no transcript.",
    )


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("participant_id\tgroup\nsub-01\tCANARY\n", ["CHI-IN-171"]),
        ("participant_id\tgroup\nsub-01\t1\n", ["CHI-IN-171"]),
        ("participant_id\tgroup\nsub-01\tAD\nsub-01\tAD\n", ["CHI-IN-172", "CHI-IN-172"]),
        ("participant_id\tgroup\tage\tsex\tsplit\nsub-01\tAD\t-1\tCANARY\tCANARY\n", ["CHI-IN-176"] * 3),
        ("participant_id\tgroup\n", ["CHI-IN-174"]),
        ("participant_id\tage\nsub-01\t70\n", ["CHI-IN-170"]),
        ("participant_id\tgroup\0\n", ["CHI-IN-160"]),
        ("participant_id\tgroup\nsub-01\t" + "x" * 200_000, ["CHI-IN-175"]),
    ],
)
def test_a_wrong_table_of_participants(table: str, expected: list[str], tmp_path: Path) -> None:
    put(tmp_path, "participants.tsv", text=table)
    put(tmp_path, "sub-01/a.wav")
    assert codes(tmp_path) == expected


def test_transcripts_of_two_sessions_may_have_one_name(tmp_path: Path) -> None:
    put(tmp_path, "participants.tsv", text="participant_id\tgroup\nsub-01\tAD\n")
    put(tmp_path, "sub-01/ses-a/words.cha", "sub-01/ses-b/words.cha")
    assert list(by_name(labelled_interviews(tmp_path))) == ["01sesa", "01sesb"]


def test_two_recordings_of_one_participant_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "participants.tsv", text="participant_id\tgroup\nsub-01\tAD\nsub-02\tCN\n")
    put(tmp_path, "sub-01/a.wav", "sub-01/b.wav", "sub-02/a.wav")
    assert codes(tmp_path) == ["CHI-IN-178"]


def test_nothing_known(tmp_path: Path) -> None:
    assert layout_of(tmp_path) == ""
    assert codes(tmp_path) == ["CHI-IN-170"]
    assert codes(tmp_path / "absent") == ["CHI-IN-061"]


# ---- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "label"),
    [
        *((word, label) for label, words in LABELS.items() for word in words),
        ("ProbableAD", "AD"),
        ("Alzheimer's Disease", "AD"),
        ("Healthy Control", "CN"),
        (" HC ", "CN"),
        ("mild cognitive impairment", "MCI"),
        ("non-AD", "CN"),
        ("vascular", None),
        ("0", None),
        ("", None),
    ],
)
def test_spellings_of_labels(text: str, label: str | None) -> None:
    assert canonical_label(text) == label


def test_no_word_means_two_labels() -> None:
    words = [word for spellings in LABELS.values() for word in spellings]
    assert len(words) == len(set(words))


def test_codes_are_in_the_range() -> None:
    assert all("CHI-IN-170" <= code <= "CHI-IN-179" for code in CODES)
