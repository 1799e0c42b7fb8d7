"""Anonymous memory of extraction, training and prediction stays flat, however much data there is.

`WAVFUSION_MANY=10000 WAVFUSION_HOURS=3 pytest -m slow -s tests/test_memory.py` for larger sizes; a long recording is
tried with such an hour or more only.
"""

import json
import os
import subprocess
import sys
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wavfusion import corpora, media

pytest_plugins = ("corpus_fixture",)

FEW, MANY = 100, int(os.environ.get("WAVFUSION_MANY", "400"))
SHORT, HOURS = 0.5, float(os.environ.get("WAVFUSION_HOURS", "0"))
LONG = pytest.mark.skipif(HOURS < 2 * SHORT, reason="takes minutes: WAVFUSION_HOURS=3 asks for it")
FLAT = 1.1
SPAN = 5.0  # seconds of an utterance in a long recording


def corpus(folder: Path, count: int) -> Path:
    """A table corpus of short clips, each with sound, words and pictures; returns its manifest."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["id,audio,video,text,emotion,split"]
    for number in range(count):
        seconds = rng.uniform(0.6, 1.2)
        sound = rng.normal(0, 0.1, int(seconds * media.SAMPLE_RATE)).astype(np.float32)
        pictures = rng.integers(0, 256, (max(1, int(5 * seconds)), 48, 64, 3)).astype(np.uint8)
        name = f"{number}.mp4"
        media.write_video(folder / name, pictures, 5, sound, media.SAMPLE_RATE)
        part = ("valid", "test")[number % 2] if number % 10 < 2 else "train"
        rows.append(f"u{number},{name},{name},sentence number {number},{('happy', 'sad')[number % 3 % 2]},{part}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    corpora.write_prepared(corpora.prepare("table", folder), folder / "prepared")
    return folder / "prepared" / "manifest.jsonl"


def recording(path: Path, hours: float) -> Path:
    """A long recording of noise that swells and fades."""
    rng = np.random.default_rng(0)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(media.SAMPLE_RATE)
        for _ in range(int(hours * 3600 / SPAN)):
            swell = np.sin(np.linspace(0, np.pi, int(SPAN * media.SAMPLE_RATE)))
            file.writeframes((3000 * swell * rng.normal(size=len(swell))).clip(-32768, 32767).astype("<i2").tobytes())
    return path


def long_corpus(folder: Path, hours: float) -> Path:
    """A table corpus of utterances in one long recording; returns its manifest."""
    folder.mkdir()
    recording(folder / "long.wav", hours)
    rows = ["id,audio,start,end,emotion,split"]
    for number in range(int(hours * 3600 / SPAN)):
        part = ("valid", "test")[number % 2] if number % 10 < 2 else "train"
        emotion = ("happy", "sad")[number % 3 % 2]
        rows.append(f"u{number},long.wav,{number * SPAN},{(number + 1) * SPAN},{emotion},{part}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    corpora.write_prepared(corpora.prepare("table", folder), folder / "prepared")
    return folder / "prepared" / "manifest.jsonl"


def peak_mb(*arguments: str | Path) -> float:
    """Run the command line; returns the most anonymous memory that its process had."""
    started = time.monotonic()
    line = [sys.executable, "-m", "wavfusion", *map(str, arguments), "--device", "cpu"]
    environment = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0", **os.environ}  # as the docs advise for long runs
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    peak = 0.0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        peak = max([peak, *(int(row.split()[1]) / 1024 for row in status.splitlines() if row.startswith("RssAnon"))])
        time.sleep(0.02)
    told = process.communicate()[1]
    assert process.returncode == 0, told
    sys.stdout.write(f"{arguments[0]}: {peak:.0f} MB, {time.monotonic() - started:.0f} s\n")
    return peak


def costs(manifest: Path, folder: Path) -> dict[str, float]:
    """Memory of extraction and of one epoch of training, scored."""
    store, out = folder / "store", folder / "run"
    extraction = peak_mb("extract", manifest, "--store", store, "--preset", "tiny", "--workers", "2")
    setting = ["--train.epochs", "1", "--train.batch_size", "8"]
    given = ["--config", "paper", "--manifest", manifest, "--store", store, "--out", out]
    has_video = (
        "video" in (store / "encoders.json").read_text()
        and json.loads((store / "encoders.json").read_text())["tiny"]["video"]
    )
    modalities = "audio,text,video" if has_video else "audio"
    return {"extract": extraction, "train": peak_mb("train", *given, *setting, "--model.modalities", modalities)}


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize(
    ("make", "sizes"),
    [(corpus, (FEW, MANY)), pytest.param(long_corpus, (SHORT, HOURS), marks=LONG)],
)
def test_memory_of_extraction_and_training_stays_flat(tmp_path: Path, make: Any, sizes: tuple[float, float]) -> None:
    """Over many utterances in files of their own, and over as many in one long recording."""
    less, more = (costs(make(tmp_path / str(size), size), tmp_path / str(size)) for size in sizes)
    sys.stdout.write(f"{sizes}: {less}, {more}\n")
    assert all(more[name] <= FLAT * less[name] for name in less)


@LONG
@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_memory_of_prediction_stays_flat_over_a_long_recording(trained: Path, tmp_path: Path) -> None:
    found: list[Any] = []
    for hours in (SHORT, HOURS):
        file = recording(tmp_path / f"{hours}.wav", hours)
        found.append(peak_mb("predict", "--model", trained, file, "--out", tmp_path / f"{hours}.json"))
    assert found[1] <= FLAT * found[0]
