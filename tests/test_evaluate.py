import csv
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from wavfusion import manifest
from wavfusion.cli.app import main
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.evaluation import evaluate
from wavfusion.manifest import Utterance
from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.runs.folder import read_run
from wavfusion.training import train
from wavfusion.transcripts import Segment

pytest_plugins = ("corpus_fixture",)

CLASSES = ["happy", "sad", "neutral", "angry"]


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "predictions.csv").read_text())))


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def evaluated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `evaluate RUN` writes."""
    out = tmp_path_factory.mktemp("evaluated")
    assert main(["evaluate", str(trained), "--out", str(out), "--device", "cpu"]) == 0
    return out


@pytest.fixture(scope="module")
def confused(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same from the text alone, where the model errs."""
    out = tmp_path_factory.mktemp("confused")
    assert main(["evaluate", str(trained), "--out", str(out), "--modalities", "text", "--device", "cpu"]) == 0
    return out


# ------------------------------------------------------------------ figures


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("accuracy", sk.accuracy_score),
        ("weighted_f1", lambda t, p: sk.f1_score(t, p, labels=CLASSES, average="weighted", zero_division=0)),
        ("macro_f1", lambda t, p: sk.f1_score(t, p, labels=CLASSES, average="macro", zero_division=0)),
        ("uar", sk.balanced_accuracy_score),
    ],
)
def test_a_figure_is_scikit_learns_of_predictions_csv(confused: Path, name: str, count: Any) -> None:
    rows = table(confused)
    truth, predicted = [row["truth"] for row in rows], [row["predicted"] for row in rows]
    assert truth != predicted and figures(confused)[name] == pytest.approx(count(truth, predicted))


def test_nll_is_scikit_learns_log_loss(confused: Path) -> None:
    rows = table(confused)
    p = np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in rows])
    truth = [CLASSES.index(row["truth"]) for row in rows]
    found = sk.log_loss(truth, p / p.sum(1, keepdims=True), labels=range(4))
    assert figures(confused)["nll"] == pytest.approx(found, abs=1e-4)


def test_the_confusion_matrix_is_scikit_learns(confused: Path) -> None:
    rows = table(confused)
    found = sk.confusion_matrix([r["truth"] for r in rows], [r["predicted"] for r in rows], labels=CLASSES)
    assert figures(confused)["confusion"] == found.tolist()


def test_metrics_have_the_fields_of_the_contract(evaluated: Path) -> None:
    wanted = {
        *("n", "accuracy", "weighted_f1", "macro_f1", "uar", "nll", "ece", "per_class", "confusion", "interval"),
        *("classes", "protocol", "modalities", "subsets"),
    }
    assert wanted <= set(figures(evaluated))


def test_the_protocol_stands_beside_the_figures(evaluated: Path) -> None:
    said = {"name", "hash", "speakers_disjoint", "selected_on", "fold", "folds", "speakers_shared"}
    assert set(figures(evaluated)["protocol"]) == said


def test_predictions_have_the_columns_of_the_contract(evaluated: Path) -> None:
    assert list(table(evaluated)[0]) == [
        "id",
        "dialogue",
        "speaker",
        "truth",
        "predicted",
        *(f"p_{c}" for c in CLASSES),
        "protocol",
    ]


def test_every_prediction_carries_the_hash_of_its_protocol(evaluated: Path) -> None:
    wanted = figures(evaluated)["protocol"]["hash"]
    assert {wanted.startswith(row["protocol"]) and len(row["protocol"]) for row in table(evaluated)} == {16}


def test_encoders_that_met_no_corpus_are_said_to_be_clean(evaluated: Path) -> None:
    found = figures(evaluated)
    assert ({each["saw_corpus"] for each in found["encoders"].values()}, found["contaminated"]) == ({"no"}, [])


def test_predictions_stand_in_the_order_of_the_manifest(evaluated: Path, made: Any) -> None:
    assert [row["id"] for row in table(evaluated)] == [row.id for row in made.data.part("test")]


def test_the_most_probable_emotion_is_predicted(evaluated: Path) -> None:
    assert all(row["predicted"] == max(CLASSES, key=lambda name: float(row[f"p_{name}"])) for row in table(evaluated))


def test_figures_of_the_test_part_are_those_that_training_wrote(evaluated: Path, trained: Path) -> None:
    assert (evaluated / "predictions.csv").read_bytes() == (trained / "predictions.csv").read_bytes()


