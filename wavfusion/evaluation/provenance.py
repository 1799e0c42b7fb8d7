"""Training corpora of public checkpoints: an encoder that was trained on the test corpus is contaminated."""

from collections.abc import Iterable
from typing import Literal

# According to their model cards, read in 2026-11, and to the papers named here.
_LIBRISPEECH = ("librispeech",)  # arXiv 2006.11477, 2106.07447, 2110.13900
_ROBERTA = ("bookcorpus", "wikipedia", "cc-news", "openwebtext", "stories")  # arXiv 1907.11692
_MELD = ("meld", "goemotions", "isear", "semeval-2018")  # the card's appendix
_MSP = ("libri-light", "common voice", "switchboard", "fisher", "msp-podcast")
_IEMOCAP, _RAVDESS = ("iemocap",), ("ravdess",)

# By hub id in lower case; `tiny` is ours. Any other checkpoint is unknown.
CHECKPOINTS: dict[str, tuple[str, ...]] = {
    "tiny": ("random tensors", "drawn faces without emotions"),  # encoders/tiny.py, scripts/tiny_video.py
    "facebook/wav2vec2-base": _LIBRISPEECH,
    "facebook/wav2vec2-base-960h": _LIBRISPEECH,
    "facebook/hubert-base-ls960": _LIBRISPEECH,
    "microsoft/wavlm-base": _LIBRISPEECH,
    "roberta-base": _ROBERTA,
    "facebookai/roberta-base": _ROBERTA,
    "roberta-large": _ROBERTA,
    "facebookai/roberta-large": _ROBERTA,
    "google/efficientnet-b0": ("imagenet-1k",),
    "superb/wav2vec2-base-superb-er": _IEMOCAP,
    "superb/wav2vec2-large-superb-er": _IEMOCAP,
    "superb/hubert-base-superb-er": _IEMOCAP,
    "superb/hubert-large-superb-er": _IEMOCAP,
    "speechbrain/emotion-recognition-wav2vec2-iemocap": _IEMOCAP,
    "ehcalabres/wav2vec2-lg-xlsr-en-speech-emotion-recognition": _RAVDESS,
    "yassmen/wav2vec2_fine_tuned_on_ravdess_2_speech_emotion_recognition": _RAVDESS,
    "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim": _MSP,
    "firdhokk/speech-emotion-recognition-with-openai-whisper-large-v3": ("ravdess", "savee", "tess"),
    "j-hartmann/emotion-english-distilroberta-base": _MELD,
    "j-hartmann/emotion-english-roberta-large": _MELD,
}


def trained_on(checkpoint: str, corpora: Iterable[str]) -> Literal["yes", "no", "unknown"]:
    """Tell whether a checkpoint was trained on one of the corpora; `unknown` if its training data are."""
    known = CHECKPOINTS.get(checkpoint.lower())
    if known is None:
        return "unknown"
    return "yes" if set(known) & set(corpora) else "no"
