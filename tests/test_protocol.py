from itertools import permutations

import pytest

from wavfusion import protocol
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.manifest import SPLITS, Utterance

CLASSES = ["happy", "sad"]


def utterance(key, split=None, speaker=None, emotion="happy"):
    return Utterance(key, "table", split=split, speaker=speaker, emotion=emotion)


THREE = [utterance("a", "train", "Ann"), utterance("b", "valid", "Ben"), utterance("c", "test", "Cem")]


def split_of(tmp_path, text, utterances=THREE):
    path = tmp_path / "split.csv"
    path.write_text(text, encoding="utf-8")
    return protocol.split_file(path, utterances, CLASSES)


def test_the_manifests_own_split_is_the_default():
    assert protocol.resolve(None, THREE, CLASSES).parts == {"a": "train", "b": "valid", "c": "test"}


def test_a_manifest_without_splits_asks_for_a_file():
    with pytest.raises(CorpusError, match="give --protocol a CSV file"):
        protocol.resolve(None, [utterance("a")], CLASSES)


def test_a_split_file_stands_over_the_manifests_own_split(tmp_path):
    assert split_of(tmp_path, "id,split\na,test\nb,train\nc,valid\n").parts == {"a": "test", "b": "train", "c": "valid"}


def test_a_path_resolves_to_its_split_file(tmp_path):
    expected = split_of(tmp_path, "id,split\na,test\n")
    assert protocol.resolve(str(tmp_path / "split.csv"), THREE, CLASSES) == expected


def test_an_unknown_protocol_says_what_exists():
    with pytest.raises(ConfigError, match="'offical': did you mean 'official'"):
        protocol.resolve("offical", THREE, CLASSES)


def test_utterances_that_a_split_file_does_not_name_are_counted(tmp_path):
    assert split_of(tmp_path, "id,split\na,train\n").left_out == 2


def test_a_row_without_one_of_the_classes_is_in_no_part():
    unlabelled = [utterance("d", "train", "Dan", None), utterance("e", "train", "Eve", "angry")]
    assert list(protocol.from_manifest([*THREE, *unlabelled], CLASSES).parts) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,split\nz,train\n", r"split\.csv:2: expected an id of the manifest, found 'z'; nearest: "),
        ("id,split\na,train\na,test\n", r"split\.csv:3: expected each id once, found 'a' again"),
        ("id,split\na,dev\n", r"split\.csv:2: unknown split 'dev': valid: train, valid, test"),
        ("id;split\na;train\n", r"split\.csv:1: expected the header id,split, found 'id;split'"),
        ("", "found 'an empty file'"),
        ("id,split\na\n", r"split\.csv:2: expected id,split, found 1 cells"),
        ('id,split\n"a\n', "cannot read the split file"),
    ],
)
def test_a_wrong_line_of_a_split_file_is_named(tmp_path, text, message):
    with pytest.raises(CorpusError, match=message):
        split_of(tmp_path, text)


def test_an_unknown_id_names_the_nearest_first(tmp_path):
    utterances = [utterance("Ses01F_impro01_F000"), utterance("Ses02F_impro01_F000"), utterance("other")]
    with pytest.raises(CorpusError, match="nearest: Ses01F_impro01_F000, Ses02"):
        split_of(tmp_path, "id,split\nSes01F_impro01_F00,train\n", utterances)


@pytest.mark.parametrize(
    ("speakers", "disjoint"), [("abc", True), ("aab", False), ("aba", False), ("abb", False), ((None, "a", "b"), False)]
)
def test_speakers_are_disjoint_only_if_all_three_parts_share_none(speakers, disjoint):
    utterances = [utterance(*row) for row in zip("xyz", SPLITS, speakers, strict=True)]
    assert protocol.from_manifest(utterances, CLASSES).speakers_disjoint is disjoint


@pytest.mark.parametrize("utterances", list(permutations(THREE)))
def test_the_hash_does_not_depend_on_the_order_of_the_manifest(utterances):
    assert protocol.from_manifest(utterances, CLASSES).hash == protocol.from_manifest(THREE, CLASSES).hash


@pytest.mark.parametrize("classes", [["sad", "happy"], ["happy"]])
def test_the_hash_depends_on_the_classes_and_their_order(classes):
    assert protocol.from_manifest(THREE, classes).hash != protocol.from_manifest(THREE, CLASSES).hash


def test_the_hash_depends_on_the_part_of_an_utterance(tmp_path):
    first = split_of(tmp_path, "id,split\na,train\nb,valid\nc,test\n")
    assert first.hash != split_of(tmp_path, "id,split\na,train\nb,train\nc,test\n").hash


def test_the_file_of_a_protocol_says_what_a_figure_needs():
    found = protocol.from_manifest(THREE, CLASSES).to_json()
    assert found | {"hash": ""} == {
        "name": "official",
        "classes": CLASSES,
        "hash": "",
        "selected_on": "valid",
        "speakers_disjoint": True,
        "counts": {"train": 1, "valid": 1, "test": 1},
        "left_out": 0,
    }
