"""Faults that users met with transcripts of other programs, each with the words and times that are right."""

import csv
import json
import math
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from wavfusion.errors import ConfigError, CorpusError
from wavfusion.prediction.recordings import plan_recordings
from wavfusion.transcripts import Segment, read
from wavfusion.transcripts.reading import LARGEST, READERS, decode_text
from wavfusion.transcripts.segment import as_segments

Found = list[tuple[float, float, str | None, str | None]]


def found(tmp_path: Path, name: str, content: str | bytes, recording: str | None = None) -> Found:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(each.start, each.end, each.speaker, each.text) for each in read(path, recording)]


# ------------------------------------------------------------------ subtitles


@pytest.mark.parametrize("end", ["\r\r\n", "\r\n", "\r", "\n"])
def test_every_line_end_counts_as_one(tmp_path: Path, end: str) -> None:
    """After CR CR LF every cue was without words."""
    cues = "1\n00:00:00,500 --> 00:00:02,000\nHello friends.\n\n2\n00:00:02,000 --> 00:00:04,000\nI am so angry.\n"
    expected = [(0.5, 2.0, None, "Hello friends."), (2.0, 4.0, None, "I am so angry.")]
    assert found(tmp_path, "a.srt", cues.replace("\n", end)) == expected


def test_a_cue_ends_before_the_next_time_line_even_without_a_blank_line(tmp_path: Path) -> None:
    """One utterance held the number and times of the next; two vanished."""
    first, second = "1\n0:00:00.000 --> 0:00:02.000\nHello.\n", "2\n0:00:02.000 --> 0:00:04.000\nIn\n1999\n"
    cues = f"{first}{second}3\n0:00:04.000 --> 0:00:07.000\nSad.\n"
    assert found(tmp_path, "a.srt", cues) == [(0, 2, None, "Hello."), (2, 4, None, "In 1999"), (4, 7, None, "Sad.")]


def test_the_text_after_a_blank_line_stays_with_its_cue(tmp_path: Path) -> None:
    first = "1\n00:00:00,440 --> 00:00:02,195\nStuck at work,\n\nten minutes late.\n\n"
    cues = f"{first}2\n00:00:02,960 --> 00:00:04,157\nNo.\n"
    assert found(tmp_path, "a.srt", cues) == [
        (0.44, 2.195, None, "Stuck at work, ten minutes late."),
        (2.96, 4.157, None, "No."),
    ]
    notes = (
        "WEBVTT\n\n00:01.000 --> 00:02.000\none\n\nNOTE of a\nmodel\n\ntwo\n\nname\n00:02.000 --> 00:03.000\nthree\n"
    )
    assert found(tmp_path, "a.vtt", notes) == [(1, 2, None, "one two"), (2, 3, None, "three")]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("I <3 you so much and 5 > 4", "I <3 you so much and 5 > 4"),
        ("<font color=red>No</font> <I>way</I> <00:00:01.500><c> now</c>", "No way now"),
        ("go -> there --> now", "go -> there --> now"),
        ("{\\an8}up {not a tag}", "up {not a tag}"),
        ("one<br/>two &lt;b&gt;", "one two <b>"),
    ],
)
def test_only_known_tags_are_removed_and_an_arrow_is_text(tmp_path: Path, written: str, words: str) -> None:
    """`I <3 you so much and 5 > 4` became `I 4`; a cue with an arrow was dropped."""
    assert found(tmp_path, "a.vtt", f"WEBVTT\n\n00:00.000 --> 00:02.000\n{written}\n") == [(0, 2, None, words)]


def test_an_arrow_of_one_dash_divides_times(tmp_path: Path) -> None:
    assert found(tmp_path, "a.srt", "1\n00:00:01 -> 00:00:02\nx\n") == [(1, 2, None, "x")]


def test_a_second_voice_of_a_cue_is_a_second_utterance(tmp_path: Path) -> None:
    """What Bob said went to Anna. The time is shared by the length of the texts."""
    cue = "WEBVTT\n\n00:00:00.000 --> 00:00:04.000\n<v Anna>Hi</v>\n<v Bob>Hello.</v>\n"
    assert found(tmp_path, "a.vtt", cue) == [(0.0, 1.0, "Anna", "Hi"), (1.0, 4.0, "Bob", "Hello.")]


