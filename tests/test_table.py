import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavfusion import corpora, manifest
from wavfusion.cli.app import main
from wavfusion.corpora.emotions import EMOTIONS
from wavfusion.corpora.reading import Rows
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.manifest import AudioSpan, VideoSpan


def plant(root, text, name="table.csv", files=()):
    root.mkdir(exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def prepare(*args, **settings):
    return corpora.prepare("table", plant(*args, **settings))


def test_a_row_with_every_column_becomes_an_utterance(tmp_path):
    text = (
        "id,audio,video,text,emotion,split,speaker,session,dialogue,index,start,end,channel,crop,language,style\n"
        'a,x.wav,y.mp4,"Well, hi",Joy,valid,Ann,S1,D1,3,1,2.5,left,"0 0 9, 8",de,scripted\n'
    )
    (found,) = prepare(tmp_path, text, files=["x.wav", "y.mp4"]).utterances
    assert (found.audio, found.video) == (
        AudioSpan("x.wav", 1.0, 2.5, "left"),
        VideoSpan("y.mp4", 1.0, 2.5, [0, 0, 9, 8]),
    )
    assert (found.id, found.text, found.emotion, found.raw_label, found.split, found.index, found.style) == (
        "a",
        "Well, hi",
        "joy",
        "Joy",
        "valid",
        3,
        "scripted",
    )


def test_json_lines_say_the_same_as_csv(tmp_path):
    row = {"id": "a", "audio": "x.wav", "start": 1, "end": 2.5, "index": 3, "text": None}
    plant(tmp_path / "json", json.dumps(row) + "\n", "t.jsonl", ["x.wav"])
    plant(tmp_path / "csv", "id,audio,start,end,index,text\na,x.wav,1,2.5,3,\n", files=["x.wav"])
    one, other = (list(corpora.prepare("table", tmp_path / name).utterances) for name in ("json", "csv"))
    assert one == other


def test_a_tsv_table_is_read_with_tabs(tmp_path):
    (found,) = prepare(tmp_path, "id\ttext\na\tone, two\n", "t.tsv").utterances
    assert found.text == "one, two"


def test_the_table_itself_may_be_the_root(tmp_path):
    plant(tmp_path, "text\nhi\n", "mine.csv")
    plant(tmp_path, "text\nho\n", "other.csv")
    assert corpora.prepare("table", tmp_path / "mine.csv").utterances[0].text == "hi"


def test_several_tables_in_a_folder_are_named(tmp_path):
    plant(tmp_path, "text\nhi\n", "mine.csv")
    with pytest.raises(CorpusError, match="found mine.csv, other.csv; name the file instead"):
        prepare(tmp_path, "text\nho\n", "other.csv")


def test_ids_are_the_stems_where_they_differ(tmp_path):
    found = prepare(tmp_path, "audio\na/one.wav\na/two.wav\n").utterances
    assert [each.id for each in found] == ["one", "two"]


def test_ids_are_the_row_numbers_where_the_stems_do_not_differ(tmp_path):
    found = prepare(tmp_path, "audio\na/one.wav\nb/one.wav\n").utterances
    assert [each.id for each in found] == ["1", "2"]


def test_a_missing_file_keeps_its_row_and_is_listed(tmp_path):
    prepared = prepare(tmp_path, "audio,text\nx.wav,hi\n")
    assert prepared.utterances[0].missing == ["audio", "video"]
    assert prepared.stripped == [("x", "audio: no such file: x.wav")]


def test_a_dangling_link_is_a_missing_file(tmp_path):
    (tmp_path / "x.wav").symlink_to(tmp_path / "nowhere.wav")
    assert prepare(tmp_path, "audio,text\nx.wav,hi\n").utterances[0].audio is None


def test_a_link_that_leads_outside_is_followed(tmp_path):
    plant(tmp_path / "disk", "", "x.wav")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "x.wav").symlink_to(tmp_path / "disk" / "x.wav")
    assert prepare(tmp_path / "root", "audio\nx.wav\n").utterances[0].audio == AudioSpan("x.wav")


def test_an_absolute_path_inside_the_root_becomes_relative(tmp_path):
    found = prepare(tmp_path, f"audio\n{tmp_path}/a/x.wav\n", files=["a/x.wav"]).utterances
    assert found[0].audio.path == "a/x.wav"


@pytest.mark.parametrize("path", ["../x.wav", "a/../../x.wav", "/etc/passwd", "a/../x.wav"])
def test_a_path_that_leads_outside_the_root_is_refused_by_name(tmp_path, path):
    with pytest.raises(CorpusError) as caught:
        prepare(tmp_path, f"audio\n{path}\n")
    assert f"table.csv:2: expected a path inside {tmp_path}, found {path!r}" in str(caught.value)


