"""A small table corpus whose emotions can be heard, read and seen, extracted once, and one model trained on it."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from wavfusion import corpora, manifest, media
from wavfusion.encoders.bundle import load_encoders
from wavfusion.encoders.presets import PRESETS
from wavfusion.experiments import experiment
from wavfusion.features import extract
from wavfusion.features.store import Store
from wavfusion.training import train

EMOTIONS = ["angry", "happy", "neutral", "sad"]
WORDS = {"angry": "stop shouting", "happy": "how wonderful", "neutral": "the train leaves", "sad": "we miss her"}
PARTS = {"train": 6, "valid": 2, "test": 2}  # clips of each emotion
LONG = 17.0  # seconds; more than a window
CONTENT = ("audio", "text", "video")


def tone(emotion: str, seconds: float, seed: int) -> np.ndarray:
    """A hum whose pitch tells the emotion."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * media.SAMPLE_RATE)) / media.SAMPLE_RATE
    pitch = 180 * 2.2 ** EMOTIONS.index(emotion) * rng.uniform(0.97, 1.03)
    hum = sum(np.sin(2 * np.pi * pitch * k * times + rng.uniform(0, 6)) / k for k in (1, 2, 3))
    return (0.2 * hum + rng.normal(0, 0.01, len(times))).astype(np.float32)


def picture(emotion: str, seconds: float, seed: int) -> list[np.ndarray]:
    """A noisy field whose brightness tells the emotion, 10 frames a second."""
    rng = np.random.default_rng(seed)
    level = 30 + 65 * EMOTIONS.index(emotion)
    noise = rng.normal(0, 6, (max(1, round(seconds * 10)), 64, 64, 3))
    return list(np.clip(level + noise, 0, 255).astype(np.uint8))


def write_clip(path: Path, emotion: str, seconds: float, seed: int) -> None:
    """Write a hum, with its picture where the file's name is one of a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".wav":
        media.write_audio(path, tone(emotion, seconds, seed), media.SAMPLE_RATE)
    else:
        sound = tone(emotion, seconds, seed)
        media.write_video(path, picture(emotion, seconds, seed), 10, sound, media.SAMPLE_RATE)


def write_table(root: Path) -> None:
    """Write the media and the table of the corpus."""
    rows = []
    for part, count in PARTS.items():
        for i in range(count * len(EMOTIONS)):
            emotion, seed = EMOTIONS[i % len(EMOTIONS)], len(rows)
            name = f"{part}{i:02d}"
            path = f"clips/{name}.{'wav' if i == 5 else 'mp4'}"
            write_clip(root / path, emotion, 0.5 + 0.06 * (seed % 8), seed)
            rows.append(
                {
                    "id": name,
                    "audio": path,
                    "video": "" if i == 5 else path,
                    "text": "" if i == 6 else f"{WORDS[emotion]} number {i}",
                    "emotion": emotion,
                    "split": part,
                    "speaker": f"{part}-{i % 2}",
                    "dialogue": f"{part}-{i // 2}",  # four to test: with two the interval of any model holds chance
                    "index": i % 4,
                }
            )
    write_clip(root / "clips/long.wav", "sad", LONG, 99)
    rows.append({**rows[-1], "id": "long", "audio": "clips/long.wav", "video": "", "emotion": "sad", "index": 9})
    write_clip(root / "clips/unlabelled.wav", "sad", 0.5, 98)
    rows.append({**rows[0], "id": "unlabelled", "audio": "clips/unlabelled.wav", "video": "", "emotion": ""})
    with open(root / "table.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The corpus: `root`, `manifest` (a path), `store` (a path), `data` for training."""
    folder = tmp_path_factory.mktemp("corpus")
    write_table(folder / "raw")
    corpora.write_prepared(corpora.prepare("table", folder / "raw"), folder / "manifest")
    path = folder / "manifest" / "manifest.jsonl"
    loaded = load_encoders("tiny", PRESETS["tiny"])
    rows, about = manifest.read(path), manifest.read_corpus(path)
    extract.extract(rows, about, Store(folder / "store", create=True), loaded, text_layers="last", workers=1)
    return SimpleNamespace(
        root=folder / "raw",
        manifest=path,
        store=folder / "store",
        encoders=loaded,
        data=train.read_data(path, folder / "store"),
    )


def setting(**overrides: Any) -> experiment.Experiment:
    """An experiment that ends in seconds; dotted names with `__` for the dot."""
    values = {"train.epochs": 5, "train.batch_size": 8} | {k.replace("__", "."): v for k, v in overrides.items()}
    return experiment.read_experiment("paper", {key: str(value) for key, value in values.items()})


@pytest.fixture(scope="session")
def short() -> Any:
    """The function that makes short experiments."""
    return setting


@pytest.fixture(scope="session")
def trained(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN of all three modalities, for all their subsets."""
    out = tmp_path_factory.mktemp("runs") / "all"
    train.train(setting(train__epochs=12, model__modality_dropout=0.2), made.data, out)
    return out