YOUTUBE = """WEBVTT
Kind: captions

00:00:00.160 --> 00:00:03.429 align:start position:0%
 \n\
Linus,<00:00:00.960><c> do</c><00:00:01.520><c> your</c>

00:00:03.429 --> 00:00:03.439 align:start position:0%
Linus, do your
 \n\

00:00:03.439 --> 00:00:05.749 align:start position:0%
Linus, do your
kids<00:00:03.760><c> think</c>

00:00:05.749 --> 00:00:05.759 align:start position:0%
kids think
 \n\
"""


def test_a_line_that_rolls_up_is_taken_once_where_it_is_new(tmp_path: Path) -> None:
    """YouTube's captions gave an empty cue, each line twice, and utterances of 10 ms."""
    assert found(tmp_path, "a.vtt", YOUTUBE) == [
        (0.16, 3.429, None, "Linus, do your"),
        (3.439, 5.749, None, "kids think"),
    ]


def test_what_is_said_twice_in_ordinary_subtitles_stays(tmp_path: Path) -> None:
    cues = "".join(f"{i}\n00:00:0{i},000 --> 00:00:0{i + 1},000\nNo!\n\n" for i in range(1, 4))
    assert [text for *_, text in found(tmp_path, "a.srt", cues)] == ["No!"] * 3


# ------------------------------------------------------------------ formats that were taken for words

