"""What stands beside every answer: the model, its training data, its UAR, and what a guess reaches."""

import csv
import io
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from wavfusion import corpora, manifest, media
from wavfusion.cli.app import main
from wavfusion.manifest import Utterance
from wavfusion.prediction import timeline
from wavfusion.prediction.recognizer import EmotionRecognizer, Prediction
from wavfusion.runs.card import Card, make_card
from wavfusion.runs.folder import read_run
from wavfusion.runs.hub import write_hub_folder
from wavfusion.runs.origin import TrainedOn, training_data_of
from wavfusion.runs.results import chance_of, majority_of, near_chance
from wavfusion.transcripts import Segment

pytest_plugins = ("corpus_fixture",)

RATE = media.SAMPLE_RATE
CARD = Card("first", "table look-alike (generated)", True, 0.25, "8 utterances of part test", 0.5, [0.25, 0.75],
            ["model first: trained on generated voices"])  # fmt: skip


def shell(capfd: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    status = main([str(each) for each in arguments])
    printed = capfd.readouterr()
    return status, printed.out, printed.err


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A RUN of generated data whose UAR is 0.109 on eight emotions."""
    out = shutil.copytree(trained, tmp_path / "run")
    about = {"corpus": "iemocap", "generated": True, "utterances": 24, "speakers": 2}
    edit(out / "environment.json", trained_on=about)
    rows = {f"e{i}": {"support": 2} for i in range(8)}
    edit(out / "metrics.json", n=16, uar=0.109, per_class=rows, part="test",
         interval={"uar": {"this_test_set": [0.08, 0.141], "new_speakers": None}})  # fmt: skip
    return out


# ------------------------------------------------------------------ what it was trained on


def test_a_run_knows_how_many_utterances_and_speakers_trained_it(trained: Path) -> None:
    assert training_data_of(trained) == TrainedOn("table", False, 24, 2)
    assert str(training_data_of(trained)) == "table (recorded), 24 utterances of 2 speakers"


def test_a_generated_tree_is_known_as_such_from_the_tree_to_the_run(trained: Path, made: Any, tmp_path: Path) -> None:
    """A look-alike has its corpus's name: a model of drawn faces passed for one of IEMOCAP where the tree was gone."""
    root = shutil.copytree(made.root, tmp_path / "tree")
    (root / manifest.GENERATED).write_text("{}")
    prepared = corpora.prepare("table", root)
    corpora.write_prepared(prepared, tmp_path / "prepared")
    path = tmp_path / "prepared" / "manifest.jsonl"
    assert json.loads(path.with_name("corpus.json").read_text())["generated"] is True
    shutil.rmtree(root)
    assert manifest.read_corpus(path).generated
    old = shutil.copytree(trained, tmp_path / "old")
    edit(old / "environment.json", trained_on=None, manifest=str(path))
    assert training_data_of(old) == TrainedOn("table", True)


def test_a_tree_one_folder_below_the_root_is_generated_too(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    assert not manifest.is_generated(tmp_path)
    (tmp_path / "tree" / manifest.GENERATED).write_text("{}")
    assert manifest.is_generated(tmp_path)


def test_a_published_model_keeps_what_it_was_trained_on(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    edit(run / "environment.json", trained_on={"corpus": "iemocap", "generated": True, "utterances": 24, "speakers": 2})
    write_hub_folder(run, tmp_path / "hub", "somebody/model")
    assert training_data_of(tmp_path / "hub") == TrainedOn("iemocap", True, 24, 2)


# ------------------------------------------------------------------ the card


def test_the_card_has_uar_chance_and_both_warnings(run: Path) -> None:
    found = make_card(read_run(run))
    assert str(found) == (
        "model run: trained on iemocap look-alike (generated), 24 utterances of 2 speakers; "
        "UAR 10.9% [8.0, 14.1] on 16 utterances of part test, chance 12.5%"
    )
    assert found.warnings == [
        "model run: trained on generated voices and faces: its labels of real people mean nothing",
        "model run: UAR 10.9% [8.0, 14.1] cannot be told from chance, 12.5%",
    ]


def test_a_model_without_figures_says_that_they_are_unknown(run: Path) -> None:
    edit(run / "environment.json", trained_on=None, manifest="gone")
    (run / "metrics.json").write_text("[]")
    expected = "model run: trained on an unknown corpus; UAR unknown, chance 25.0%"
    found = make_card(read_run(run))
    assert (str(found), found.warnings) == (expected, [])


def test_chance_counts_the_emotions_that_were_tested() -> None:
    rows = {"sad": {"support": 6}, "happy": {"support": 2}, "calm": {"support": 0}}
    figures: dict[str, Any] = {"n": 8, "uar": 0.6, "per_class": rows}
    assert (chance_of(figures), majority_of(figures)) == (0.5, ("sad", 0.75))
    bounds = {"uar": {"this_test_set": [0.49, 0.7]}}
    doubt = "UAR 60.0% [49.0, 70.0] cannot be told from chance, 50.0%"
    assert (near_chance(figures), near_chance(figures | {"interval": bounds})) == (None, doubt)


# ------------------------------------------------------------------ on every output


def test_a_model_of_generated_data_near_chance_says_so_before_its_first_label(
    capfd: pytest.CaptureFixture[str], run: Path, made: Any
) -> None:
    status, out, err = shell(capfd, "predict", made.root / "clips/test05.wav", "--model", run, "--device", "cpu")
    assert status == 0 and "trained on generated voices and faces" in err
    assert "cannot be told from chance, 12.5%" in err and out.splitlines()[-1] == str(make_card(read_run(run)))


def test_json_and_csv_name_the_model_in_every_row(run: Path, made: Any) -> None:
    rows = EmotionRecognizer.from_pretrained(run).predict(made.root / "clips/test05.wav")
    (row,) = json.loads(timeline.to_json(rows))
    assert row["model"] == asdict(make_card(read_run(run)))
    (cells,) = csv.DictReader(io.StringIO(timeline.to_csv(rows, ["angry"])))
    assert [cells[name] for name in timeline.MODEL_COLUMNS] == [
        *(
            "run",
            "iemocap look-alike (generated), 24 utterances of 2 speakers",
            "True",
            "0.109",
            "0.08",
            "0.141",
            "0.125",
        ),
    ]


def prediction(**values: Any) -> Prediction:
    made = Prediction("talk.wav", 0.0, 1.0, "Ann", "Oh no.", "sad", 0.9, {"sad": 0.9, "happy": 0.1}, ["audio"])
    return replace(made, model=CARD, **values)


def test_notes_about_the_model_are_no_cues_and_no_annotations() -> None:
    rows, bare = [prediction()], [replace(prediction(), model=None)]
    assert timeline.to_vtt(rows).splitlines()[:3] == ["WEBVTT", "", f"NOTE {CARD}"]
    assert timeline.to_vtt(rows).replace(f"NOTE {CARD}\n\n", "") == timeline.to_vtt(bare)
    document = ElementTree.fromstring(timeline.to_eaf(rows))
    assert [(each.get("NAME"), each.text) for each in document.iter("PROPERTY")] == [("model", str(CARD))]
    for write in (timeline.to_srt, timeline.to_textgrid):
        assert write(rows) == write(bare)


def test_a_page_begins_with_what_the_model_is_worth() -> None:
    page = timeline.to_html([prediction()], ["sad", "happy"], None, ["talk.wav: it is very quiet"])
    places = [page.index(each) for each in (*CARD.warnings, "talk.wav: it is very quiet", str(CARD), 'id="strip"')]
    assert places == sorted(places)


# ------------------------------------------------------------------ warnings of single utterances


def test_the_warnings_of_an_utterance_stand_in_its_row(trained: Path, tmp_path: Path) -> None:
    """A telephone's half of a recording was named in the terminal alone, for the recording as a whole."""
    rng = np.random.default_rng(0)
    wide = rng.normal(0, 0.1, 2 * RATE).astype(np.float32)
    low = np.fft.irfft(np.fft.rfft(wide) * (np.fft.rfftfreq(len(wide), 1 / RATE) < 3400)).astype(np.float32)
    media.write_audio(tmp_path / "half.wav", np.concatenate([wide, low]), RATE)
    times = [Segment(0.0, 2.0, None, None), Segment(2.0, 4.0, None, None)]
    rows = EmotionRecognizer.from_pretrained(trained).predict(tmp_path / "half.wav", segments=times)
    phone = [[each for each in row.warnings if "telephone" in each] for row in rows]
    assert [len(each) for each in phone] == [0, 1]
    unlike = [any("out of distribution" in each for each in row.warnings) for row in rows]
    assert unlike == [True, True]  # noise is nothing that the model has met
    cells = list(csv.DictReader(io.StringIO(timeline.to_csv(rows, ["angry"]))))
    assert "as if it came by telephone" in cells[1]["warnings"] and "telephone" not in cells[0]["warnings"]
    page = timeline.to_html(rows, list(rows[0].probabilities), None)
    found = re.search(r'id="recording">(.*?)</script>', page)
    assert found and json.loads(found[1])["rows"][1]["warnings"] == rows[1].warnings


def test_an_utterance_without_a_fault_has_no_warning() -> None:
    assert prediction().warnings == [] and '"unusual":{}' in timeline.to_html([prediction()], ["sad"], None)


def test_the_training_part_alone_is_counted() -> None:
    rows = [Utterance("a", "x", speaker=None, text="t", emotion="sad")]
    assert str(TrainedOn("x", None, len(rows), None)) == "x, 1 utterances"
