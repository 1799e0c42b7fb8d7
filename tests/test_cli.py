import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from wavfusion.cli import main

pytest_plugins = ("corpus_fixture",)

VERBS = ["demo", "prepare", "extract", "train", "evaluate", "predict", "lookalike"]
HEAVY = ["torch", "transformers", "numpy", "av", "soxr", "jsonargparse", "sklearn", "matplotlib", "yaml"]


def python(code: str, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def shell(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wavfusion", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def refused(capfd: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line that a refused call says."""
    assert main([str(argument) for argument in arguments]) == 2
    said = capfd.readouterr()
    lines = said.err.strip().splitlines()
    assert (said.out, len(lines)) == ("", 1) and lines[0].startswith("wavfusion: ")
    return lines[0]


# ------------------------------------------------------------------ help


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys\nfrom wavfusion.cli import main\n"
        "try:\n    main([*sys.argv[1:], '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"sys.stderr.write(','.join(name for name in {HEAVY} if name in sys.modules))"
    )
    done = python(code, *([verb] if verb else []))
    assert "usage: wavfusion" in done.stdout and done.stderr == ""


def test_without_a_verb_the_verbs_are_named() -> None:
    done = shell()
    assert done.returncode == 0 and all(verb in done.stdout for verb in VERBS)


def test_help_takes_less_than_a_third_of_a_second() -> None:
    """The best of five, as others may use the machine."""
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        shell("--help")
        taken.append(time.perf_counter() - started)
    assert min(taken) < 0.3


def test_every_verb_that_computes_takes_a_device_and_a_seed(capfd: pytest.CaptureFixture[str]) -> None:
    for verb in ("demo", "extract", "train", "evaluate", "predict"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        assert {"--device", "--seed"} <= set(re.findall(r"--\w+", capfd.readouterr().out))


def test_the_training_side_needs_no_media_and_no_parser_of_signatures() -> None:
    """A machine that trains on carried features has neither FFmpeg nor the readers of experiment files."""
    blocked = "import sys\nfor name in ('av', 'soxr', 'jsonargparse'): sys.modules[name] = None\n"
    done = python(blocked + "import wavfusion.train, wavfusion.evaluate, wavfusion.experiment; print('here')")
    assert done.stdout == "here\n", done.stderr


def test_the_model_does_not_import_transformers() -> None:
    code = "import sys, wavfusion.model as m; m.WavFusion, m.LVC, m.margin_loss; print('transformers' in sys.modules)"
    assert python(code).stdout == "False\n"


@pytest.mark.slow
def test_features_that_were_carried_here_train_without_media(made: Any, tmp_path: Path) -> None:
    manifest = Path(shutil.copytree(made.manifest.parent, tmp_path / "manifest")) / "manifest.jsonl"
    about = json.loads(manifest.with_name("corpus.json").read_text())
    manifest.with_name("corpus.json").write_text(json.dumps(about | {"root": str(tmp_path / "gone")}))
    store = Path(shutil.copytree(made.store, tmp_path / "store"))
    lines = (store / "media.jsonl").read_text().replace(str(made.root), str(tmp_path / "gone"))
    (store / "media.jsonl").write_text(lines)
    code = (
        "import sys\nfor name in ('av', 'soxr', 'jsonargparse'): sys.modules[name] = None\n"
        "from pathlib import Path\nfrom wavfusion import train\n"
        "from wavfusion.experiment import Experiment, Training\n"
        "manifest, store, out = map(Path, sys.argv[1:])\n"
        "data = train.read_data(manifest, store)\n"
        "print(train.train(Experiment(train=Training(epochs=1)), data, out)['n'])"
    )
    done = python(code, str(manifest), str(store), str(tmp_path / "run"), timeout=300)
    assert done.stdout == "9\n", done.stderr


# ------------------------------------------------------------------ one line, exit 2


def test_an_unknown_verb_names_the_nearest(capfd: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'train'" in refused(capfd, "trian")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("evaluate", "run", "--modalites", "audio"), "did you mean '--modalities'"),
        (("train", "--config", "paper", "--manifest", "m", "--store", "s", "--out", "o", "--sed", "1"), "'--seed'"),
        (("extract", "m", "--store", "s", "--prset", "tiny"), "did you mean '--preset'"),
        (("predict", "run", "a.wav", "--transcipt", "x"), "did you mean '--transcript'"),
        (("prepare", "table", "root", "--out", "o", "--label", "six"), "did you mean '--labels'"),
    ],
)
def test_an_unknown_flag_names_the_nearest(
    arguments: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capfd, *arguments)


TRAIN = ("train", "--config", "paper", "--manifest", "m", "--store", "s", "--out", "o")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*TRAIN, "--model.margin.wieght", "1"), "did you mean '--model.margin.weight'"),
        ((*TRAIN, "--train.epochs=soon"), "epochs"),
        ((*TRAIN, "--train.epochs"), "a value after '--train.epochs'"),
        ((*TRAIN, "stray"), "'stray'"),
        ((*TRAIN, "--seed", "x"), "--seed"),
        ((*TRAIN, "--seed", "-1"), "seed"),
        (("train", "--config", "papre", "--manifest", "m", "--store", "s", "--out", "o"), "did you mean 'paper'"),
        (("train",), "--config"),
        (TRAIN, "`wavfusion prepare`"),
        (("evaluate", "nothing"), "RUN folder"),
        (("predict", "nothing", "a.wav"), "RUN folder"),
        (("predict", "nothing"), "FILE"),
        (("prepare", "meldd", "."), "--out"),
        (("prepare", "meldd", ".", "--out", "o"), "did you mean 'meld'"),
        (("prepare", "table", "nowhere", "--out", "o"), "nowhere"),
        (("extract", "m", "--store", "s"), "`wavfusion prepare`"),
        (("lookalike", "iemocup", "--out", "o"), "did you mean 'iemocap'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: tuple[str, ...],
    said: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(capfd, *arguments)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--device", "gpu"), "--device"),
        (("--device", "cuda:99"), "--device"),
        (("--split", "tset"), "did you mean 'test'"),
        (("--modalities", "audio,smell"), "'smell'"),
        (("--map", "joy"), "joy=happy"),
        (("--map", "joy=hapy"), "did you mean 'happy'"),
        (("--store", "nowhere"), "nowhere"),
        (("--manifest", "nowhere"), "nowhere"),
    ],
)
def test_a_wrong_setting_of_evaluate_is_refused(
    trained: Path, tmp_path: Path, flags: tuple[str, str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capfd, "evaluate", trained, "--out", tmp_path, *flags)


def test_an_existing_run_is_refused(trained: Path, made: Any, capfd: pytest.CaptureFixture[str]) -> None:
    places = ["--manifest", made.manifest, "--store", made.store, "--out", trained]
    assert "--resume" in refused(capfd, "train", "--config", "paper", *places)


def test_a_wrong_manifest_leaves_the_run_that_force_would_remove(
    trained: Path, made: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    refused(capfd, "train", "--config", "paper", "--manifest", "m", "--store", made.store, "--out", run, "--force")
    assert (run / "model.safetensors").exists()


def test_an_error_has_no_trace() -> None:
    done = shell("train", "--config", "papre", "--manifest", "m", "--store", "s", "--out", "o")
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("place", [0, 1, -1])
def test_debug_shows_the_trace(place: int) -> None:
    arguments = ["train", "--config", "papre", "--manifest", "m", "--store", "s", "--out", "o"]
    arguments.insert(place if place >= 0 else len(arguments), "--debug")
    assert "Traceback" in shell(*arguments).stderr


def test_a_folder_that_cannot_be_written_is_one_line(
    made: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    places = ["--manifest", made.manifest, "--store", made.store, "--out", tmp_path / "file" / "run"]
    refused(capfd, "train", "--config", "paper", *places)


# ------------------------------------------------------------------ results on stdout


def test_train_prints_its_figures_alone(made: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    places = ["--manifest", made.manifest, "--store", made.store, "--out", tmp_path / "run"]
    settings = ["--train.epochs", "1", "--model.modalities=[text]", "--seed", "3", "--device", "cpu", "--json"]
    assert main([str(x) for x in ["train", "--config", "paper", *places, *settings]]) == 0
    assert json.loads(capfd.readouterr().out)["n"] == 9
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["seed"] == 3


def test_a_split_file_is_the_protocol(made: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [f"train{i:02d},{'valid' if i >= 20 else 'train'}" for i in range(24)] + ["test00,test", "test01,test"]
    (tmp_path / "mine.csv").write_text("\n".join(["id,split", *rows]) + "\n")
    places = ["--manifest", made.manifest, "--store", made.store, "--out", tmp_path / "run"]
    settings = ["--protocol", tmp_path / "mine.csv", "--train.epochs", "1", "--model.modalities=[text]", "--json"]
    assert main([str(x) for x in ["train", "--config", "paper", *places, *settings]]) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["n"], result["protocol"]["name"]) == (2, "mine.csv")
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["n"] == 2


def test_evaluate_prints_one_line_a_subset(trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(trained), "--modalities", "all-subsets", "--out", str(tmp_path)])
    assert len(capfd.readouterr().out.splitlines()) == 8


@pytest.mark.slow
def test_every_verb_works_from_the_shell(made: Any, tmp_path: Path) -> None:
    manifest, store, run = tmp_path / "m", tmp_path / "s", tmp_path / "run"
    places = ["--manifest", manifest / "manifest.jsonl", "--store", store, "--out", run]
    wide = ["--text-layers", "all", "--layers", "8,9"]
    done = {
        "prepare": shell("prepare", "table", made.root, "--out", manifest, "--json"),
        "extract": shell("extract", manifest / "manifest.jsonl", "--store", store, "--preset", "tiny", *wide, "--json"),
        "train": shell("train", "--config", "recommended", *places, "--train.epochs", "2", "--json"),
        "evaluate": shell("evaluate", run, "--modalities", "all-subsets", "--json"),
        "predict": shell("predict", run, made.root / "clips/test00.mp4", "--format", "json"),
    }
    assert {verb: (each.returncode, each.stderr) for verb, each in done.items()} == dict.fromkeys(done, (0, ""))
    assert all(json.loads(each.stdout) for each in done.values())


def test_a_reader_that_goes_away_is_no_error(trained: Path) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = f"{sys.executable} -m wavfusion --help | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, check=False)
    assert "Traceback" not in done.stderr