ASS = """[Script Info]
Title: x

[V4+ Styles]
Format: Name, Fontname
Style: Default,Arial

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:02.00,Default,,0,0,0,,no words
Dialogue: 0,0:00:00.00,0:00:02.00,Default,Anna,0,0,0,,{\\i1}I am,\\Nwell, sad.
Dialogue: 0,0:00:00.00,0:00:02.00,Default,,0,0,0,,{\\p1}m 0 0 l 10 10{\\p0}
"""
TTML = """<?xml version="1.0" encoding="UTF-16"?>
<tt xmlns="http://www.w3.org/ns/ttml" xmlns:ttm="http://www.w3.org/ns/ttml#metadata"
 xmlns:ttp="http://www.w3.org/ns/ttml#parameter" ttp:frameRate="25" ttp:tickRate="1000"><head><metadata>
<ttm:agent xml:id="a1" type="person"><ttm:name type="full">Anna</ttm:name></ttm:agent></metadata></head>
<body><div begin="10s"><p begin="00:00:00.5" end="00:00:02.0" ttm:agent="a1">I <span>am
<span>so</span></span><br/>sad</p>
<p begin="2000t" dur="1.5s">No</p><p begin="00:00:04:05" end="00:00:05:00">way</p></div></body></tt>"""
CHAT = """@UTF8
@Begin
*CHI:\tI (wi)ll go [//] , &-um I\n\tam sad . \x15500_2000\x15
%mor:\tpro|I v|go
*MOT:\tno +... \x152000_2600\x15
@End
"""
FORMATS: list[tuple[str, str, Found]] = [
    ("a.tsv", "start\tend\ttext\n0\t1000\t\"Well,\" she said\n1000\t2140\tNo way.\n",
     [(0, 1, None, '"Well," she said'), (1, 2.14, None, "No way.")]),
    ("whisper.txt", "Detected: English\n[00:00.000 --> 00:02.140]  I am sad.\n[01:00:02.140 --> 01:00:04.000]  No.\n",
     [(0, 2.14, None, "I am sad."), (3602.14, 3604, None, "No.")]),
    ("labels.txt", "0.500000\t1.600000\tI am sad\n\\\t100.0\t200.0\n2.0\t2.5\t\n",
     [(0.5, 1.6, None, "I am sad"), (2.0, 2.5, None, None)]),
    ("a.ass", ASS, [(0, 2, "Anna", "I am, well, sad.")]),
    ("a.ssa", ASS.replace("Layer", "Marked"), [(0, 2, "Anna", "I am, well, sad.")]),
    ("a.ctm", ";; x\ntalk 1 0.11 0.20 I\ntalk 1 0.31 0.22 am 0.9\ntalk 1 0.53 1.0 <eps>\ntalk 1 1.60 0.30 sad\n",
     [(0.11, 0.53, None, "I am"), (1.6, 1.9, None, "sad")]),
    ("two.ctm", "talk A 0.1 0.2 I\ntalk B 0.2 0.2 no\n", [(0.1, 0.3, "channel A", "I"), (0.2, 0.4, "channel B", "no")]),
    ("a.stm", "talk 1 anna 0.0 2.0 <o,f0,female> I am sad\ntalk 1 inter_segment_gap 2.0 3.0 <o,,>\n",
     [(0, 2, "anna", "I am sad")]),
    ("a.ttml", TTML, [(10.5, 12, "Anna", "I am so sad"), (12, 13.5, None, "No"), (14.2, 15, None, "way")]),
    ("a.dfxp", TTML[TTML.index("<tt"):],
     [(10.5, 12, "Anna", "I am so sad"), (12, 13.5, None, "No"), (14.2, 15, None, "way")]),
    ("a.sbv", "0:00:00.500,0:00:02.000\nI am sad\n\n0:00:02.000,0:00:03.000\nNo way\n",
     [(0.5, 2, None, "I am sad"), (2, 3, None, "No way")]),
    ("a.sub", "{1}{1}25\n{25}{50}{y:i}I am|sad\n", [(1, 2, None, "I am sad")]),
    ("view.sub", "00:00:01.00,00:00:02.00\nI am[br]sad\n", [(1, 2, None, "I am sad")]),
    ("a.lrc", "[ar:x]\n[00:00.50]I <00:01.00>am sad\n[00:02.00]\n[00:03.00][00:05.00]No way\n",
     [(0.5, 2, None, "I am sad"), (3, 5, None, "No way"), (5, math.inf, None, "No way")]),
    ("stamps.txt", "[00:00:01] Anna: no\n[00:00:03] Bo: yes\n", [(1, 3, "Anna", "no"), (3, math.inf, "Bo", "yes")]),
    ("a.cha", CHAT, [(0.5, 2, "CHI", "I will go , I am sad ."), (2, 2.6, "MOT", "no")]),
    ("a.csv", "text;End (s);start;who\nnone of it;2,5;1,5;x\n", [(1.5, 2.5, None, "none of it")]),
    ("clock.csv", "speaker,start,end,text\nA,00:01:00,00:01:02.500,\"a, b\"\n", [(60, 62.5, "A", "a, b")]),
    ("ms.csv", "start_ms,end_ms,text\n500,1600,sad\n", [(0.5, 1.6, None, "sad")]),
    ("sections.csv", "start,end,text\n0,120," + 200 * "so " + "\n", [(0, 120, None, (200 * "so ").strip())]),
    ("duration.tsv", "onset\tduration\ttext\n0.5\t1.1\t\"so \"\"sad\"\"\"\n", [(0.5, 1.6, None, 'so "sad"')]),
]  # fmt: skip


def taken(path: Path) -> Any:
    """What `predict --transcript` takes a file for: words, or segments."""
    (planned,) = plan_recordings({"talk.mp4": Path("talk.mp4")}, str(path), None, "json")
    return planned.transcript


