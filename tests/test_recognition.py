"""Recognised words: those of faster-whisper, each at its utterance."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch

from wavfusion import media
from wavfusion.cli.app import main
from wavfusion.errors import ConfigError
from wavfusion.lookalike.voice import Espeak
from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.speech.recognition import (
    STRETCH,
    SpeechRecognizer,
    Word,
    _restored,
    _spoken,
    _stretches,
    plausible_words,
)
from wavfusion.speech.segmentation import RecordingAudio
from wavfusion.training import train
from wavfusion.transcripts import Segment

pytest_plugins = ("corpus_fixture", "real")

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
def speech() -> np.ndarray:
    """Forty seconds of a voice without a pause."""
    pytest.importorskip("espeakng_loader", reason="voices need the [demo] extra")
    espeak = Espeak()
    words = "I told you that we were waiting at the station until the evening and nobody came to tell us anything"
    said = soxr.resample(espeak.synthesize(words, "en-us", 165.0, 50), espeak.sample_rate, media.SAMPLE_RATE)
    return np.resize(said, 40 * media.SAMPLE_RATE).astype(np.float32)


@pytest.fixture(scope="module")
def clip(speech: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds of it, in a file."""
    path = tmp_path_factory.mktemp("speech") / "clip.wav"
    media.write_audio(path, speech[: 5 * media.SAMPLE_RATE], media.SAMPLE_RATE)
    return path


