"""Results bundles: what is in them, what is not, that their figures are recomputed, and what strangers may send."""

import csv
import io
import json
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from wavfusion.cli.app import main
from wavfusion.errors import ConfigError
from wavfusion.runs import bundle
from wavfusion.runs.results import encode_csv

pytest_plugins = ("corpus_fixture",)

Change = Callable[[dict[str, bytes]], Any]


def pack(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def unpack(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rows_of(files: dict[str, bytes], name: str = "predictions.csv") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(files[name].decode())))


def predictions_of(folder: Path) -> list[dict[str, str]]:
    return rows_of({"predictions.csv": (folder / "predictions.csv").read_bytes()})


def write_rows(files: dict[str, bytes], rows: list[dict[str, str]], name: str = "predictions.csv") -> None:
    files[name] = encode_csv(rows)


def change_json(name: str, **values: Any) -> Change:
    return lambda files: files.update({name: json.dumps({**json.loads(files[name]), **values}).encode()})


@pytest.fixture(scope="module")
def open_bundle(confused: Path) -> Path:
    """With the labels."""
    out = confused.parent / "open.zip"
    assert main(["bundle", str(confused), "--out", str(out), "--with-truth"]) == 0
    return out


@pytest.fixture(scope="module")
def closed(confused: Path) -> Path:
    """Without the labels, as of any corpus that does not publish them."""
    out = confused.parent / "closed.zip"
    assert main(["bundle", str(confused), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def confused(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN whose figures are those of the text alone, where the model errs."""
    out = tmp_path_factory.mktemp("confused") / "run"
    shutil.copytree(trained, out, ignore=shutil.ignore_patterns("checkpoints"))
    part = json.loads((out / "metrics.json").read_text())["part"]
    assert (
        main(["evaluate", str(trained), "--out", str(out), "--modalities", "text", "--force", "--device", "cpu"]) == 0
    )
    figures = json.loads((out / "metrics.json").read_text())
    (out / "metrics.json").write_text(json.dumps({**figures, "part": part}))
    return out


@pytest.fixture
def judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Change a bundle and let `evaluate` judge it: exit status, stdout, stderr."""

    def run(path: Path, change: Change | None = None, *flags: str) -> tuple[int, str, str]:
        if change is not None:
            files = unpack(path)
            change(files)
            path = pack(tmp_path / "changed.zip", files)
        capsys.readouterr()
        status = main(["evaluate", str(path), *flags])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


# ------------------------------------------------------------------ what is in it


def test_a_bundle_holds_these_files_and_no_other(closed):
    assert sorted(unpack(closed)) == sorted(bundle.MEMBERS)


def test_equal_results_give_equal_bytes(confused, closed, tmp_path):
    main(["bundle", str(confused), "--out", str(tmp_path / "again.zip")])
    assert (tmp_path / "again.zip").read_bytes() == closed.read_bytes()


def test_no_word_path_or_label_of_the_corpus_is_in_it(closed, made):
    """Transcripts, media, and where manifest and store lay on the holder's machine."""
    content = b"".join(unpack(closed).values()).decode()
    words = [row.text for row in made.data.utterances if row.text]
    paths = [str(made.root.parent), "clips/", ".mp4", ".wav"]
    assert [each for each in [*words, *paths, "truth"] if each in content] == []


def test_the_labels_go_along_where_told(open_bundle, confused):
    assert rows_of(unpack(open_bundle)) == predictions_of(confused)


@pytest.mark.parametrize(
    ("corpus", "generated", "labels"),
    [("iemocap", False, False), ("table", False, False), ("meld", False, True), ("iemocap", True, True)],
)
def test_the_labels_go_along_where_anybody_has_them(confused, tmp_path, corpus, generated, labels):
    run = shutil.copytree(confused, tmp_path / "run")
    about = {"corpus": corpus, "root": str(tmp_path), "labels": None, "classes": ["x"], "version": "1"}
    (tmp_path / "corpus.json").write_text(json.dumps(about))
    if generated:
        (tmp_path / "world.json").write_text("{}")
    environment = json.loads((run / "environment.json").read_text())
    places = {"manifest": str(tmp_path / "manifest.jsonl"), "trained_on": None}  # as a RUN of an older version
    (run / "environment.json").write_text(json.dumps({**environment, **places}))
    assert bundle.make_bundle(run)[1] is labels


def test_an_encoder_in_a_folder_of_the_holder_keeps_its_last_name_only(confused, tmp_path):
    run = shutil.copytree(confused, tmp_path / "run")
    figures = json.loads((run / "metrics.json").read_text())
    figures["encoders"]["text"]["name"] = "/home/somebody/models/roberta-base"
    (run / "metrics.json").write_text(json.dumps(figures))
    main(["bundle", str(run), "--out", str(tmp_path / "b.zip")])
    assert json.loads(unpack(tmp_path / "b.zip")["metrics.json"])["encoders"]["text"]["name"] == "roberta-base"


def test_a_bundle_is_not_overwritten(confused, closed, capsys):
    assert main(["bundle", str(confused), "--out", str(closed)]) == 2


@pytest.mark.parametrize("name", bundle.MEMBERS)
def test_a_run_that_lacks_a_file_makes_no_bundle(confused, tmp_path, capsys, name):
    run = shutil.copytree(confused, tmp_path / "run")
    (run / name).unlink()
    status = main(["bundle", str(run), "--out", str(tmp_path / "b.zip")])
    assert (status, name in capsys.readouterr().err, (tmp_path / "b.zip").exists()) == (2, True, False)


def test_figures_of_another_evaluation_make_no_bundle(confused, trained, tmp_path):
    run = shutil.copytree(confused, tmp_path / "run")
    shutil.copy(trained / "metrics.json", run / "metrics.json")
    with pytest.raises(ConfigError, match="predictions and metrics of one evaluation"):
        bundle.make_bundle(run)


# ------------------------------------------------------------------ recomputing


def test_a_bundle_with_labels_recomputes_to_what_it_states(judge, open_bundle):
    status, said, _ = judge(open_bundle)
    assert (status, "all figures equal those that the bundle states" in said) == (0, True)


def test_a_manifest_brings_the_labels(judge, closed, made):
    assert judge(closed, None, "--manifest", str(made.manifest))[0] == 0


@pytest.mark.parametrize("figure", ["n", "accuracy", "weighted_f1", "macro_f1", "uar", "confusion", "interval", "nll"])
def test_the_figures_of_a_bundle_are_those_of_the_run(judge, open_bundle, confused, figure):
    found = json.loads(judge(open_bundle, None, "--json")[1])[figure]
    stated = json.loads((confused / "metrics.json").read_text())[figure]
    if figure == "interval":  # probabilities of the bundle are rounded
        assert found.pop("nll")["this_test_set"] == pytest.approx(stated.pop("nll")["this_test_set"], abs=1e-4)
    assert found == (pytest.approx(stated, abs=1e-4) if figure == "nll" else stated)


def test_without_labels_what_follows_from_the_confusion_is_recomputed(judge, closed, confused):
    found = json.loads(judge(closed, None, "--json")[1])
    stated = json.loads((confused / "metrics.json").read_text())
    names = ("n", "accuracy", "weighted_f1", "macro_f1", "uar", "per_class")
    assert [found[name] for name in names] == [stated[name] for name in names]


def test_without_labels_a_part_only_is_done_and_said(judge, closed):
    status, said, warned = judge(closed)
    assert (status, "all figures equal" in said, "no interval, nll and ece; --manifest" in warned) == (1, True, True)


def test_the_recomputed_files_are_written_on_request(judge, closed, made, confused, tmp_path):
    judge(closed, None, "--manifest", str(made.manifest), "--out", str(tmp_path / "out"))
    found, wanted = predictions_of(tmp_path / "out"), predictions_of(confused)
    assert {row["id"]: row["truth"] for row in found} == {row["id"]: row["truth"] for row in wanted}


def swap_truth(files: dict[str, bytes]) -> None:
    rows = rows_of(files)
    rows[0]["truth"] = next(row["truth"] for row in rows if row["truth"] != rows[0]["truth"])
    write_rows(files, rows)


def swap_prediction(files: dict[str, bytes]) -> None:
    rows = rows_of(files)
    other = next(row for row in rows if row["predicted"] != rows[0]["predicted"])
    own = [name for name in other if name == "predicted" or name.startswith("p_")]
    write_rows(files, [{**rows[0], **{name: other[name] for name in own}}, *rows[1:]])


def sharpen(files: dict[str, bytes]) -> None:
    """The same calls with more confidence."""
    rows = rows_of(files)
    for row in rows:
        row |= {name: "0.000000" for name in row if name.startswith("p_")} | {f"p_{row['predicted']}": "1.000000"}
    write_rows(files, rows)


def drop_row(files: dict[str, bytes]) -> None:
    write_rows(files, rows_of(files)[1:])


def move_to_train(files: dict[str, bytes]) -> None:
    rows = rows_of(files, "split.csv")
    rows[0]["split"] = "valid" if rows[0]["split"] == "train" else "train"
    write_rows(files, rows, "split.csv")


def only_sound(files: dict[str, bytes]) -> None:
    experiment = yaml.safe_load(files["experiment.yaml"])
    experiment["model"]["modalities"] = ["audio"]
    files["experiment.yaml"] = yaml.safe_dump(experiment).encode()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (swap_truth, "accuracy"),
        (swap_prediction, "confusion"),
        (sharpen, "nll"),
        (drop_row, "its utterances are not those of part 'test'"),
        (move_to_train, "its hash is not that of split.csv"),
        (change_json("metrics.json", accuracy=0.99), "accuracy: 0.99 is stated"),
        (change_json("metrics.json", interval={}), "interval.accuracy"),
        (change_json("metrics.json", n=10**9), "n: 1000"),
        (change_json("metrics.json", protocol={"name": "loso5"}), "protocol.hash"),
        (only_sound, "modalities text, which experiment.yaml does not train"),
        (change_json("protocol.json", hash="0" * 64), "predictions.csv: made under another protocol"),
        (change_json("protocol.json", selected_on="test"), "its hash is not that of split.csv"),
    ],
)
def test_what_was_changed_is_named(judge, open_bundle, change, named):
    status, said, _ = judge(open_bundle, change)
    assert (status, [line for line in said.splitlines() if line.startswith("differs: ") and named in line] != []) == (
        1,
        True,
    )


def test_another_version_is_said_where_figures_differ(judge, open_bundle):
    def change(files: dict[str, bytes]) -> None:
        change_json("environment.json", wavfusion="0.0.1")(files)
        change_json("metrics.json", interval={})(files)

    assert "made by version '0.0.1'" in judge(open_bundle, change)[2]


def test_without_labels_another_call_is_seen_by_the_columns_of_the_confusion(judge, closed):
    assert "columns of its confusion matrix" in judge(closed, swap_prediction)[1]


def test_labels_that_are_not_the_corpus_ones_are_named(judge, open_bundle, made):
    assert "differs: truth[0]" in judge(open_bundle, swap_truth, "--manifest", str(made.manifest))[1]


def test_a_false_claim_about_speakers_is_seen_with_the_manifest(judge, closed, made):
    change = change_json("protocol.json", speakers_shared=["train+test"])
    assert "protocol.speakers_shared" in judge(closed, change, "--manifest", str(made.manifest))[1]


def test_a_manifest_of_another_corpus_is_refused(judge, closed, made, tmp_path):
    lines = made.manifest.read_text().splitlines(keepends=True)
    (tmp_path / "manifest.jsonl").write_text("".join(lines[1:]))
    status, _, said = judge(closed, None, "--manifest", str(tmp_path / "manifest.jsonl"))
    assert (status, "1 missing" in said, said.count("\n")) == (2, True, 1)


def test_flags_of_a_run_are_refused_with_a_bundle(judge, closed):
    assert judge(closed, None, "--modalities", "text")[0] == 2


# ------------------------------------------------------------------ what strangers may send


def rename(old: str, new: str) -> Change:
    return lambda files: files.update({new: files.pop(old)})


def in_predictions(old: str, new: str) -> Change:
    name = "predictions.csv"
    return lambda files: files.update({name: files[name].replace(old.encode(), new.encode(), 1)})


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files.pop("metrics.json"),
        rename("metrics.json", "../metrics.json"),
        rename("metrics.json", "/etc/metrics.json"),
        lambda files: files.update({"../../evil": b"x"}),
        lambda files: files.update({"metrics.json": b"[" * 100_000}),
        lambda files: files.update({"metrics.json": b"null"}),
        lambda files: files.update({"metrics.json": b"\xff\xfe"}),
        lambda files: files.update({"predictions.csv": b""}),
        lambda files: files.update({"predictions.csv": b"id\n" * 300_000}),
        lambda files: files.update({"split.csv": b"id,split\na\n"}),
        in_predictions("p_happy", "p_glad"),
        in_predictions("dialogue", "dialog"),
        in_predictions("0.", "nan"),
        in_predictions("0.", "9."),
        change_json("protocol.json", classes=["x"] * 3000),
        change_json("protocol.json", classes=3),
        change_json("protocol.json", speakers_shared=["train"]),
        change_json("protocol.json", hash=3),
        change_json("metrics.json", confusion=[[1]]),
        change_json("metrics.json", confusion=[[2**62] * 4] * 4),
        change_json("metrics.json", confusion=[[10**40] * 4] * 4),
        change_json("metrics.json", modalities=[{}]),
        change_json("metrics.json", contaminated=["audio", "smell"]),
        change_json("metrics.json", n=10**400),
        change_json("metrics.json", uar=float("nan")),
        lambda files: files.update({"environment.json": b"[]"}),
        lambda files: files.update({"experiment.yaml": b"- a\n" * (1 << 22)}),
        lambda files: files.update({"experiment.yaml": b"model: !!int ''"}),
    ],
)
def test_what_no_run_writes_is_refused_in_one_line(judge, open_bundle, change):
    status, said, complaint = judge(open_bundle, change)
    assert (status, said, complaint.count("\n"), "a bundle of results" in complaint) == (2, "", 1, True)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + b"\0" * 18, b"PK\x03\x04 garbage", b"not a zip at all"])
