"""Recordings as vectors: of utterances, and of the steps of their sound."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from wavfusion import media
from wavfusion.cli.app import main
from wavfusion.model.config import AUDIO_STEP
from wavfusion.model.wavfusion import WavFusion
from wavfusion.prediction import vectors
from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.transcripts import Segment

pytest_plugins = ("corpus_fixture",)


@pytest.fixture(scope="module")
def recognizer(trained: Path) -> EmotionRecognizer:
    return EmotionRecognizer.from_pretrained(trained)


@pytest.fixture(scope="module")
def file(made: Any) -> str:
    """The longest of the corpus: more than one window."""
    return str(made.root / "clips" / "long.wav")


def test_the_head_makes_the_probabilities_of_the_vector(recognizer: EmotionRecognizer, made: Any) -> None:
    path = str(made.root / made.data.part("test")[0].audio.path)
    found, said = vectors.embed(recognizer, path, "well"), recognizer.predict(path, "well")
    assert len(found) == len(said) == 1 and found[0].modalities == said[0].modalities
    with torch.inference_mode():
        logits = recognizer.trained.model.head(torch.from_numpy(found[0].vector)).double()
    p = (logits / recognizer.trained.temperature).softmax(-1).numpy()
    assert np.abs(p - np.array([said[0].probabilities[name] for name in recognizer.classes])).max() < 1e-6


def test_steps_are_20_ms_apart_and_lie_in_their_utterance(recognizer: EmotionRecognizer, file: str) -> None:
    segments = [Segment(0.5, 2.0, "Ann", "a"), Segment(2.0, 2.3, None, None)]
    found = vectors.embed(recognizer, file, segments=segments)
    assert [each.segment for each in found] == segments
    for each in found:
        assert np.allclose(np.diff(each.times), AUDIO_STEP, atol=1e-5)
        assert each.times[0] == pytest.approx(each.segment.start + 0.0125)  # of 400 samples
        assert each.segment.end - 0.05 < each.times[-1] < each.segment.end + AUDIO_STEP
        assert len(each.frames) == len(each.times)


def test_a_picture_without_sound_has_a_vector_and_no_step(recognizer: EmotionRecognizer, tmp_path: Path) -> None:
    """None of the queries that stand in for its sound is a step of it."""
    frames = (np.full((64, 64, 3), 10 * i, np.uint8) for i in range(10))
    media.write_video(tmp_path / "a.mp4", frames, 5)
    found = vectors.embed(recognizer, str(tmp_path / "a.mp4"), "well")
    assert found[0].modalities == ["text", "video"] and found[0].frames.shape[0] == len(found[0].times) == 0
    assert np.isfinite(found[0].vector).all()


def test_steps_have_the_model_s_width_with_and_without_audio(
    recognizer: EmotionRecognizer, made: Any, tmp_path: Path
) -> None:
    """Without audio they had the width of the head's input, which is another where no deep layer fuses."""
    model = WavFusion(replace(recognizer.trained.model.config, fusion="concat")).eval()
    plain = EmotionRecognizer(replace(recognizer.trained, model=model, familiarity=None), recognizer.encoders)
    media.write_video(tmp_path / "a.mp4", (np.full((64, 64, 3), 10 * i, np.uint8) for i in range(10)), 5)
    sound = str(made.root / made.data.part("test")[0].audio.path)
    found = [*vectors.embed(plain, sound, "well"), *vectors.embed(plain, str(tmp_path / "a.mp4"), "well")]
    assert {each.frames.shape[1] for each in found} == {model.config.hidden_size}
    assert vectors.write_vectors(found, ".npz")


def test_a_recording_is_warned_of_as_when_it_is_labelled(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`embed` said nothing of level, language and what is out of distribution."""
    tone = np.sign(np.sin(np.arange(32_000) / 20)).astype(np.float32)
    media.write_audio(tmp_path / "tone.wav", np.concatenate([tone, np.zeros(400_000, np.float32)]), 16_000)
    words = "ich weiss nicht was soll es bedeuten dass ich so traurig bin"
    times = [Segment(0.0, 2.0, None, words), Segment(2.0, 27.0)]
    recognizer = EmotionRecognizer.from_pretrained(trained)
    recognizer.trained = replace(recognizer.trained, languages=["en"])
    said = []
    for work in (recognizer.predict, partial(vectors.embed, recognizer)):
        caplog.clear()
        work(str(tmp_path / "tone.wav"), segments=times)
        said.append(sorted(caplog.messages))
    assert said[0] == said[1]
    for part in ("silent", "clipped", "text is in 'de'", "out of distribution"):
        assert any(part in each for each in said[1]), part


def test_both_formats_hold_the_same_and_no_pickle(recognizer: EmotionRecognizer, file: str, tmp_path: Path) -> None:
    found = vectors.embed(recognizer, file, segments=[Segment(0.0, 1.0, "Ann", "שלום"), Segment(1.0, 3.0, None, None)])
    for ending in vectors.ENDINGS:
        (tmp_path / f"a{ending}").write_bytes(vectors.write_vectors(found, ending))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as npz, safe_open(tmp_path / "a.safetensors", "np") as tensors:
        assert set(npz.files) == {*tensors.keys(), "about"}
        assert all((npz[name] == tensors.get_tensor(name)).all() for name in tensors.keys())  # noqa: SIM118
        about = json.loads(str(npz["about"]))
        assert about == json.loads(tensors.metadata()["about"]) and about[0]["speaker"] == "Ann"
        assert npz["utterances"].shape == (2, recognizer.trained.model.config.hidden_size)
        assert np.bincount(npz["frame_utterance"]).tolist() == [len(each.frames) for each in found]


def test_the_verb_writes_them_and_names_what_is_bad(
    trained: Path, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.wav").write_text("no sound")
    ask = ["embed", "--model", str(trained), file, str(tmp_path / "bad.wav"), "--device", "cpu", "--out"]
    assert main([*ask, str(tmp_path / "a.pt")]) == 2
    assert main([*ask, str(tmp_path / "a.npz")]) == 1
    said = capsys.readouterr()
    assert "utterances" in said.out and "bad.wav" in said.err.splitlines()[-1]
    assert main([*ask, str(tmp_path / "a.npz")]) == 2
    assert "expected no such file" in capsys.readouterr().err
