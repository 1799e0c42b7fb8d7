import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Page
from test_report import cells

from wavfusion import manifest, media
from wavfusion.cli.app import main
from wavfusion.corpora.protocol import Protocol, hash_of
from wavfusion.errors import ConfigError
from wavfusion.experiments import experiment
from wavfusion.files import write_json
from wavfusion.manifest import AudioSpan, Corpus, Utterance, VideoSpan
from wavfusion.metrics import comparison, scores
from wavfusion.report.runs import write_run_page
from wavfusion.runs.folder import remove_run

CLASSES = ["angry", "happy", "sad"]
MARKUP = "</script><img src=x onerror=alert(1)> & <b>bold</b>"


def answers(count: int, seed: int, skill: float = 1.5) -> list[dict[str, str]]:
    """Rows of predictions.csv: three utterances a dialogue, two dialogues a speaker, probabilities that know a bit."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, len(CLASSES)))
    logits[np.arange(count), np.arange(count) % len(CLASSES)] += skill
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return [
        {
            "id": f"u{i}",
            "dialogue": f"d{i // 3}",
            "speaker": f"s{i // 6}",
            "truth": CLASSES[i % len(CLASSES)],
            "predicted": CLASSES[int(p.argmax())],
            **{f"p_{name}": f"{x:.6f}" for name, x in zip(CLASSES, p, strict=True)},
        }
        for i, p in enumerate(shares)
    ]


def make_run(folder: Path, rows: Sequence[dict[str, str]], selected_on: str = "valid", **changed: Any) -> Path:
    """Write what a training leaves behind, without its model; `changed` goes into metrics.json."""
    folder.mkdir(parents=True)
    parts = {"t0": "train", **{row["id"]: "test" for row in rows}}
    digest = hash_of(parts, CLASSES, selected_on)
    protocol = Protocol("speaker-folds", 2, 5, CLASSES, parts, {}, True, [], digest, 0, selected_on).to_json()
    encoder = {"audio": {"name": "superb/hubert-base-superb-er", "saw_corpus": "no"}}
    truth, predicted = [row["truth"] for row in rows], [row["predicted"] for row in rows]
    p = np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in rows])
    groups, speakers = ([row[name] or None for row in rows] for name in ("dialogue", "speaker"))
    figures = scores.score(truth, predicted, CLASSES, groups, p, speakers=speakers)
    about = {"classes": CLASSES, "modalities": ["audio"], "encoders": encoder, "contaminated": [], "part": "test"}
    write_json(folder / "protocol.json", protocol)
    write_json(folder / "metrics.json", {**figures, **about, "subsets": {}, "protocol": protocol, **changed})
    about = {"wavfusion": "0", "manifest": str(folder.parent / "manifest.jsonl"), "seed": 7}
    write_json(folder / "environment.json", about)
    (folder / "experiment.yaml").write_text("seed: 7\n")
    (folder / "history.csv").write_text("epoch,step,eval_weighted_f1,loss\n1.0,5,0.4,2.5\n2.0,10,0.6,1.5\n3.0,15,,\n")
    (folder / "split.csv").write_text("id,split\n" + "".join(f"{name},{part}\n" for name, part in parts.items()))
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "protocol"])
        writer.writeheader()
        writer.writerows({**row, "protocol": digest[:16]} for row in rows)
    return folder


def make_corpus(folder: Path, rows: Sequence[dict[str, str]], text: str = "well") -> None:
    """Write the manifest beside RUNs, with one audio file for all."""
    samples = np.sin(np.arange(4 * media.SAMPLE_RATE) / 20).astype(np.float32)
    media.write_audio(folder / "a b#1.wav", samples, media.SAMPLE_RATE)
    utterances = [
        Utterance(row["id"], "table", "test", audio=AudioSpan("a b#1.wav", 1.0, 2.5), text=text, language="en")
        for row in rows
    ]
    manifest.write(folder / "manifest.jsonl", utterances)
    manifest.write_corpus(folder / "manifest.jsonl", Corpus("table", str(folder), None, CLASSES, "0"))


def page_of(out: Path, *runs: Path) -> str:
    write_run_page(runs, out)
    return out.read_text("utf-8")


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = answers(60, 0)
    make_corpus(tmp_path, rows)
    return make_run(tmp_path / "run", rows)


def test_the_figures_stand_with_both_intervals(run: Path) -> None:
    rows = answers(60, 0)
    truth, predicted, speakers = ([row[name] for row in rows] for name in ("truth", "predicted", "speaker"))
    found = scores.score(truth, predicted, CLASSES, [row["dialogue"] for row in rows], speakers=speakers)
    bounds = found["interval"]["uar"]
    expected = [
        f"{100 * low:.1f} – {100 * high:.1f}" for low, high in (bounds["this_test_set"], bounds["new_speakers"])
    ]
    table = {row[0]: row[1:] for row in cells(page_of(run / "r.html", run)) if row}
    assert table["UAR"] == [f"{100 * found['uar']:.1f}", *expected]


def test_protocol_fold_and_hash_stand_on_the_page(run: Path) -> None:
    table = {row[0]: row[1:] for row in cells(page_of(run / "r.html", run)) if row}
    digest = json.loads((run / "protocol.json").read_text())["hash"]
    described = "speaker-folds, fold 2 of 5, speakers disjoint, selected on valid"
    assert (table["protocol"], table["its hash"]) == ([described], [digest])


def test_what_chose_on_the_test_part_or_met_the_corpus_says_so_in_plain_sight(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", answers(96, 0), "test", contaminated=["audio"])
    warnings = re.findall(r'<p class="warning"><strong>(.*?)</strong>', page_of(tmp_path / "r.html", run))
    assert warnings == ["SELECTED ON TEST", "CONTAMINATED"]


def test_calibration_bins_add_up_to_the_calibration_error(run: Path) -> None:
    rows = [row for row in cells(page_of(run / "r.html", run)) if len(row) == 4 and re.match(r"\d+ – \d+$", row[0])]
    numbers = np.array([[float(cell) for cell in row[1:]] for row in rows])
    error = (abs(numbers[:, 0] - numbers[:, 1]) * numbers[:, 2]).sum() / 60
    assert error == pytest.approx(100 * json.loads((run / "metrics.json").read_text())["ece"], abs=0.1)


def test_words_with_markup_are_data_and_not_markup(tmp_path: Path) -> None:
    rows = answers(6, 0)
    make_corpus(tmp_path, rows, MARKUP)
    page = page_of(tmp_path / "r.html", make_run(tmp_path / "run", rows))
    assert ("<img" in page, data_of(page)["runs"][0]["rows"][0][4]) == (False, MARKUP)


def test_a_page_of_a_run_asks_nothing_of_the_network(run: Path) -> None:
    addresses = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?+(?!data:|#)[^\"'>]*", page_of(run / "r.html", run))
    assert addresses == []


def test_plots_have_no_colour_of_their_own(run: Path) -> None:
    plots = re.findall(r"<svg.*?</svg>", page_of(run / "r.html", run), re.DOTALL)
    colours = {colour for plot in plots for colour in re.findall(r"(?:fill|stroke): ([^;\"]*)", plot)}
    assert {colour for colour in colours if not colour.startswith("var(--")} <= {"none"}


def test_names_within_a_page_are_unique(run: Path) -> None:
    names = re.findall(r'\sid="([^"]*)"', page_of(run / "r.html", run))
    assert sorted(names) == sorted(set(names))


def test_an_emotion_may_be_called_like_a_formula(tmp_path: Path) -> None:
    """Matplotlib took $ for the beginning of a formula and failed."""
    from wavfusion.report import plots

    assert r"$\bad$ &lt;b&gt;" in plots.dots("t", [r"$\bad$ <b>"], {"": [(0.5, 0.4, 0.6)]}, "F1")


def test_a_plot_leaves_nothing_in_the_home_and_says_nothing(tmp_path: Path) -> None:
    """Matplotlib made ~/.config/matplotlib and ~/.cache/matplotlib."""
    code = "from wavfusion.report import plots; plots.lines('t', {'': ([1.0], [1.0])}, ('x', 'y'))"
    hidden = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")
    place = {name: value for name, value in os.environ.items() if name not in hidden} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=place, capture_output=True, text=True, check=True)
    assert (list(tmp_path.iterdir()), done.stdout + done.stderr) == ([], "")


def test_equal_runs_give_equal_pages(run: Path) -> None:
    assert page_of(run / "r.html", run) == page_of(run / "r.html", run)


def test_a_clip_is_named_relative_to_the_page_with_its_stretch(run: Path) -> None:
    data = data_of(page_of(run / "r.html", run))
    assert (data["files"], data["runs"][0]["rows"][0][7]) == (["../a%20b%231.wav"], [["audio", 0, 1.0, 2.5]])


def test_a_clip_that_is_gone_has_no_address(run: Path) -> None:
    (run.parent / "a b#1.wav").unlink()
    assert data_of(page_of(run / "r.html", run))["files"] == [None]


def test_audio_within_a_video_file_is_played_once(run: Path) -> None:
    rows = [
        Utterance(row["id"], "table", audio=AudioSpan("v.mp4", 0.0, 1.0), video=VideoSpan("v.mp4", 0.0, 1.0))
        for row in answers(60, 0)
    ]
    manifest.write(run.parent / "manifest.jsonl", rows)
    assert data_of(page_of(run / "r.html", run))["runs"][0]["rows"][0][7] == [["video", 0, 0.0, 1.0]]


def test_a_run_without_its_manifest_still_has_a_page(run: Path) -> None:
    (run.parent / "manifest.jsonl").unlink()
    assert "its manifest is missing" in page_of(run / "r.html", run)


def test_the_kept_epoch_is_the_best_of_the_history(run: Path) -> None:
    assert "the dotted line is the epoch that was kept, 2." in page_of(run / "r.html", run)


def test_the_bayes_optimal_accuracy_stands_beside_the_subsets_of_a_generated_corpus(tmp_path: Path) -> None:
    rows = answers(12, 0)
    make_corpus(tmp_path, rows)
    write_json(tmp_path / "world.json", {"bayes": {"speaker_independent": {"audio": 0.875}, "speakers_shared": {}}})
    figures = {"n": 12, "accuracy": 0.5, "weighted_f1": 0.4, "macro_f1": 0.3, "uar": 0.2, "confusion": [[4, 0, 0]] * 3}
    interval = {"accuracy": {"this_test_set": [0.25, 0.75], "new_speakers": None}}
    run = make_run(tmp_path / "run", rows, subsets={"audio": {**figures, "interval": interval}})
    table = {row[0]: row[1:] for row in cells(page_of(tmp_path / "r.html", run)) if row}
    assert table["audio"][:6] == ["50.0", "25.0 – 75.0", "unknown", "40.0", "20.0", "87.5"]


def test_the_papers_row_that_is_most_like_a_run_stands_beside_it(tmp_path: Path) -> None:
    rows = answers(60, 0)
    run = make_run(tmp_path / "run", rows)
    assert "Beside the paper" not in page_of(tmp_path / "plain.html", run)
    make_corpus(tmp_path, rows)
    manifest.write_corpus(tmp_path / "manifest.jsonl", Corpus("iemocap", str(tmp_path), None, CLASSES, "0"))
    chosen = {"model.modalities": "audio,text", "model.margin.weight": "2"}
    chosen |= {
        "model.fusion_layers": "3",
        "model.trainable_layers": "3",
        "model.margin_audio_layer": "9",
    }  # as resolved
    (run / "experiment.yaml").write_text(experiment.read_experiment("paper", chosen).to_yaml())
    page = page_of(tmp_path / "beside.html", run)
    assert ["Modalities: A+T", "67.75", "", "67.45", "", "margin.weight 2.0 (1.0)"] in cells(page)
    write_json(tmp_path / "world.json", {})
    assert "Beside the paper" not in page_of(tmp_path / "generated.html", run)


def test_a_run_without_dialogues_and_speakers_has_a_page(tmp_path: Path) -> None:
    rows = [{**row, "dialogue": "", "speaker": ""} for row in answers(12, 0)]
    assert "no dialogues, unknown speakers" in page_of(tmp_path / "r.html", make_run(tmp_path / "run", rows))


def test_a_page_goes_with_the_run_that_it_shows(run: Path) -> None:
    """`train --force` left the page of the model before it."""
    page_of(run / "report.html", run)
    remove_run(run)
    assert not (run / "report.html").exists()


def explain(run: Path, **changed: Any) -> None:
    figures = json.loads((run / "metrics.json").read_text())
    gates = {"utterances": 1, "by_layer": [0.25], "by_emotion": {"sad": 0.3}, "by_second": []}
    utterances = {"u0": {"text_share": 0.125, "contribution": {"audio": 0.5, "video": -0.25}}}
    explained = {
        "split": "test",
        "protocol": figures["protocol"],
        "gates": gates,
        "utterances": utterances,
        "contributions": {},
    }
    write_json(run / "explain.json", {**explained, "margin": None, "shift": None, **changed})


def test_gates_and_contributions_stand_beside_an_utterance(run: Path) -> None:
    explain(run)
    page = page_of(run / "r.html", run)
    assert ("By deep layer: 0.25." in page, data_of(page)["runs"][0]["rows"][0][8:]) == (
        True,
        [0.125, [0.5, None, -0.25]],
    )


def test_what_was_explained_of_another_part_is_left_out(run: Path) -> None:
    explain(run, split="valid")
    assert data_of(page_of(run / "r.html", run))["runs"][0]["rows"][0][8:] == [None, []]


def test_a_damaged_explanation_is_named(run: Path) -> None:
    explain(run, gates={"utterances": 1})
    with pytest.raises(ConfigError, match=r"explain\.json: field 'gates\.by_layer' is missing"):
        page_of(run / "r.html", run)


def test_predictions_that_are_not_those_of_the_figures_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", answers(12, 0), confusion=[[4, 0, 0], [0, 4, 0], [0, 0, 4]])
    with pytest.raises(ConfigError, match="expected predictions and figures of one evaluation"):
        page_of(tmp_path / "r.html", run)


def test_two_runs_are_compared_by_whole_dialogues_in_whatever_order_they_stand(tmp_path: Path) -> None:
    rows, others = answers(60, 0), answers(60, 1, 4.0)
    runs = make_run(tmp_path / "a", rows), make_run(tmp_path / "b", others[::-1])
    counts = [
        scores.confusions_by_group(*([row[name] for row in each] for name in ("truth", "predicted")), CLASSES,
                                    [row["dialogue"] for row in each])
        for each in (others, rows)
    ]  # fmt: skip
    found = comparison.compare(counts[0][None], counts[1][None], scores.figures)["accuracy"]
    low, high = found.interval
    table = cells(page_of(tmp_path / "r.html", *runs))
    row = table[table.index(["b"]) + 1]
    assert row[:5] == [
        "accuracy", f"{100 * found.difference:+.1f}", f"{found.p_value:.4f}", "supported",
        f"{100 * low:+.1f} to {100 * high:+.1f}",
    ]  # fmt: skip


def acted(seed: int, skill: float, actors: int = 4) -> list[dict[str, str]]:
    """Rows as of RAVDESS: 60 a speaker, no dialogues."""
    rows = answers(60 * actors, seed, skill)
    return [{**row, "dialogue": "", "speaker": f"actor{i % actors}"} for i, row in enumerate(rows)]


def test_speakers_are_the_clusters_of_a_corpus_without_dialogues_and_four_give_no_verdict(tmp_path: Path) -> None:
    """240 groups of one utterance, `supported`, and "whole dialogues" in a corpus that has none."""
    runs = make_run(tmp_path / "a", acted(0, 0.5)), make_run(tmp_path / "b", acted(1, 4.0))
    page = page_of(tmp_path / "r.html", *runs)
    table = cells(page)
    assert ["clusters", *2 * ["4", "speakers", "4 independent speakers"]] in table
    assert {row[3] for row in table[table.index(["b"]) + 1 :][:4]} == {"no verdict"}
    assert "No verdict: 5 speakers are needed." in page and "whole dialogues" not in page
    assert {row[2] for row in table if row and row[0] == "UAR" and len(row) == 7} == {
        row[2] for row in cells(page_of(tmp_path / "a.html", runs[0])) if row[0] == "UAR"
    }


def test_five_speakers_give_one(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "a", acted(0, 0.5, 5)), make_run(tmp_path / "b", acted(1, 4.0, 5))
    table = cells(page_of(tmp_path / "r.html", *runs))
    assert {row[3] for row in table[table.index(["b"]) + 1 :][:4]} == {"supported"}


def test_p_and_interval_on_the_page_never_contradict_each_other(tmp_path: Path) -> None:
    """One of three RUNs: accuracy +3.3, p 0.1227 (adjusted), 95 % +0.1 to +6.6 (not adjusted)."""
    runs = [make_run(tmp_path / f"r{i}", answers(90, i, 1.5 + i / 4)) for i in range(5)]
    rows = [row for row in cells(page_of(tmp_path / "r.html", *runs)) if len(row) == 6 and " to " in row[4]]
    assert len(rows) == 16
    for _, _, p_value, verdict, interval, _ in rows:
        low, high = map(float, interval.split(" to "))
        assert (low > 0 or high < 0) == (float(p_value) < 0.05) or 0 in (low, high)
        assert (verdict == "supported") == (float(p_value) < 0.05 and low >= 0)


def test_emotions_that_were_not_tested_are_counted_beside_both_means(tmp_path: Path) -> None:
    rows = [row for row in answers(60, 0) if row["truth"] != "sad"]
    run = make_run(tmp_path / "run", rows)
    tested = json.loads((run / "metrics.json").read_text())["macro_f1_tested"]
    expected = ["macro F1 of tested emotions", f"{100 * tested:.1f}", "2 of 3 were tested"]
    assert expected in cells(page_of(tmp_path / "r.html", run))


def test_the_folder_of_an_evaluation_is_shown_with_its_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`report A A/evaluate`: FileNotFoundError: [Errno 2] No such file or directory: 'A/evaluate/split.csv'."""
    (run / "evaluate").mkdir()
    for name in ("metrics.json", "predictions.csv"):
        (run / "evaluate" / name).write_bytes((run / name).read_bytes())
    assert main(["report", str(run), str(run / "evaluate"), "--out", str(run / "r.html")]) == 2
    error = capsys.readouterr().err
    assert f"an evaluation is shown with its RUN: {run}" in error and "Errno" not in error and error.count("\n") == 1


