"""What is written for subtitles, Praat and ELAN, read back by other people's libraries and by ours."""

import html
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pympi
import pytest
import srt
import textgrid
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from wavfusion import media, transcripts
from wavfusion.prediction import timeline
from wavfusion.prediction.coverage import LeftOut
from wavfusion.prediction.recognizer import Prediction, RecordingPredictions

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
    return (text or "").split()


def test_an_srt_parser_reads_times_and_words_back():
    found = list(srt.parse(timeline.to_srt(ALL)))
    assert [(x.start.total_seconds(), x.end.total_seconds()) for x in found] == TIMES
    assert [html.unescape(x.content).split("\n", 1)[1].split() if "\n" in x.content else [] for x in found] == [
        words(x.text) for x in ALL
    ]


def test_srt_tells_speaker_and_emotion():
    assert [x.content.split("\n")[0] for x in srt.parse(timeline.to_srt(ALL))][1::7] == [
        *("Ann: <i>[sad 88%]</i>", "Ann: <i>[?]</i>")
    ]


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
        "words 2": ["two"],
    }


@pytest.mark.parametrize("name", timeline.SUBTITLES)
def test_our_own_reader_finds_the_times_again(tmp_path, name):
    path = tmp_path / f"a.{name}"
    path.write_text(timeline.SUBTITLES[name](ALL), encoding="utf-8")
    assert {(each.start, each.end) for each in transcripts.read(path)} == set(TIMES)


@pytest.mark.parametrize("name", timeline.FORMATS)
def test_nothing_said_is_a_file_too(name):
    written = timeline.write_predictions(name, [], ["sad", "happy"], Path())
    assert not written.strip() if name in ("srt", "table") else written


# What no format can hold, and no program reads: control characters, halves of surrogate pairs, what XML forbids.
ANY_WORDS = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"), max_size=25)
MARKED = st.sampled_from([
    "<b>I</b> <3 & you", "sad", "sad 88%", "<i>[sad 88%]</i>", "ANNA: no", "a --> b", "0:01 -> 0:02", "{\\an8}",
    "&amp;", "00:00:01,000 --> 00:00:02,000", 'say "no"', "[laughs]", "one\ntwo\n\n3", "?", "emotion",
    "words of emotion of a", "a: b (2)", "#", "sp", "1,5;2", "NOTE x", "<v Bo>", "<c.emotion>sad 88%</c>", "NA", None,
])  # fmt: skip


@given(
    said_by=st.lists(st.tuples(MARKED | ANY_WORDS, st.none() | MARKED | ANY_WORDS), min_size=1, max_size=5),
    name=st.sampled_from(["json", "csv", *timeline.SUBTITLES]),
    overlaps=st.booleans(),
)
def test_what_was_written_is_read_with_the_same_words_speakers_and_times(tmp_path_factory, said_by, name, overlaps):
    """Subtitles came back as "neutral 68% I am sad.", and a TextGrid with the emotion for its words."""
    path = Path(tmp_path_factory.getbasetemp()) / f"again.{timeline.ending(name)}"
    length = 1.5 if overlaps else 0.5
    rows = [said(float(i), i + length, text, who, ["sad", None][i % 2]) for i, (text, who) in enumerate(said_by)]
    path.write_bytes(timeline.write_predictions(name, rows, ["sad", "happy"], path.parent))
    found = [(each.start, each.end, each.speaker, each.text) for each in transcripts.read(path)]
    assert found == [(x.start, x.end, joined(x.speaker), joined(x.text)) for x in rows]


def joined(text: str | None) -> str | None:
    return " ".join((text or "").split()) or None


@given(
    texts=st.lists(st.text(max_size=30), min_size=1, max_size=4),
    name=st.sampled_from(sorted(timeline.SUBTITLES)),
    speaker=st.none() | st.text(max_size=8),
)
def test_any_words_and_names_survive_with_their_times(tmp_path_factory, texts, name, speaker):
    path = Path(tmp_path_factory.getbasetemp()) / f"any.{name}"
    rows = [said(float(i), i + 0.5, text, speaker) for i, text in enumerate(texts)]
    path.write_bytes(timeline.write_predictions(name, rows, ["sad", "happy"], path.parent))
    assert {(each.start, each.end) for each in transcripts.read(path)} == {(each.start, each.end) for each in rows}


# ------------------------------------------------------------------ a terminal


def test_the_table_stands_below_the_name_of_each_recording():
    rows = [said(0.0, 1.5, "well"), said(61.25, 3700.0, None)]
    lines = timeline.to_table(rows).splitlines()
    assert lines[0] == "talk.mp4" and lines[1].split()[:4] == ["0:00.0", "-", "0:01.5", "sad"]
    assert lines[2].split()[:3] == ["1:01.2", "-", "1:01:40.0"]