def test_twice_gives_the_same_bytes(evaluated: Path, trained: Path, tmp_path: Path) -> None:
    main(["evaluate", str(trained), "--out", str(tmp_path), "--device", "cpu"])
    for name in ("metrics.json", "predictions.csv"):
        assert (tmp_path / name).read_bytes() == (evaluated / name).read_bytes()


def test_all_subsets_are_those_that_training_scored(trained: Path, tmp_path: Path) -> None:
    main(["evaluate", str(trained), "--out", str(tmp_path), "--modalities", "all-subsets", "--device", "cpu"])
    assert figures(tmp_path)["subsets"] == figures(trained)["subsets"]


def test_one_subset_is_the_same_alone(trained: Path, tmp_path: Path) -> None:
    main(["evaluate", str(trained), "--out", str(tmp_path), "--modalities", "video+text", "--device", "cpu"])
    assert figures(tmp_path)["accuracy"] == figures(trained)["subsets"]["text+video"]["accuracy"]


def test_a_long_clip_is_called_as_predict_calls_it(evaluated: Path, trained: Path, made: Any) -> None:
    row = next(row for row in made.data.utterances if row.id == "long")
    predicted = EmotionRecognizer.from_pretrained(trained).predict(
        made.root / row.audio.path, segments=[Segment(0.0, 999.0, text=row.text)]
    )[0]
    scored = next(row for row in table(evaluated) if row["id"] == "long")
    assert {name: float(scored[f"p_{name}"]) for name in CLASSES} == pytest.approx(predicted.probabilities, abs=2e-4)


# ------------------------------------------------------------------ where it writes


def test_results_go_into_the_run_by_default(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    main(["evaluate", str(run), "--device", "cpu"])
    assert {path.name for path in (run / "evaluate").iterdir()} == {"metrics.json", "predictions.csv"}


def test_results_are_not_overwritten(evaluated: Path, trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), "--out", str(evaluated)]) == 2
    assert "--force" in capfd.readouterr().err


