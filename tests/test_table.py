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
        "id,audio,video,text,emotion,split,speaker,session,dialogue,index,start,end,channel,crop,language,style,corpus\n"
        'a,x.wav,y.mp4,"Well, hi",Joy,valid,Ann,S1,D1,3,1,2.5,left,"0 0 9, 8",de,scripted,Ours\n'
    )
    (found,) = prepare(tmp_path, text, files=["x.wav", "y.mp4"]).utterances
    assert (found.audio, found.video) == (
        AudioSpan("x.wav", 1.0, 2.5, "left"),
        VideoSpan("y.mp4", 1.0, 2.5, [0, 0, 9, 8]),
    )
    assert (found.id, found.corpus, found.text, found.emotion, found.raw_label, found.split, found.index) == (
        "a",
        "Ours",
        "Well, hi",
        "joy",
        "Joy",
        "valid",
        3,
    )
    assert found.style == "scripted"


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
        ("text,split\na,dve\n", ":2: unknown split 'dve': did you mean 'dev'? valid: train, valid, test, training"),
        ("text,start\na,soon\n", ":2: expected start in seconds >= 0, such as 1.5, found 'soon'"),
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
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 50 * 1024


@pytest.mark.parametrize(("opened", "closed"), ["[]", ('{"a":', "1}")])
def test_a_deeply_nested_cell_is_one_line(tmp_path, opened, closed):
    """JSON reads 900 levels; writing them as text did not."""
    for depth, found in ((9, "expected a text, a number or a list of them"), (900, "found more than 50 levels")):
        cell = opened * depth + closed[:-1] + closed[-1] * depth
        with pytest.raises(CorpusError, match=rf"t\.jsonl:1: .*{found}"):
            prepare(tmp_path, f'{{"text": {cell}}}\n', "t.jsonl")


def test_files_whose_names_are_no_ids_are_numbered(tmp_path):
    (found,) = prepare(tmp_path, 'audio\n"line\nbreak.wav"\n').utterances
    assert found.id == "1"


