"""Transcripts, held against files as other programs write them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavfusion.errors import CorpusError
from wavfusion.transcripts import Segment, read
from wavfusion.transcripts.reading import read_plain_text

SRT = """1
00:00:01,500 --> 00:00:02,750
<i>Hello,</i>
my friend.

2
100:00:03,000 --> 100:00:04,000 X1:40 X2:600
{\\an8}שלום
"""
VTT = """WEBVTT - made by hand

NOTE
a remark --
that is none

STYLE
::cue { color: lime }

intro
00:01.500 --> 00:02.750 align:start
<v.loud Ann Lee>Hello, <b>my</b> friend &amp; foe.</v>

01:00:03.000 --> 01:00:04.000
Bye
"""
LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 4.0
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "Ann"
        xmin = 0
        xmax = 4.0
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 1.5
            text = ""
        intervals [2]:
            xmin = 1.5
            xmax = 2.75
            text = "a ""quoted"" word [1] 2.5"
        intervals [3]:
            xmin = 2.75
            xmax = 4.0
            text = " "
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 4.0
        points: size = 1
        points [1]:
            number = 1.0
            mark = "click"
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
4.0
<exists>
2
"IntervalTier"
"Ann"
0
4.0
1
1.5
2.75
"hello"
"IntervalTier"
"Bob"
0
4.0
1
3
3.5
"bye"
"""
EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2020-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0">
  <TIME_ORDER>
    <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="1500"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="2750"/>
  </TIME_ORDER>
  <TIER LINGUISTIC_TYPE_REF="utterance" TIER_ID="S1" PARTICIPANT="Ann">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
      <ANNOTATION_VALUE>fish &amp; chips</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER LINGUISTIC_TYPE_REF="gloss" TIER_ID="gloss" PARENT_REF="S1">
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a2" ANNOTATION_REF="a1">
      <ANNOTATION_VALUE>x</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
  </TIER>
