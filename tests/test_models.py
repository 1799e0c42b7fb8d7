"""Which models are here, which one answers where none is named, and that every output says which one it was."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from wavfusion import EmotionRecognizer
from wavfusion.cli.app import main
from wavfusion.errors import ConfigError
from wavfusion.prediction import models
from wavfusion.runs.card import make_card
from wavfusion.runs.folder import read_run

pytest_plugins = ("corpus_fixture",)


def shell(capfd: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    status = main([str(each) for each in arguments])
    printed = capfd.readouterr()
    return status, printed.out, printed.err


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without a voice model."""
    monkeypatch.setattr(models, "VOICE_MODEL", "no-such-distribution")
    monkeypatch.setattr(models, "CLONE", tmp_path / "clone/models/voice")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def install(trained: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the distribution of a voice model, whose encoder has weights of the same file name."""
    run = Path(shutil.copytree(trained, site / "voice_package" / "voice"))
    about = site / "voice_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: voice-package\nVersion: 1.0\n")
    (run / "encoders/audio/model.safetensors").touch()
    files = ("encoders/audio/model.safetensors", "model.safetensors")
    (about / "RECORD").write_text("".join(f"voice_package/voice/{each},,\n" for each in files))
    monkeypatch.setattr(models, "VOICE_MODEL", "voice-package")
    monkeypatch.syspath_prepend(str(site))
    return run


# ------------------------------------------------------------------ which one answers


def test_the_installed_model_goes_before_that_of_the_clone(
    trained: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first file of its name in RECORD is an encoder's."""
    shutil.copytree(trained, models.CLONE)
    assert models.default_model() == models.CLONE
    installed = install(trained, place / "site", monkeypatch)
    assert models.default_model().samefile(installed)
    assert models.find_run("voice").folder.samefile(installed)


def test_without_any_the_error_says_how_to_get_one(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"found none; pip install .*--model RUN .*from_pretrained\('RUN'\)"):
        EmotionRecognizer.from_pretrained()


@pytest.mark.parametrize("kind", ["srt", "json", "html"])
def test_files_name_the_model_that_nobody_named(
    kind: str, trained: Path, made: Any, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, models.CLONE)
    clip = made.root / "clips/test05.wav"
    status, _, err = shell(capfd, "predict", clip, "--out", place / f"out.{kind}", "--device", "cpu")
    assert status == 0 and err.splitlines().count(f"INFO: {make_card(read_run(models.CLONE))}") == 1


def test_vectors_and_python_name_the_model(
    trained: Path, made: Any, place: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(trained, models.CLONE)
    card = str(make_card(read_run(models.CLONE)))
    with caplog.at_level("INFO", "wavfusion"):
        EmotionRecognizer.from_pretrained()
    assert card in caplog.messages
    _, _, err = shell(capfd, "embed", made.root / "clips/test05.wav", "--out", place / "a.npz", "--device", "cpu")
    assert f"INFO: {card}" in err


# ------------------------------------------------------------------ which ones are here


def test_models_lists_figures_of_the_voice_model_and_of_a_folder(
    trained: Path, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    voice = Path(shutil.copytree(trained, models.CLONE))
    (voice / "LICENSE").write_text("\n  CC BY 4.0\n\nmore\n")
    other = Path(shutil.copytree(trained, place / "runs/study/other"))
    shutil.copytree(trained, other / "work/inner")
    status, out, err = shell(capfd, "models", "runs", "--json")
    found = json.loads(out)
    assert (status, err, [each["card"]["name"] for each in found]) == (0, "", ["voice", "other"])
    assert [(each["is_default"], each["licence"]) for each in found] == [(True, "CC BY 4.0"), (False, None)]
    assert found[1]["card"]["uar"] == json.loads((trained / "metrics.json").read_text())["uar"]
    assert (found[0]["modalities"], found[0]["emotions"]) == (["audio", "text", "video"], read_run(trained).classes)
    kept = [path for path in (*trained.iterdir(), *(trained / "encoders").rglob("*")) if path.is_file()]
    assert found[1]["size"] == sum(path.stat().st_size for path in kept)
    _, out, _ = shell(capfd, "models", "runs")
    lines = out.splitlines()
    assert lines[0] == str(make_card(read_run(voice))) and lines[1].endswith("(answers where no --model is given)")
    assert lines[3].endswith("MB; licence: CC BY 4.0") and "answers" not in lines[5]


def test_models_reads_no_weights(trained: Path, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(trained, place / "runs/a"))
    (run / "model.safetensors").write_bytes(b"no weights")
    status, out, _ = shell(capfd, "models", "runs")
    assert status == 0 and out.startswith("model a: trained on table")
    with pytest.raises(ConfigError):
        read_run(run)


def test_a_damaged_run_is_told_beside_the_others(trained: Path, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        shutil.copytree(trained, place / "runs" / name)
    (place / "runs/a/config.json").write_text("{}")
    status, out, err = shell(capfd, "models", "runs")
    assert status == 1 and out.startswith("model b:") and err.startswith("wavfusion: 'runs/a': expected a RUN, found")


def test_a_folder_without_a_run_is_one_line(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = shell(capfd, "models", place)
    assert (status, out) == (2, "") and "expected a folder with RUNs" in err and err.count("\n") == 1


def test_without_a_model_the_list_says_how_to_get_one(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = shell(capfd, "models")
    assert (status, out.count("\n")) == (0, 1) and out.startswith("no model answers without --model; pip install")