@pytest.mark.parametrize(
    ("text", "differences"),
    [
        ("text\ncafé\n".encode(), []),
        ("text\ncafé\n".encode("cp1252"), ["1 file not in UTF-8, read as cp1252: table.csv"]),
        (
            b"text\n\x81\n",
            [
                "1 file not in UTF-8, read as cp1252: table.csv",
                "1 file with bytes that cp1252 lacks too, read as U+FFFD: table.csv",
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


@pytest.mark.parametrize(
    ("cell", "file"),
    [
        (r"wavs\a.wav", "wavs/a.wav"),
        ("wavs/B.wav", "wavs/b.WAV"),
        ("wavs/cafe\u0301.wav", "wavs/caf\u00e9.wav"),
        ("wavs/caf\u00e9.wav", "wavs/cafe\u0301.wav"),
        ("clips/dia0_utt0.mp4", "clips/dia0_utt0.wav"),
        ("wav/Ses01F_impro01_F000.wav", "wav/Ses01F_impro01_F000.flac"),
        ("wav/1.5.one", "wav/1.5.one.wav"),
        (" wavs/a.wav ", "wavs/a.wav"),
    ],
)
def test_a_path_in_another_spelling_finds_its_file(tmp_path, cell, file):
    """A table written on Windows, or for clips that were converted, lost its audio without a word."""
    prepared = prepare(tmp_path, f'audio,text\n"{cell}",hi\n', files=[file])
    assert [each.audio for each in prepared.utterances] == [AudioSpan(file)]
    assert prepared.differences == [f"1 path found under another spelling, such as {cell!r} as {file!r}"]


def test_of_two_files_that_differ_by_case_alone_none_is_guessed(tmp_path):
    prepared = prepare(tmp_path, "audio,text\nwavs/A.WAV,hi\n", files=["wavs/a.wav", "wavs/A.wav"])
    assert prepared.utterances[0].audio is None
    assert prepared.stripped == [("A", "audio: 'wavs/A.WAV' fits several files: wavs/A.wav, wavs/a.wav")]


def test_the_file_as_it_is_written_is_taken_before_its_likes(tmp_path):
    prepared = prepare(tmp_path, "audio\na.wav\n", files=["A.wav", "a.wav", "a.flac"])
    assert (prepared.utterances[0].audio.path, prepared.differences) == ("a.wav", [])


def test_audio_alone_is_no_video(tmp_path):
    prepared = prepare(tmp_path, "audio,video\na.mp4,a.mp4\n", files=["a.wav"])
    (found,) = prepared.utterances
    assert (found.audio, found.video) == (AudioSpan("a.wav"), None)
    assert prepared.stripped == [("a", "video: no such file: a.mp4 ('a.wav' is no video)")]


@pytest.mark.parametrize("path", ["..\\x.wav", "a\\..\\..\\x.wav"])
def test_a_backslash_leads_to_no_file_outside_the_root(tmp_path, path):
    plant(tmp_path, "", "x.wav")
    assert prepare(tmp_path / "root", f"audio,text\n{path},hi\n").utterances[0].audio is None


WORDS = ["NA", "NaN", "None", "null", "NULL", "<NA>", "#N/A", "nan"]


@pytest.mark.parametrize("word", WORDS)
def test_a_word_for_nothing_is_an_empty_cell(tmp_path, word):
    """R's NA was an emotion `na`, the text "NA" and the speaker NA."""
    prepared = prepare(
        tmp_path, f"audio,text,emotion,speaker,start\na.wav,{word},{word}, {word} ,{word}\n", files=["a.wav"]
    )
    (found,) = prepared.utterances
    assert (found.text, found.emotion, found.speaker, found.audio) == (None, None, None, AudioSpan("a.wav"))
    assert prepared.corpus.classes == []
    said = "4 cells with NA, None, null or the like count as empty: emotion 1, speaker 1, start 1, text 1"
    assert prepared.differences == [said]


def test_a_text_that_begins_with_such_a_word_stays(tmp_path):
    found = prepare(tmp_path, 'id,text\n1,None of it\n2,"NA, well"\n3,none\n4,None.\n').utterances
    assert [each.text for each in found] == ["None of it", "NA, well", "none", "None."]


def test_a_word_for_nothing_in_json_is_an_empty_cell(tmp_path):
    (found,) = prepare(tmp_path, '{"text": "hi", "emotion": "NaN", "speaker": "None"}\n', "t.jsonl").utterances
    assert (found.text, found.emotion, found.speaker) == ("hi", None, None)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_table_in_utf16_is_read(tmp_path, encoding, name):
    text = "text,emotion\ncafé 😀,joy\n" if name == "t.csv" else '{"text": "café 😀", "emotion": "joy"}\n'
    (tmp_path / name).write_bytes(text.encode(encoding))
    prepared = corpora.prepare("table", tmp_path)
    assert [(each.text, each.emotion) for each in prepared.utterances] == [("café 😀", "joy")]
    assert [line[:35] for line in prepared.differences] == ["1 file not in UTF-8, read as utf-16"] * ("16" in encoding)


@pytest.mark.parametrize(
    ("name", "mark"), [("t.csv", ";"), ("t.csv", "\t"), ("t.tsv", ","), ("t.tsv", ";"), ("t.csv", "|")]
)
def test_the_separator_of_the_cells_is_seen(tmp_path, name, mark):
    """A spreadsheet in German writes semicolons: `unknown column 'audio;emotion;speaker'`."""
    text = f'Audio{mark}text{mark}emotion\na.wav{mark}"one, two; three"{mark}Joy\n'
    (found,) = prepare(tmp_path, text, name, ["a.wav"]).utterances
    assert (found.audio.path, found.text, found.emotion) == ("a.wav", "one, two; three", "joy")


def test_the_separator_is_seen_by_mapped_columns_too(tmp_path):
    plant(tmp_path, "Wav, mono;Stimmung\nx.wav;joy\n", files=["x.wav"])
    columns = {"audio": "Wav, mono", "emotion": "Stimmung"}
    (found,) = corpora.prepare("table", tmp_path, columns=columns).utterances
    assert (found.audio.path, found.emotion) == ("x.wav", "joy")


def test_an_unknown_column_keeps_its_letters(tmp_path):
    with pytest.raises(CorpusError, match="unknown column 'EmoTion Label'"):
        prepare(tmp_path, "text,EmoTion Label\nhi,joy\n")


def test_the_padding_of_a_speaker_is_no_part_of_the_name(tmp_path):
    found = prepare(tmp_path, "id,text,speaker,split\na,hi,        WR0,train \nb,ho,WR0 ,train\n").utterances
    assert [(each.speaker, each.split) for each in found] == [("WR0", "train")] * 2


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ("train dev test", "train valid test"),
        ("Train Val TEST", "train valid test"),
        ("training validation testing", "train valid test"),
        ("train dev eval", "train valid test"),
        ("train eval test", "train valid test"),
        ("train evaluation", "train test"),
    ],
)
def test_other_names_of_splits_are_known_and_said(tmp_path, names, splits):
    rows = "".join(f"hi,{name}\n" for name in names.split())
    prepared = prepare(tmp_path, "text,split\n" + rows)
    assert [each.split for each in prepared.utterances] == splits.split()
    renamed = {(old, new) for old, new in zip(names.split(), splits.split(), strict=True) if old != new}
    assert set(prepared.differences) == {f"split {old!r} is read as {new}" for old, new in renamed}


def test_a_table_may_lie_elsewhere_than_its_media(tmp_path, capsys):
    """Media on a read-only disk needed a link beside the table; absolute paths were refused."""
    plant(tmp_path / "disk", "", "readme", ["wavs/one.wav", "wavs/two.wav"])
    plant(tmp_path / "mine", f"audio,text\nwavs/one.wav,hi\n{tmp_path}/disk/wavs/two.wav,ho\n")
    command = ["prepare", "table", str(tmp_path / "mine"), "--out", str(tmp_path / "out"), "--no-scan"]
    assert main(command) == 2 and "--root DIR names the folder that the media lie below" in capsys.readouterr().err
    assert main([*command, "--root", str(tmp_path / "disk")]) == 0
    found = manifest.read(tmp_path / "out" / "manifest.jsonl")
    assert [each.audio.path for each in found] == ["wavs/one.wav", "wavs/two.wav"]
    assert manifest.read_corpus(tmp_path / "out" / "manifest.jsonl").root == str(tmp_path / "disk")


def test_a_root_of_media_is_for_tables(tmp_path):
    (tmp_path / "meld").mkdir()
    with pytest.raises(ConfigError, match="root of a table's media"):
        corpora.prepare("meld", tmp_path / "meld", media_root=tmp_path)


def test_audio_that_all_rows_lack_is_a_warning_with_the_place_of_the_files(tmp_path, capsys):
    """4,481 rows lost their audio: `0 excluded, 4481 without a modality`, status 0, neither which nor why."""
    text = "file_id,label,said\n" + "".join(f"u{number}.wav,joy,hi\n" for number in range(3))
    plant(tmp_path / "raw", text, files=[f"samples/u{number}.wav" for number in range(3)])
    columns = ["--columns", "audio=file_id,emotion=label,text=said", "--no-scan", "--out", str(tmp_path / "out")]
    assert main(["prepare", "table", str(tmp_path / "raw"), *columns]) == 0
    shown = capsys.readouterr()
    place = tmp_path / "raw" / "samples"
    assert shown.err.splitlines() == [
        "WARNING: audio: missing in 3 of 3 rows; u0: no such file: u0.wav; "
        f"a file of that name lies in 'samples': give --root {place}"
    ]
    assert "without audio: 3 rows, such as u0: no such file: u0.wav" in shown.out.splitlines()
    assert main(["check", str(tmp_path / "out" / "manifest.jsonl")]) == 1
    assert "missing: no row has audio, which the table has a column of (u0, u1, u2)" in capsys.readouterr().out
    assert main(["prepare", "table", str(tmp_path / "raw"), *columns, "--root", str(place), "--force"]) == 0
    assert capsys.readouterr().err == ""
    assert [each.audio.path for each in manifest.read(tmp_path / "out" / "manifest.jsonl")] == [
        "u0.wav",
        "u1.wav",
        "u2.wav",
    ]


def test_each_modality_that_rows_lack_is_counted_by_its_name(tmp_path, capsys):
    """`N without a modality` meant absent media here and rows without words there."""
    plant(tmp_path / "raw", "id,audio,text\na,a.wav,hi\nb,b.wav,\nc,c.wav,ho\n", files=["a.wav", "b.wav"])
    command = ["prepare", "table", str(tmp_path / "raw"), "--no-scan", "--out", str(tmp_path / "out")]
    assert main([*command, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["without"], shown["stripped"]) == ({"audio": 1, "text": 1}, 1)
    assert main([*command, "--force"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["without audio: 1 row, such as c: no such file: c.wav", "without text: 1 row"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a git-LFS pointer"),
        (b"/annex/objects/SHA256E-s9--0.wav\n", "a git-annex pointer"),
    ],
)
def test_a_file_that_only_stands_for_the_media_is_said_to_be_one(tmp_path, content, reason):
    plant(tmp_path / "raw", "audio,text\na.wav,hi\n")
    (tmp_path / "raw" / "a.wav").write_bytes(content)
    (lost,) = corpora.prepare("table", tmp_path / "raw", scan=tmp_path / "media.jsonl").stripped
    assert lost.reason.startswith("audio: expected an audio or video file at 'a.wav', found") and reason in lost.reason


@pytest.mark.parametrize(
    ("cell", "file", "place"),
    [
        ("u.wav", "x/samples/u.wav", "a file of that name lies in 'x/samples': give --root {root}/x/samples"),
        ("wavs/u.wav", "x/Wavs/u.flac", "a file of that name lies in 'x/Wavs': give --root {root}/x"),
        ("wavs/u.wav", "x/u.wav", "a file of that name lies in 'x'"),
        ("wavs/u.wav", "v.wav", "no audio file of that name lies below {root}"),
    ],
)
def test_the_place_of_a_file_that_is_not_found_is_named(tmp_path, cell, file, place):
    prepared = prepare(tmp_path, f"audio,text\n{cell},hi\n", files=[file])
    assert prepared.hints == {"audio": place.format(root=tmp_path)}