def test_predictions_without_labels_are_refused_by_their_column(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", answers(12, 0))
    lines = list(csv.DictReader((run / "predictions.csv").read_text().splitlines()))
    with open(run / "predictions.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in lines[0] if name != "truth"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    with pytest.raises(ConfigError, match=r"run: expected labels \(the column truth\), found none"):
        page_of(tmp_path / "r.html", run)


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("metrics.json", "accuracy", "high"),
        ("metrics.json", "nll", None),
        ("metrics.json", "interval", {"uar": {"this_test_set": [0.1, 0.2]}}),
        ("metrics.json", "uar", 10**400),
        ("metrics.json", "interval", {"uar": {"this_test_set": [0.1]}}),
        ("metrics.json", "interval", {"uar": {"this_test_set": ["low", "high"]}}),
        ("metrics.json", "per_class", {name: {"f1": 0.5, "support": 4} for name in CLASSES}),
        ("metrics.json", "per_class", {}),
        ("metrics.json", "subsets", {"audio": 3}),
        ("metrics.json", "styles", []),
        ("metrics.json", "contributions", {"sad": {"audio": "much"}}),
        ("metrics.json", "calibration", {"temperature": 1.0}),
        ("metrics.json", "confusion", [[1, 2], [3]]),
        ("protocol.json", "promises", ["speaker"]),
        ("protocol.json", "counts", {"test": "all"}),
        ("protocol.json", "left_out", "none"),
        ("explain.json", "gates", {"utterances": 1, "by_layer": "all", "by_emotion": {}, "by_second": []}),
        ("explain.json", "gates", {"utterances": 1, "by_layer": [0.5], "by_emotion": {"sad": None}, "by_second": []}),
        ("explain.json", "shift", {"seconds": [0.0, 1.0], "audio": [0.5]}),
        ("explain.json", "shift", {"audio": [0.5]}),
        ("explain.json", "margin", {"alpha": 1, "own": {"violated": 0.5}, "post_hoc": None}),
        ("explain.json", "utterances", {"u0": [0.5, {}]}),
        ("explain.json", "utterances", []),
    ],
)
def test_a_field_of_another_type_is_one_line_with_file_and_field(
    run: Path, file: str, field: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """TypeError, ValueError or numpy.linalg.LinAlgError ended `report`."""
    explain(run)
    values = json.loads((run / file).read_text()) | {field: value}
    (run / file).write_text(json.dumps(values).replace(str(10**400), "1e400"))
    assert main(["report", str(run), "--out", str(run / "r.html"), "--force"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and field in error and len(error) < 600, error
    assert not re.search("Type|Value|Index|Key|LinAlg", error), error


def test_settings_that_differ_stand_side_by_side(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "a", answers(12, 0)), make_run(tmp_path / "b", answers(12, 1))
    for run, weight in zip(runs, (1.0, 0.1), strict=True):
        (run / "experiment.yaml").write_text(
            f"seed: {weight}\nmodel: {{margin: {{weight: {weight}}}, modalities: [audio]}}\n"
        )
    table = cells(page_of(tmp_path / "r.html", *runs))
    assert [row for row in table if row and row[0].startswith("model.")] == [["model.margin.weight", "1.0", "0.1"]]


def test_runs_of_other_utterances_are_not_compared_and_say_so(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "a", answers(12, 0)), make_run(tmp_path / "b", answers(9, 0))
    assert "b is not compared with a: it was tested on other utterances (9 of 12 shared)." in unescape(
        page_of(tmp_path / "r.html", *runs)
    )


def test_runs_are_named_by_the_ends_of_their_paths_that_tell_them_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name / "seed0", answers(12, 0)) for name in ("deep", "concat")]
    page = page_of(tmp_path / "r.html", *runs)
    assert [each["name"] for each in data_of(page)["runs"]] == ["deep/seed0", "concat/seed0"]


def test_the_verb_writes_the_page_into_the_run_and_not_over_another(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = [main(["report", str(run), *rest]) for rest in ([], [], ["--out", str(run / "new" / "page.html")])]
    printed = capsys.readouterr().out.splitlines()
    assert (codes, [Path(line).is_file() for line in printed]) == ([0, 2, 0], [True, True])


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["manifest.jsonl"], "expected one manifest or only RUN folders, found"),
        (["run"], "expected each RUN once"),
        (["empty"], "expected a complete RUN"),
        (["--root=nowhere"], "--root: expected the folder of the corpus, found none at 'nowhere'"),
    ],
)
def test_what_cannot_be_side_by_side_is_refused(
    run: Path, others: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.parent / "empty").mkdir()
    code = main(["report", str(run), *(name if name[0] == "-" else str(run.parent / name) for name in others)])
    error = capsys.readouterr().err
    assert (code, message in error, error.count("\n"), (run / "report.html").exists()) == (2, True, 1, False)


