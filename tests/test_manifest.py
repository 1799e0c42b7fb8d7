import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wavfusion import manifest
from wavfusion.errors import CorpusError
from wavfusion.manifest import AudioSpan, Corpus, Exclusion, Exclusions, Utterance, VideoSpan

names = st.text(min_size=1)
optional_names = st.none() | names
paths = st.text(min_size=1).filter(lambda path: "\0" not in path and not path.startswith("/") and ".." not in path)
times = st.one_of(
    st.just((None, None)),
    st.tuples(st.floats(0, 100), st.none() | st.floats(101, 1e6)),
    st.tuples(st.none(), st.floats(0.01, 1e6)),
)
boxes = st.tuples(*[st.integers(0, 100)] * 2, *[st.integers(101, 4000)] * 2).map(list)
shares = st.none() | st.dictionaries(names, st.floats(0, 1), max_size=4)

# Fields and not records: beartype draws random numbers where a record is made, which a strategy must not.
audio_fields = st.tuples(paths, times, st.sampled_from(manifest.CHANNELS))
video_fields = st.tuples(paths, times, st.none() | boxes)
fields = st.fixed_dictionaries(
    {
        "id": names,
        "corpus": names,
        "split": st.none() | st.sampled_from(manifest.SPLITS),
        "session": optional_names,
        "dialogue": optional_names,
        "index": st.none() | st.integers(0, 10**6),
        "speaker": optional_names,
        "audio": st.none() | audio_fields,
        "video": st.none() | video_fields,
        "text": st.none() | st.text(),
        "text_source": st.sampled_from((None, "gold", "asr")),
        "language": optional_names,
        "style": st.sampled_from((None, "improvised", "scripted")),
        "emotion": optional_names,
        "raw_label": optional_names,
        "votes": shares,
        "dimensions": shares,
        "missing": st.lists(st.sampled_from(manifest.MODALITIES), unique=True),
    }
)


def build(row):
    spans = {}
    for name, kind in (("audio", AudioSpan), ("video", VideoSpan)):
        if row[name]:
            path, edges, last = row[name]
            spans[name] = kind(path, *edges, last)
    return Utterance(**row | spans)


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row_of(**changes: object) -> dict[str, object]:
    row = dict.fromkeys(Utterance.__slots__) | {"id": "a", "corpus": "c", "missing": []}
    return row | changes


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(fields, min_size=1, max_size=3, unique_by=lambda row: row["id"]))
def test_a_manifest_survives_a_round_trip(tmp_path, rows):
    several = [build(row) for row in rows]
    manifest.write(tmp_path / "manifest.jsonl", several)
    assert manifest.read(tmp_path / "manifest.jsonl") == several


def test_an_undecodable_byte_of_a_file_name_survives_a_round_trip(tmp_path):
    utterance = Utterance("a", "c", audio=AudioSpan("caf\udce9.wav"))
    manifest.write(tmp_path / "manifest.jsonl", [utterance])
    assert manifest.read(tmp_path / "manifest.jsonl") == [utterance]


def test_a_failed_write_leaves_the_old_manifest_alone(tmp_path):
    manifest.write(tmp_path / "manifest.jsonl", [Utterance("old", "c")])
    with pytest.raises(CorpusError, match="'new' twice"):
        manifest.write(tmp_path / "manifest.jsonl", [Utterance("new", "c")] * 2)
    assert [each.id for each in manifest.read(tmp_path / "manifest.jsonl")] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spilt": "train"}, "unknown field 'spilt': did you mean 'split'"),
        ({"split": "dev"}, "field 'split': expected train | valid | test or null, found 'dev'"),
        ({"id": ""}, "field 'id': expected a non-empty string"),
        ({"index": -1}, "field 'index': expected an integer >= 0"),
        ({"index": True}, "field 'index': expected an integer >= 0"),
        ({"votes": {"happy": "1"}}, "field 'votes.happy': expected a number from 0 to 1, found '1'"),
        ({"dimensions": {"valence": float("nan")}}, "field 'dimensions.valence': expected a finite number, found nan"),
        ({"missing": ["sound"]}, "field 'missing': expected a list of audio, text, video"),
        ({"audio": "a.wav"}, "field 'audio': expected an object"),
        ({"audio": {"path": "a.wav", "start": 0, "end": 1}}, "field 'audio.channel' is missing"),
        ({"audio": {"path": "../a.wav", "start": 0, "end": 1, "channel": "mix"}}, "field 'audio.path'"),
        ({"audio": {"path": "/a.wav", "start": 0, "end": 1, "channel": "mix"}}, "field 'audio.path'"),
        ({"audio": {"path": "a.wav", "start": 2, "end": 1, "channel": "mix"}}, "audio: expected end after start"),
        ({"audio": {"path": "a.wav", "start": 0, "end": 1, "channel": "mid"}}, "mix | left | right | centre"),
        ({"video": {"path": "a.mp4", "start": 0, "end": 1, "crop": [9, 0, 1, 1]}}, "field 'video.crop'"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_line(tmp_path, changes, message):
    path = write_rows(tmp_path / "manifest.jsonl", row_of(id="first"), row_of(**changes))
    with pytest.raises(CorpusError) as caught:
        manifest.read(path)
    assert str(caught.value).startswith(f"{path}:2: ") and message in str(caught.value)


def test_a_missing_field_is_named(tmp_path):
    row = row_of()
    del row["speaker"]
    with pytest.raises(CorpusError, match="field 'speaker' is missing"):
        manifest.read(write_rows(tmp_path / "manifest.jsonl", row))


def test_a_double_id_is_named_with_both_lines(tmp_path):
    path = write_rows(tmp_path / "manifest.jsonl", row_of(), row_of(id="b"), row_of())
    with pytest.raises(CorpusError, match=r"manifest\.jsonl:3: .*'a' again, first on line 1"):
        manifest.read(path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]\n", b"\xff\n", b"[" * 100_000], ids=["empty", "cut", "list", "bytes", "deep"]
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path, content):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match="manifest.jsonl"):
        manifest.read(path)