@pytest.mark.parametrize(("name", "content", "expected"), FORMATS, ids=[name for name, *_ in FORMATS])
def test_times_of_other_formats_are_no_words(tmp_path: Path, name: str, content: str, expected: Found) -> None:
    """Numbers and markup of these became words, in the shell and over HTTP."""
    (tmp_path / name).write_text(content)
    segments = taken(tmp_path / name)
    assert isinstance(segments, list), segments
    assert [(each.start, each.end, each.speaker, each.text) for each in segments] == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.sub", "{25}{50}I am sad\n", "found none: convert it to .srt"),
        ("a.csv", "id,words\n1,sad\n", "expected columns start, end and text, found 'id, words'"),
        ("a.xyz", "sad", "found the ending '.xyz': "),
        ("noending", "sad", "found the ending ''"),
        ("a.txt", "talk.mp4\n      0:00.0 - 0:01.5  sad  68%  (happy 20%)  audio\n", "expected plain text, found"),
        ("a.txt", "0:00:00.500,0:00:02.000\nI am sad\n", "expected plain text, found subtitles with times"),
        ("a.txt", "File type = \"ooTextFile\"\n", "expected plain text, found what begins with"),
        ("a.txt", '[{"start": 1}]', "expected plain text, found what begins with"),
        ("a.cha", "@Begin\n*CHI:\tno times .\n", "line 2: expected times in a bullet"),
        ("phones.TextGrid", "x", "expected a TextGrid of Praat"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_in_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError) as error:
        taken(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-8", "utf-8-sig"])
def test_utf_16_without_a_mark_is_seen(encoding: str) -> None:
    """Every second letter became NUL."""
    assert decode_text("I am very sad today. שלום".encode(encoding)) == "I am very sad today. שלום"


def test_bytes_with_nul_are_no_text() -> None:
    with pytest.raises(CorpusError, match="expected UTF-8 or UTF-16, found NUL characters"):
        decode_text(b"some text and a \0 in it, which is not UTF-16")


# ------------------------------------------------------------------ rows that are no utterances


def textgrid(**tiers: list[tuple[float, float, str]]) -> str:
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", "9", "<exists>", str(len(tiers))]
    for name, rows in tiers.items():
        lines += ['"IntervalTier"', f'"{name}"', "0", "9", str(len(rows))]
        lines += [line for start, end, text in rows for line in (str(start), str(end), f'"{text}"')]
    return "\n".join(lines)


WORDS = [
    (0.0, 0.5, ""),
    (0.5, 0.8, "i"),
    (0.8, 1.1, "am"),
    (1.1, 1.6, "sad"),
    (1.6, 3, "sil"),
    (3, 3.5, "no"),
    (3.5, 4, "spn"),
]
PHONES = [(0.5, 0.8, "AY1"), (0.8, 1.1, "EH1"), (1.1, 3, "sp")]


@pytest.mark.parametrize(
    ("words", "phones"),
    [
        ("words", "phones"),
        ("word", "phone"),
        ("anna - words", "anna - phones"),
        ("ORT-MAU", "MAU"),
        ("Words", "Syllables"),
    ],
)
def test_tiers_of_words_and_phones_are_no_speakers(tmp_path: Path, words: str, phones: str) -> None:
    """They became speakers, and `sil` became text."""
    both = {words: WORDS, phones: PHONES}
    tier = {"utterance": [(0.0, 0.5, "sil"), (0.5, 1.6, "i am sad"), (1.6, 9.0, "sp")]}
    assert found(tmp_path, "a.TextGrid", textgrid(**tier, **both)) == [(0.5, 1.6, None, "i am sad")]
    # Words alone are joined up to a pause of half a second.
    who = "anna" if words.startswith("anna") else None
    assert found(tmp_path, "b.TextGrid", textgrid(**both)) == [(0.5, 1.6, who, "i am sad"), (3, 3.5, who, "no")]
    with pytest.raises(CorpusError, match="expected a tier of utterances or words, found"):
        found(tmp_path, "c.TextGrid", textgrid(**{phones: PHONES}))


def test_a_textgrid_that_is_cut_off_anywhere_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = textgrid(a=[(0.0, 2.0, "Hello.")], b=[(1.0, 2.0, "no")])
    for length in range(30, len(whole) - 5, 7):
        with pytest.raises(CorpusError, match=r"a.TextGrid: expected (a TextGrid of Praat|textgrid), found "):
            found(tmp_path, "a.TextGrid", whole[:length])


def test_tiers_of_emotions_beside_others_are_no_words(tmp_path: Path) -> None:
    tiers = {"emotion": [(0.5, 1.6, "happy")], "Anna": [(0.5, 1.6, "i am sad")], "Bo": [(2.0, 3.0, "no")]}
    assert found(tmp_path, "a.TextGrid", textgrid(**tiers)) == [(0.5, 1.6, "Anna", "i am sad"), (2, 3, "Bo", "no")]


def eaf(*tiers: str) -> str:
    slots = "".join(f'<TIME_SLOT TIME_SLOT_ID="ts{i}" TIME_VALUE="{500 * i}"/>' for i in range(9))
    return f"<ANNOTATION_DOCUMENT><TIME_ORDER>{slots}</TIME_ORDER>{''.join(tiers)}</ANNOTATION_DOCUMENT>"


def tier(name: str, about: str, *annotations: str) -> str:
    return (
        f'<TIER TIER_ID="{name}" {about}>{"".join(f"<ANNOTATION>{each}</ANNOTATION>" for each in annotations)}</TIER>'
    )


def aligned(name: str, first: int, last: int, text: str) -> str:
    about = f'ANNOTATION_ID="{name}" TIME_SLOT_REF1="ts{first}" TIME_SLOT_REF2="ts{last}"'
    return f"<ALIGNABLE_ANNOTATION {about}><ANNOTATION_VALUE>{text}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION>"


def refers(name: str, to: str, text: str) -> str:
    about = f'ANNOTATION_ID="{name}" ANNOTATION_REF="{to}"'
    return f"<REF_ANNOTATION {about}><ANNOTATION_VALUE>{text}</ANNOTATION_VALUE></REF_ANNOTATION>"


def test_words_of_elan_come_through_tiers_that_refer(tmp_path: Path) -> None:
    """The words were the number of the annotation, `0001`."""
    top = tier("ref@A", 'PARTICIPANT="Anna"', aligned("a1", 1, 3, "0001"), aligned("a2", 4, 5, "0002"))
    gloss = tier("ft@A", 'PARENT_REF="ref@A"', refers("a3", "a1", "je suis triste"))
    words = tier(
        "tx@A", 'PARENT_REF="ref@A"', refers("a4", "a1", "I"), refers("a5", "a1", "am sad"), refers("a6", "a2", "no")
    )
    expected = [(0.5, 1.5, "Anna", "I am sad"), (2, 2.5, "Anna", "no")]
    assert found(tmp_path, "a.eaf", eaf(top, gloss, words)) == expected
    deeper = tier("mid", 'PARENT_REF="ref@A"', refers("b1", "a1", "1"), refers("b2", "a2", "2"))
    chained = tier("tx", 'PARENT_REF="mid"', refers("b3", "b1", "I am sad"), refers("b4", "b2", "no"))
    assert found(tmp_path, "b.eaf", eaf(top, deeper, chained)) == expected
    circle = tier("tx", 'PARENT_REF="ref@A"', refers("b3", "b4", "I am sad"), refers("b4", "b3", "no"))
    assert [text for *_, text in found(tmp_path, "c.eaf", eaf(top, circle))] == [None, None]


RTTM = """SPEAKER meetingA 1 0.50 1.00 <NA> <NA> anna <NA> <NA>
SPEAKER meetingB 1 0.10 3.00 <NA> <NA> carl <NA> <NA>
"""


@pytest.mark.parametrize(
    "recording", ["meetingA", "/x/MeetingA.wav", "meetingA.Mix-Headset.wav", "C:\\x\\meetingA.mp4"]
)
def test_rows_of_another_recording_are_not_added(tmp_path: Path, recording: str) -> None:
    assert found(tmp_path, "all.rttm", RTTM, recording) == [(0.5, 1.5, "anna", None)]
    rows = [{"file": f"{name}.wav", "start": 0, "end": 2, "text": name} for name in ("meetingA", "meetingB")]
    assert found(tmp_path, "all.json", json.dumps(rows), recording) == [(0, 2, None, "meetingA")]
    stm = "meetingA 1 anna 0 2 hi\nmeetingB 1 bo 0 2 no\n"
    assert found(tmp_path, "all.stm", stm, recording) == [(0, 2, "anna", "hi")]


def test_a_file_of_one_recording_is_its_own_whatever_the_name(tmp_path: Path) -> None:
    assert found(tmp_path, "all.rttm", RTTM.splitlines()[0], "talk.wav") == [(0.5, 1.5, "anna", None)]
    message = (
        "expected segments of a recording with the name of 'talk.wav', found those of 2 recordings: meetingA, meetingB"
    )
    with pytest.raises(CorpusError, match=message):
        found(tmp_path, "all.rttm", RTTM, "talk.wav")
    assert found(tmp_path, "meetingB.rttm", RTTM) == [(0.1, 3.1, "carl", None)]


def test_milliseconds_of_a_recogniser_are_seen(tmp_path: Path) -> None:
    """AssemblyAI's 250 to 1600 became minutes."""
    rows = [
        {"start": 250, "end": 1600, "text": "I am sad.", "speaker": "A"},
        {"start": 2000, "end": 2600, "text": "No."},
    ]
    expected = [(0.25, 1.6, "A", "I am sad."), (2.0, 2.6, None, "No.")]
    assert found(tmp_path, "a.json", json.dumps({"id": "x", "utterances": rows})) == expected
    whole = [{"start": 0, "end": 2, "text": "Hello there."}, {"start": 2, "end": 130, "text": 99 * "so "}]
    assert [row[1] for row in found(tmp_path, "b.json", json.dumps(whole))] == [2.0, 130.0]


def test_an_open_end_is_the_next_start_or_the_recording_s_end(tmp_path: Path) -> None:
    """The last chunk of Hugging Face's pipeline has null for its end: the whole transcript was refused."""
    chunks = [
        {"timestamp": [0.0, 2.0], "text": " a"},
        {"timestamp": [2.0, None], "text": " b"},
        {"timestamp": [3, None], "text": "c"},
    ]
    expected = [(0, 2, None, "a"), (2, 3, None, "b"), (3, math.inf, None, "c")]
    assert found(tmp_path, "a.json", json.dumps({"text": " a b", "chunks": chunks})) == expected


CUE = "1\n00:00:00,000 --> 00:00:02,000\nHello.\n\n"
SEGMENT = '{"start": 0, "end": 2, "text": "Hello."}'


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.srt", f"{CUE}2\n00:00:02,000 --> 00:00:02,000\nYou\n", "line 6: expected a start before its end"),
        ("a.srt", f"{CUE}2\n00:00:02,000 --> soon\nYou\n", "line 6: expected times as 00:00:01,000 -->"),
        ("a.json", f'[{SEGMENT}, {{"start": NaN, "end": 2, "text": "x"}}]', "segment 2: expected"),
        ("a.json", f'[{SEGMENT}, {{"start": 1e999, "end": null}}, 3]', "segment"),
        ("a.csv", "start,end,text\n0,2,Hello.\n3,2,x\n", "row 3: expected a start before its end, found 3 to 2 s"),
        ("a.stm", "a 1 b 0 2 Hello.\na 1 b\n", "line 2: expected file channel"),
        ("a.TextGrid", textgrid(a=[(0, 2, "Hello."), (3, 3, "x")]), "tier 'a', interval 2: expected a start"),
        ("a.eaf", eaf(tier("a", "", aligned("a1", 0, 4, "Hello."), aligned("a2", 4, 4, "x"))), "annotation a2"),
    ],
)  # fmt: skip
def test_one_odd_row_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: str, place: str
) -> None:
    """A cue of no length, or an end before its start, refused the whole transcript."""
    assert [(start, end, text) for start, end, _, text in found(tmp_path, name, content)] == [(0, 2, "Hello.")]
    (message,) = caplog.messages
    odd, rows = (2, 3) if "1e999" in content else (1, 2)
    assert message.startswith(f"{tmp_path / name}: {odd} of {rows} rows left out, the first: {place}")