@pytest.mark.parametrize("name", ["two words.wav", "it's.wav", "😀.wav", "line\nbreak.wav", 'a"b.wav'])
def test_hostile_file_names_are_found(tmp_path, name):
    quoted = name.replace('"', '""')
    (found,) = prepare(tmp_path, f'audio\n"{quoted}"\n', files=[name]).utterances
    assert found.audio.path == name


def test_a_row_without_emotion_is_kept(tmp_path):
    found = prepare(tmp_path, "text,emotion\nhi,joy\nho,\n").utterances
    assert [each.emotion for each in found] == ["joy", None]


def test_the_classes_of_a_known_set_have_its_order(tmp_path):
    text = "text,emotion\n" + "".join(f"hi,{name}\n" for name in sorted(EMOTIONS["meld"]))
    assert prepare(tmp_path, text).corpus.classes == EMOTIONS["meld"]


def test_other_classes_have_the_order_of_the_alphabet(tmp_path):
    assert prepare(tmp_path, "text,emotion\nhi,proud\nho,bored\n").corpus.classes == ["bored", "proud"]


def test_the_down_mix_is_for_rows_without_a_channel(tmp_path):
    plant(tmp_path, "audio,channel\nx.wav,right\ny.wav,\n", files=["x.wav", "y.wav"])
    found = corpora.prepare("table", tmp_path, down_mix="centre").utterances
    assert [each.audio.channel for each in found] == ["right", "centre"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("audio,emotoin\nx.wav,joy\n", ":1: unknown column 'emotoin': did you mean 'emotion'"),
        ("id,emotion\na,joy\n", ":1: expected a column audio, text or video, found id, emotion"),
        ("text,text\na,b\n", ":1: expected each column once, found 'text' twice"),
        ("text,split\na,dev\n", ":2: unknown split 'dev': valid: train, valid, test"),
        ("text,start\na,soon\n", ":2: expected start in seconds >= 0, found 'soon'"),
        ("text,start,end\na,2,1\n", ":2: expected end after start, found start 2, end 1"),
        ("text,index\na,-1\n", ":2: expected index as an integer >= 0, found '-1'"),
        ("audio,channel\n.,middle\n", ":2: unknown channel 'middle'"),
        ("id,text\na,b\na,c\n", ":3: expected unique ids, found 'a' again, first on line 2"),
        ("id,text\na,b\n,c\n", ":3: expected an id in every row or in none"),
        ("id,text\na,b,c\n", ":2: expected 2 cells, found 3"),
        ('text\n"a\n', ":2: expected cells of at most 131,072 characters, every quote closed, found: unexpected end"),
        (f"text\n{'a' * 140_000}\n", ":2: expected cells of at most 131,072 characters, every quote closed, found"),
        (f"text,index\na,{'1' * 5000}\n", f":2: expected index as an integer >= 0, found '{'1' * 77}...'"),
        ('id,text\n"a\nb",c\n', r":3: expected an id of one printable line, found 'a\nb'"),
        ("text\n", "expected at least one row, found none"),
    ],
)
def test_a_broken_row_is_named_with_file_and_line(tmp_path, text, message):
    with pytest.raises(CorpusError) as caught:
        prepare(tmp_path, text)
    assert f"table.csv{message}" in str(caught.value) or message in str(caught.value)


def test_a_crop_that_is_no_box_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="expected crop as `left top right bottom`"):
        prepare(tmp_path, "video,crop\nx.mp4,9 0 1 1\n", files=["x.mp4"])


@pytest.mark.parametrize("line", ["{", "[1]", '{"txt": "hi"}', "[" * 100_000, f'{{"index": {"1" * 5000}}}'])
def test_a_broken_json_line_is_named_with_file_and_line(tmp_path, line):
    with pytest.raises(CorpusError, match=r"t\.jsonl:2: "):
        prepare(tmp_path, '{"text": "hi"}\n' + line + "\n", "t.jsonl")


def test_columns_of_other_names_are_mapped(tmp_path):
    text = "Wav Path,label,Label 2,emotion\nx.wav,Joy,?,ignored\n"
    plant(tmp_path, text, files=["x.wav"])
    (found,) = corpora.prepare("table", tmp_path, columns={"audio": "Wav Path", "emotion": "label"}).utterances
    assert (found.audio.path, found.emotion, found.text) == ("x.wav", "joy", None)


@pytest.mark.parametrize(("flags", "missing"), [((), ["audio", "video"]), (("--no-scan",), ["video"])])
def test_the_command_line_maps_columns_and_opens_media_unless_told_not_to(tmp_path, flags, missing):
    root = plant(tmp_path / "raw", "wav_path,said\nempty.wav,hi\n", files=["empty.wav"])
    command = ["prepare", "table", str(root), "--columns", "audio=wav_path,text=said", "--out", str(tmp_path / "out")]
    assert main([*command, *flags]) == 0
    (found,) = manifest.read(tmp_path / "out" / "manifest.jsonl")
    assert (found.text, found.missing, (tmp_path / "out" / "media.jsonl").exists()) == ("hi", missing, not flags)


