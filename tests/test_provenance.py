import pytest

from wavfusion.corpora.emotions import EMOTIONS
from wavfusion.encoders.presets import PRESETS
from wavfusion.evaluation.provenance import CHECKPOINTS, trained_on


@pytest.mark.parametrize(
    ("checkpoint", "corpus", "expected"),
    [
        ("superb/wav2vec2-base-superb-er", "iemocap", "yes"),
        ("superb/wav2vec2-base-superb-er", "meld", "no"),
        ("Speechbrain/emotion-recognition-wav2vec2-IEMOCAP", "iemocap", "yes"),
        ("j-hartmann/emotion-english-distilroberta-base", "meld", "yes"),
        ("somebody/else", "iemocap", "unknown"),
        ("models/my-wav2vec2", "iemocap", "unknown"),
    ],
)
def test_a_checkpoint_is_known_to_have_met_a_corpus_or_not_or_unknown(checkpoint, corpus, expected):
    assert trained_on(checkpoint, [corpus]) == expected


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS.keys())
@pytest.mark.parametrize("modality", ["audio", "text", "video"])
def test_the_encoders_of_a_preset_have_met_none_of_the_corpora(preset, modality):
    """As far as it is known: Whisper's 680,000 hours of the web are listed nowhere."""
    checkpoint = getattr(preset, modality)
    unlisted = checkpoint in ("openai/whisper-base", "sentence-transformers/all-MiniLM-L6-v2")
    assert trained_on(checkpoint, EMOTIONS) == ("unknown" if unlisted else "no")


def test_checkpoints_are_listed_in_the_case_that_they_are_looked_up_in():
    assert [name for name in CHECKPOINTS if name != name.lower()] == []
