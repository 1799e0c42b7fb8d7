"""Speech activity, held against a diarized conversation and against made probabilities."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wavfusion import media, transcripts
from wavfusion.speech import activity

CONVERSATION = Path(__file__).parents[2] / "shared" / "data" / "conversation"
real = pytest.mark.skipif(not CONVERSATION.is_dir(), reason="needs ../shared/data, which is not in the repository")


def utterances(speech):
    return [part for span in speech.spans for part in activity.cut(span, speech.probability)]


def marked(spans, end):
    """True where a span is, every millisecond."""
    found = np.zeros(round(1000 * end), bool)
    for span in spans:
        found[round(1000 * span.start) : round(1000 * span.end)] = True
    return found


@real
def test_silence_between_turns_is_not_speech():
    """Pauses of up to 0.42 s and 0.06 s after the last word counted as speech: 7.4 % of what was none."""
    truth = marked(transcripts.read(CONVERSATION / "sample.rttm"), 30.0)
    found = marked(activity.detect_speech(CONVERSATION / "sample.wav").spans, 30.0)
    assert (found & ~truth).sum() < 0.05 * (~truth).sum() and (truth & ~found).sum() < 0.002 * truth.sum()


@real
def test_a_conversation_s_speech_is_covered():
    truth = marked(transcripts.read(CONVERSATION / "sample.rttm"), 30.0)
    spans = utterances(activity.detect_speech(CONVERSATION / "sample.wav"))
    found = marked(spans, 30.0)
    assert (truth & found).sum() >= 0.995 * truth.sum()
    assert max(span.end - span.start for span in spans) <= activity.LONGEST


def test_finding_speech_leaves_nothing_in_the_home_and_sends_nothing(tmp_path):
    """Onnxruntime 1.32 began to send events to its maker when it was imported, and kept them in a database at home."""
    program = "import numpy; from wavfusion.speech import activity; activity.speech_probability([numpy.ones(512, 'f')])"
    cleared = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    subprocess.run([sys.executable, "-c", program], env={**cleared, "HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []


@real
def test_speech_is_found_as_well_in_stretches_as_in_one(monkeypatch):
    path = CONVERSATION / "sample.wav"
    whole = utterances(activity.detect_speech_in_samples(media.decode_audio(path).samples))
    monkeypatch.setattr(activity, "STRETCH", 100 * activity.STEP_SECONDS)
    assert np.allclose(np.array(utterances(activity.detect_speech(path))), np.array(whole), atol=activity.STEP_SECONDS)


def test_silence_has_no_utterance():
    assert utterances(activity.detect_speech_in_samples(np.zeros(32_000, np.float32))) == []


def test_nothing_at_all_has_no_utterance():
    assert utterances(activity.detect_speech_in_samples(np.zeros(0, np.float32))) == []


def test_a_stretch_without_any_sound_costs_the_network_no_time(monkeypatch):
    """A file of three seconds with two hours between its timestamps kept the network busy for two hours."""
    sound = (0.1 * np.random.default_rng(0).normal(size=16_000)).astype(np.float32)
    plain = activity.speech_probability([sound])
    still = np.zeros(960_000, np.float32)
    later = activity.speech_probability(iter([still, sound]))
    assert not later[:1875].any() and np.array_equal(later[1875:], plain)
    monkeypatch.setattr(activity, "_session", lambda: None)
    assert len(activity.speech_probability([still] * 10)) == 18_750


def test_looking_for_speech_leaves_torch_its_threads():
    """silero_vad's own import sets one thread for the whole process (trap T3)."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        utterances(activity.detect_speech_in_samples(np.zeros(1600, np.float32)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_breath_does_not_end_an_utterance():
    active = np.repeat([0.0, 0.9, 0.1, 0.9, 0.1, 0.9, 0.0], [10, 20, 5, 20, 30, 20, 10]).astype(np.float32)
    spans = activity.speech_spans(active, len(active) * activity.STEP_SECONDS)
    edges = [edge for span in spans for edge in span]
    before, after = activity.LEAD, activity.TAIL
    assert np.allclose(edges, np.array([10, 55, 85, 105]) * activity.STEP_SECONDS + [-before, after, -before, after])


def test_long_speech_is_cut_in_its_pause():
    """Smoothing padded the searched part with zeros, so speech seemed quiet at its edges: cut at 6.03 and 12.05 s."""
    times = np.arange(625) * activity.STEP_SECONDS
    probability = np.where((times >= 9.0) & (times < 9.35), 0.70, 0.99).astype(np.float32)
    parts = activity.cut(activity.Span(0.0, 20.0), probability)
    assert len(parts) == 2 and 9.0 < parts[0].end < 9.35


@given(active=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=600), longest=st.floats(2.0, 15.0))
def test_utterances_are_in_order_within_the_recording_and_none_is_too_long(active, longest):
    values = np.array(active, np.float32)
    end = len(values) * activity.STEP_SECONDS
    spans = [part for span in activity.speech_spans(values, end) for part in activity.cut(span, values, longest)]
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges) and all(0 <= edge <= end for edge in edges)
    assert all(0 < span.end - span.start <= longest + 1e-6 for span in spans)
