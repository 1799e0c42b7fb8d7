from dataclasses import replace
from itertools import permutations

import pytest

from wavfusion.corpora import folds, protocol
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.manifest import SPLITS, Utterance

CLASSES = ["happy", "sad"]


def resolve(utterances, classes):
    return protocol.resolve("manifest", utterances, classes)


def utterance(key, split=None, speaker=None, emotion="happy"):
    return Utterance(key, "table", split=split, speaker=speaker, emotion=emotion)


THREE = [utterance("a", "train", "Ann"), utterance("b", "valid", "Ben"), utterance("c", "test", "Cem")]


def split_of(tmp_path, text, utterances=THREE):
    path = tmp_path / "split.csv"
    path.write_text(text, encoding="utf-8")
    return protocol.resolve(str(path), utterances, CLASSES)


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
    assert list(resolve([*THREE, *unlabelled], CLASSES).parts) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,split\nz,train\n", r"split\.csv:2: expected an id of the manifest, found 'z'; nearest: "),
        ("id,split\na,train\na,test\n", r"split\.csv:3: expected each id once, found 'a' again"),
        ("id,split\na,dve\n", r"split\.csv:2: unknown split 'dve': did you mean 'dev'\? valid: train, valid, test"),
        ("id;split\na;train\n", r"split\.csv:1: expected the header id,split or id,split,fold, found 'id;split'"),
        ("", "found 'an empty file'"),
        ("id,split\na\n", r"split\.csv:2: expected id,split, found 1 cells"),
        ('id,split\n"a\n', "cannot read the split file"),
        ("id,split,fold\na,train\n", r"split\.csv:2: expected id,split,fold, found 2 cells"),
        ("id,split,fold\na,train,1\nb,train,2\na,test,2\nb,test,2\n", r"split\.csv:5: .* found 'b' again"),
        ("id,split,fold\na,train,1\nb,train,3\n", r"split\.csv: expected folds numbered 1 to 2, found '3'"),
    ],
)
def test_a_wrong_line_of_a_split_file_is_named(tmp_path, text, message):
    with pytest.raises(CorpusError, match=message):
        split_of(tmp_path, text)


def test_a_split_file_may_name_its_parts_otherwise(tmp_path):
    """A file with `dev` was refused."""
    found = split_of(tmp_path, "id,split\na,Train\nb,dev\nc,eval\n")
    assert found.parts == {"a": "train", "b": "valid", "c": "test"}