def test_a_mark_of_an_editor_is_passed_over(tmp_path):
    manifest.write(tmp_path / "manifest.jsonl", [Utterance("a", "c")])
    content = (tmp_path / "manifest.jsonl").read_bytes()
    (tmp_path / "manifest.jsonl").write_bytes(b"\xef\xbb\xbf" + content)
    assert [each.id for each in manifest.read(tmp_path / "manifest.jsonl")] == ["a"]


def test_a_folder_in_place_of_a_manifest_names_the_manifest(tmp_path):
    with pytest.raises(CorpusError, match=r"found a folder.*manifest\.jsonl"):
        manifest.read(tmp_path)


def test_an_absent_manifest_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="found no such file"):
        manifest.read(tmp_path / "manifest.jsonl")


def test_the_corpus_beside_a_manifest_survives_a_round_trip(tmp_path):
    corpus = Corpus("iemocap", "/data/café", "six", ["happy", "sad"], "0.1.0")
    manifest.write_corpus(tmp_path / "manifest.jsonl", corpus)
    assert manifest.read_corpus(tmp_path / "manifest.jsonl") == corpus


def test_a_corpus_file_with_another_field_is_refused(tmp_path):
    row = {"corpus": "c", "root": "r", "labels": None, "classes": ["a"], "version": "1", "clases": []}
    write_rows(tmp_path / "corpus.json", row)
    with pytest.raises(CorpusError, match="corpus.json: unknown field 'clases': did you mean 'classes'"):
        manifest.read_corpus(tmp_path / "manifest.jsonl")


def test_the_exclusions_beside_a_manifest_survive_a_round_trip(tmp_path):
    excluded, stripped = [Exclusion("a", "no label"), Exclusion("b", "“…”")], [Exclusion("c", "audio: no such file")]
    manifest.write_exclusions(tmp_path / "manifest.jsonl", excluded, stripped)
    assert manifest.read_exclusions(tmp_path / "manifest.jsonl") == Exclusions(excluded, stripped)


def test_an_exclusion_without_a_reason_is_refused(tmp_path):
    write_rows(tmp_path / "exclusions.json", {"excluded": [{"id": "a"}], "stripped": []})
    with pytest.raises(CorpusError, match=r"exclusions.json: field 'excluded\.0\.reason' is missing"):
        manifest.read_exclusions(tmp_path / "manifest.jsonl")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": 10**400}, "field 'index': expected an integer >= 0"),
        ({"votes": {"happy": 10**400}}, "field 'votes.happy': expected a number from 0 to 1"),
        ({"votes": {"happy": -3.0}}, "field 'votes.happy': expected a number from 0 to 1"),
        ({"dimensions": {"valence": 10**400}}, "field 'dimensions.valence': expected a number"),
        ({"audio": {"path": "a.wav", "start": 1e300, "end": None, "channel": "mix"}}, "field 'audio.start'"),
        ({"audio": {"path": "a.wav", "start": 10**400, "end": None, "channel": "mix"}}, "field 'audio.start'"),
        ({"audio": {"path": "\ud800.wav", "start": None, "end": None, "channel": "mix"}}, "field 'audio.path'"),
        ({"audio": {"path": "a\0.wav", "start": None, "end": None, "channel": "mix"}}, "field 'audio.path'"),
        ({"video": {"path": "a", "start": None, "end": None, "crop": [0, 0, 9, 10**400]}}, "field 'video.crop'"),
    ],
)
def test_a_value_that_its_type_lets_in_and_nothing_can_use_is_refused(tmp_path, changes, message):
    """10^400 and lone surrogates passed the reader, and were an OverflowError or a UnicodeEncodeError later."""
    path = write_rows(tmp_path / "manifest.jsonl", row_of(**changes))
    with pytest.raises(CorpusError, match=message) as caught:
        manifest.read(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("root", ["/data\0", "/data/\ud800", ""])
def test_a_root_that_no_folder_can_have_is_refused(tmp_path, root):
    write_rows(tmp_path / "corpus.json", {"corpus": "c", "root": root, "labels": None, "classes": [], "version": "1"})
    with pytest.raises(CorpusError, match="field 'root': expected the path of a file or folder"):
        manifest.read_corpus(tmp_path / "manifest.jsonl")


@pytest.mark.parametrize("name", ["manifest.jsonl", "corpus.json", "exclusions.json"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    """Reading a pipe that nobody writes to hung; `/dev/zero` took all memory."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs pipes that have names")
    os.mkfifo(tmp_path / name)
    read = {"corpus.json": manifest.read_corpus, "exclusions.json": manifest.read_exclusions}.get(name, manifest.read)
    with pytest.raises(CorpusError, match="expected a file, found a folder, pipe or device"):
        read(tmp_path / "manifest.jsonl")


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("wavfusion.files.LINE", 1000)
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row_of(text="x" * 2000)))
    with pytest.raises(CorpusError, match="expected lines of at most 1000 characters"):
        manifest.read(tmp_path / "manifest.jsonl")
