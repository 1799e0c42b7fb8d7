"""What is written for subtitles, Praat and ELAN, read back by other people's libraries and by ours."""

import itertools
from pathlib import Path

import pympi
import pytest
import srt
import textgrid
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from wavfusion import timeline, transcripts
from wavfusion.predict import Prediction

EVIL = [
    "a, b; \"c\" 'd'",
    "<b>bold</b> & co --> nowhere",
    "שלום עולם",
    "first\nsecond",
    "first\n\nafter an empty line",
    "tab\there",
    "emoji 🙂 and ünï",
    None,
]


def said(start: float, end: float, text: str | None, speaker: str | None = None, emotion: str | None = "sad"):
    return Prediction("talk.mp4", start, end, speaker, text, emotion, 0.875, {"sad": 0.875, "happy": 0.125}, ["audio"])


PREDICTIONS = [said(1.5 * i + 0.25, 1.5 * i + 1.5, text, "Ann" if i % 2 else "Bob <x>") for i, text in enumerate(EVIL)]
LATE = said(360_000.125, 360_001.5, "past a hundred hours", "Ann", None)
ALL = [*PREDICTIONS, LATE]
TIMES = [(each.start, each.end) for each in ALL]


def words(text: str | None) -> list[str]:
    return (text or "").replace("-->", "→").split()


def test_an_srt_parser_reads_times_and_words_back():
    found = list(srt.parse(timeline.to_srt(ALL)))
    assert [(x.start.total_seconds(), x.end.total_seconds()) for x in found] == TIMES
    assert [x.content.split("\n", 1)[1].split() if "\n" in x.content else [] for x in found] == [
        words(x.text) for x in ALL
    ]


def test_srt_tells_speaker_and_emotion():
    assert [x.content.split("\n")[0] for x in srt.parse(timeline.to_srt(ALL))][1::7] == ["Ann: sad 88%", "Ann: ?"]


def test_webvtt_reads_times_voices_and_words_back(tmp_path):
    path = tmp_path / "a.vtt"
    path.write_text(timeline.to_vtt(PREDICTIONS), encoding="utf-8")
    found = list(webvtt.read(path))
    assert [(x.start_in_seconds + x.start_time.milliseconds / 1000) for x in found] == [x.start for x in PREDICTIONS]
    assert [x.voice for x in found] == ["Bob &lt;x&gt;", "Ann"] * 4


def test_praat_s_textgrid_is_read_back(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(timeline.to_textgrid(ALL), encoding="utf-8")
    found = textgrid.TextGrid.fromFile(str(path))
    labels = {(float(x.minTime), float(x.maxTime)) for tier in found for x in tier if x.mark}
    assert labels == set(TIMES) and [tier.name for tier in found] == [
        *("emotion of Bob <x>", "words of Bob <x>", "emotion of Ann", "words of Ann")
    ]


def test_intervals_of_a_textgrid_leave_no_gap(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(timeline.to_textgrid(ALL), encoding="utf-8")
    for tier in textgrid.TextGrid.fromFile(str(path)):
        edges = [float(x.maxTime) for x in tier]
        assert [float(x.minTime) for x in tier] == [0.0, *edges[:-1]] and edges[-1] == LATE.end


def test_elan_s_reader_reads_times_and_words_back(tmp_path):
    path = tmp_path / "a.eaf"
    path.write_text(timeline.to_eaf(ALL), encoding="utf-8")
    found = pympi.Elan.Eaf(str(path))
    rows = {name: sorted(found.get_annotation_data_for_tier(name)) for name in found.get_tier_names()}
    every = {(start / 1000, end / 1000) for each in rows.values() for start, end, _ in each}
    assert every == set(TIMES)
    spoken = sorted(itertools.chain(rows["words of Ann"], rows["words of Bob <x>"]))
    assert [text for _, _, text in spoken] == [x.text for x in ALL if x.text]


def test_one_who_overlaps_with_himself_has_a_second_pair_of_tiers():
    both = [said(0.0, 2.0, "one"), said(1.0, 3.0, "two"), said(2.0, 4.0, "three")]
    tiers = dict(timeline._tiers(both))
    assert {name: [row[2] for row in rows] for name, rows in tiers.items() if "words" in name} == {
        "words": ["one", "three"],
        "words (2)": ["two"],
    }


@pytest.mark.parametrize("name", timeline.FORMATS)
def test_our_own_reader_finds_the_times_again(tmp_path, name):
    path = tmp_path / f"a.{name}"
    path.write_text(timeline.FORMATS[name](ALL), encoding="utf-8")
    assert {(each.start, each.end) for each in transcripts.read(path)} == set(TIMES)


@pytest.mark.parametrize("name", timeline.FORMATS)
def test_nothing_said_is_a_file_too(name):
    assert timeline.FORMATS[name]([]) == "" if name == "srt" else timeline.FORMATS[name]([])


@given(
    texts=st.lists(st.text(max_size=30), min_size=1, max_size=4),
    name=st.sampled_from(sorted(timeline.FORMATS)),
    speaker=st.none() | st.text(max_size=8),
)
def test_any_words_and_names_survive_with_their_times(tmp_path_factory, texts, name, speaker):
    path = Path(tmp_path_factory.getbasetemp()) / f"any.{name}"
    rows = [said(float(i), i + 0.5, text, speaker) for i, text in enumerate(texts)]
    path.write_bytes(timeline.FORMATS[name](rows).encode("utf-8", "replace"))
    assert {(each.start, each.end) for each in transcripts.read(path)} == {(each.start, each.end) for each in rows}
