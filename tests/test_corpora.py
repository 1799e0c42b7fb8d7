import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavfusion import corpora, manifest
from wavfusion.corpora import emotions, reading
from wavfusion.corpora.scan import MediaFacts, Scan
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.media import write_audio

ROOT = Path(__file__).parents[1]

HOSTILE = ["two words", 'it\'s "quoted"', "grin 😀", "line\nbreak", "..hidden", "café", os.fsdecode(b"latin-\xe9")]


def plant(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def trial(statement: int = 1, modality: str = "03-01", suffix: str = "wav") -> str:
    return f"{modality}-05-01-0{statement}-01-07.{suffix}"


def test_an_unknown_corpus_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="'iemocp': did you mean 'iemocap'"):
        corpora.prepare("iemocp", tmp_path)


def test_an_unknown_label_set_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="'fuor' of 'iemocap': did you mean 'four'"):
        corpora.prepare("iemocap", tmp_path, labels="fuor")


def test_a_label_set_for_a_corpus_without_sets_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'meld' has one label set"):
        corpora.prepare("meld", tmp_path, labels="six")


@pytest.mark.parametrize("corpus", ["iemocap", "meld", "ravdess", "cremad", "table"])
def test_an_absent_root_is_named(tmp_path, corpus):
    with pytest.raises(CorpusError, match=f"expected the folder of corpus '{corpus}', found no folder at .*absent"):
        corpora.prepare(corpus, tmp_path / "absent")


@pytest.mark.parametrize(
    ("corpus", "expected"),
    [
        ("iemocap", "EmoEvaluation"),
        ("meld", "train_sent_emo.csv"),
        ("ravdess", "03-01-06"),
        ("cremad", "1001_DFA"),
        ("table", ".csv"),
    ],
)
def test_a_root_of_another_corpus_says_what_was_looked_for(tmp_path, corpus, expected):
    with pytest.raises(CorpusError, match=f"expected .*{expected}.* {tmp_path}.*found none"):
        corpora.prepare(corpus, plant(tmp_path, "holiday.jpg"))


def test_preparing_twice_writes_the_same_bytes(tmp_path):
    root = plant(tmp_path / "raw", trial(1), trial(2), trial(2, "02-01", "mp4"), trial(9))
    corpora.write_prepared(corpora.prepare("ravdess", root), tmp_path / "one")
    corpora.write_prepared(corpora.prepare("ravdess", root), tmp_path / "two")
    names = ("manifest.jsonl", "corpus.json", "exclusions.json")
    assert [(tmp_path / "one" / name).read_bytes() for name in names] == [
        (tmp_path / "two" / name).read_bytes() for name in names
    ]


def test_what_is_written_reads_as_what_was_prepared(tmp_path):
    prepared = corpora.prepare("ravdess", plant(tmp_path / "raw", trial(1), trial(2)))
    corpora.write_prepared(prepared, tmp_path / "out")
    path = tmp_path / "out" / "manifest.jsonl"
    assert (manifest.read(path), manifest.read_corpus(path)) == (prepared.utterances, prepared.corpus)


def test_the_root_of_a_corpus_is_absolute(tmp_path, monkeypatch):
    plant(tmp_path / "raw", trial())
    monkeypatch.chdir(tmp_path)
    assert corpora.prepare("ravdess", "raw").corpus.root == str(tmp_path / "raw")


def test_hostile_folder_names_break_no_reader(tmp_path):
    for number, name in enumerate(HOSTILE, start=1):
        plant(tmp_path / "raw", f"{name}/{trial(1 + number % 2, f'03-0{1 + number // 2 % 2}')}")
    corpora.write_prepared(corpora.prepare("ravdess", tmp_path / "raw"), tmp_path / "out")
    paths = [each.audio.path for each in manifest.read(tmp_path / "out" / "manifest.jsonl")]
    assert len(paths) == 4 and all((tmp_path / "raw" / path).is_file() for path in paths)


