import os
from pathlib import Path

import pytest

from wavfusion import corpora, manifest
from wavfusion.corpora import reading
from wavfusion.errors import ConfigError, CorpusError

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


@pytest.mark.parametrize("corpus", ["iemocap", "meld", "ravdess", "table"])
def test_an_absent_root_is_named(tmp_path, corpus):
    with pytest.raises(CorpusError, match=f"expected the folder of corpus '{corpus}', found no folder at .*absent"):
        corpora.prepare(corpus, tmp_path / "absent")


@pytest.mark.parametrize(
    ("corpus", "expected"),
    [("iemocap", "EmoEvaluation"), ("meld", "train_sent_emo.csv"), ("ravdess", "03-01-06"), ("table", ".csv")],
)
def test_a_root_of_another_corpus_says_what_was_looked_for(tmp_path, corpus, expected):
    with pytest.raises(CorpusError, match=f"expected .*{expected}.* {tmp_path}.*found none"):
        corpora.prepare(corpus, plant(tmp_path, "holiday.jpg"))


def test_preparing_twice_writes_the_same_bytes(tmp_path):
    root = plant(tmp_path / "raw", trial(1), trial(2), trial(2, "02-01", "mp4"), trial(9))
    corpora.write(corpora.prepare("ravdess", root), tmp_path / "one")
    corpora.write(corpora.prepare("ravdess", root), tmp_path / "two")
    names = ("manifest.jsonl", "corpus.json", "exclusions.json")
    assert [(tmp_path / "one" / name).read_bytes() for name in names] == [
        (tmp_path / "two" / name).read_bytes() for name in names
    ]


def test_what_is_written_reads_as_what_was_prepared(tmp_path):
    prepared = corpora.prepare("ravdess", plant(tmp_path / "raw", trial(1), trial(2)))
    corpora.write(prepared, tmp_path / "out")
    path = tmp_path / "out" / "manifest.jsonl"
    assert (manifest.read(path), manifest.read_corpus(path)) == (prepared.utterances, prepared.corpus)


def test_the_root_of_a_corpus_is_absolute(tmp_path, monkeypatch):
    plant(tmp_path / "raw", trial())
    monkeypatch.chdir(tmp_path)
    assert corpora.prepare("ravdess", "raw").corpus.root == str(tmp_path / "raw")


def test_hostile_folder_names_break_no_reader(tmp_path):
    for number, name in enumerate(HOSTILE, start=1):
        plant(tmp_path / "raw", f"{name}/{trial(1 + number % 2, f'03-0{1 + number // 2 % 2}')}")
    corpora.write(corpora.prepare("ravdess", tmp_path / "raw"), tmp_path / "out")
    paths = [each.audio.path for each in manifest.read(tmp_path / "out" / "manifest.jsonl")]
    assert len(paths) == 4 and all((tmp_path / "raw" / path).is_file() for path in paths)


def test_files_are_listed_in_one_order_without_hidden_names_and_dangling_links(tmp_path):
    plant(tmp_path, "b/2", "b/1", "a", "._a", ".git/a", "b/._1")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert reading.list_files(tmp_path) == ["a", "b/1", "b/2"]


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