def test_a_split_file_may_hold_several_folds(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("id,split,fold\na,test,2\nb,train,2\na,train,1\nb,valid,1\nc,test,1\n", encoding="utf-8")
    first, second = protocol.divide_parts(str(path), THREE, CLASSES)
    assert [(each.fold, each.folds) for each in (first, second)] == [(1, 2), (2, 2)]
    assert (first.parts, first.left_out) == ({"a": "train", "b": "valid", "c": "test"}, 0)
    assert (second.parts, second.left_out) == ({"a": "test", "b": "train"}, 1)
    assert protocol.resolve(str(path), THREE, CLASSES, fold=2) == second


def test_an_unknown_id_names_the_nearest_first(tmp_path):
    utterances = [utterance("Ses01F_impro01_F000"), utterance("Ses02F_impro01_F000"), utterance("other")]
    with pytest.raises(CorpusError, match="nearest: Ses01F_impro01_F000, Ses02"):
        split_of(tmp_path, "id,split\nSes01F_impro01_F00,train\n", utterances)


@pytest.mark.parametrize(
    ("speakers", "disjoint"), [("abc", True), ("aab", False), ("aba", False), ("abb", False), ((None, "a", "b"), None)]
)
def test_speakers_are_disjoint_only_if_all_three_parts_share_none(speakers, disjoint):
    utterances = [utterance(*row) for row in zip("xyz", SPLITS, speakers, strict=True)]
    assert resolve(utterances, CLASSES).speakers_disjoint is disjoint


@pytest.mark.parametrize("utterances", list(permutations(THREE)))
def test_the_hash_does_not_depend_on_the_order_of_the_manifest(utterances):
    assert resolve(utterances, CLASSES).hash == resolve(THREE, CLASSES).hash


@pytest.mark.parametrize("classes", [["sad", "happy"], ["happy"]])
def test_the_hash_depends_on_the_classes_and_their_order(classes):
    assert resolve(THREE, classes).hash != resolve(THREE, CLASSES).hash


def test_the_hash_depends_on_the_part_of_an_utterance(tmp_path):
    first = split_of(tmp_path, "id,split\na,train\nb,valid\nc,test\n")
    assert first.hash != split_of(tmp_path, "id,split\na,train\nb,train\nc,test\n").hash


def test_the_file_of_a_protocol_says_what_a_figure_needs():
    found = resolve(THREE, CLASSES).to_json()
    assert found | {"hash": ""} == {
        "name": "manifest",
        "fold": 1,
        "folds": 1,
        "classes": CLASSES,
        "hash": "",
        "selected_on": "valid",
        "speakers_disjoint": True,
        "speakers_shared": [],
        "promises": {name: ["train+valid", "train+test", "valid+test"] for name in ("speaker", "dialogue")},
        "counts": {"train": 1, "valid": 1, "test": 1},
        "left_out": 0,
    }


# ---------------------------------------------------------------------- the named protocols


def iemocap(sessions=5, turns=8):
    """Sessions of two speakers, each with one improvised dialogue and one that everybody plays from the same script."""
    return [
        Utterance(
            f"Ses{session:02d}F_{kind}01_{'FM'[turn % 2]}{turn:03d}",
            "iemocap",
            session=f"Ses{session:02d}",
            dialogue=f"Ses{session:02d}F_{kind}01",
            speaker=f"Ses{session:02d}{'FM'[turn % 2]}",
            style="scripted" if kind == "script" else "improvised",
            text=f"Line {turn}, of the play." if kind == "script" else f"Words {session} {turn}",
            emotion=CLASSES[turn % 3 % 2],
        )
        for session in range(1, sessions + 1)
        for kind in ("impro", "script")
        for turn in range(turns)
    ]


def folds_of(name, rows):
    first = protocol.resolve(name, rows, CLASSES)
    return [protocol.resolve(name, rows, CLASSES, fold) for fold in range(1, first.folds + 1)]


ALL = ["loso5", "random5", "text-disjoint", "speaker-folds", "actor-folds", "session5", "group-folds:dialogue"]


@pytest.mark.parametrize("name", ALL)
def test_a_protocol_keeps_what_it_promises(name):
    rows = iemocap()
    broken = [
        (each.fold, promise, pair)
        for each in folds_of(name, rows)
        for promise, pairs in each.promises.items()
        for pair in pairs
        if pair in protocol.shared(promise, rows, each.parts)
    ]
    assert broken == []


@pytest.mark.parametrize("name", ["loso5", "random5", "speaker-folds", "group-folds:dialogue"])
def test_every_utterance_is_tested_once(name):
    rows = iemocap()
    tested = [key for each in folds_of(name, rows) for key in each.ids("test")]
    assert sorted(tested) == sorted(each.id for each in rows)


def test_iemocap_leaves_one_session_out_by_default():
    first = protocol.resolve(None, iemocap(), CLASSES)
    sessions = {part: {key[:5] for key in first.ids(part)} for part in SPLITS}
    assert (first.name, sessions) == (
        "loso5",
        {"test": {"Ses01"}, "valid": {"Ses02"}, "train": {"Ses03", "Ses04", "Ses05"}},
    )


def test_rows_of_several_corpora_have_the_split_of_their_manifest():
    mixed = [replace(each, corpus=name) for each, name in zip(THREE, ("ravdess", "nemo", "emodb"), strict=True)]
    assert protocol.resolve(None, mixed, CLASSES).parts == {"a": "train", "b": "valid", "c": "test"}


def test_more_sessions_than_five_still_make_five_folds():
    assert len(folds_of("loso5", iemocap(sessions=8))) == 5


def test_the_random_protocol_makes_five_equal_parts_of_the_real_corpus():
    """7,380 utterances of the six emotions, so 1,476 a part: the size that the paper's figures fit (design H.1)."""
    rows = [utterance(f"u{number}", speaker="a", emotion=CLASSES[number % 2]) for number in range(7380)]
    assert [len(each.ids("test")) for each in folds_of("random5", rows)] == [1476] * 5


def test_a_tenth_of_the_rest_validates_each_emotion_alike():
    rows = [utterance(f"u{number}", emotion=CLASSES[number % 10 == 0]) for number in range(3000)]
    found = protocol.resolve("random5", rows, CLASSES)
    by_emotion = {
        emotion: [found.parts[each.id] for each in rows if each.emotion == emotion and found.parts[each.id] != "test"]
        for emotion in CLASSES
    }
    assert [round(parts.count("valid") / len(parts), 2) for parts in by_emotion.values()] == [0.1, 0.1]


@pytest.mark.parametrize("name", ALL)
def test_a_protocol_does_not_depend_on_the_order_of_the_manifest(name):
    rows = iemocap()
    assert [each.hash for each in folds_of(name, rows[::-1])] == [each.hash for each in folds_of(name, rows)]


def test_the_lists_of_dialogxl_validate_on_the_end_of_session_four():
    names = [
        "Ses01F_impro01",
        "Ses04F_impro02",
        "Ses04F_script01_2",
        "Ses04F_script01_3",
        "Ses04M_impro01",
        "Ses05F_impro01",
    ]
    rows = [
        Utterance(f"{name}_F000", "iemocap", session=name[:5], dialogue=name, speaker=name[:5] + "F", emotion="sad")
        for name in names
    ]
    assert list(protocol.resolve("session5", rows, CLASSES).parts.values()) == ["train"] * 3 + ["valid"] * 2 + ["test"]


def test_session5_says_that_its_validation_shares_speakers():
    rows = iemocap()
    rows += [replace(rows[0], id="Ses04M_impro01_F000", session="Ses04", dialogue="Ses04M_impro01", speaker="Ses04F")]
    said = protocol.describe_protocol(protocol.resolve("session5", rows, CLASSES).to_json())
    assert said == "session5, speakers shared between train and valid, selected on valid"


def test_scripted_lines_of_training_are_not_tested_where_texts_are_disjoint():
    rows = iemocap()
    tested = protocol.resolve("text-disjoint", rows, CLASSES).ids("test")
    assert tested == [each.id for each in rows if each.session == "Ses01" and each.style == "improvised"]


def test_many_speakers_make_folds_of_similar_size():
    rows = [utterance(f"u{number}", speaker=f"s{number % 17 % 13}") for number in range(170)]
    sizes = [len(each.ids("test")) for each in folds_of("speaker-folds", rows)]
    assert max(sizes) - min(sizes) <= 20


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("loso5", CorpusError, "expected a session in every row, found none in 'a'"),
        ("group-folds:sesion", ConfigError, "found 'sesion'; did you mean 'session'"),
        ("group-folds:index", ConfigError, "expected a column of the manifest, found 'index'"),
        ("session5", CorpusError, "expected IEMOCAP's sessions"),
        ("group-folds:corpus", CorpusError, "expected 3 or more values of corpus, found table"),
    ],
)
def test_a_corpus_that_cannot_be_divided_so_says_why(name, error, message):
    with pytest.raises(error, match=message):
        protocol.resolve(name, THREE, CLASSES)