def test_files_are_listed_in_one_order_without_hidden_names_and_dangling_links(tmp_path):
    plant(tmp_path, "b/2", "b/1", "a", "._a", ".git/a", "b/._1")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert reading.list_files(tmp_path) == ["a", "b/1", "b/2"]


def test_a_link_to_itself_is_passed_over(tmp_path):
    """The system refuses to follow it (ELOOP), which ended every reader."""
    plant(tmp_path, "a")
    (tmp_path / "s").symlink_to("s")
    assert reading.list_files(tmp_path) == ["a"]


def test_a_corpus_of_exclusions_alone_is_not_written(tmp_path):
    prepared = corpora.prepare("ravdess", plant(tmp_path / "raw", trial(9)))
    with pytest.raises(CorpusError, match="expected at least one row in .*raw, found none, 1 excluded"):
        corpora.write_prepared(prepared, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_link_to_a_folder_above_is_followed_once(tmp_path):
    plant(tmp_path, "a/file")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert reading.list_files(tmp_path) == ["a/file"]


def test_a_link_that_the_user_put_into_the_root_is_followed(tmp_path):
    plant(tmp_path / "disk", trial())
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "elsewhere").symlink_to(tmp_path / "disk")
    (utterance,) = corpora.prepare("ravdess", tmp_path / "raw").utterances
    assert utterance.audio.path == f"elsewhere/{trial()}"


def test_differing_counts_are_said_in_one_line():
    assert reading.compare_counts("test", {"joy": 1, "fear": 2}, {"joy": 3, "fear": 2}) == [
        "test: 3 rows, published 5 (joy 1 of 3)"
    ]


# ---------------------------------------------------------------------- the media scan


def write_sound(path: Path, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, np.zeros(int(8000 * seconds), np.float32), 8000)


def scanned(root: Path) -> corpora.Prepared:
    return corpora.prepare("ravdess", root, scan=root.with_name("notes") / "media.jsonl")


def notes_of(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root.with_name("notes") / "media.jsonl").read_text().splitlines()]


def test_what_cannot_be_read_keeps_its_row_without_the_modality(tmp_path):
    """The reason names the file by its path below the root, so it is the same wherever the corpus lies."""
    root = plant(tmp_path / "raw", trial())
    prepared = scanned(root)
    assert prepared.utterances[0].missing == ["audio", "video"]
    assert (trial()[3:-4], f"audio: expected an audio or video file at '{trial()}', found 0 bytes") == (
        prepared.stripped[0].id,
        prepared.stripped[0].reason.removeprefix("video: not found below the root; "),
    )


def test_a_file_without_the_track_that_a_row_names_is_no_such_modality(tmp_path):
    root = tmp_path / "raw"
    write_sound(root / "sound.wav")
    os.rename(root / "sound.wav", root / trial(modality="01-01", suffix="mp4"))
    (utterance,) = scanned(root).utterances
    assert (utterance.missing, scanned(root).stripped) == (
        ["video"],
        [(utterance.id, f"video: '{utterance.audio.path}' has no track of video")],
    )


def test_a_window_that_starts_after_the_end_of_its_file_is_missing(tmp_path):
    write_sound(tmp_path / "raw" / "a.wav", 2)
    plant_table = "audio,text,start,end\na.wav,one,1,2\na.wav,two,3,4\n"
    (tmp_path / "raw" / "table.csv").write_text(plant_table)
    prepared = corpora.prepare("table", tmp_path / "raw", scan=tmp_path / "media.jsonl")
    assert [each.missing for each in prepared.utterances] == [["video"], ["audio", "video"]]
    assert prepared.stripped == [("2", "audio: 'a.wav' ends at 2.000 s, before the start at 3.000 s")]


def test_a_file_that_the_notes_know_is_not_opened_again(tmp_path):
    root = plant(tmp_path / "raw", trial())
    scanned(root)
    notes = root.with_name("notes") / "media.jsonl"
    notes.write_text(json.dumps(notes_of(root)[0] | {"audio": 7.0, "reason": None}) + "\n")
    assert scanned(root).utterances[0].audio.path == trial()