# ---------------------------------------------------------------------- in a browser

MANY = 10_000


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of many utterances whose words hold markup, beside a RUN of another opinion."""
    folder = tmp_path_factory.mktemp("report")
    rows = answers(MANY, 0)
    make_corpus(folder, rows, MARKUP)
    runs = [make_run(folder / "a", rows), make_run(folder / "b", answers(MANY, 1))]
    write_run_page(runs, folder / "page.html")
    return (folder / "page.html").as_uri()


@pytest.fixture
def opened(browser: Page, address: str) -> Page:
    browser.look(1100)
    browser.console.clear()
    browser.requests.clear()
    browser.open(address)
    return browser


@pytest.mark.slow
def test_ten_thousand_utterances_open_in_under_three_seconds(browser: Page, address: str) -> None:
    browser.look(1100)
    assert browser.open(address) < 3.0


@pytest.mark.slow
def test_a_page_runs_without_errors_and_asks_only_for_the_clip_that_is_opened(opened: Page, address: str) -> None:
    opened.run("document.querySelector('#utterance-list button').click()")
    opened.run("new Promise(done => document.querySelector('audio').addEventListener('loadedmetadata', done))")
    assert (opened.console, opened.requests) == ([], [address, address.replace("page.html", "a%20b%231.wav")])


@pytest.mark.slow
def test_a_clip_begins_where_its_utterance_does(opened: Page) -> None:
    opened.run("document.querySelector('#utterance-list button').click()")
    begun = "const clip = document.querySelector('audio'); clip.readyState ? done() : clip.onloadeddata = done"
    assert (
        opened.run(f"new Promise(done => {{ {begun} }}).then(() => document.querySelector('audio').currentTime)") == 1
    )


@pytest.mark.slow
def test_words_with_markup_stay_text_in_the_browser(opened: Page) -> None:
    shown = opened.run("document.querySelector('#utterance-list .text').textContent")
    assert (shown, opened.run("document.querySelectorAll('#utterance-list img, #utterance-list b').length")) == (
        MARKUP,
        0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 768, 1100])
def test_nothing_reaches_over_the_edge_of_the_screen(opened: Page, width: int) -> None:
    opened.look(width)
    opened.run("document.querySelector('#utterance-list button').click()")
    assert opened.run("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_utterances_are_reached_and_opened_by_keyboard(opened: Page) -> None:
    opened.run("document.querySelector('#filters input[type=search]').focus()")
    opened.press("Tab", "ArrowDown", "Enter")
    place = "[...document.querySelectorAll('#utterance-list li')].indexOf(document.activeElement.closest('li'))"
    state = opened.run(f"[{place}, document.activeElement.ariaExpanded]")
    opened.press("Tab", "Escape")
    assert (state, opened.run(f"[{place}, document.activeElement.ariaExpanded]")) == ([1, "true"], [1, "false"])


@pytest.mark.slow
def test_a_number_of_the_confusion_leads_to_its_utterances(opened: Page) -> None:
    count = opened.run(
        "(() => { const link = document.querySelector('a[data-run=\"1\"]'); link.click(); return link.textContent; })()"
    )
    assert opened.run("document.querySelector('#count').textContent").startswith(
        f"{int(count):,} of {MANY:,} utterances"
    )


@pytest.mark.slow
def test_everything_that_a_screen_reader_meets_has_a_name(opened: Page) -> None:
    opened.run("document.querySelector('#utterance-list button').click()")
    nodes = opened.call("Accessibility.getFullAXTree")["nodes"]
    named = {
        "image",
        "button",
        "link",
        "combobox",
        "searchbox",
        "table",
        "region",
        "navigation",
        "form",
        "Audio",
        "img",
    }
    kinds = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    assert {kind for kind, name in kinds if kind in named and not name.strip()} == set()


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_letters_stand_out_from_the_paper(opened: Page, dark: bool) -> None:
    """WCAG 2.2's contrast of 4.5 for letters of usual size."""
    opened.look(1100, dark=dark)

    def brightness(name: str) -> float:
        opened.run(f"document.body.style.accentColor = 'var(--{name})'")
        rgb = re.findall(r"\d+", opened.run("getComputedStyle(document.body).accentColor"))
        linear = [
            x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in (int(each) / 255 for each in rgb)
        ]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    paper = brightness("paper")
    contrasts = {}
    for name in ("ink", "soft", "mark", "fill", "third", "fourth"):
        dim, bright = sorted([paper, brightness(name)])
        contrasts[name] = (bright + 0.05) / (dim + 0.05)
    assert {name for name, contrast in contrasts.items() if contrast < 4.5} == set()