def test_a_file_that_is_no_bundle_is_refused_in_one_line(judge, tmp_path, content):
    (tmp_path / "file.zip").write_bytes(content)
    status, _, complaint = judge(tmp_path / "file.zip")
    assert (status, complaint.count("\n")) == (2, 1)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_packing_are_refused(judge, open_bundle, tmp_path, method):
    """Their readers unpack more than they are asked for."""
    path = pack(tmp_path / "b.zip", unpack(open_bundle), method)
    assert (judge(path)[0], judge(path)[2].count("deflated")) == (2, 1)


def test_a_name_that_comes_twice_is_refused(judge, open_bundle, tmp_path):
    path = pack(tmp_path / "b.zip", unpack(open_bundle))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("metrics.json", "{}")
    assert judge(path)[0] == 2


@pytest.mark.parametrize("place", ["local", "data"])
def test_a_damaged_byte_is_noticed(judge, open_bundle, tmp_path, place):
    content = bytearray(open_bundle.read_bytes())
    content[content.index(b"PK\x03\x04", 10) - 40 if place == "data" else 30] ^= 0x55
    (tmp_path / "b.zip").write_bytes(content)
    assert judge(tmp_path / "b.zip")[0] == 2


def bomb(path: Path, files: dict[str, bytes], lie: bool) -> Path:
    """A quarter of a gigabyte of zeros in place of the predictions, whose stated size may be a lie."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            with archive.open(name, "w", force_zip64=True) as file:
                for _ in range(16 if name == "predictions.csv" else 0):
                    file.write(b"\0" * (1 << 24))
                file.write(content)
    if lie:
        size = (1 << 28) + len(files["predictions.csv"])
        content = path.read_bytes().replace(size.to_bytes(4, "little"), (1000).to_bytes(4, "little"))
        path.write_bytes(content.replace(size.to_bytes(8, "little"), (1000).to_bytes(8, "little")))
    return path


@pytest.mark.parametrize("lie", [False, True])
def test_a_bomb_takes_little_memory(open_bundle, tmp_path, lie):
    path = bomb(tmp_path / "bomb.zip", unpack(open_bundle), lie)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError):
            bundle.read_bundle(path)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