def test_a_file_that_has_changed_is_opened_again(tmp_path):
    root = plant(tmp_path / "raw", trial())
    scanned(root)
    write_sound(root / trial())
    assert scanned(root).utterances[0].audio.path == trial()
    assert [row["audio"] for row in notes_of(root)] == [0.5]


def test_a_note_that_a_kill_cut_short_spoils_no_other(tmp_path):
    for statement in (1, 2):
        write_sound(tmp_path / "raw" / trial(statement))
    first = scanned(tmp_path / "raw")
    notes = tmp_path / "notes" / "media.jsonl"
    whole = notes.read_bytes()
    notes.write_bytes(whole[:-20])
    assert (scanned(tmp_path / "raw"), notes.read_bytes()) == (first, whole)


@pytest.mark.parametrize(
    "fault",
    [
        {"path": 3},
        {"path": ["a"]},
        *({"audio": value} for value in ("1", True, -1, float("nan"), float("inf"), 10**400, [])),
        *({"reason": value} for value in (3, {})),
        *({"stamp": value} for value in ("x", [1], [True, 2], {})),
    ],
)
def test_a_note_of_another_form_is_dropped_and_its_file_opened(tmp_path, fault):
    """Notes were believed whatever they held: an unhashable path or a length in words was a traceback."""
    root = tmp_path / "raw"
    write_sound(root / trial())
    first = scanned(root)
    (note,) = notes_of(root)
    (tmp_path / "notes" / "media.jsonl").write_text(json.dumps(note | fault) + "\n")
    assert (scanned(root), notes_of(root)) == (first, [note])


def test_a_row_that_lacks_two_modalities_for_two_reasons_is_stripped_once(tmp_path):
    assert len(scanned(plant(tmp_path / "raw", trial())).stripped) == 1


def test_a_killed_scan_goes_on_where_it_was(tmp_path):
    for number in range(400):
        write_sound(tmp_path / "raw" / f"{number}.wav", 0.01)
    paths = [f"{number}.wav" for number in range(400)]
    notes = tmp_path / "media.jsonl"
    code = (
        "import sys; from pathlib import Path; from wavfusion.corpora.scan import Scan\n"
        "Scan(Path(sys.argv[1]), Path(sys.argv[2])).probe(sys.argv[3:])"
    )
    scan = subprocess.Popen([sys.executable, "-c", code, tmp_path / "raw", notes, *paths])
    while not (notes.exists() and notes.stat().st_size) and scan.poll() is None:
        time.sleep(0.001)
    os.kill(scan.pid, signal.SIGKILL)
    scan.wait()
    kept = [json.loads(line) for line in notes.read_text().splitlines() if line.endswith("}")]
    assert len(kept) >= 64
    # What was noted is believed.
    notes.write_text("".join(json.dumps(row | {"audio": 5.0}) + "\n" for row in kept))
    looks = Scan(tmp_path / "raw", notes).probe(paths)
    assert sorted(looks.values()).count(MediaFacts(5.0)) == len(kept) and len(looks) == 400


def test_preparing_twice_with_a_scan_writes_the_same_bytes(tmp_path):
    for number in (1, 2):
        write_sound(tmp_path / "raw" / trial(number))
    plant(tmp_path / "raw", trial(2, "01-01", "mp4"))
    found = []
    for _ in range(2):
        prepared = corpora.prepare("ravdess", tmp_path / "raw", scan=tmp_path / "out" / "media.jsonl")
        corpora.write_prepared(prepared, tmp_path / "out")
        found.append({path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})
    assert found[0] == found[1] and len(found[0]) == 4


# ---------------------------------------------------------------------- any order, line end and absent file