def test_one_column_may_fill_two_fields(tmp_path):
    plant(tmp_path, "file\nx.wav\n", files=["x.wav"])
    (found,) = corpora.prepare("table", tmp_path, columns={"id": "file", "audio": "file"}).utterances
    assert (found.id, found.audio.path) == ("x.wav", "x.wav")


def test_an_object_may_lack_a_mapped_column(tmp_path):
    plant(tmp_path, '{"said": "hi", "mood": "joy"}\n{"said": "ho"}\n', "t.jsonl")
    found = corpora.prepare("table", tmp_path, columns={"text": "said", "emotion": "mood"}).utterances
    assert [each.emotion for each in found] == ["joy", None]


@pytest.mark.parametrize(("text", "name"), [("said\nhi\n", "t.csv"), ('{"said": "hi"}\n', "t.jsonl")])
def test_a_mapped_column_that_is_nowhere_is_named(tmp_path, text, name):
    plant(tmp_path, text, name)
    with pytest.raises(CorpusError, match="expected the column 'mod'"):
        corpora.prepare("table", tmp_path, columns={"text": "said", "emotion": "mod"})


@pytest.mark.parametrize(
    ("corpus", "columns", "message"),
    [("table", {"adio": "x"}, "unknown field 'adio'.* did you mean 'audio'"), ("meld", {"audio": "x"}, "for a table")],
)
def test_a_map_that_fits_nothing_is_refused(tmp_path, corpus, columns, message):
    with pytest.raises(ConfigError, match=message):
        corpora.prepare(corpus, tmp_path, columns=columns)


def test_whole_numbers_that_a_tool_made_fractions_and_nan_are_read(tmp_path):
    (found,) = prepare(tmp_path, '{"text": "hi", "index": 3.0, "speaker": 7.0, "emotion": NaN}\n', "t.jsonl").utterances
    assert (found.index, found.speaker, found.emotion) == (3, "7", None)


def test_rows_are_read_anew_each_time(tmp_path):
    found = prepare(tmp_path, "text\nhi\nho\n").utterances
    assert ([each.text for each in found], len(found), found[-1].text, found[:1]) == (["hi", "ho"], 2, "ho", [found[0]])


def test_the_first_rows_are_taken_without_reading_the_others(tmp_path):
    """Every index read the whole table into memory."""
    found = prepare(tmp_path, "id,text\n" + "".join(f"{number},a\n" for number in range(9))).utterances
    read = []
    rows = Rows(lambda: (read.append(row.id) or row for row in found), len(found))
    assert (rows[1].id, read) == ("1", ["0", "1"])
    assert (rows[-1].id, [row.id for row in rows[:2]]) == ("8", ["0", "1"])
    with pytest.raises(IndexError):
        rows[9]


def test_what_prepare_wrote_into_the_folder_is_no_table(tmp_path):
    for _ in range(2):
        prepared = corpora.prepare("table", plant(tmp_path, "text\nhi\n", "mine.csv"), scan=tmp_path / "media.jsonl")
        corpora.write_prepared(prepared, tmp_path)
    assert manifest.read(tmp_path / "manifest.jsonl") == list(prepared.utterances)


def test_parquet_says_the_same_as_json(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"id": "a", "text": "hi", "index": 3, "emotion": None},
        {"id": "b", "text": "ho", "index": None, "emotion": "joy"},
    ]
    plant(tmp_path / "json", "".join(json.dumps(row) + "\n" for row in rows), "t.jsonl")
    (tmp_path / "parquet").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "parquet" / "t.parquet")
    one, other = (list(corpora.prepare("table", tmp_path / name).utterances) for name in ("json", "parquet"))
    assert one == other and len(one) == 2


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        prepare(tmp_path, "", "t.parquet")


PART = st.sampled_from(["..", ".", "a", "b", "", "...", "a..", "~", "/"])


@given(st.lists(PART, min_size=1, max_size=6).map("/".join), st.booleans())
def test_no_path_leads_out_of_the_root(name, absolute):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "a"
        for path in ("secret", "a/secret", "a/b/secret"):
            (Path(folder) / path).parent.mkdir(exist_ok=True)
            (Path(folder) / path).touch()
        cell = f"{root}/{name}/secret" if absolute else f"{name}/secret"
        try:
            (found,) = prepare(root, json.dumps({"audio": cell, "text": "x"}) + "\n", "t.jsonl").utterances
        except CorpusError as error:
            assert repr(cell) in str(error) and (".." in PurePosixPath(cell).parts or cell.startswith("/"))
        else:
            inside = found.audio is None or os.path.normpath(root / found.audio.path).startswith(f"{root}/")
            assert inside and ".." not in PurePosixPath(cell).parts


