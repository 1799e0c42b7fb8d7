"""Which language a text is in, by a table of byte sequences that lies in py3langid's package."""

from functools import cache
from typing import Any

ENOUGH = 20  # letters; of fewer nothing is said
SURE = 0.9  # probability, below which nothing is said


def language_of(text: str) -> tuple[str, float] | None:
    """The language (ISO 639-1) and its probability; None of too few letters, or where it is not sure."""
    if sum(letter.isalpha() for letter in text) < ENOUGH:
        return None
    code, probability = _identifier().classify(text)
    return (str(code), float(probability)) if probability >= SURE else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