</ANNOTATION_DOCUMENT>
"""
RTTM = """;; a remark
SPEAKER talk 1 6.690 0.430 <NA> <NA> B <NA> <NA>
SPKR-INFO talk 1 <NA> <NA> <NA> unknown B <NA> <NA>
SPEAKER talk 1 1.500 1.250 <NA> <NA> A <NA> <NA>
"""
WHISPER = {"text": "a b", "segments": [{"id": 0, "start": 1.5, "end": 2.75, "text": " a b", "speaker": "S0"}]}
CPP = {"transcription": [{"offsets": {"from": 1500, "to": 2750}, "text": " a b"}]}
PIPELINE = {"text": "a b", "chunks": [{"timestamp": [1.5, 2.75], "text": " a b"}]}
OURS = [{"file": "x", "start": 1.5, "end": 2.75, "speaker": None, "text": "a b", "emotion": "sad"}]


def written(tmp_path: Path, name: str, content: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / name
    path.write_text(content, encoding=encoding)
    return path


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.srt", SRT, [(1.5, 2.75, None, "Hello, my friend."), (360_003.0, 360_004.0, None, "שלום")]),
        ("a.vtt", VTT, [(1.5, 2.75, "Ann Lee", "Hello, my friend & foe."), (3603.0, 3604.0, None, "Bye")]),
        ("a.TextGrid", LONG, [(1.5, 2.75, None, 'a "quoted" word [1] 2.5')]),
        ("short.TextGrid", SHORT, [(1.5, 2.75, "Ann", "hello"), (3.0, 3.5, "Bob", "bye")]),
        ("a.eaf", EAF, [(1.5, 2.75, "Ann", "fish & chips")]),
        ("a.rttm", RTTM, [(1.5, 2.75, "A", None), (6.69, 7.12, "B", None)]),
        ("whisper.json", json.dumps(WHISPER), [(1.5, 2.75, "S0", "a b")]),
        ("cpp.json", json.dumps(CPP), [(1.5, 2.75, None, "a b")]),
        ("pipeline.json", json.dumps(PIPELINE), [(1.5, 2.75, None, "a b")]),
        ("ours.json", json.dumps(OURS), [(1.5, 2.75, None, "a b")]),
    ],
)
def test_times_speakers_and_text_are_read(tmp_path, name, content, expected):
    path = written(tmp_path, name, content)
    assert read(path) == [Segment(*each) for each in expected]


def test_praat_s_utf_16_is_read(tmp_path):
    assert read(written(tmp_path, "a.TextGrid", LONG.replace("word", "wörd"), "utf-16"))[0].text.endswith(
        "wörd [1] 2.5"
    )


def test_lines_of_windows_are_read(tmp_path):
    assert len(read(written(tmp_path, "a.srt", SRT.replace("\n", "\r\n")))) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.str", SRT, "expected a file with times, found the ending '.str': did you mean '.srt'?"),
        ("a.srt", "1\nfrom 00:00:01 to 00:00:02\nx\n", "expected srt with times, found none"),
        ("a.srt", "1\nx --> 00:00:02,000\nx\n", "line 2: expected times as"),
        ("a.vtt", "WEBVTT\n\n00:03.000 --> 00:01.000\nx\n", "line 3: expected a start before its end, found 3 to 1 s"),
        ("a.TextGrid", "ELAN", "expected a TextGrid of Praat"),
        ("a.TextGrid", LONG[:300], "expected textgrid, found"),
        ("a.eaf", "<EAF/>", "expected ELAN's ANNOTATION_DOCUMENT, found <EAF>"),
        ("a.eaf", "<EAF", "expected eaf, found"),
        ("a.rttm", "SPEAKER x 1 a b\n", "line 1: expected SPEAKER file 1 start length"),
        ("a.json", '{"words": []}', "expected `segments`"),
        (
            "a.TextGrid",
            LONG.replace("xmax = 2.75", "xmax = 1"),
            "tier 'Ann', interval 2: expected a start before its end",
        ),
        ("a.eaf", EAF.replace("2750", "750"), "annotation a1: expected a start before its end, found 1.5 to 0.75 s"),
        ("a.eaf", EAF.replace('2="ts2"', '2="ts3"'), "annotation a1: expected two times, found none"),
        (
            "a.rttm",
            "SPEAKER talk 1 1.500 -1 <NA> <NA> A <NA> <NA>\n",
            "line 1: expected a start before its end, found 1.5 to 0.5 s",
        ),
        ("a.json", '[{"text": "x"}]', "segment 1: expected `start` and `end` in seconds, found \"{'text': 'x'}\""),
        ("a.json", '["x"]', "segment 1: expected `start` and `end` in seconds, found 'x'"),
        ("a.json", '[{"start": 0, "end": "?"}]', "segment 1: expected `start` and `end` in seconds, found"),
        ("a.json", '{"segments": 3}', "expected a list of segments, found '3'"),
        ("a.json", '[{"start": NaN, "end": 2}]', "segment 1: expected a start before its end"),
    ],
)
def test_an_invalid_transcript_is_refused_in_one_line_that_names_the_file(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with pytest.raises(CorpusError) as error:
        read(path)
    found = str(error.value)
    assert found.startswith(f"{path}: ") and message in found and "\n" not in found


def srt(*said: str) -> str:
    return "".join(f"{i}\n00:00:{i:02},000 --> 00:00:{i:02},900\n{each}\n\n" for i, each in enumerate(said, 1))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["ANNA: I knew it", "no", "BO: you", "ANNA: did", "BO:", *3 * ["so"]],
         [("ANNA", "I knew it"), (None, "no"), ("BO", "you"), ("ANNA", "did"), ("BO", None), *3 * [(None, "so")]]),
        (["Dr. Ann O'Neil: well: yes", "no"], [("Dr. Ann O'Neil", "well: yes"), (None, "no")]),
        (["SPEAKER 1: a", "Speaker 2: b"], [("SPEAKER 1", "a"), ("Speaker 2", "b")]),
        (["Listen: you", "ANNA: a", "b", "c", "ANNA: d", "e", "f"], None),
        (["then he said: go", "at 10:30 she", "http://a.b c", "Ann and Bo: hi", "12: a"], None),
        (["<v Ann>BO: well", "BO: no"], [("Ann", "BO: well"), ("BO", "no")]),
    ],
)  # fmt: skip
def test_a_name_before_a_colon_is_the_speaker_where_that_is_safe(tmp_path, said, expected):
    """Such a name was read as text of an unknown speaker."""
    found = [(each.speaker, each.text) for each in read(written(tmp_path, "a.srt", srt(*said)))]
    assert found == (expected or [(None, each) for each in said])


def test_entities_of_entities_are_refused(tmp_path):
    """A short file became a hundred times as long, and every word of it went through the model."""
    entities = '<!DOCTYPE ANNOTATION_DOCUMENT [<!ENTITY a "well well"><!ENTITY b "&a;&a;&a;">]>'
    content = EAF.replace("<ANNOTATION_DOCUMENT", f"{entities}<ANNOTATION_DOCUMENT").replace("chips", "&b;")
    with pytest.raises(CorpusError, match="a.eaf: expected no DOCTYPE, as ELAN writes none, found one of 'ANNOT"):
        read(written(tmp_path, "a.eaf", content))


@pytest.mark.parametrize("content", [b"PK\3\4docx", b"{\\rtf1 hello}", b"%PDF-1.7", b"\xd0\xcf\x11\xe0doc", b"h\xe9"])
def test_a_document_is_refused_as_plain_text(content):
    """RTF was taken for text, letter by letter; the message for the others did not name an office document."""
    with pytest.raises(CorpusError, match="expected plain text, found a document of an|expected UTF-8 or UTF-16"):
        read_plain_text(content)
    assert read_plain_text("well\r\n".encode("utf-16")) == "well" == read_plain_text(b"\xef\xbb\xbfwell\n")


@pytest.mark.parametrize("content", [SRT, VTT])
def test_subtitles_are_refused_as_plain_text(content):
    """Subtitles in a .txt file reached the model with their numbers and times."""
    with pytest.raises(CorpusError, match=r"found subtitles with times: give their file the ending .srt"):
        read_plain_text(content.encode())
    assert read_plain_text(b"from 1:00 --> on, at 00:00:01") == "from 1:00 --> on, at 00:00:01"


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "a.srt"
    path.write_bytes(b"\xff\x00\x80")
    with pytest.raises(CorpusError, match="expected UTF-8 or UTF-16"):
        read(path)


@given(text=st.text(max_size=200), suffix=st.sampled_from([".srt", ".vtt", ".textgrid", ".eaf", ".rttm", ".json"]))
def test_any_text_is_read_or_refused_in_one_line(tmp_path_factory, text, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        read(path)
    except CorpusError as error:
        assert "\n" not in str(error).removeprefix(str(path))
