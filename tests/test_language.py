"""A text in another language than the training's is said, with its probability."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.runs.folder import read_run, write_model
from wavfusion.speech.language import language_of

pytest_plugins = ("corpus_fixture",)

SAID = {
    "en": "I can't believe it! You said that you would be there.",
    "de": "Das glaube ich dir nicht, du warst doch gar nicht da.",
    "fr": "Je ne sais pas quoi te dire, c'est incroyable.",
    "es": "No puedo creer que no me lo hayas dicho antes.",
    "ja": "本当にそんなことを言ったの？信じられないよ、まったくもう。",
    "he": "אני לא מאמין שאמרת לו את זה אתמול בערב",
}


@pytest.mark.parametrize(("code", "text"), SAID.items())
def test_a_sentence_s_language_is_found(code: str, text: str) -> None:
    found = language_of(text)
    assert found is not None and found[0] == code and 0.9 <= found[1] <= 1


@pytest.mark.parametrize("text", ["", "oh yeah", "no!", "12345 67890 12345 67890", "okay um well"])
def test_of_a_few_words_nothing_is_said(text: str) -> None:
    assert language_of(text) is None


def said(recognizer: EmotionRecognizer, clip: Path, text: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "wavfusion"):
        recognizer.predict(clip, text)
    return [line for line in caplog.messages if "its text is in" in line]


def test_another_language_than_the_training_s_is_said_with_its_number(
    trained: Path, made: Any, caplog: pytest.LogCaptureFixture
) -> None:
    recognizer, clip = EmotionRecognizer.from_pretrained(trained), made.root / "clips/test00.mp4"
    assert said(recognizer, clip, SAID["de"], caplog) == []  # its manifest tells no language
    recognizer.trained = replace(recognizer.trained, languages=["en"])
    (line,) = said(recognizer, clip, SAID["de"], caplog)
    assert "test00.mp4: its text is in 'de' (probability 1.000), the model was trained on en" in line
    assert said(recognizer, clip, SAID["en"], caplog) == said(recognizer, clip, "oh yeah", caplog) == []


def test_languages_are_kept_in_the_run(trained: Path, tmp_path: Path) -> None:
    run = read_run(trained)
    for path in trained.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    write_model(replace(run, folder=tmp_path, languages=["de", "en"]), run.encoders())
    assert read_run(tmp_path).languages == ["de", "en"] and run.languages == []