@pytest.mark.slow
def test_paper_has_no_controls_and_stays_white_in_the_dark(opened: Page) -> None:
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    opened.call("Emulation.setEmulatedMedia", media="print", features=[dark])
    shown = opened.run(
        "[getComputedStyle(document.querySelector('#filters')).display,getComputedStyle(document.body).backgroundColor]"
    )
    opened.call("Emulation.setEmulatedMedia", media="", features=[])
    assert (shown, opened.paper()[:5]) == (["none", "rgb(255, 255, 255)"], b"%PDF-")


@pytest.mark.slow
def test_figures_are_there_without_scripts(browser: Page, address: str) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(address)
        noscript = "document.querySelector('noscript').firstElementChild.checkVisibility()"
        shown = browser.run(f"[{noscript}, document.querySelectorAll('svg.plot').length]")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert shown == [True, 7]


def test_chance_stands_beside_the_figures_and_a_run_near_it_says_so(tmp_path: Path) -> None:
    """A UAR of 10.9 where a guess has 12.5 stood on the page without a word."""
    run = make_run(tmp_path / "run", answers(12, 0))
    metrics = json.loads((run / "metrics.json").read_text())
    page = page_of(tmp_path / "r.html", run)
    tested = [each["support"] for each in metrics["per_class"].values() if each["support"]]
    (guess,) = [row[1] for row in cells(page) if row and row[0] == "a guess"]
    assert guess.startswith(f"UAR {100 / len(tested):.1f}; accuracy {100 * max(tested) / 12:.1f}, always ")
    assert "<strong>NEAR CHANCE</strong>: UAR " in page