def test_force_overwrites_results(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("old")
    assert main(["evaluate", str(trained), "--out", str(tmp_path), "--force", "--device", "cpu"]) == 0
    assert figures(tmp_path)["n"] == 9


# ------------------------------------------------------------------ which rows


def row(name: str, emotion: str | None, split: str | None) -> Utterance:
    return Utterance(name, "table", emotion=emotion, split=split)


def test_rows_of_another_corpus_keep_their_own_split() -> None:
    rows = [row("a", "happy", "test"), row("b", "sad", "train")]
    assert [each.id for each in evaluate.choose_part(rows, CLASSES, "test", {"x": "test"}).utterances] == ["a"]


def test_rows_that_the_runs_protocol_left_out_stay_out() -> None:
    """A row that a split file does not name has still the manifest's own split."""
    rows = [row("a", "happy", "test"), row("b", "sad", "test")]
    assert [each.id for each in evaluate.choose_part(rows, CLASSES, "test", {"a": "test"}).utterances] == ["a"]


def test_the_runs_split_comes_before_the_manifests() -> None:
    rows = [row("a", "happy", "train"), row("b", "sad", "test")]
    found = evaluate.choose_part(rows, CLASSES, "test", {"a": "test", "b": "train"})
    assert [each.id for each in found.utterances] == ["a"]


def test_the_training_part_comes_along_unless_it_is_what_is_looked_at() -> None:
    rows = [row("a", "sad", "test"), row("b", "joy", "train"), row("c", "bored", "train")]
    found = {part: evaluate.choose_part(rows, CLASSES, part, {}, {"joy": "happy"}) for part in ("test", "train", "all")}
    assert [each.id for each in found["test"].training] == ["b"]
    assert found["train"].training == found["all"].training == []


def test_a_corpus_without_a_split_is_taken_whole() -> None:
    assert (
        len(evaluate.choose_part([row("a", "happy", None), row("b", "sad", None)], CLASSES, "test", {}).utterances) == 2
    )


def test_emotions_that_the_model_does_not_know_are_counted_and_left_out() -> None:
    rows = [row("a", "happy", "test"), row("b", "bored", "test"), row("c", None, "test"), row("d", "sad", "train")]
    found = evaluate.choose_part(rows, CLASSES, "test", {})
    assert (len(found.utterances), found.unknown, found.unlabelled) == (1, {"bored": 1}, 1)


def test_a_map_names_the_corpus_emotions_as_the_model_does() -> None:
    rows = [row("a", "joy", "test"), row("b", "sad", "test")]
    found = evaluate.choose_part(rows, CLASSES, "test", {}, {"joy": "happy"})
    assert found.utterances[0].emotion == "happy"


def test_a_map_to_an_unknown_emotion_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'happy'"):
        evaluate.choose_part([row("a", "joy", "test")], CLASSES, "test", {}, {"joy": "hapy"})


def test_a_map_of_an_emotion_that_no_row_has_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A key that was spelt wrong was passed over in silence."""
    rows = [row("a", "happy", "test"), row("b", "sad", "test")]
    evaluate.choose_part(rows, CLASSES, "test", {}, {"jjoy": "happy"})
    assert caplog.messages == ["--map: no row of the manifest has the emotion 'jjoy'"]


def test_a_map_may_join_emotions_of_corpus_and_model_under_one_name() -> None:
    """RAVDESS's *calm* could not become *neutral*: only the labels were renamed."""
    mapping = evaluate.EmotionMap(["neutral", "calm", "fearful"], {"calm": "neutral", "fearful": "fear", "joy": "fear"})
    assert (mapping.classes, mapping.merges) == (["neutral", "fear"], True)
    assert mapping.mapped(np.array([[0.3, 0.3, 0.4], [0.1, 0.2, 0.7]])).tolist() == [
        [0.6, 0.4],
        [pytest.approx(0.3), 0.7],
    ]
    assert mapping.mapped(np.array([0.25, 0.25, 0.5])).tolist() == [0.5, 0.5]
    rows = [row("a", "calm", "test"), row("b", "neutral", "test"), row("c", "joy", "test"), row("d", "sad", "test")]
    found = evaluate.choose_part(rows, mapping.known, "test", {}, mapping.renamed)
    assert [each.emotion for each in found.utterances] == ["neutral", "neutral", "fear"] and found.unknown == {"sad": 1}
    assert found.mapping == mapping


def test_of_another_corpus_only_the_emotions_count_that_both_have() -> None:
    """An answer that no row could have was counted as an error, so that a guess was right less often than chance."""
    rows = [row("a", "joy", "test"), row("b", "excited", "test"), row("c", "sad", "train"), row("d", "bored", "test")]
    found = evaluate.choose_part(rows, CLASSES, "test", {}, {"joy": "happy", "excited": "happy"})
    assert found.mapping.classes == ["happy", "sad"] and found.mapping.absent == ("neutral", "angry")
    shares = np.array([[0.2, 0.1, 0.6, 0.1], [0.1, 0.3, 0.2, 0.4], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.7, 0.3]])
    wanted = np.array([[2 / 3, 1 / 3], [1 / 4, 3 / 4], [1 / 2, 1 / 2], [1 / 2, 1 / 2]])
    assert found.mapping.mapped(shares) == pytest.approx(wanted)
    assert found.mapping.count_absent(shares) == {"neutral": 2, "angry": 1}


def test_emotions_are_joined_before_those_are_left_out_that_the_corpus_lacks() -> None:
    known, renamed = ["calm", "neutral", "angry", "sad"], {"calm": "neutral", "fear": "sad"}
    rows = [row("a", "neutral", "test"), row("b", "fear", "test")]
    mapping = evaluate.choose_part(rows, known, "test", {}, renamed).mapping
    shares = np.array([[0.25, 0.2, 0.4, 0.15]])
    assert mapping.classes == ["neutral", "sad"] and mapping.count_absent(shares) == {"angry": 0}
    assert mapping.mapped(shares) == pytest.approx(np.array([[0.75, 0.25]]))


def test_an_emotion_that_only_another_part_of_the_corpus_has_stays() -> None:
    rows = [row("a", "happy", "test"), row("b", "sad", "train"), row("c", "angry", "valid")]
    assert evaluate.choose_part(rows, CLASSES, "test", {}).mapping.classes == ["happy", "sad", "angry"]
    kept = evaluate.choose_part(rows[:2], CLASSES, "test", {}, emotions={"happy", "neutral"})
    assert kept.mapping.classes == ["happy", "neutral"]  # of the rows that --where left out