def test_a_link_inside_the_root_may_lead_anywhere(tmp_path):
    plant(tmp_path / "root", "audio\nlink/x.wav\n")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "x.wav").touch()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "disk")
    assert corpora.prepare("table", tmp_path / "root").utterances[0].audio.path == "link/x.wav"


@pytest.mark.slow
def test_a_long_table_takes_no_more_memory_than_its_ids(tmp_path):
    """50,000 rows held as utterances would take 100 MB beyond what a short table takes."""
    code = (
        "import resource, sys; from wavfusion.cli.app import main; main(sys.argv[1:])\n"
        "sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))"
    )
    peaks = []
    for count in (10, 50_000):
        rows = (f"row{k:06d},w.wav,what was said in row {k},happy,s{k % 9},{k},{k + 1}\n" for k in range(count))
        root = plant(tmp_path / str(count), "id,audio,text,emotion,speaker,start,end\n" + "".join(rows))
        command = [sys.executable, "-c", code, "prepare", "table", root, "--out", tmp_path / f"out{count}"]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stderr))
    assert peaks[1] - peaks[0] < 50 * 1024


@pytest.mark.parametrize("cell", ["[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900])
def test_a_deeply_nested_cell_is_one_line(tmp_path, cell):
    """JSON reads 900 levels; writing them as text did not."""
    with pytest.raises(CorpusError, match=r"t\.jsonl:1: expected a text, a number or a list of them"):
        prepare(tmp_path, f'{{"text": {cell}}}\n', "t.jsonl")


def test_files_whose_names_are_no_ids_are_numbered(tmp_path):
    (found,) = prepare(tmp_path, 'audio\n"line\nbreak.wav"\n').utterances
    assert found.id == "1"


@pytest.mark.parametrize(
    ("text", "differences"),
    [
        ("text\ncafé\n".encode(), []),
        ("text\ncafé\n".encode("cp1252"), ["1 files are not UTF-8 and are read as cp1252: table.csv"]),
        (
            b"text\n\x81\n",
            [
                "1 files are not UTF-8 and are read as cp1252: table.csv",
                "1 files hold bytes that cp1252 lacks too, read as U+FFFD: table.csv",
            ],
        ),
    ],
)
def test_a_table_that_is_not_utf8_is_said(tmp_path, text, differences):
    """One stray byte turned every accent of the file into two characters, silently."""
    (tmp_path / "table.csv").write_bytes(text)
    assert corpora.prepare("table", tmp_path).differences == differences


def test_a_row_that_lacks_two_files_is_stripped_once(tmp_path):
    prepared = prepare(tmp_path, "audio,video,text\nx.wav,x.mp4,hi\n")
    assert prepared.stripped == [("x", "audio: no such file: x.wav; video: no such file: x.mp4")]


def test_notes_of_a_scan_are_no_table(tmp_path):
    plant(tmp_path, "audio\nx.wav\n", "mine.csv", files=["x.wav"])
    for _ in range(2):
        prepared = corpora.prepare("table", tmp_path, scan=tmp_path / "media.jsonl")
    assert prepared.utterances[0].id == "x" and (tmp_path / "media.jsonl").exists()


@pytest.mark.parametrize("name", ["manifest.jsonl", "media.jsonl"])
def test_the_user_s_own_table_is_not_written_over(tmp_path, name):
    """`prepare table D/manifest.jsonl --out D --force` replaced the table by its manifest."""
    plant(tmp_path, '{"text": "hi", "audio": "x.wav"}\n', name, ["x.wav"])
    before = (tmp_path / name).read_bytes()
    assert main(["prepare", "table", str(tmp_path / name), "--out", str(tmp_path), "--force"]) == 2
    assert (tmp_path / name).read_bytes() == before and not (tmp_path / "corpus.json").exists()


@pytest.mark.parametrize("text", ["text\nhi\nho\n", "text\n", "text\nhi\nho\nhu\nha\n", None])
def test_a_table_that_changes_before_it_is_written_replaces_nothing(tmp_path, text):
    """Rows are read again when they are written: corpus.json and exclusions.json were new by then."""
    table = plant(tmp_path / "raw", "text\nhi\n") / "table.csv"
    corpora.write_prepared(corpora.prepare("table", table), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    plant(tmp_path / "raw", "text\nhi\nho\nhu\n")
    prepared = corpora.prepare("table", table)
    table.write_text(text) if text else table.unlink()
    with pytest.raises(CorpusError, match=r"table\.csv"):
        corpora.write_prepared(prepared, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