@pytest.mark.parametrize("fold", [0, 6, -1])
def test_a_fold_that_does_not_exist_is_refused(fold):
    with pytest.raises(ConfigError, match=f"--fold: expected 1 to 5 of protocol loso5, found {fold}"):
        protocol.resolve("loso5", iemocap(), CLASSES, fold)


def test_selecting_on_test_changes_the_hash_and_is_said():
    honest, cheating = (protocol.resolve("loso5", iemocap(), CLASSES, selected_on=part) for part in ("valid", "test"))
    assert (honest.hash != cheating.hash, protocol.describe_protocol(cheating.to_json())) == (
        True,
        "loso5, fold 1 of 5, speakers disjoint, SELECTED ON TEST",
    )


@pytest.mark.parametrize(("one", "other"), [("I'm fine.", "Im fine"), ("Café!", "cafe\u0301"), ("a  B", "A b")])
def test_a_scripted_line_is_its_words(one, other):
    rows = [Utterance("a", "table", text=text, style="scripted") for text in (one, other)]
    assert folds.value_of(rows[0], "text") == folds.value_of(rows[1], "text")


def test_folds_by_text_keep_equal_lines_together_improvised_ones_too():
    rows = [replace(row, text=f"Line {number % 7}") for number, row in enumerate(iemocap())]
    found = protocol.resolve("group-folds:text", rows, CLASSES)
    parts = {}
    for row in rows:
        parts.setdefault(row.text, set()).add(found.parts[row.id])
    assert all(len(each) == 1 for each in parts.values())


def test_a_corpus_without_labels_says_so():
    with pytest.raises(CorpusError, match="expected utterances with an emotion, found none"):
        protocol.resolve("random5", [utterance("a", emotion=None)], [])


def test_unknown_speakers_are_neither_disjoint_nor_shared():
    rows = [utterance("a", "train"), utterance("b", "valid"), utterance("c", "test")]
    found = protocol.resolve(None, rows, CLASSES)
    assert (found.speakers_disjoint, protocol.describe_protocol(found.to_json())) == (
        None,
        "manifest, speakers unknown, selected on valid",
    )
