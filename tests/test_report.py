import html
import json
import re
from pathlib import Path

import pytest

from wavfusion import manifest
from wavfusion.cli.app import main
from wavfusion.corpora import ravdess
from wavfusion.corpora.scan import MediaFacts
from wavfusion.manifest import AudioSpan, Corpus, Utterance
from wavfusion.report.corpus import write_corpus_page

CLASSES = ["happy", "sad"]
ROWS = [
    Utterance("a", "table", "train", speaker="Ann", audio=AudioSpan("a.wav"), text="one two", emotion="happy"),
    Utterance("b", "table", "test", speaker="Ben", audio=AudioSpan("a.wav", 1.0, 3.5), text="three", emotion="sad"),
    Utterance("c", "table", "test", speaker="Ben", text="<b>four</b>", missing=["audio", "video"]),
]


def page_of(folder: Path, rows: list[Utterance] = ROWS, corpus: str = "table", labels: str | None = None) -> str:
    path = folder / "manifest.jsonl"
    manifest.write(path, rows)
    manifest.write_corpus(path, Corpus(corpus, str(folder), labels, CLASSES, "0"))
    left_out = {"excluded": [], "stripped": [{"id": "c", "reason": "audio: no such file: 'x 1.wav'"}]}
    (folder / "exclusions.json").write_text(json.dumps(left_out))
    write_corpus_page(path, folder / "report.html", {"a.wav": MediaFacts(5.0)})
    return (folder / "report.html").read_text("utf-8")


def cells(page: str) -> list[list[str]]:
    """The text of every table row."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [
        [
            html.unescape(" ".join(re.sub("<.*?>", " ", cell).split()))
            for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        for row in rows
    ]


def test_emotions_are_counted_by_part_in_the_order_of_the_parts(tmp_path: Path) -> None:
    table = cells(page_of(tmp_path))
    assert [row for row in table if row[0] in ("train", "valid", "test")] == [
        ["train", "1", "0", "0", "1"],
        ["test", "0", "1", "1", "2"],
    ]


def test_durations_are_those_of_the_file_or_of_the_stretch(tmp_path: Path) -> None:
    assert "Shortest 2.50 s, median 3.75 s, 95 % below 4.88 s, longest 5.00 s" in page_of(tmp_path)


def test_a_modality_is_counted_where_it_is_not_missing(tmp_path: Path) -> None:
    table = {row[0]: row[1:3] for row in cells(page_of(tmp_path)) if row}
    assert (table["audio"], table["text"]) == (["2", "66.7 %"], ["3", "100.0 %"])


def test_what_lost_a_modality_stands_with_its_reason(tmp_path: Path) -> None:
    assert ["audio: no such file: …", "1", "c"] in cells(page_of(tmp_path))


def test_numbers_that_differ_from_the_published_ones_stand_beside_them(tmp_path: Path) -> None:
    rows = [Utterance("x", "iemocap", session="Ses01", emotion="happy", text="x")]
    found = next(row for row in cells(page_of(tmp_path, rows, "iemocap", "six")) if row[0] == "Ses01")
    assert found == ["Ses01", "1 of 135", "0 of 194", "1"]


def test_a_missing_part_of_a_corpus_is_not_the_published_one(tmp_path: Path) -> None:
    """With all of the speech of RAVDESS and no song: "All numbers are the published ones"."""
    rows = [
        Utterance(f"01-{emotion}-{i}", "ravdess", speaker="actor01", emotion=emotion)
        for emotion, count in ravdess.PUBLISHED["speech"].items()
        for i in range(count)
    ]
    page = page_of(tmp_path, rows, "ravdess")
    assert "All numbers are the published ones" not in page and "song: no rows, published 1,012" in page
    songs = [
        Utterance(f"02-{emotion}-{i}", "ravdess", speaker="actor01", emotion=emotion)
        for emotion, count in ravdess.PUBLISHED["song"].items()
        for i in range(count)
    ]
    assert "All numbers are the published ones." in page_of(tmp_path, [*rows, *songs], "ravdess")


def test_names_with_markup_stay_text(tmp_path: Path) -> None:
    rows = [Utterance("x", "table", speaker="<script>alert(1)</script>", emotion="sad", text="x")]
    page = page_of(tmp_path, rows)
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page


def test_a_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    assert re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!data:)[^\"'>]*", page_of(tmp_path)) == []


def test_a_page_is_not_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page_of(tmp_path)
    assert main(["report", str(tmp_path / "manifest.jsonl")]) == 2
    assert "found a result" in capsys.readouterr().err