def test_the_runs_own_corpus_is_scored_on_all_its_emotions() -> None:
    found = evaluate.choose_part([row("a", "happy", "test"), row("b", "sad", "train")], CLASSES, "test", {"a": "test"})
    assert found.mapping.classes == CLASSES


def test_a_corpus_of_one_shared_emotion_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"two emotions .* found happy \(it has bored\); --map"):
        evaluate.choose_part([row("a", "happy", "test"), row("b", "bored", "test")], CLASSES, "test", {})


def test_a_map_to_an_emotion_that_is_itself_renamed_is_refused() -> None:
    with pytest.raises(ConfigError, match="--map: 'calm' is no class of the model; did you mean 'calmer'"):
        evaluate.EmotionMap(["calm", "sad"], {"joy": "calm", "calm": "calmer"})


def test_a_map_of_the_models_emotions_holds_in_every_figure(trained: Path, tmp_path: Path) -> None:
    plain, merged = tmp_path / "plain", tmp_path / "merged"
    flags = ["--modalities", "text", "--device", "cpu"]
    assert main(["evaluate", str(trained), "--out", str(plain), *flags]) == 0
    pairs = ["--map", "angry=tense,happy=tense"]
    assert main(["evaluate", str(trained), "--out", str(merged), *flags, *pairs]) == 0
    found = figures(merged)
    assert found["classes"] == ["tense", "sad", "neutral"] == list(found["per_class"])
    rows, wanted = table(merged), table(plain)
    for own, each in zip(rows, wanted, strict=True):
        both = float(each["p_angry"]) + float(each["p_happy"])
        assert float(own["p_tense"]) == pytest.approx(both, abs=2e-6)
        assert own["truth"] == ("tense" if each["truth"] in ("angry", "happy") else each["truth"])
        shares = {name: float(own[f"p_{name}"]) for name in found["classes"]}
        assert own["predicted"] == max(shares, key=lambda name: shares[name])
    right = np.mean([own["truth"] == own["predicted"] for own in rows])
    assert found["accuracy"] == pytest.approx(right)
    assert found["calibration"]["nll"]["after"] == found["nll"]
    assert main(["evaluate", str(trained), "--out", str(tmp_path / "x"), *flags, *pairs, "--explain"]) == 2


def test_an_unknown_split_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        evaluate.choose_part([row("a", "happy", "test")], CLASSES, "tset", {})


def test_no_row_with_a_known_emotion_is_refused() -> None:
    with pytest.raises(CorpusError, match="happy, sad"):
        evaluate.choose_part([row("a", "joy", "test")], CLASSES, "test", {})


# ------------------------------------------------------------------ another corpus


@pytest.fixture
def other(made: Any, tmp_path: Path) -> Path:
    """The same media as a corpus of other names: joy for happy, and one emotion that the model does not know."""
    rows = [
        replace(each, id=f"other-{each.id}", emotion={"happy": "joy", "sad": "bored"}.get(each.emotion, each.emotion))
        for each in made.data.utterances
    ]
    path = tmp_path / "other" / "manifest.jsonl"
    manifest.write_corpus(path, manifest.read_corpus(made.manifest))
    manifest.write(path, rows)
    return path


