import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from wavfusion import EmotionRecognizer, corpora
from wavfusion.cli.app import main

pytest_plugins = ("corpus_fixture",)

VERBS = [
    *("demo", "prepare", "check", "report", "extract", "train", "tune", "reproduce", "evaluate"),
    *("predict", "serve", "embed", "bundle", "export", "push", "bench", "lookalike", "encoders", "models"),
]
HEAVY = ["torch", "transformers", "numpy", "av", "soxr", "sklearn", "matplotlib", "yaml"]


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
        "import sys\nfrom wavfusion.cli.app import main\n"
        "assert main([*sys.argv[1:], '--help']) == 0\n"
        f"sys.stderr.write(','.join(name for name in {HEAVY} if name in sys.modules))"
    )
    done = python(code, *([verb] if verb else []))
    assert f"Usage: wavfusion {verb}".rstrip() in done.stdout and done.stderr == ""


def test_without_a_verb_the_verbs_are_named() -> None:
    done = shell()
    assert done.returncode == 0 and all(verb in done.stdout for verb in VERBS)


def test_help_loads_less_than_the_smallest_program_of_its_library() -> None:
    """Modules stand for time, which once failed on a busy machine."""
    smallest = "import typer\napp = typer.Typer()\n@app.command()\ndef verb(): ...\n"
    smallest += "try: app(['--help'])\nexcept SystemExit: pass\n"
    count = "\nimport sys; sys.stderr.write(str(len(sys.modules)))"
    ours, least = (
        int(python(code + count).stderr) for code in ("from wavfusion.cli.app import main; main(['--help'])", smallest)
    )
    assert ours < least


def test_every_verb_that_computes_takes_a_device_and_a_seed(capfd: pytest.CaptureFixture[str]) -> None:
    for verb in ("demo", "extract", "train", "evaluate", "predict"):
        main([verb, "--help"])
        assert {"--device", "--seed"} <= set(re.findall(r"--\w+", capfd.readouterr().out))