def test_words_are_cut_to_the_width_and_colours_do_not_count():
    row = said(0.0, 1.0, "word " * 100)
    plain, coloured = (timeline.to_table([row], 80, colour).splitlines()[1] for colour in (False, True))
    assert len(plain) == 80 and plain.endswith("…")
    assert "\x1b[" in coloured and re.sub("\x1b\\[[0-9]*m", "", coloured) == plain


def test_an_absent_emotion_has_no_colour():
    assert "\x1b" not in timeline.to_table(timeline.abstained([said(0.0, 1.0, None)], 1.0), 80, colour=True)


# ------------------------------------------------------------------ a page


def test_the_page_lists_every_utterance_and_saves_what_the_formats_write(tmp_path):
    rows = [said(0.0, 1.5, "<b>well</b>", "Anna"), said(2.0, 3.0, None, "Bo")]
    page = timeline.to_html(rows, ["sad", "happy"], None)
    assert page.count('<li class="utterance"') == 2 and "&lt;b&gt;well&lt;/b&gt;" in page and "<b>well" not in page
    found = re.search(r'<script type="application/json" id="saved">(.*?)</script>', page, re.DOTALL)
    assert found
    assert json.loads(found[1]) == {
        "talk.mp4.srt": timeline.to_srt(rows), "talk.mp4.vtt": timeline.to_vtt(rows),
        "talk.mp4.TextGrid": timeline.to_textgrid(rows), "talk.mp4.eaf": timeline.to_eaf(rows),
        "talk.mp4.json": timeline.to_json(rows), "talk.mp4.csv": timeline.to_csv(rows, ["sad", "happy"]),
    }  # fmt: skip


def test_the_page_shows_what_was_warned_of(tmp_path):
    """A saved page looked as if nothing had been odd."""
    row = replace(said(0.0, 1.0, None), file="/home/ann/<b>talk.wav")
    warned = ["/home/ann/<b>talk.wav: it is very quiet"]
    page = timeline.write_predictions("html", [row], ["sad", "happy"], tmp_path, warned).decode()
    assert '<p class="warning">&lt;b&gt;talk.wav: it is very quiet</p>' in page
    assert timeline.write_predictions("csv", [row], ["sad", "happy"], tmp_path, warned).count(b"quiet") == 0


def test_the_page_shows_what_was_left_out_where_it_was():
    """It ended with its last utterance, and 20 s that nothing could decode were a sentence above it."""
    lost = [LeftOut(2.0, 4.0, "no speech"), LeftOut(5.0, 25.0, "not decodable")]
    rows = RecordingPredictions([said(0.0, 2.0, None), said(4.0, 5.0, None), said(25.0, 26.0, None)], lost)
    page = timeline.to_html(timeline.abstained(rows, 0.5), ["sad", "happy"], None)
    listed = re.findall(r'<li class="(utterance|left-out)".*?(\d:\d\d\.\d)', page, re.DOTALL)
    assert listed == [("utterance", "0:00.0"), ("utterance", "0:04.0"), ("left-out", "0:05.0"), ("utterance", "0:25.0")]
    assert "<li>no speech 2.0 s</li><li>not decodable 20.0 s</li>" in page
    bars = re.findall(r'<rect x="([\d.]+)"[^>]*width="([\d.]+)"[^>]*><title>\S+ - \S+ left out: (.*?)</title>', page)
    assert bars == [("76.92", "76.92", "no speech"), ("192.31", "769.23", "not decodable")]
    lost = [LeftOut(2.0, 10.0, "not decodable")]
    assert 'data-length="10.0"' in timeline.to_html(RecordingPredictions(rows[:1], lost), ["sad", "happy"], "")


def test_the_page_plays_the_recording_from_where_it_lies(tmp_path):
    (tmp_path / "a b#1.wav").write_bytes(b"")
    row = replace(said(0.0, 1.0, None), file=str(tmp_path / "a b#1.wav"))
    classes = ["happy", "sad"]
    assert b'src="../a%20b%231.wav"' in timeline.write_predictions("html", [row], classes, tmp_path / "pages")
    assert b'src="a%20b%231.wav"' in timeline.write_predictions("html", [replace(row, file="a b#1.wav")], classes, None)
    assert b"<audio" not in timeline.write_predictions("html", [said(0.0, 1.0, None)], classes, tmp_path)


# ------------------------------------------------------------------ the page in a browser