def test_another_corpus_is_scored_under_the_models_names(
    other: Path, trained: Path, made: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    places = ["--manifest", str(other), "--store", str(made.store), "--out", str(tmp_path / "out")]
    assert main(["evaluate", str(trained), *places, "--map", "joy=happy", "--json", "--device", "cpu"]) == 0
    out = capfd.readouterr()
    result = json.loads(out.out)
    assert result["n"] == 6 and result["left_out"]["unknown"] == {"bored": 3} and "'bored'" in out.err
    assert result["classes"] == ["happy", "neutral", "angry"] and list(result["not_in_corpus"]) == ["sad"]


def test_figures_of_another_corpus_are_those_of_the_emotions_that_both_have(
    other: Path, confused: Path, trained: Path, made: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Counted by hand from the probabilities of all four emotions."""
    places = ["--manifest", str(other), "--store", str(made.store), "--out", str(tmp_path / "out")]
    flags = ["--modalities", "text", "--split", "test", "--device", "cpu", "--map", "joy=happy"]
    assert main(["evaluate", str(trained), *places, *flags]) == 0
    every = {f"other-{each['id']}": each for each in table(confused)}
    rows, found, shared = table(tmp_path / "out"), figures(tmp_path / "out"), ["happy", "neutral", "angry"]
    right, losses, sad = 0, [], 0
    for each in rows:
        own = {name: float(every[each["id"]][f"p_{name}"]) for name in CLASSES}
        total = sum(own[name] for name in shared)
        assert [float(each[f"p_{name}"]) for name in shared] == pytest.approx(
            [own[name] / total for name in shared], abs=1e-5
        )
        right += each["truth"] == max(shared, key=lambda name: own[name])
        losses.append(-np.log(own[each["truth"]] / total))
        sad += max(own, key=lambda name: own[name]) == "sad"
    assert len(rows) == 6 and found["accuracy"] == pytest.approx(right / 6)
    assert found["nll"] == pytest.approx(np.mean(losses), abs=1e-4) == found["calibration"]["nll"]["after"]
    assert found["not_in_corpus"] == {"sad": sad}
    assert f"not in the corpus: sad ({sad} answers)" in capfd.readouterr().out


def test_the_truth_of_another_corpus_is_written_under_the_models_names(
    other: Path, trained: Path, made: Any, tmp_path: Path
) -> None:
    places = ["--manifest", str(other), "--store", str(made.store), "--out", str(tmp_path / "out")]
    main(["evaluate", str(trained), *places, "--map", "joy=happy", "--device", "cpu"])
    assert {row["truth"] for row in table(tmp_path / "out")} == {"happy", "neutral", "angry"}


def test_features_of_another_encoder_are_refused_with_both_fingerprints(
    trained: Path, made: Any, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    values = json.loads((run / "config.json").read_text())
    own = values["features"]["audio"]["fingerprint"]
    values["features"]["audio"]["fingerprint"] = "0" * 32
    (run / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=f"{'0' * 32}.*{own}"):
        evaluate.samples_of(read_run(run), made.data.part("test"), made.data.store, made.data.media)


def test_encoders_of_another_fingerprint_are_refused_with_both(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    values = json.loads((run / "config.json").read_text())
    own = values["features"]["text"]["fingerprint"]
    values["features"]["text"]["fingerprint"] = "0" * 32
    (run / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=f"{'0' * 32}.*{own}"):
        EmotionRecognizer.from_pretrained(run)


# ------------------------------------------------------------------ damaged RUNs


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "protocol.json"])
def test_a_run_that_is_not_whole_says_what_is_absent(trained: Path, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / name).unlink()
    with pytest.raises(ConfigError, match=name):
        read_run(run)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "protocol.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff" * 40])
def test_a_damaged_run_is_refused_in_one_line(
    trained: Path, tmp_path: Path, name: str, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("checkpoints", "encoders", "tensorboard"))
    (run / name).write_bytes(content)
    assert main(["evaluate", str(run), "--out", str(tmp_path / "out")]) == 2
    assert len(capfd.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["environment.json", "split.csv"])
def test_a_run_without_its_places_is_refused_in_one_line(
    trained: Path, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("checkpoints", "encoders", "tensorboard"))
    (run / name).write_bytes(b"{}")
    assert main(["evaluate", str(run), "--out", str(tmp_path / "out")]) == 2
    assert len(capfd.readouterr().err.strip().splitlines()) == 1


def bare(trained: Path, folder: Path) -> Path:
    """A RUN without what is large."""
    kept = shutil.ignore_patterns("checkpoints", "encoders", "tensorboard")
    return Path(shutil.copytree(trained, folder / "run", ignore=kept))


@pytest.mark.parametrize(
    "change", [lambda text: text.replace("test", "tset"), lambda text: text[: len(text) // 2], lambda text: text + '"x']
)
def test_a_run_with_a_damaged_split_is_refused_in_one_line(
    trained: Path, tmp_path: Path, change: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """All rows were scored, those of the training among them."""
    run = bare(trained, tmp_path)
    (run / "split.csv").write_text(change((run / "split.csv").read_text()))
    assert main(["evaluate", str(run), "--out", str(tmp_path / "out")]) == 2
    assert "split.csv" in (said := capfd.readouterr().err) and len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "protocol.json", "environment.json", "split.csv"])
def test_a_pipe_in_place_of_a_file_of_a_run_is_refused_in_one_line(
    trained: Path, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It was waited for without end."""
    run = bare(trained, tmp_path)
    (run / name).unlink()
    os.mkfifo(run / name)
    assert main(["evaluate", str(run), "--out", str(tmp_path / "out")]) == 2
    assert "pipe or device" in (said := capfd.readouterr().err) and len(said.strip().splitlines()) == 1


def test_a_corpus_that_moved_is_found_by_its_manifest(trained: Path, made: Any, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(made.manifest.parent, tmp_path / "moved")) / "manifest.jsonl"
    places = ["--manifest", str(moved), "--store", str(made.store), "--out", str(tmp_path / "out")]
    main(["evaluate", str(trained), *places, "--device", "cpu"])
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == (trained / "predictions.csv").read_bytes()


def test_another_part_is_scored_where_it_is_named(trained: Path, tmp_path: Path) -> None:
    main(["evaluate", str(trained), "--out", str(tmp_path), "--split", "valid", "--device", "cpu"])
    assert figures(tmp_path)["n"] == 8


def test_a_text_model_is_scored_in_the_windows_of_the_sound(made: Any, short: Any, tmp_path: Path) -> None:
    """`predict` took a transcript whole where the model does not hear, and `evaluate` in windows."""
    train.train(short(train__epochs=1, model__modalities="[text]"), made.data, tmp_path / "run")
    each = next(row for row in made.data.utterances if row.id == "long")
    scored = next(row for row in table(tmp_path / "run") if row["id"] == "long")
    recognizer, segments = EmotionRecognizer.from_pretrained(tmp_path / "run"), [Segment(0.0, 999.0, text=each.text)]
    said = recognizer.predict(made.root / each.audio.path, segments=segments)[0]
    assert {name: float(scored[f"p_{name}"]) for name in CLASSES} == pytest.approx(said.probabilities, abs=2e-4)


def test_improvised_and_scripted_utterances_are_scored_apart_too() -> None:
    styles = ["scripted", "improvised", "scripted", None]
    rows = [Utterance(str(i), "iemocap", style=style, emotion="sad") for i, style in enumerate(styles)]
    says = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])  # sad, happy, sad, happy
    found = evaluate.by_style(says, rows, ["happy", "sad"])
    assert {style: (each["n"], each["accuracy"]) for style, each in found.items()} == {
        "improvised": (1, 0.0),
        "scripted": (2, 1.0),
    }


