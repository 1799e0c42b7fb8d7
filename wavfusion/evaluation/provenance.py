"""Training corpora of public checkpoints: an encoder that was trained on the test corpus is contaminated."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Contamination = Literal["yes", "no", "unknown"]

CHECKED = "2026-11"  # when the sources were read


@dataclass(frozen=True)
class Provenance:
    """The corpora that a checkpoint was trained on, according to `source`."""

    corpora: tuple[str, ...]
    source: str


_CARD = "its model card"
_IEMOCAP = Provenance(("iemocap",), _CARD)
_RAVDESS = Provenance(("ravdess",), _CARD)
_MELD = Provenance(("meld", "goemotions", "isear", "semeval-2018"), f"{_CARD}, appendix")
_LIBRISPEECH = Provenance(("librispeech",), f"{_CARD} and paper (arXiv 2006.11477, 2106.07447, 2110.13900)")
_ROBERTA = Provenance(("bookcorpus", "wikipedia", "cc-news", "openwebtext", "stories"), "arXiv 1907.11692")
_IMAGENET = Provenance(("imagenet-1k",), _CARD)

# By hub id in lower case; `tiny` is ours. Any other checkpoint is unknown.
CHECKPOINTS: dict[str, Provenance] = {
    "tiny": Provenance(("random tensors", "drawn faces without emotions"), "encoders/tiny.py, scripts/tiny_video.py"),
    "facebook/wav2vec2-base": _LIBRISPEECH,
    "facebook/wav2vec2-base-960h": _LIBRISPEECH,
    "facebook/hubert-base-ls960": _LIBRISPEECH,
    "microsoft/wavlm-base": _LIBRISPEECH,
    "roberta-base": _ROBERTA,
    "facebookai/roberta-base": _ROBERTA,
    "roberta-large": _ROBERTA,
    "facebookai/roberta-large": _ROBERTA,
    "google/efficientnet-b0": _IMAGENET,
    "superb/wav2vec2-base-superb-er": _IEMOCAP,
    "superb/wav2vec2-large-superb-er": _IEMOCAP,
    "superb/hubert-base-superb-er": _IEMOCAP,
    "superb/hubert-large-superb-er": _IEMOCAP,
    "speechbrain/emotion-recognition-wav2vec2-iemocap": _IEMOCAP,
    "ehcalabres/wav2vec2-lg-xlsr-en-speech-emotion-recognition": _RAVDESS,
    "yassmen/wav2vec2_fine_tuned_on_ravdess_2_speech_emotion_recognition": _RAVDESS,
    "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim": Provenance(
        ("libri-light", "common voice", "switchboard", "fisher", "msp-podcast"), _CARD
    ),
    "firdhokk/speech-emotion-recognition-with-openai-whisper-large-v3": Provenance(("ravdess", "savee", "tess"), _CARD),
    "j-hartmann/emotion-english-distilroberta-base": _MELD,
    "j-hartmann/emotion-english-roberta-large": _MELD,
}


def trained_on(checkpoint: str, corpora: Iterable[str]) -> Contamination:
    """Tell whether a checkpoint was trained on one of the corpora; `unknown` if its training data are."""
    known = CHECKPOINTS.get(checkpoint.lower())
    if known is None:
        return "unknown"
    return "yes" if set(known.corpora) & set(corpora) else "no"