def test_the_training_side_needs_no_media_and_no_parser_of_signatures() -> None:
    """A machine that trains on carried features has neither FFmpeg nor the readers of experiment files."""
    blocked = "import sys\nfor name in ('av', 'soxr'): sys.modules[name] = None\n"
    done = python(
        blocked
        + "import wavfusion.training.train, wavfusion.evaluation.evaluate\n"
        + "import wavfusion.experiments.experiment; print('here')"
    )
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
        "import sys\nfor name in ('av', 'soxr'): sys.modules[name] = None\n"
        "from pathlib import Path\nfrom wavfusion.training import train\n"
        "from wavfusion.experiments.experiment import Experiment, Training\n"
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
        (("predict", "--model", "run", "a.wav", "--transcipt", "x"), "did you mean '--transcript'"),
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
        ((*TRAIN, "--train.new_rate", ""), "`wavfusion prepare`"),  # an empty value is one: the default
        ((*TRAIN, "stray"), "(stray)"),
        ((*TRAIN, "--seed", "x"), "--seed"),
        ((*TRAIN, "--seed", "-1"), "seed"),
        (("train", "--config", "papre", "--manifest", "m", "--store", "s", "--out", "o"), "did you mean 'paper'"),
        (("train",), "--manifest"),
        (TRAIN, "`wavfusion prepare`"),
        (("evaluate", "nothing"), "RUN folder"),
        (("predict", "--model", "nothing", __file__), "RUN folder"),
        (("predict", "--model", "nothing"), "expected FILE"),
        (("prepare", "meldd", "."), "--out"),
        (("prepare", "meldd", ".", "--out", "o"), "did you mean 'meld'"),
        (("prepare", "table", "nowhere", "--out", "o"), "nowhere"),
        (("extract", "m", "--store", "s"), "`wavfusion prepare`"),
        (("lookalike", "iemocup", "--out", "o"), "did you mean 'iemocap'"),
        (("lookalike", "iemocap", "--out", "o", "--speakers", "0"), "--speakers: expected a whole number of 3 or more"),
        (("lookalike", "iemocap", "--out", "o", "--speakers", "7"), "--speakers: expected an even number"),
        (("lookalike", "iemocap", "--out", "o", "--clips", "5"), "--clips: expected a whole number of 6 or more"),
        (("lookalike", "iemocap", "--out", "o", "--parts", "1,0,1"), "--parts: expected at least one clip"),
        (("lookalike", "iemocap", "--out", "o", "--parts", f"{'9' * 20},1,1"), "expected 1,000,000 clips at most"),
        (("lookalike", "iemocap", "--out", "o", "--clips", "9" * 20), "expected 1,000,000 clips at most"),
        (("lookalike", "meld", "--out", "o", "--speakers", "9" * 20), "--speakers: expected 10,000 at most"),
        (
            ("lookalike", "iemocap", "--out", "o", "--clips", "9", "--parts", "3,3,3"),
            "not allowed with argument --clips",
        ),
        (("extract", "m", "--store", "s", "--workers", "0"), "--workers: expected a whole number of 1 or more"),
        (("--bogus",), "'--bogus' is not known; did you mean '--debug'? valid: --help, --version, --debug"),
        (("--hepl", "train"), "train"),
        (("predict", "--model", "r", "f", "--format", "jsn"), "did you mean 'json'? valid: table, json, csv"),
        (("extract", "m", "--store", "s", "--text-layers", "al"), "did you mean 'all'"),
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
    "arguments",
    [
        ("prepare", "table", "", "--out", "o"),
        ("prepare", "table", ".", "--out", ""),
        ("extract", "", "--store", "s"),
        ("extract", "m", "--store", ""),
        ("extract", "m", "--store", "s", "--root", ""),
        ("train", "--config", "paper", "--manifest", "", "--store", "s", "--out", "o"),
        ("evaluate", ""),
        ("predict", "--model", "run", ""),
        ("demo", "--out="),
        ("lookalike", "meld", "--out", ""),
    ],
)
def test_an_empty_name_is_not_the_working_folder(
    arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unset variable in a script, `--out "$OUT"`, wrote a corpus into the folder of the moment."""
    monkeypatch.chdir(tmp_path)
    assert "expected a name, found ''" in refused(capfd, *arguments)


def test_the_verb_is_named_once(capfd: pytest.CaptureFixture[str]) -> None:
    """Every error of the parser began with `wavfusion: wavfusion predict:`."""
    assert refused(capfd, "predict", "a.wav", "--device").startswith("wavfusion: predict: expected a value")


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "--model", "run", "a.wav", "--out", "/proc/none/labels.csv"),
        ("lookalike", "meld", "--out", "/proc/none"),
        ("demo", "--out", "/proc/none"),
        ("prepare", "table", ".", "--out", "/proc/none"),
        ("extract", "manifest.jsonl", "--store", "/proc/none"),
    ],
)
def test_a_place_that_cannot_be_written_is_found_before_the_work(
    arguments: tuple[str, ...],
    made: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`predict` labelled all files first and then lost the labels."""
    monkeypatch.chdir(made.manifest.parent)
    assert "expected a writable folder, found /proc" in refused(capfd, *arguments)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--device", "gpu"), "device"),
        (("--device", "cuda:99"), "device"),
        (("--out", "/proc/none"), "expected a writable folder"),
        (("--split", "tset"), "did you mean 'test'"),
        (("--modalities", "audio,smell"), "'smell'"),
        (("--map", "joy"), "joy=happy"),
        (("--map", "joy=happy,joy=sad"), "each emotion once"),
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


def test_a_warning_quotes_no_more_than_200_characters_of_a_value(capfd: pytest.CaptureFixture[str]) -> None:
    main(["--version"])  # sets up the log
    logging.getLogger("wavfusion").warning("%s: skipped %r", "a.csv", 10**6 * "a b")
    assert capfd.readouterr().err == f"WARNING: a.csv: skipped '{(66 * 'a b')[:195]}...'\n"


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_refused_wherever_one_is_given(
    trained: Path, made: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    """They waited without end, or took all memory."""
    place = Path("/dev/zero")
    if kind == "pipe":
        os.mkfifo(place := tmp_path / "pipe")
    clip, store, out = made.root / "clips/test00.mp4", ["--store", str(made.store)], ["--out", str(tmp_path / "out")]
    for arguments in (
        ["check", place],
        ["train", "--config", place, "--manifest", made.manifest, *store, *out],
        ["train", "--config", "paper", "--protocol", place, "--manifest", made.manifest, *store, *out],
        ["extract", made.manifest, *store, "--preset", place],
        ["evaluate", place, *out],
        ["predict", "--model", trained, clip, "--transcript", place],
        ["report", place, *out],
    ):
        status = main(list(map(str, arguments)))
        assert (status, capfd.readouterr().err.count("wavfusion: ")) == (2, 1), arguments
    names = (
        "config.json",
        "protocol.json",
        "model.safetensors",
        "familiarity.safetensors",
        "encoders/text/tokenizer.json",
    )
    for name in names if kind == "pipe" else ():
        run = Path(shutil.copytree(trained, tmp_path / "run", dirs_exist_ok=True))
        (run / name).unlink()
        os.mkfifo(run / name)
        assert main(["predict", "--model", str(run), str(clip), "--transcript", "well"]) == 2, name
        (run / name).unlink()
    assert not (tmp_path / "out").exists()


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


# ------------------------------------------------------------------ the model


@pytest.mark.parametrize("verb", ["predict", "embed"])
def test_a_run_in_the_place_of_a_file_is_answered_with_the_new_form(
    verb: str, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "a.npz") if verb == "embed" else ()
    form = f"write: wavfusion {verb} clip.wav --model {trained}"
    assert refused(capfd, verb, trained, "clip.wav", *out).endswith(form)


def test_a_run_without_its_flag_is_answered_with_the_new_form_of_serve(capfd: pytest.CaptureFixture[str]) -> None:
    assert refused(capfd, "serve", "runs/demo").endswith("write: wavfusion serve --model runs/demo")


@pytest.mark.parametrize("call", [("predict", "a.wav"), ("embed", "a.wav", "--out", "a.npz"), ("serve",)])
def test_without_a_model_one_line_tells_how_to_get_one(
    call: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wavfusion.prediction.models.VOICE_MODEL", "no-such-distribution")
    monkeypatch.setattr("wavfusion.prediction.models.CLONE", Path("no-such-clone"))
    line = refused(capfd, *call)
    assert "--model RUN" in line and "`wavfusion demo` makes" in line


def test_without_a_model_the_installed_one_labels(
    trained: Path, made: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / "wavfusion_voice" / "run")
    about = tmp_path / "wavfusion_voice-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: wavfusion-voice\nVersion: 1.0\n")
    (about / "RECORD").write_text("wavfusion_voice/run/config.json,,\nwavfusion_voice/run/model.safetensors,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    clip = made.root / "clips/test00.mp4"
    printed = []
    for model in ((), ("--model", trained)):
        assert main([str(each) for each in ("predict", clip, *model, "--format", "json", "--device", "cpu")]) == 0
        printed.append(json.loads(capfd.readouterr().out))
    assert [rows[0]["model"].pop("name") for rows in printed] == ["run", trained.name]
    assert printed[0] == printed[1]
    assert EmotionRecognizer.from_pretrained().predict(clip)[0].emotion == printed[0][0]["emotion"]


# ------------------------------------------------------------------ where the corpus lies


def moved(made: Any, tmp_path: Path, root: Path) -> Path:
    """The manifest of a corpus that is said to lie at `root`."""
    folder = Path(shutil.copytree(made.manifest.parent, tmp_path / "moved"))
    about = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps(about | {"root": str(root)}))
    return folder / "manifest.jsonl"


@pytest.mark.parametrize("root", ["gone", "."])
def test_a_wrong_root_is_one_line(
    root: str, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It was one line for each row of the corpus."""
    monkeypatch.chdir(tmp_path)
    said = refused(capfd, "extract", made.manifest, "--store", "store", "--preset", "tiny", "--root", root)
    assert "--root: expected the folder of the corpus" in said and not (tmp_path / "store").exists()


def test_a_corpus_that_was_moved_is_asked_for(made: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = moved(made, tmp_path, tmp_path / "gone")
    assert "--root" in refused(capfd, "extract", path, "--store", tmp_path / "store", "--preset", "tiny")


def test_many_bad_rows_are_counted(made: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A folder of damaged films scrolled everything else away."""
    root = tmp_path / "raw"
    (root / "clips").mkdir(parents=True)
    for path in (made.root / "clips").iterdir():
        (root / "clips" / path.name).touch()
    flags = ["--store", tmp_path / "store", "--preset", "tiny", "--device", "cpu", "--root", root, "--json"]
    assert main([str(each) for each in ["extract", made.manifest, *flags]]) == 1
    out, err = capfd.readouterr()
    said, more = [line for line in err.splitlines() if line.startswith("ERROR")], len(json.loads(out)["bad"]) - 20
    assert (len(said), said[-1]) == (21, f"ERROR: ... and {more} more; failures.jsonl in the store has all")


# ------------------------------------------------------------------ results on stdout


def closed(redirections: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    """A call with standard streams closed, as `>&-` does."""
    command = shlex.join([sys.executable, "-m", "wavfusion", *map(str, arguments)])
    return subprocess.run(f"{command} {redirections}", shell=True, capture_output=True, text=True, check=False)


def test_a_closed_stdout_is_refused_before_the_work(tmp_path: Path) -> None:
    """The corpus was made, then a trace came; worse, an opened file can get the number of a closed stream."""
    done = closed(">&-", "lookalike", "meld", "--out", tmp_path / "tree")
    assert (done.returncode, len(done.stderr.splitlines()), (tmp_path / "tree").exists()) == (2, 1, False)


def test_a_closed_stdout_is_no_matter_where_results_go_to_a_file(trained: Path, made: Any, tmp_path: Path) -> None:
    out = tmp_path / "labels.json"
    done = closed(
        ">&-", "predict", "--model", trained, made.root / "clips/test00.mp4", "--format", "json", "--out", out
    )
    assert (done.returncode, len(json.loads(out.read_text()))) == (0, 1)


def test_a_closed_stderr_costs_the_messages_only() -> None:
    assert closed("2>&-", "predict", "--model", "nothing", "a.wav").returncode == 2


def test_a_full_disk_behind_stdout_is_one_line(trained: Path, made: Any) -> None:
    done = closed("2>&1 >/dev/full", "predict", "--model", trained, made.root / "clips/test00.mp4")
    # Of the recording, what is unlike the training part may be said before: that hangs on the model's last digits.
    *warnings, last = done.stdout.splitlines()
    found = "wavfusion: expected to read or write 'standard output', found: No space left on device"
    assert (done.returncode, last) == (2, found)
    assert all(line.startswith("WARNING: ") for line in warnings)


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
    assert len(capfd.readouterr().out.splitlines()) == 9  # a heading, seven subsets, and what a guess reaches


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
        "predict": shell("predict", "--model", run, made.root / "clips/test00.mp4", "--format", "json"),
    }
    near_chance = "WARNING: .*UAR .* cannot be told from chance.*\n"  # after two epochs it may be
    warned = {verb: re.sub(f"INFO: .*\n|{near_chance}", "", each.stderr) for verb, each in done.items()}
    assert {verb: (each.returncode, warned[verb]) for verb, each in done.items()} == dict.fromkeys(done, (0, ""))
    assert all(json.loads(each.stdout) for each in done.values())


def test_lookalike_tells_what_can_be_reached_in_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It printed its whole world as JSON, asked for or not."""
    main(["lookalike", "meld", "--out", str(tmp_path / "tree"), "--parts", "1,1,1", "--speakers", "3"])
    best = json.loads((tmp_path / "tree" / "world.json").read_text())["bayes"]["speaker_independent"]
    last = capfd.readouterr().out.splitlines()[-1]
    assert last == f"audio+text+video  {best['audio+text+video']:.3f}"


def test_an_interrupted_lookalike_is_made_anew_by_force(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`--force` was taken and then refused all the same, as the folder was not empty."""
    (tmp_path / "train_splits").mkdir()
    (tmp_path / "train_splits" / "half.mp4").touch()
    call = ["lookalike", "meld", "--out", tmp_path, "--parts", "1,1,1", "--speakers", "3"]
    assert "--force" in refused(capfd, *call)
    assert main([*map(str, call), "--force"]) == 0 and not (tmp_path / "train_splits" / "half.mp4").exists()


def interrupted(*arguments: Any, after: float) -> tuple[int, list[str]]:
    """Exit status and what a call said that a terminal interrupted, without its lines of progress.

    Raises:
        subprocess.TimeoutExpired: a process of the call is left, which holds its stderr open.
    """
    command = [sys.executable, "-m", "wavfusion", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # What runs in the background of a script inherits that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(after)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    return process.returncode, [line for line in said.decode().splitlines() if not line.startswith("INFO: ")]


@pytest.mark.slow
@pytest.mark.parametrize("after", [3.0, 4.0, 5.0, 8.0])
def test_an_interrupted_lookalike_says_one_line_and_leaves_no_process(tmp_path: Path, after: float) -> None:
    """Each worker had its own trace, and torch told of its caches."""
    done = interrupted("lookalike", "iemocap", "--out", tmp_path / "tree", after=after)
    assert done == (130, ["wavfusion: interrupted"]) and not (tmp_path / "tree" / "world.json").exists()


def test_a_reader_that_goes_away_is_no_error(trained: Path) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = f"{sys.executable} -m wavfusion --help | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, check=False)
    assert "Traceback" not in done.stderr


def test_the_help_of_prepare_names_every_corpus(capfd: pytest.CaptureFixture[str]) -> None:
    """A list by hand, as importing the readers would slow down every `--help`."""
    main(["prepare", "--help"])
    shown = " ".join(capfd.readouterr().out.split())
    *some, last = corpora.READERS
    assert f"{', '.join(some)} or {last}" in shown