def test_a_model_stored_in_float16_is_loaded_without_a_word(whisper: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """CTranslate2 warned at every call that a CPU computes in float32 what is stored in float16."""
    assert SpeechRecognizer(str(whisper.with_name("half"))).name.endswith("half")
    assert capfd.readouterr().err == ""


def test_the_text_is_that_of_faster_whisper(whisper: Path, recogniser: SpeechRecognizer, speech: np.ndarray) -> None:
    from faster_whisper import WhisperModel

    found, _, language = recogniser.transcribe(RecordingAudio("", speech), [Segment(0.0, 5.0)])
    asked = {"temperature": 0.0, "condition_on_previous_text": False, "word_timestamps": True}
    parts, _ = WhisperModel(str(whisper), "cpu").transcribe(speech[: 5 * 16_000], **asked)
    assert found == [Segment(0.0, 5.0, None, "".join(part.text for part in parts).strip())]
    assert found[0].text is not None and WORDS.strip() in found[0].text and language == "en"


def test_each_word_is_given_once_to_the_utterance_that_is_nearest(
    recogniser: SpeechRecognizer, speech: np.ndarray
) -> None:
    segments = [Segment(1.0, 3.0, "Ann"), Segment(4.0, 9.0, "Bo"), Segment(31.0, 33.0, "Ann")]
    found, placed, _ = recogniser.transcribe(RecordingAudio("", speech), segments)
    assert [(each.start, each.end, each.speaker) for each in found] == [(s.start, s.end, s.speaker) for s in segments]
    for first, last in ((0, 2), (2, 3)):
        start, end = round(segments[first].start * 16_000), round(segments[last - 1].end * 16_000)
        words, _ = recogniser.recognize(speech[start:end])
        assert [word.text for some in placed[first:last] for word in some] == [word.text for word in words] != []
        assert [word.start for some in placed[first:last] for word in some] == [start / 16_000 + w.start for w in words]
    assert [each.text for each in found] == ["".join(word.text for word in some).strip() or None for some in placed]


def test_stretches_take_neighbours_together_and_none_is_too_long() -> None:
    segments = [Segment(7.0 * i, 7.0 * i + 6.0) for i in range(12)]
    spans = list(_stretches(segments))
    assert [number for first, last in spans for number in range(first, last)] == list(range(12))
    assert all(segments[last - 1].end - segments[first].start <= STRETCH for first, last in spans) and len(spans) == 3
    assert list(_stretches([Segment(0.0, 40.0), Segment(50.0, 51.0)])) == [(0, 1), (1, 2)] and not list(_stretches([]))


def test_a_recording_without_a_transcript_is_labelled_with_recognized_text(
    trained: Path, whisper: Path, clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--model", str(trained), str(clip), "--asr", str(whisper), "--format", "json"]) == 0
    out, err = capfd.readouterr()
    (row,) = json.loads(out)
    assert WORDS.split()[0] in row["text"] and row["modalities"] == ["audio", "text"]
    assert row["language"] == "en" and f"{clip}: recognised text in 'en'" in err
    given = EmotionRecognizer.from_pretrained(trained).predict(clip, row["text"])[0]
    assert given.probabilities == row["probabilities"] and given.language is None


def test_a_given_transcript_replaces_recognition(trained: Path, whisper: Path, clip: Path) -> None:
    recognizer = EmotionRecognizer.from_pretrained(trained, asr=str(whisper))
    assert recognizer.predict(clip, "well")[0].text == "well"


def test_text_is_recognised_for_a_model_that_does_not_use_it(
    made: Any, short: Any, whisper: Path, clip: Path, tmp_path: Path
) -> None:
    """`--asr` did nothing, without a word: subtitles of a model of audio alone had no text."""
    train.train(short(train__epochs=1, model__modalities="[audio]"), made.data, tmp_path / "run")
    (row,) = EmotionRecognizer.from_pretrained(tmp_path / "run", asr=str(whisper)).predict(clip)
    assert row.text and row.modalities == ["audio"] and row.language == "en"


# ---------------------------------------------------------------- where nobody speaks


def noise(seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).normal(size=round(seconds * 16_000))).clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize("kind", ["silence", "noise", "tone"])
def test_where_nobody_speaks_the_model_does_not_run(
    recogniser: SpeechRecognizer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whisper's own answer to 28 s of white noise is 112 words; this model answers everything."""
    time = np.arange(20 * 16_000) / 16_000
    samples = {"silence": 0 * time, "noise": noise(20.0), "tone": 0.3 * np.sin(2 * np.pi * 440 * time)}[kind]
    monkeypatch.setattr(recogniser, "_model", None)  # it would be an error to ask it
    assert recogniser.recognize(samples.astype(np.float32)) == ([], None)


def test_long_pauses_are_cut_out_and_short_ones_stay(speech: np.ndarray) -> None:
    said, short, long = speech[: 3 * 16_000], noise(1.0) / 1000, noise(8.0) / 1000
    first, second = _spoken(np.concatenate([long, said, short, said, long, said, short]))
    assert 6.5 < first[0] / 16_000 < 8.0 and 15.0 < first[1] / 16_000 < 16.0  # speech from 8 to 15 s
    assert 21.5 < second[0] / 16_000 < 23.0 and second[1] == 27 * 16_000  # speech from 23 to 26 s
    assert _spoken(said) == [(0, len(said))]


def test_one_word_cut_tightly_is_kept_whole(speech: np.ndarray) -> None:
    """The network notices speech late where a recording begins in it: the first word of a conversation was lost."""
    for start in (0.3, 1.1, 2.0):
        word = speech[round(start * 16_000) : round((start + 0.4) * 16_000)]
        assert _spoken(word) == [(0, len(word))]


def test_words_get_their_times_before_pauses_were_cut_out() -> None:
    spoken = [(16_000, 48_000), (160_000, 192_000)]  # 1 to 3 s, and 10 to 12 s
    words = [Word(0.0, 0.5, " one"), Word(1.7, 2.2, " two"), Word(2.0, 2.4, " three"), Word(3.6, 4.2, " four")]
    restored = _restored(words, spoken)
    assert [each.text for each in restored] == [each.text for each in words]
    times = [time for each in restored for time in (each.start, each.end)]
    assert times == pytest.approx([1.0, 1.5, 2.7, 3.2, 10.0, 10.4, 11.6, 12.2])


# What whisper-base answered to 28 s of each, or to a clip: text, probability of no speech, logarithm of the text's
# probability, compression ratio.
INVENTED = {
    "white noise, -40 dB": (" 4-4-4-4-4-4-4-4-4-4-4-4-4-4-4-4", 0.98, -0.08, 17.15),
    "white noise, -6 dB": (" 1-2-3-4-4-4-4-4-4-4-4-4-4-4-4-4", 0.75, -0.08, 13.12),
    "white noise, -60 dB": ("...", 0.96, -0.84, 0.79),
}
SPOKEN = {
    "a conversation, behind which it repeated itself": (" I didn't know you were there.", 0.24, -0.23, 2.71),
    "a sentence of RAVDESS": (" Kids are talking by the door.", 0.41, -0.68, 0.78),
    "an interjection": (" No, no, no, no, no, no, no, no, no, no, no, no, no, no, no!", 0.3, -0.3, 3.1),
}


def part(text: str, no_speech: float, log_probability: float, compression: float) -> Any:
    """What faster-whisper returns."""
    kinds = pytest.importorskip("faster_whisper.transcribe", reason="the extra [asr] is not installed")
    words = [kinds.Word(float(i), i + 1.0, f" {word}", 0.5) for i, word in enumerate(text.split())]
    return kinds.Segment(
        *(0, 0, 0.0, 28.0, text, [], log_probability, compression, no_speech, words), temperature=0.0
    )  # fmt: skip


@pytest.mark.parametrize("answer", INVENTED)
def test_what_whisper_invents_in_noise_is_left_out(answer: str) -> None:
    assert plausible_words([part(*INVENTED[answer])]) == []


@pytest.mark.parametrize("answer", SPOKEN)
def test_what_was_said_stays(answer: str) -> None:
    text = SPOKEN[answer][0]
    assert "".join(word.text for word in plausible_words([part(*SPOKEN[answer])])) == text


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


def test_parts_of_different_models_are_one_line(whisper: Path, speech: np.ndarray, tmp_path: Path) -> None:
    """Such a model was loaded without complaint, and its first recording ended in a traceback."""
    mixed = tmp_path / "mixed"
    shutil.copytree(whisper, mixed)
    about = json.loads((mixed / "preprocessor_config.json").read_text())
    (mixed / "preprocessor_config.json").write_text(json.dumps({**about, "feature_size": 128}))
    with pytest.raises(ConfigError, match=r"--asr .*mixed: expected a complete Whisper model .*, found: Invalid input"):
        SpeechRecognizer(str(mixed)).transcribe(RecordingAudio("", speech), [Segment(0.0, 5.0)])


@pytest.mark.parametrize("count", [0, 1, 160, 319, 1599])
def test_audio_too_short_for_a_word_has_no_text(recogniser: SpeechRecognizer, speech: np.ndarray, count: int) -> None:
    """Ten milliseconds of audio ended the labelling of all recordings with a traceback of faster-whisper."""
    segments = [Segment(0.0, count / 16_000)]
    assert recogniser.transcribe(RecordingAudio("", speech[:count]), segments) == (segments, [[]], None)


def test_video_that_continues_after_the_audio_is_labelled(
    whisper: Path, trained: Path, speech: np.ndarray, tmp_path: Path
) -> None:
    """Recognition was run on a part without audio, and the whole recording was refused."""
    frames = (np.full((64, 64, 3), number % 256, np.uint8) for number in range(80))
    media.write_video(tmp_path / "a.mp4", frames, 4, speech[:48_000])
    recognizer = EmotionRecognizer.from_pretrained(trained, asr=str(whisper))
    found = recognizer.predict(tmp_path / "a.mp4", segments=[(0.0, 15.0), (15.0, 20.0)])
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


# ---------------------------------------------------------------- real weights

SHARED = Path(__file__).parents[2] / "shared" / "data"
SCRIPT = Path(__file__).parents[1] / "scripts" / "word_errors.py"


def measured(model: Path, *arguments: str) -> dict[str, list[float]]:
    """The figures of each row of the script's table."""
    done = subprocess.run([sys.executable, SCRIPT, model, *arguments], capture_output=True, text=True, check=True)
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    return {
        row[0]: [float(each) for each in re.findall(r"[+-]?\d+(?:\.\d+)?", row[-1])] for row in rows if len(row) > 1
    }


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the recordings of ../shared/data")
def test_real_speech_has_few_word_errors(faster_whisper_base: Path) -> None:
    conversation, ravdess = str(SHARED / "conversation"), str(SHARED / "ravdess/speech")
    options = ("--ravdess", ravdess, "--clips", "20", "--seconds", "0")
    found = measured(faster_whisper_base, "--conversation", conversation, *options)
    assert found["conversation"][0] <= 20 and found["RAVDESS, 20 clips"][0] <= 10
    assert found["time of words in turns"][0] >= 95 and abs(found["begin of turns"][0]) <= 0.2


@pytest.mark.slow
def test_real_weights_say_at_most_three_words_where_nobody_speaks(faster_whisper_base: Path) -> None:
    """WAVFUSION_SECONDS=600 for the ten minutes of silence, noise and a tone that the issue asks for."""
    found = measured(faster_whisper_base, "--seconds", os.environ.get("WAVFUSION_SECONDS", "150"))
    assert len(found) == 7 and all(words <= 3 for words, _ in found.values())
