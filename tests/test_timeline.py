"""What is written for subtitles, Praat and ELAN, read back by other people's libraries and by ours."""

import csv
import html
import io
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pympi
import pytest
import srt
import textgrid
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from wavfusion import manifest, media, transcripts
from wavfusion.cli import app
from wavfusion.prediction import timeline
from wavfusion.prediction.coverage import LeftOut
from wavfusion.prediction.recognizer import Prediction, RecordingPredictions
from wavfusion.prediction.waveform import WaveformPeaks
from wavfusion.runs.card import Card
from wavfusion.speech.loudness import Loudness

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


def data_of(page: str) -> Any:
    """What the scripts of a page are given."""
    found = re.search(r'<script type="application/json" id="recording">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_holds_every_utterance_and_lists_them_without_scripts(tmp_path):
    rows = [said(0.0, 1.5, "<b>well</b>", "Anna"), said(2.0, 3.0, None, "Bo")]
    page = timeline.to_html(rows, ["sad", "happy"], None)
    assert "<b>well" not in page
    listed = re.findall(r'<tr><td>(.*?)</td><td class="name">(.*?)</td>', page)
    assert listed == [("0:00.0", "Anna"), ("0:02.0", "Bo")] and "&lt;b&gt;well&lt;/b&gt;" in page
    wanted = [{name: value for name, value in vars(row).items() if name != "model"} for row in rows]
    assert data_of(page)["rows"] == wanted


def test_the_page_shows_what_was_warned_of(tmp_path):
    """A saved page looked as if nothing had been odd."""
    row = replace(said(0.0, 1.0, None), file="/home/ann/<b>talk.wav")
    warned = ["/home/ann/<b>talk.wav: it is very quiet"]
    page = timeline.write_predictions("html", [row], ["sad", "happy"], tmp_path, warned).decode()
    assert '<p class="warning">&lt;b&gt;talk.wav: it is very quiet</p>' in page
    assert timeline.write_predictions("csv", [row], ["sad", "happy"], tmp_path, warned).count(b"quiet") == 0


@pytest.mark.parametrize("kind", ["silent", "clipped", "quiet", "telephone"])
def test_every_fault_of_a_recording_has_plain_words(kind):
    rng = np.random.default_rng(0)
    wide = rng.normal(0, 0.1, 2 * media.SAMPLE_RATE)
    spectrum = np.fft.rfft(wide) * (np.fft.rfftfreq(len(wide), 1 / media.SAMPLE_RATE) < 3400)
    sound = {"silent": 0 * wide, "clipped": 20 * wide, "quiet": wide / 200, "telephone": np.fft.irfft(spectrum)}[kind]
    measured = Loudness()
    measured.add(sound.clip(-1, 1).astype(np.float32))
    (complaint,) = measured.complaints()
    assert kind in complaint and timeline.in_plain_words(complaint) in timeline.PLAIN_WORDS.values()


def test_an_unknown_warning_is_told_as_it_is():
    assert timeline.in_plain_words("it is odd") == "it is odd"


def test_the_waveform_of_hours_has_a_bounded_number_of_peaks_in_their_places():
    waveform = WaveformPeaks(3 * 3600.0)
    for start in (0.0, 7200.0):
        waveform.add(start, np.full(16_000, 0.5 if start else 1.0, np.float32))
    peaks = waveform.peaks()
    assert len(peaks) == 4000 and {i: peak for i, peak in enumerate(peaks) if peak} == {0: 99, 2666: 50, 2667: 50}


def test_a_waveform_has_the_loudest_sample_of_each_stretch():
    waveform = WaveformPeaks(0.05)
    waveform.add(0.0, np.repeat([0.1, -1.0, 0.0, 0.5, 0.2], 160).astype(np.float32))
    waveform.add(0.02, np.full(160, 0.3, np.float32))
    assert waveform.peaks() == [10, 99, 30, 50, 20]


def test_the_page_plays_the_recording_from_where_it_lies(tmp_path):
    (tmp_path / "a b#1.wav").write_bytes(b"")
    row = replace(said(0.0, 1.0, None), file=str(tmp_path / "a b#1.wav"))
    classes = ["happy", "sad"]
    assert b'src="../a%20b%231.wav"' in timeline.write_predictions("html", [row], classes, tmp_path / "pages")
    assert b'src="a%20b%231.wav"' in timeline.write_predictions("html", [replace(row, file="a b#1.wav")], classes, None)
    assert b"<audio" not in timeline.write_predictions("html", [said(0.0, 1.0, None)], classes, tmp_path)


# ------------------------------------------------------------------ the page in a browser

WORDS = "</script><img src=x onerror=alert(1)> & <b>bold</b>"


PEAKS = [10, 99, 0, 50]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page of eight seconds of sound with three utterances, two of which overlap."""
    folder = tmp_path_factory.mktemp("timeline")
    sound = np.sin(np.arange(8 * media.SAMPLE_RATE) / 20).astype(np.float32)
    media.write_audio(folder / "a b#1.wav", sound, media.SAMPLE_RATE)
    rows = [said(0.5, 2.0, WORDS, "Ann"), said(3.0, 6.0, None, "Bo", "happy"), said(5.0, 7.5, "yes", "Ann", None)]
    rows = [replace(row, file=str(folder / "a b#1.wav"), contribution={"audio": 0.25}) for row in rows]
    rows[0].warnings.append("it is very quiet: -60 dB of full scale")
    rows[2].probabilities.update(sad=0.5, happy=0.5)
    rows[2] = replace(rows[2], probability=0.5)
    lost = [LeftOut(0.0, 0.5, "no speech"), LeftOut(2.0, 3.0, "not decodable"), LeftOut(7.5, 7.6, "not decodable")]
    found = RecordingPredictions(rows, lost, PEAKS)
    (folder / "page.html").write_bytes(timeline.write_predictions("html", found, ["sad", "happy"], folder))
    return (folder / "page.html").as_uri()


def start(page, address):
    """Open a page; what a link would download is kept in it."""
    page.look(1100)
    page.console.clear()
    page.requests.clear()
    page.open(address)
    page.run("HTMLAnchorElement.prototype.click = function () { window.clicked = this; }")
    page.run("URL.createObjectURL = (blob) => { window.blob = blob; return 'blob:x'; }")


@pytest.fixture
def opened(browser, address):
    start(browser, address)
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


def listed(page):
    """Start, emotion with its number, and speaker with words of each utterance."""
    cells = "[...li.querySelectorAll('.play, :scope > p:not(.unusual)')].map((each) => each.textContent)"
    return page.run(f"[...document.querySelectorAll('li.utterance')].map((li) => {cells})")


def correct(page, number, **fields):
    """Open the fields of an utterance and change some."""
    page.run(f"document.querySelectorAll('.correct')[{number}].click()")
    for name, value in fields.items():
        put(page, f".form [name={name}]", value)


def put(page, selector, value):
    field = f"const field = document.querySelector({json.dumps(selector)}); field.value = {json.dumps(value)};"
    page.run(f"(() => {{ {field} field.dispatchEvent(new Event('change', {{ bubbles: true }})); }})()")


def click(page, selector):
    page.run(f"document.querySelector({json.dumps(selector)}).click()")


def saved(page, kind):
    """Name and content of a file that the page saves."""
    click(page, f"#saving [data-kind={kind}]")
    return page.run("window.clicked.download"), page.run("window.blob.text()")


@pytest.mark.slow
def test_the_list_follows_the_player(opened):
    found = []
    for seconds in (1.0, 2.5, 4.0, 5.5, 7.8):
        goes_to(opened, seconds)
        found.append(current(opened))
    assert found == [0, -1, 1, 2, -1]
    # The strip ended with the last utterance, at 7.5 s, wherever the recording ended.
    place = opened.run("parseFloat(document.querySelector('#head').style.left)")
    assert place == pytest.approx(100 * 7.8 / 8, abs=0.2)


@pytest.mark.slow
def test_the_player_goes_where_an_utterance_begins_by_keyboard(opened):
    opened.run("document.querySelectorAll('li.utterance button')[2].focus()")
    opened.press("Enter")
    assert opened.run("document.querySelector('#player').currentTime") >= 3.0 and current(opened) == 1


@pytest.mark.slow
def test_the_player_goes_where_the_strip_is_clicked(opened):
    box = "document.querySelector('#tracks').getBoundingClientRect()"
    event = f"new MouseEvent('click', {{ clientX: {box}.left + {box}.width / 2, bubbles: true }})"
    opened.run(f"document.querySelector('#tracks').dispatchEvent({event})")
    assert opened.run("document.querySelector('#player').currentTime") == pytest.approx(4.0, abs=0.2)


@pytest.mark.slow
def test_the_page_asks_for_the_recording_alone_and_makes_no_error(opened, address):
    goes_to(opened, 1.0)
    assert (opened.console, set(opened.requests)) == ([], {address, address.replace("page.html", "a%20b%231.wav")})


@pytest.mark.slow
def test_words_with_markup_are_text_on_the_timeline(opened):
    shown = opened.run("document.querySelector('li.utterance .text').textContent")
    assert shown == f"Ann: {WORDS}" and opened.run("document.querySelectorAll('main img, li img').length") == 0
    correct(opened, 0, text=f"{WORDS}!", speaker="<img src=x>", emotion="happy")
    assert opened.run("document.querySelector('li.utterance .text').textContent") == f"<img src=x>: {WORDS}!"
    assert opened.run("document.querySelectorAll('img').length") == 0 and opened.console == []


@pytest.mark.slow
def test_the_timeline_has_a_waveform_a_named_row_a_speaker_and_ticks(opened):
    assert opened.run("document.querySelector('.wave path').getAttribute('d').split('L').length") == 4 * len(PEAKS)
    names = "[...document.querySelectorAll('.names span:not(.wave)')].map((each) => each.textContent)"
    bars = "[...document.querySelectorAll('.lane')].map((each) => [...each.children].map((bar) => bar.textContent))"
    assert opened.run(names) == ["Ann", "Bo"] and opened.run(bars) == [["sad", "?"], ["happy"]]
    ticks = "[...document.querySelectorAll('.axis span')].map((each) => each.textContent)"
    assert opened.run(ticks)[:3] == ["0:00", "0:01", "0:02"]


@pytest.mark.slow
def test_a_line_grows_faint_where_the_model_is_unsure(opened):
    sure = opened.run("[...document.querySelectorAll('.lane b')].map((each) => each.style.getPropertyValue('--sure'))")
    assert sure == ["0.80", "0.20", "0.80"]  # 87.5 %, 50 % of two emotions, 87.5 %


@pytest.mark.slow
def test_what_was_left_out_is_marked_and_listed_where_it_was(opened):
    """It ended with its last utterance, and 20 s that nothing could decode were a sentence above it."""
    marked = opened.run("[...document.querySelectorAll('.axis u')].map((each) => [each.className, each.title])")
    assert marked == [
        ["pause", "0:00.0 - 0:00.5 left out: no speech"],
        ["", "0:02.0 - 0:03.0 left out: not decodable"],
        ["", "0:07.5 - 0:07.6 left out: not decodable"],
    ]
    assert opened.run("document.querySelector('#utterances').children[1].textContent") == marked[1][1]
    assert opened.run("document.querySelectorAll('li.left-out').length") == 1
    told = opened.run("document.querySelector('#totals > .note').textContent")
    assert told == "left out: no speech 0.5 s, not decodable 1.1 s"


@pytest.mark.slow
def test_each_speaker_has_totals(opened):
    texts = opened.run(
        "[...document.querySelectorAll('#totals li')].map((each) => each.innerText.split('\\n').join(' '))"
    )
    found = [re.findall(r"[\d.]+ s|\d+ utterances?|[\w ]+? \d+ %", text) for text in texts[:3]]
    assert [each[:2] for each in found] == [
        ["4.0 s", "2 utterances"],
        ["3.0 s", "1 utterance"],
        ["7.0 s", "3 utterances"],
    ]
    assert [re.findall(r"\d+ %", text) for text in texts[:3]] == [["38 %", "63 %"], ["100 %"], ["21 %", "43 %", "36 %"]]


@pytest.mark.slow
def test_a_warning_stands_at_its_utterance_in_plain_words_and_explains_itself_on_focus(opened):
    assert opened.run(
        "[...document.querySelectorAll('li.utterance')].map((li) => li.querySelectorAll('.unusual').length)"
    ) == [*(1, 0, 0)]
    warning = "document.querySelector('.unusual .why')"
    assert opened.run(f"{warning}.textContent") == timeline.PLAIN_WORDS["very quiet"]
    shown = f"getComputedStyle({warning}, '::after').content"
    assert opened.run(shown) == "none"
    opened.run(f"{warning}.focus()")
    assert opened.run(shown) == '"it is very quiet: -60 dB of full scale"'


@pytest.mark.slow
def test_a_speaker_is_renamed_in_all_utterances_and_undone(opened):
    put(opened, "#totals input", "Anna <x>")
    assert [cells[2].partition(": ")[0] for cells in listed(opened)] == ["Anna <x>", "Bo", "Anna <x>"]
    click(opened, "#undo")
    assert [cells[2].partition(": ")[0] for cells in listed(opened)] == ["Ann", "Bo", "Ann"]
    assert opened.run("document.querySelector('#undo').disabled")


@pytest.mark.slow
def test_an_emotion_is_corrected_by_keyboard(opened):
    opened.run("document.querySelectorAll('.correct')[1].focus()")
    opened.press("Enter")
    assert opened.run("document.activeElement.name") == "emotion"
    put(opened, ".form [name=emotion]", "sad")
    assert listed(opened)[1][1] == "sad corrected" and opened.run("document.activeElement.name") == "emotion"
    opened.press("Escape")
    assert opened.run("document.querySelector('.form')") is None
    assert opened.run("document.activeElement.closest('li').querySelector('.play').textContent").startswith("0:03.0")


@pytest.mark.slow
def test_an_utterance_is_split_where_the_player_stands_and_merged_again(opened):
    correct(opened, 0, text="one two three four five six")
    goes_to(opened, 1.0)
    click(opened, "[data-action=split]")
    assert [(cells[0], cells[2]) for cells in listed(opened)][:2] == [
        ("0:00.5 (0.5 s)", "Ann: one two"),
        ("0:01.0 (1.0 s)", "Ann: three four five six"),
    ]
    correct(opened, 0)
    click(opened, "[data-action=merge]")
    assert [cells[2] for cells in listed(opened)] == ["Ann: one two three four five six", "Bo", "Ann: yes"]
    click(opened, "#undo")
    click(opened, "#undo")
    click(opened, "#undo")
    assert listed(opened)[0][2] == f"Ann: {WORDS}" and opened.run("document.querySelector('#undo').disabled")


@pytest.mark.slow
def test_merged_probabilities_are_averaged_by_length(opened):
    correct(opened, 1)
    click(opened, "[data-action=merge]")
    both = json.loads(saved(opened, "json")[1])[1]
    assert (both["start"], both["end"], both["emotion"]) == (3.0, 7.5, "sad")
    mean = (3.0 * 0.875 + 2.5 * 0.5) / 5.5
    assert both["probabilities"]["sad"] == pytest.approx(mean) and both["probability"] == pytest.approx(mean)


@pytest.mark.slow
def test_leaving_with_corrections_that_are_not_saved_asks(opened):
    leaves = "dispatchEvent(new Event('beforeunload', { cancelable: true }))"
    assert opened.run(leaves)
    put(opened, "#totals input", "Anna")
    assert not opened.run(leaves)
    saved(opened, "csv")
    assert opened.run(leaves)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["json", "csv", *timeline.SUBTITLES])
def test_corrected_files_are_read_back_with_their_words_speakers_and_times(opened, tmp_path, name):
    put(opened, "#totals input", "Anna")
    correct(opened, 0, text='one <b> two, "three" four & five: six', emotion="happy")
    click(opened, "[data-action=split]")
    correct(opened, 2, speaker="Cleo", text="I see")
    click(opened, "[data-action=merge]")
    file, text = saved(opened, name)
    assert file == f"a b#1.wav.{timeline.ending(name)}"
    (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    found = [(each.start, each.end, each.speaker, each.text) for each in transcripts.read(tmp_path / file)]
    assert found == [
        (0.5, 1.25, "Anna", 'one <b> two, "three"'),
        (1.25, 2.0, "Anna", "four & five: six"),
        (3.0, 7.5, "Cleo", "I see yes"),
    ]


@pytest.mark.slow
def test_the_saved_table_is_one_to_train_on(opened, address, tmp_path):
    put(opened, "#totals input", "Anna")
    correct(opened, 0, text='well, "so"', emotion="happy")
    file, text = saved(opened, "training")
    (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    folder = Path(url2pathname(urlsplit(address).path)).parent
    command = ["prepare", "table", str(tmp_path / file), "--root", str(folder), "--out", str(tmp_path / "out")]
    assert app.main(command) == 0
    found = manifest.read(tmp_path / "out/manifest.jsonl")
    assert [
        (each.audio and (each.audio.path, each.audio.start, each.audio.end), each.speaker, each.text, each.emotion)
        for each in found
    ] == [
        (("a b#1.wav", 0.5, 2.0), "Anna", 'well, "so"', "happy"),
        (("a b#1.wav", 3.0, 6.0), "Bo", None, "happy"),
    ]  # the third has no emotion


@pytest.mark.slow
def test_the_corrected_page_is_saved_and_goes_on_where_it_was(opened, tmp_path):
    put(opened, "#totals input", "Anna")
    correct(opened, 0, emotion="happy")
    before, (file, text) = listed(opened), saved(opened, "html")
    assert file == "a b#1.wav.html"
    (tmp_path / "again.html").write_text(text, encoding="utf-8")
    start(opened, (tmp_path / "again.html").as_uri())
    assert listed(opened) == before and before[0][1] == "happy corrected"
    put(opened, "#totals input", "Anne")
    assert listed(opened)[0][2] == f"Anne: {WORDS}"
    assert [each for each in opened.console if "ERR_FILE_NOT_FOUND" not in each] == []  # the recording lies elsewhere


EVERY = [
    *PREDICTIONS,
    said(13.0, 14.5, "one\r\ntwo\x85three\u2028four\x07\x1f\ufeff", "  Ann \xa0 B\t"),
    said(14.0, 15.0, 'AT&T &amp; {\\an8} x -> y <3 &notin; "q"', "Ann   B", None),
    said(14.25, 16.0, "<i>well</i>", "&lt;", "happy"),
    LATE,
]


@pytest.fixture(scope="module")
def written(browser, tmp_path_factory):
    """What an untouched page saves in each format, and the predictions that it has."""
    card = Card("a & b", "some <corpus>", True, 0.5, "9 utterances", 0.75, [0.5, 0.875])
    rows = [replace(row, model=card, contribution={"audio": 0.25}, text_share=0.125, language="en") for row in EVERY]
    rows[0] = replace(rows[0], contribution=None, warnings=["it is loud", 'it is "odd", too'])
    page = tmp_path_factory.mktemp("written") / "page.html"
    page.write_text(timeline.to_html(rows, ["sad", "happy"], None), encoding="utf-8")
    start(browser, page.as_uri())
    return {kind: saved(browser, kind)[1] for kind in ("json", "csv", *timeline.SUBTITLES)}, rows


@pytest.mark.slow
@pytest.mark.parametrize("name", timeline.SUBTITLES)
def test_the_page_writes_what_predict_writes_to_the_byte(written, name):
    assert written[0][name] == timeline.SUBTITLES[name](written[1])


@pytest.mark.slow
def test_the_page_writes_the_json_and_csv_that_predict_writes(written):
    texts, rows = written
    assert json.loads(texts["json"]) == json.loads(timeline.to_json(rows))
    found, wanted = (
        [[as_number(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline=""))]
        for text in (texts["csv"], timeline.to_csv(rows, ["sad", "happy"]))
    )
    assert found == wanted


def as_number(cell: str) -> str | float:
    try:
        return float(cell)
    except ValueError:
        return cell


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 768, 1100])
def test_the_timeline_stays_within_the_screen(opened, width):
    opened.look(width)
    correct(opened, 1)
    opened.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    opened.run("document.querySelector('.unusual .why').focus()")
    assert opened.run("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_every_control_of_the_timeline_has_a_name(opened):
    correct(opened, 1)
    nodes = opened.call("Accessibility.getFullAXTree")["nodes"]
    named = {"image", "button", "link", "checkbox", "Audio", "Video", "img", "list", "combobox", "textbox", "note"}
    kinds = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    assert {"button", "textbox", "note"} <= {kind for kind, _ in kinds}
    assert {kind for kind, name in kinds if kind in named - {"list"} and not name.strip()} == set()


@pytest.mark.slow
def test_an_absent_recording_is_said(browser, address, tmp_path):
    page = Path(address.removeprefix("file://")).read_text(encoding="utf-8")
    (tmp_path / "moved.html").write_text(page, encoding="utf-8")
    browser.open((tmp_path / "moved.html").as_uri())
    hidden = "document.querySelector('#unplayable').hidden"
    wait = f"{hidden} ? setTimeout(() => done(!{hidden}), 1500) : done(true)"
    assert browser.run(f"new Promise(done => {{ {wait} }})")