# ------------------------------------------------------------------ segments of a program


class Turn(NamedTuple):  # as faster-whisper's segments: more fields, in another order
    id: int
    start: float
    end: float
    text: str


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([{"start": 0.5, "end": 1.0, "text": "hi", "tokens": [1]}], Segment(0.5, 1.0, None, "hi")),
        ([(0.5, 1.0)], Segment(0.5, 1.0)),
        (((0.5, 1.0, "Ann", "hi"),), Segment(0.5, 1.0, "Ann", "hi")),
        (np.array([[0.5, 1.0]], np.float32), Segment(0.5, 1.0)),
        ([Segment(np.float64(0.1), np.float64(1.0))], Segment(0.1, 1.0)),
        ([{"start": np.float32(0.1), "end": np.int64(1)}], Segment(0.1, 1.0)),
        ([Turn(7, 0.5, 1.0, "hi")], Segment(0.5, 1.0, None, "hi")),
        ([{"start": 0, "end": None, "speaker": 2}], Segment(0.0, math.inf, "2")),
        ([Segment(0.5, 1.0, "", "")], Segment(0.5, 1.0)),
    ],
)
def test_segments_whose_meaning_is_clear_are_taken(given: Any, expected: Segment) -> None:
    """A recogniser's dicts and tuples were an AttributeError; numpy's times could not be written as JSON."""
    (found,) = as_segments(given)
    assert found == expected and (type(found.start), type(found.end)) == (float, float)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([(0.0, 1.0), Segment(2.0, 1.0)], r"segments\[1\]: expected a start before its end, found 2 to 1 s"),
        ([Segment(1.0, 1.0)], r"segments\[0\]: expected a start before its end, found 1 to 1 s"),
        ([Segment(-1.0, 1.0)], r"found -1 to 1 s"),
        ([Segment(math.nan, 1.0)], r"found nan to 1 s"),
        ([(0.5, 1.0, "hi")], r"segments\[0\]: expected segments= as a sequence of \(start, end\), .*found \(0.5"),
        (["ab"], r"segments\[0\]: expected segments= as a sequence"),
        ([{"start": 1}], r"segments\[0\]: expected .*found \{'start': 1\}"),
        ([{"start": 1, "end": 2, "text": 3}], r"segments\[0\]: expected"),
        ([{"start": "a", "end": 10**400}], r"segments\[0\]: expected"),
        ("talk.srt", r"expected segments= as a sequence .*, found str"),
        ({"start": 1, "end": 2}, r"found dict"),
        (3, r"found int"),
    ],
)  # fmt: skip
def test_a_segment_that_is_none_is_named(given: Any, message: str) -> None:
    """`Segment(2, 1)` and `Segment(1, 1)` got an emotion."""
    with pytest.raises(ConfigError, match=message):
        as_segments(given)


