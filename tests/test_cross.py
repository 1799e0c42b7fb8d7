import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wavfusion import manifest
from wavfusion.cli.app import main
from wavfusion.features import extract
from wavfusion.features.store import Store
from wavfusion.manifest import AudioSpan, Utterance, VideoSpan

pytest_plugins = ("corpus_fixture",)

MAP = ["--map", "gloomy=sad,joy=happy,excited=happy"]


def write_corpus(path: Path, rows: list[Utterance], like: Path, root: Path | None = None) -> Path:
    about = manifest.read_corpus(like)
    manifest.write_corpus(path, replace(about, root=str(root or about.root)))
    manifest.write(path, rows)
    return path


@pytest.fixture(scope="module")
def places(made: Any, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two RUNs, one of which calls sad gloomy, and a corpus of other recordings, names and emotions."""
    from corpus_fixture import EMOTIONS, WORDS, write_clip  # a plugin of this file, which pytest imports first

    folder = tmp_path_factory.mktemp("cross")
    gloomy = Path(shutil.copytree(trained, folder / "runs" / "gloomy"))
    values = json.loads((gloomy / "config.json").read_text())
    values["model"]["classes"] = ["gloomy" if name == "sad" else name for name in values["model"]["classes"]]
    (gloomy / "config.json").write_text(json.dumps(values))
    rows = []
    for number in range(12):
        emotion, path = EMOTIONS[number % 3 if number else 0], f"clips/{number}.mp4"
        write_clip(folder / "raw" / path, emotion, 0.6 + 0.07 * (number % 5), 700 + number)
        named = {"happy": "joy" if number % 2 else "excited"}.get(emotion, emotion)
        rows.append(
            Utterance(
                *(f"e{number}", "elsewhere"),
                speaker=f"train-{number % 2}",  # as two of the training, but of another corpus
                audio=AudioSpan(path),
                video=VideoSpan(path),
                text=f"{WORDS[emotion]} indeed {number}",
                emotion="bored" if number == 11 else named,
            )
        )
    other = write_corpus(folder / "elsewhere" / "manifest.jsonl", rows, made.manifest, folder / "raw")
    store = Store(folder / "store", create=True)
    extract.extract(rows, manifest.read_corpus(other), store, made.encoders, text_layers="last", workers=1)
    return SimpleNamespace(
        folder=folder, own=made.manifest, other=other, stores=[made.store, store.folder], gloomy=gloomy
    )


def cross(out: Path, runs: list[Path], manifests: list[Path], stores: list[Path], *more: str) -> int:
    lists = ["--manifests", *map(str, manifests), "--stores", *map(str, stores)]
    return main(["cross", *map(str, runs), *lists, "--out", str(out), "--device", "cpu", *more])


def pairs_of(out: Path) -> dict[tuple[str, str], Any]:
    return {(pair["model"], pair["corpus"]): pair for pair in json.loads((out / "cross.json").read_text())["pairs"]}


@pytest.fixture(scope="module")
def crossed(places: Any, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("crossed")
    assert cross(out, [trained, places.gloomy], [places.own, places.other], places.stores, *MAP) == 0
    return out


def test_a_runs_own_corpus_has_the_figures_of_its_test_part(crossed: Path, trained: Path) -> None:
    pair, stated = pairs_of(crossed)["all", "manifest"], json.loads((trained / "metrics.json").read_text())
    assert (pair["rows"], pair["n"], pair["chance"]) == ("its test part", stated["n"], 0.25)
    for name, figure in pair["figures"].items():
        assert figure == {"value": stated[name], **stated["interval"][name]}


def test_another_corpus_has_the_figures_of_evaluate_on_all_its_rows(
    crossed: Path, places: Any, trained: Path, tmp_path: Path
) -> None:
    flags = ["--manifest", str(places.other), "--store", str(places.stores[1]), "--split", "all", "--device", "cpu"]
    assert main(["evaluate", str(trained), *flags, "--map", "joy=happy,excited=happy", "--out", str(tmp_path)]) == 0
    pair, stated = pairs_of(crossed)["all", "elsewhere"], json.loads((tmp_path / "metrics.json").read_text())
    assert (pair["rows"], pair["n"], pair["classes"]) == ("all", 11, ["happy", "neutral", "angry"])
    assert pair["chance"] == pytest.approx(1 / 3) and pair["left_out"]["unknown"] == {"bored": 1}
    assert {name: pair["figures"][name]["value"] for name in pair["figures"]} == {
        name: stated[name] for name in ("uar", "weighted_f1", "accuracy")
    }
    assert pair["not_in_corpus"] == stated["not_in_corpus"] and list(pair["not_in_corpus"]) == ["sad"]


def test_one_map_serves_models_of_different_emotions(crossed: Path) -> None:
    """*gloomy* is a class of one model alone, and no emotion of any corpus."""
    found = pairs_of(crossed)
    for corpus in ("manifest", "elsewhere"):
        one, other = found["all", corpus], found["gloomy", corpus]
        assert [one[name] for name in ("figures", "classes", "confusion")] == [
            other[name] for name in ("figures", "classes", "confusion")
        ]


def test_recordings_of_the_training_are_left_out_of_another_corpus(
    places: Any, made: Any, trained: Path, tmp_path: Path
) -> None:
    rows = [replace(row, id=f"again-{row.id}", corpus="again", speaker="x") for row in manifest.read(made.manifest)]
    again = write_corpus(tmp_path / "again" / "manifest.jsonl", rows, made.manifest)
    assert cross(tmp_path / "out", [trained], [again], [made.store]) == 0
    pair, tested = pairs_of(tmp_path / "out")["all", "again"], len(made.data.part("test"))
    assert (pair["n"], sum(pair["left_out"]["in_training"].values())) == (tested, len(rows) - 1 - tested)
    assert pair["left_out"]["unlabelled"] == 1 and set(pair["left_out"]["in_training"]) <= {"recording", "bytes"}


def test_speakers_of_the_training_are_left_out_where_the_corpora_are_the_same(
    places: Any, made: Any, trained: Path, tmp_path: Path
) -> None:
    rows = [replace(row, corpus="table") for row in manifest.read(places.other)]
    rows = [replace(row, speaker="new" if row.id in ("e0", "e1", "e2", "e3") else row.speaker) for row in rows]
    same = write_corpus(tmp_path / "same" / "manifest.jsonl", rows, made.manifest, places.folder / "raw")
    assert cross(tmp_path / "out", [trained], [same], [places.stores[1]], *MAP) == 0
    pair = pairs_of(tmp_path / "out")["all", "same"]
    assert (pair["n"], pair["left_out"]["in_training"]) == (4, {"speaker": 7})
    assert "7 rows left out: the training has met the speaker" in pair["notes"]


def test_a_corpus_of_the_trainings_recordings_alone_says_why_it_has_no_figures(
    made: Any, trained: Path, tmp_path: Path
) -> None:
    rows = [replace(row, id=f"again-{row.id}", corpus="again") for row in made.data.part("train")]
    again = write_corpus(tmp_path / "again" / "manifest.jsonl", rows, made.manifest)
    assert cross(tmp_path / "out", [trained], [again], [made.store]) == 1
    assert "was not trained on, found none" in pairs_of(tmp_path / "out")["all", "again"]["failed"]


def test_a_pair_that_fails_says_why_and_the_others_have_figures(
    places: Any, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cross(tmp_path, [trained], [places.own, places.other], [places.stores[0]], *MAP) == 1
    found = pairs_of(tmp_path)
    assert found["all", "manifest"]["failed"] is None and "features" in found["all", "elsewhere"]["failed"]
    shown = capsys.readouterr().out
    assert f"all on elsewhere: failed: {found['all', 'elsewhere']['failed']}" in shown
    assert "failed" in (tmp_path / "cross.html").read_text() and "failed" in (tmp_path / "cross.csv").read_text()


def test_table_and_terminal_have_the_figures_of_the_json_in_percent(
    crossed: Path, places: Any, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = pairs_of(crossed)["gloomy", "elsewhere"]
    lines = csv.DictReader(io.StringIO((crossed / "cross.csv").read_text()))
    (line,) = [
        each for each in lines if (each["model"], each["corpus"], each["figure"]) == ("gloomy", "elsewhere", "uar")
    ]
    uar = pair["figures"]["uar"]
    wanted = [100 * number for number in (uar["value"], *uar["this_test_set"], pair["chance"])]
    assert [float(line[name]) for name in ("value", "low", "high", "chance")] == pytest.approx(wanted, abs=0.006)
    assert (line["n"], line["emotions"], line["unknown"]) == ("11", "happy neutral angry", "1")
    assert cross(tmp_path, [places.gloomy], [places.other], places.stores[1:], *MAP) == 0
    (shown,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("gloomy  elsewhere")]
    assert shown.split()[2] == f"{wanted[0]:.1f}" and shown.split()[-3:] == ["11", "3", "all"]


def test_the_page_shows_every_pair_and_frames_a_models_own_corpus(crossed: Path) -> None:
    page = (crossed / "cross.html").read_text()
    for pair in pairs_of(crossed).values():
        assert f"<b>{100 * pair['figures']['uar']['value']:.1f}</b><small>" in page
    assert page.count('class="cell own"') == 2 and "gloomy = sad" in page


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--stores", "a", "b", "c"], "one store, or one for each of 2 manifests, found 3"),
        (["--map", "joy=hapy"], "did you mean 'happy'"),
        (["--manifests"], "expected a value after '--manifests'"),
        (["--force", "--out", ""], "expected a name"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    places: Any, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], expected: str
) -> None:
    stores = [] if "--stores" in more else ["--stores", str(places.stores[0])]
    lists = ["--manifests", str(places.own), str(places.other), *stores, "--out", str(tmp_path)]
    assert main(["cross", str(trained), *lists, *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_a_run_or_corpus_twice_is_refused(places: Any, trained: Path, tmp_path: Path) -> None:
    assert cross(tmp_path, [trained, trained], [places.own], places.stores[:1]) == 2
    assert cross(tmp_path, [trained], [places.own, places.own], places.stores[:1]) == 2


def test_an_earlier_matrix_is_not_overwritten(crossed: Path, places: Any, trained: Path) -> None:
    assert cross(crossed, [trained], [places.own], places.stores[:1]) == 2
