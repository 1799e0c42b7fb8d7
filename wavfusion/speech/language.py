"""Language identification of text, by the model in py3langid's package."""

from functools import cache
from typing import Any

MIN_LETTERS = 20
MIN_PROBABILITY = 0.9


def language_of(text: str) -> tuple[str, float] | None:
    """Identify the language (ISO 639-1) with its probability; None for fewer letters or a lower probability."""
    if sum(letter.isalpha() for letter in text) < MIN_LETTERS:
        return None
    code, probability = _identifier().classify(text)
    return (str(code), float(probability)) if probability >= MIN_PROBABILITY else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