# ------------------------------------------------------------------ bounds

HOSTILE = {
    "angles": "<" * 300_000, "braces": "{\\" * 150_000, "voices": "<v " * 100_000, "voice": "<v" + " " * 300_000,
    "brackets": "[" * 1_000_000, "quotes": '"a' * 150_001, "labels": ": <i>[" * 50_000, "spans": "<c.emotion>" * 30_000,
    "bullets": "\x151_" * 100_000, "entity": "&#" + "1" * 300_000, "returns": "\r" * 300_000, "colons": "1:" * 150_000,
}  # fmt: skip


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_is_read_in_linear_time(tmp_path: Path, suffix: str, kind: str) -> None:
    """300 kB of `<` in WebVTT or 1 MB of `[` in a TextGrid took more than 20 s; all of these take less than one."""
    heads = {
        ".textgrid": textgrid(a=[]),
        ".ass": ASS,
        ".lrc": "[00:01]",
        ".csv": "start,end,text\n0,1,",
        ".sub": "{1}{1}25\n{1}{2}",
    }
    head = heads.get(suffix, "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\n*A: \x151_2\x15\n")
    path = tmp_path / f"a{suffix}"
    path.write_text(head + HOSTILE[kind], newline="")
    began = time.process_time()
    try:
        read(path)
    except CorpusError as error:
        assert "\n" not in str(error) and len(str(error)) < 500 + len(str(path))
    assert time.process_time() - began < 5


def test_what_is_no_file_or_too_large_is_refused(tmp_path: Path) -> None:
    """A FIFO hung, and /dev/zero filled the memory."""
    os.mkfifo(tmp_path / "a.srt")
    with pytest.raises(CorpusError, match=r"a.srt: expected a file, found a folder, pipe or device"):
        read(tmp_path / "a.srt")
    with open(tmp_path / "b.srt", "wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(CorpusError, match=r"b.srt: expected at most 16777216 bytes, found more"):
        read(tmp_path / "b.srt")
    (tmp_path / "c.srt").write_text("\n" * 500_001)
    with pytest.raises(CorpusError, match=r"c.srt: expected at most 500000 rows"):
        read(tmp_path / "c.srt")


def test_a_short_table_of_words_does_not_shorten_the_cells_of_others(tmp_path: Path) -> None:
    """It set the process's limit of a CSV cell to its own length, and longer tables were refused from then on."""
    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text("start,end,text\n0,1,hi\n")
    assert read(tmp_path / "a.csv") == [Segment(0.0, 1.0, text="hi")]
    assert csv.field_size_limit() == before