def test_an_encoder_that_was_trained_on_the_test_corpus_is_named(trained: Path) -> None:
    run = read_run(trained)
    met = replace(run.features, audio={**run.features.audio, "name": "superb/hubert-large-superb-er"})
    assert evaluate.encoder_provenance(met, run.model.config.modalities, {"iemocap"})["contaminated"] == ["audio"]


def test_figures_on_another_corpus_claim_no_division(made: Any, trained: Path, tmp_path: Path) -> None:
    """A table with ids of the RUN's rows took over its protocol's "speakers disjoint" with training sound in it."""
    rows = [replace(row, text=f"{row.text} indeed", split="test") for row in made.data.part("train")]
    path = tmp_path / "manifest.jsonl"
    manifest.write(path, rows)
    manifest.write_corpus(path, manifest.read_corpus(made.manifest))
    part, _, _ = evaluate.open_part(read_run(trained), path, made.store, "test")
    said = evaluate.out_of_domain_protocol(read_run(trained))
    assert (part.in_domain, len(part.utterances), said["speakers_disjoint"], said["tested_on"]) == (
        False,
        len([row for row in rows if row.emotion in CLASSES]),
        None,
        "another corpus",
    )


def test_a_published_model_wants_a_corpus_named_and_does_not_claim_that_its_rows_are_new(
    trained: Path, made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said: No such file or directory: split.csv."""
    assert main(["push", str(trained), str(tmp_path / "model")]) == 0
    assert main(["evaluate", str(tmp_path / "model")]) == 2
    assert "expected --manifest and --store with a published model" in capsys.readouterr().err
    named = ["--manifest", str(made.manifest), "--store", str(made.store), "--device", "cpu"]
    assert main(["evaluate", str(tmp_path / "model"), *named, "--out", str(tmp_path / "out")]) == 0
    assert "it may have been trained on these rows" in capsys.readouterr().err
    assert figures(tmp_path / "out")["protocol"]["tested_on"] == "rows that may have trained it"