def iemocap_files() -> dict[str, tuple[str, set[str]]]:
    """A small release: path -> text, and the ids of the rows that lose something without the file."""
    files: dict[str, tuple[str, set[str]]] = {}
    for dialogue in ("Ses01F_impro01", "Ses01M_script01_1b"):
        ids = [f"{dialogue}_{letter}00{number}" for number in range(2) for letter in "FM"]
        labels = (
            f"[{k}.0000 - {k}.9000]\t{each}\tneu\t[2.5, 2.5, 2.5]\nC-E1:\tAnger;\t()\n\n" for k, each in enumerate(ids)
        )
        texts = (f"{each} [00{k}.0-00{k}.9]: Note: {k}.\n" for k, each in enumerate(ids))
        dialog = "Session1/dialog"
        files[f"{dialog}/EmoEvaluation/{dialogue}.txt"] = "% header\n" + "".join(labels), set(ids)
        files[f"{dialog}/transcriptions/{dialogue}.txt"] = "".join(texts), set(ids)
        files[f"{dialog}/avi/DivX/{dialogue}.avi"] = "", set(ids)
        files[f"{dialog}/wav/{dialogue}.wav"] = "", set(ids[2:])
        files |= {f"Session1/sentences/wav/{dialogue}/{each}.wav": ("", {each}) for each in ids[:2]}
    return files


def meld_files() -> dict[str, tuple[str, set[str]]]:
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
    files: dict[str, tuple[str, set[str]]] = {}
    for part, split, folder in (("train", "train", "train_splits"), ("dev", "valid", "dev"), ("test", "test", "test")):
        rows = "".join(f'{k},"So, {k}",Joey,joy,positive,0,{k},1,2,"00:00:0{k},0","0:00:0{k},9"\n' for k in range(3))
        files[f"{part}_sent_emo.csv"] = header + rows, {f"{split}_dia0_utt{k}" for k in range(3)}
        files |= {f"{folder}/dia0_utt{k}.mp4": ("", {f"{split}_dia0_utt{k}"}) for k in range(3)}
    files["test/final_videos_testdia0_utt1.mp4"] = "", {"test_dia0_utt1"}
    return files


@pytest.mark.parametrize(("corpus", "files"), [("iemocap", iemocap_files()), ("meld", meld_files())])
@settings(max_examples=25)
@given(data=st.data())
def test_order_line_ends_and_absent_files_touch_only_the_rows_concerned(corpus, files, data):
    def rows(paths: list[str], end: str) -> dict[str, manifest.Utterance]:
        with tempfile.TemporaryDirectory() as folder:
            for path in paths:
                (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / path).write_bytes(files[path][0].replace("\n", end).encode())
            return {each.id: each for each in corpora.prepare(corpus, folder).utterances}

    whole = rows(list(files), "\n")
    order = data.draw(st.permutations(list(files)))
    gone = data.draw(st.sets(st.sampled_from(sorted(files)), max_size=len(files) // 2))
    left = [path for path in order if path not in gone]
    concerned = set().union(*(files[path][1] for path in gone))
    if any(path.endswith(".csv") or "EmoEvaluation" in path for path in left):
        found = rows(left, data.draw(st.sampled_from(["\n", "\r\n", "\r"])))
        assert found.keys() <= whole.keys()
        assert {key: found.get(key) for key in whole.keys() - concerned} == {
            key: each for key, each in whole.items() if key not in concerned
        }


# ---------------------------------------------------------------------- the documentation


def test_the_worked_example_of_a_new_corpus_works(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "howto" / "add_corpus.md").read_text(encoding="utf-8")
    [reader] = re.findall(r'```python title="tess.py"\n(.*?)```', text, flags=re.DOTALL)
    defined: dict[str, Any] = {}
    exec(reader, defined)
    monkeypatch.setitem(corpora.READERS, "tess", defined["read_tess"])
    monkeypatch.setitem(emotions.EMOTIONS, "tess", ["angry", "surprised"])
    plant(tmp_path, "OAF_back_angry.wav", "YAF/YAF_dog_ps.wav", "readme.txt")
    prepared = corpora.prepare("tess", tmp_path)
    assert [(each.speaker, each.text, each.emotion) for each in prepared.utterances] == [
        ("OAF", "Say the word back", "angry"),
        ("YAF", "Say the word dog", "surprised"),
    ]
