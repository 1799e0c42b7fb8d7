"""Recognised words: those of faster-whisper, each at its utterance."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wavfusion import media
from wavfusion.cli.app import main
from wavfusion.errors import ConfigError
from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.speech.recognition import STRETCH, SpeechRecognizer, _stretches
from wavfusion.speech.segmentation import RecordingAudio
from wavfusion.transcripts import Segment

pytest_plugins = ("corpus_fixture",)

WORDS = "goodbye"  # of one word: of a vocabulary of bytes the space is among what faster-whisper never says
SPECIAL = (
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>"),
    *("<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>"),
)
SECONDS = tuple(f"<|{0.02 * i:.2f}|>" for i in range(1501))


def _letters() -> dict[str, int]:
    """GPT-2's letters for bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    return {letters[byte]: byte for byte in range(256)}


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model."""
    pytest.importorskip("faster_whisper", reason="the extra [asr] is not installed")
    import ctranslate2
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    folder = tmp_path_factory.mktemp("whisper")
    (folder / "vocab.json").write_text(json.dumps(_letters()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    words = WhisperTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    words.add_special_tokens({"additional_special_tokens": [*SPECIAL, *SECONDS]})
    words.save_pretrained(folder)
    end, begin = words.convert_tokens_to_ids(SPECIAL[:2])
    sizes = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    ids = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": begin}
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(words), d_model=64, encoder_ffn_dim=128, decoder_ffn_dim=128, max_source_positions=1500,
        suppress_tokens=[], begin_suppress_tokens=[], **sizes, **ids,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**ids)
    model.generation_config.suppress_tokens = model.generation_config.begin_suppress_tokens = []
    first, last = words.convert_tokens_to_ids(["<|0.00|>", "<|2.00|>"])
    said = [begin, first, *words(WORDS, add_special_tokens=False).input_ids, last, end]
    _learn(model, torch.tensor([said]))
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    made = tmp_path_factory.mktemp("asr") / "model"
    kept = ["tokenizer.json", "preprocessor_config.json"]
    for place, stored in ((made, None), (made.with_name("half"), "float16")):
        converter = ctranslate2.converters.TransformersConverter(str(folder), copy_files=kept)
        converter.convert(str(place), quantization=stored)
    return made


def _learn(model: Any, said: torch.Tensor, steps: int = 300) -> None:
    """Learn one sentence, whatever is heard: nothing of the sound reaches the decoder."""
    for layer in model.model.decoder.layers:
        torch.nn.init.zeros_(layer.encoder_attn.out_proj.weight)
        layer.encoder_attn.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.model.decoder.parameters(), 3e-3)
    heard = (torch.zeros(1, 4, 64),)
    for _ in range(steps):
        optimizer.zero_grad()
        model(encoder_outputs=heard, decoder_input_ids=said[:, :-1], labels=said[:, 1:]).loss.backward()
        optimizer.step()
    model.eval()


@pytest.fixture(scope="module")
def recogniser(whisper: Path) -> SpeechRecognizer:
    return SpeechRecognizer(str(whisper))


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return (0.1 * np.random.default_rng(0).normal(size=40 * 16_000)).clip(-1, 1).astype(np.float32)


def test_a_model_stored_in_float16_is_loaded_without_a_word(whisper: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """CTranslate2 warned at every call that a CPU computes in float32 what is stored in float16."""
    assert SpeechRecognizer(str(whisper.with_name("half"))).name.endswith("half")
    assert capfd.readouterr().err == ""


def test_the_text_is_that_of_faster_whisper(whisper: Path, recogniser: SpeechRecognizer, noise: np.ndarray) -> None:
    from faster_whisper import WhisperModel

    found, language = recogniser.transcribe(RecordingAudio("", noise), [Segment(0.0, 5.0)])
    asked = {"temperature": 0.0, "condition_on_previous_text": False, "word_timestamps": True}
    parts, _ = WhisperModel(str(whisper), "cpu").transcribe(noise[: 5 * 16_000], **asked)
    assert found == [Segment(0.0, 5.0, None, "".join(part.text for part in parts).strip())]
    assert found[0].text is not None and WORDS.strip() in found[0].text and language == "en"


def test_each_word_is_given_once_to_the_utterance_that_is_nearest(
    recogniser: SpeechRecognizer, noise: np.ndarray
) -> None:
    segments = [Segment(1.0, 3.0, "Ann"), Segment(4.0, 9.0, "Bo"), Segment(31.0, 33.0, "Ann")]
    found, _ = recogniser.transcribe(RecordingAudio("", noise), segments)
    assert [(each.start, each.end, each.speaker) for each in found] == [(s.start, s.end, s.speaker) for s in segments]
    for first, last in ((0, 2), (2, 3)):
        start = segments[first].start
        words, _ = recogniser._words(noise[round(start * 16_000) : round(segments[last - 1].end * 16_000)], None)
        together = " ".join(each.text for each in found[first:last] if each.text)
        assert together.replace(" ", "") == "".join(word for _, word in words).replace(" ", "")


def test_stretches_take_neighbours_together_and_none_is_too_long() -> None:
    segments = [Segment(7.0 * i, 7.0 * i + 6.0) for i in range(12)]
    spans = list(_stretches(segments))
    assert [number for first, last in spans for number in range(first, last)] == list(range(12))
    assert all(segments[last - 1].end - segments[first].start <= STRETCH for first, last in spans) and len(spans) == 3
    assert list(_stretches([Segment(0.0, 40.0), Segment(50.0, 51.0)])) == [(0, 1), (1, 2)] and not list(_stretches([]))


def test_a_recording_without_a_transcript_is_labelled_with_recognized_text(
    trained: Path, whisper: Path, made: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = made.root / "clips/test00.mp4"
    assert main(["predict", "--model", str(trained), str(clip), "--asr", str(whisper), "--format", "json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert WORDS.split()[0] in row["text"] and row["modalities"] == ["audio", "text", "video"]
    given = EmotionRecognizer.from_pretrained(trained).predict(clip, row["text"])[0]
    assert given.probabilities == row["probabilities"]


def test_a_given_transcript_replaces_recognition(trained: Path, whisper: Path, made: Any) -> None:
    recognizer = EmotionRecognizer.from_pretrained(trained, asr=str(whisper))
    assert recognizer.predict(made.root / "clips/test00.mp4", "well")[0].text == "well"


def test_a_missing_or_incomplete_model_is_one_line(whisper: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--asr small: expected a model, found no such folder and"):
        SpeechRecognizer("small")
    with pytest.raises(ConfigError, match=r"found no model.bin and no tokenizer.json"):
        SpeechRecognizer(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(ConfigError, match="looks like one of transformers, which ct2-transformers-converter converts"):
        SpeechRecognizer(str(tmp_path))
    (tmp_path / "model.bin").write_bytes(b"none")
    with pytest.raises(ConfigError, match="model.bin: expected a folder of faster-whisper's, found a file"):
        SpeechRecognizer(str(tmp_path / "model.bin"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="expected a complete Whisper model of faster-whisper, found: Unsupp"):
        SpeechRecognizer(str(tmp_path))


def test_parts_of_different_models_are_one_line(whisper: Path, noise: np.ndarray, tmp_path: Path) -> None:
    """Such a model was loaded without complaint, and its first recording ended in a traceback."""
    mixed = tmp_path / "mixed"
    shutil.copytree(whisper, mixed)
    about = json.loads((mixed / "preprocessor_config.json").read_text())
    (mixed / "preprocessor_config.json").write_text(json.dumps({**about, "feature_size": 128}))
    with pytest.raises(ConfigError, match=r"--asr .*mixed: expected a complete Whisper model .*, found: Invalid input"):
        SpeechRecognizer(str(mixed)).transcribe(RecordingAudio("", noise), [Segment(0.0, 5.0)])


@pytest.mark.parametrize("count", [0, 1, 160, 319, 1599])
def test_audio_too_short_for_a_word_has_no_text(recogniser: SpeechRecognizer, noise: np.ndarray, count: int) -> None:
    """Ten milliseconds of audio ended the labelling of all recordings with a traceback of faster-whisper."""
    segments = [Segment(0.0, count / 16_000)]
    assert recogniser.transcribe(RecordingAudio("", noise[:count]), segments) == (segments, None)


def test_video_that_continues_after_the_audio_is_labelled(whisper: Path, trained: Path, tmp_path: Path) -> None:
    """Recognition was run on a part without audio, and the whole recording was refused."""
    frames = (np.full((64, 64, 3), number % 256, np.uint8) for number in range(80))
    media.write_video(tmp_path / "a.mp4", frames, 4, 0.1 * np.sin(np.arange(48_000) / 20).astype(np.float32))
    found = EmotionRecognizer.from_pretrained(trained, asr=str(whisper)).predict(tmp_path / "a.mp4")
    assert [(each.end, each.modalities[-1], bool(each.text)) for each in found] == [
        (15.0, "video", True),
        (20.0, "video", False),
    ]


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(ConfigError, match=r"pip install 'wavfusion\[asr\]'"):
        SpeechRecognizer("small")


def test_nothing_of_it_is_loaded_unless_asked() -> None:
    code = "import sys, wavfusion.prediction.recognizer; print('faster_whisper' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
    assert media.SAMPLE_RATE == 16_000  # what Whisper hears
