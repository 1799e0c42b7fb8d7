"""The voice model that ships: whole, small, without a trace of a recording, and the one that answers."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest

import wavfusion
from wavfusion import media
from wavfusion.cli.demo import CONVERSATION, label_conversation
from wavfusion.prediction import models

FOLDER = Path(__file__).parents[1] / "models" / "voice"
MODEL = FOLDER / "wavfusion_voice"
EMOTIONS = ["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"]
MEGABYTES = 60  # at most, of the distribution


@pytest.fixture(scope="module")
def recognizer() -> wavfusion.EmotionRecognizer:
    return wavfusion.EmotionRecognizer.from_pretrained()


def test_it_answers_where_no_model_is_named(recognizer: wavfusion.EmotionRecognizer) -> None:
    """No label that an earlier version gave to a real voice meant anything."""
    assert models.default_model() == MODEL and recognizer.classes == EMOTIONS
    card = recognizer.card
    assert (card.generated, card.chance) == (False, pytest.approx(1 / 7)) and "ravdess" in card.trained_on
    assert card.uar_interval is not None and card.uar_interval[0] > 2 * card.chance and card.warnings == []


def test_it_is_small_and_has_nothing_but_data(recognizer: wavfusion.EmotionRecognizer) -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MEGABYTES * 1e6
    assert {path.suffix or path.name for path in files} == {
        ".json",
        ".md",
        ".safetensors",
        ".yaml",
        "LICENSE",
        "NOTICE",
    }
    assert not recognizer.trained.features.text and recognizer.trained.carried == {
        "audio": str(MODEL / "encoders/audio")
    }


def test_nothing_in_it_names_a_place_a_recording_or_a_speaker() -> None:
    """Of tensors only their names, types and shapes stand in the header."""
    for path in MODEL.rglob("*"):
        if path.suffix == ".safetensors":
            content = path.read_bytes()
            (length,) = struct.unpack("<Q", content[:8])
            header = json.loads(content[8 : 8 + length])
            assert header.pop("__metadata__", {"format": "pt"}) == {"format": "pt"}
            text = " ".join(header)
        else:
            text = path.read_text("utf-8") if path.is_file() else ""
        assert re.findall(r"/(?:home|work|root|tmp|mnt)/|\.wav|(?:ravdess|nemo|emodb|emotiontts)-\w", text) == [], path


def test_every_corpus_is_credited_and_the_licence_stands_beside_the_weights() -> None:
    notice, licence = ((MODEL / name).read_text("utf-8") for name in ("NOTICE", "LICENSE"))
    assert [(FOLDER / name).read_text("utf-8") for name in ("NOTICE", "LICENSE")] == [notice, licence]
    assert all(name in notice for name in ("RAVDESS", "nEMO", "EmoDB", "emotiontts", "OpenAI", "MIT License"))
    assert licence.startswith("CC BY-NC-SA 4.0")


def test_a_conversation_is_labelled_before_the_demo_trains(tmp_path: Path) -> None:
    page = label_conversation(tmp_path / "demo")
    assert page is not None
    text = page.read_text("utf-8")
    assert "Sheila" in text and "they all call me a Yankee" in text and (page.parent / CONVERSATION.name).exists()


def test_without_it_the_demo_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(models, "CLONE", tmp_path)
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "wavfusion")
    assert label_conversation(tmp_path / "demo") is None and not (tmp_path / "demo").exists()
    assert "no real recording is labelled: expected a model, found none; pip install wavfusion-voice" in caplog.text


def test_lossy_formats_leave_nearly_all_probabilities(recognizer: wavfusion.EmotionRecognizer, tmp_path: Path) -> None:
    """The full count, a hundred clips and more, is `models/voice/judge.py`; its result stands in the card."""
    samples = media.decode_audio(CONVERSATION).samples[-9 * media.SAMPLE_RATE :]
    found = {}
    for name, rate in (("a.wav", None), ("a.mp3", 64_000), ("a.ogg", 24_000), ("a.m4a", 48_000)):
        media.write_audio(tmp_path / name, samples, media.SAMPLE_RATE, *([rate] if rate else []))
        (prediction,) = recognizer.predict(tmp_path / name)
        found[name] = np.array([*prediction.probabilities.values()])
    assert all(np.abs(each - found["a.wav"]).sum() / 2 < 0.15 for each in found.values()), found