WORDS = "</script><img src=x onerror=alert(1)> & <b>bold</b>"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page of eight seconds of sound with three utterances, two of which overlap."""
    folder = tmp_path_factory.mktemp("timeline")
    sound = np.sin(np.arange(8 * media.SAMPLE_RATE) / 20).astype(np.float32)
    media.write_audio(folder / "a b#1.wav", sound, media.SAMPLE_RATE)
    rows = [said(0.5, 2.0, WORDS, "Ann"), said(3.0, 6.0, None, "Bo", "happy"), said(5.0, 7.5, "yes", "Ann", None)]
    rows = [replace(row, file=str(folder / "a b#1.wav"), contribution={"audio": 0.25}) for row in rows]
    (folder / "page.html").write_bytes(timeline.write_predictions("html", rows, ["sad", "happy"], folder))
    return (folder / "page.html").as_uri()


@pytest.fixture
def opened(browser, address):
    browser.look(1100)
    browser.console.clear()
    browser.requests.clear()
    browser.open(address)
    ready = "const p = document.querySelector('#player'); p.readyState ? done() : p.onloadedmetadata = done"
    browser.run(f"new Promise(done => {{ {ready} }})")
    return browser


def current(page):
    return page.run("[...document.querySelectorAll('li.utterance')].findIndex((li) => li.ariaCurrent)")


def goes_to(page, seconds):
    """Move the player and wait until it is there."""
    page.run(
        "new Promise(done => { const p = document.querySelector('#player'); "
        f"p.addEventListener('seeked', done, {{ once: true }}); p.currentTime = {seconds}; }})"
    )


@pytest.mark.slow
def test_the_list_follows_the_player(opened):
    found = []
    for seconds in (1.0, 2.5, 4.0, 5.5, 7.8):
        goes_to(opened, seconds)
        found.append(current(opened))
    assert found == [0, -1, 1, 2, -1]
    # The strip ended with the last utterance, at 7.5 s, wherever the recording ended.
    place = opened.run("head.x1.baseVal.value / strip.viewBox.baseVal.width")
    assert place == pytest.approx(7.8 / 8, abs=0.002)


@pytest.mark.slow
def test_the_player_goes_where_an_utterance_begins_by_keyboard(opened):
    opened.run("document.querySelectorAll('li.utterance button')[1].focus()")
    opened.press("Enter")
    assert opened.run("document.querySelector('#player').currentTime") >= 3.0 and current(opened) == 1


@pytest.mark.slow
def test_the_page_asks_for_the_recording_alone_and_makes_no_error(opened, address):
    goes_to(opened, 1.0)
    assert (opened.console, set(opened.requests)) == ([], {address, address.replace("page.html", "a%20b%231.wav")})


@pytest.mark.slow
def test_words_with_markup_are_text_on_the_timeline(opened):
    shown = opened.run("document.querySelector('li.utterance .text').textContent")
    assert shown == f"Ann: {WORDS}" and opened.run("document.querySelectorAll('main img, li img').length") == 0


@pytest.mark.slow
def test_the_formats_are_saved(opened):
    """What the link would download is read back."""
    opened.run("HTMLAnchorElement.prototype.click = function () { window.clicked = this; }")
    opened.run("URL.createObjectURL = (blob) => { window.blob = blob; return 'blob:x'; }")
    opened.run("[...document.querySelectorAll('#saving button')].find((b) => b.dataset.file.endsWith('.srt')).click()")
    text, name = opened.run("window.blob.text()"), opened.run("window.clicked.download")
    assert name == "a b#1.wav.srt" and [each.content.splitlines()[0] for each in srt.parse(text)] == [
        "Ann: <i>[sad 88%]</i>",
        "Bo: <i>[happy 88%]</i>",
        "Ann: <i>[?]</i>",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 768, 1100])
def test_the_timeline_stays_within_the_screen(opened, width):
    opened.look(width)
    assert opened.run("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_every_control_of_the_timeline_has_a_name(opened):
    nodes = opened.call("Accessibility.getFullAXTree")["nodes"]
    named = {"image", "button", "link", "checkbox", "Audio", "Video", "img", "list"}
    kinds = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    assert {kind for kind, name in kinds if kind in named - {"list"} and not name.strip()} == set()


@pytest.mark.slow
def test_an_absent_recording_is_said(browser, address, tmp_path):
    page = Path(address.removeprefix("file://")).read_text(encoding="utf-8")
    (tmp_path / "moved.html").write_text(page, encoding="utf-8")
    browser.open((tmp_path / "moved.html").as_uri())
    hidden = "document.querySelector('#unplayable').hidden"
    wait = f"{hidden} ? setTimeout(() => done(!{hidden}), 1500) : done(true)"
    assert browser.run(f"new Promise(done => {{ {wait} }})")
