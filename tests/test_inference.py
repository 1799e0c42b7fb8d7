import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wavfusion.errors import ConfigError
from wavfusion.evaluation import evaluate
from wavfusion.evaluation.inference import Utterances, classify, parse_subset, subsets
from wavfusion.features.dataset import Sample, SampleOrigin
from wavfusion.model.wavfusion import WavFusionOutput
from wavfusion.runs.folder import read_run

pytest_plugins = ("corpus_fixture",)

PRIOR = [0.25, 0.75]
NAMES = ["audio", "text", "video"]


class Told(nn.Module):
    """Its probabilities are the means of the features, so that they can be counted by hand."""

    def forward(self, labels: Tensor | None = None, **inputs: Tensor | None) -> WavFusionOutput:
        means = []
        for name in NAMES:
            x, mask = inputs[name], inputs[f"{name}_mask"]
            if x is not None and mask is not None:
                means.append((x.sum(1) / mask.sum(1, keepdim=True).clamp(min=1), mask.any(1, keepdim=True)))
        total = sum(mean for mean, _ in means) / sum(there.float() for _, there in means).clamp(min=1)
        gates = [torch.full((len(total), 4, 2), 0.25)]
        steps = torch.ones(len(total), 4, dtype=torch.bool)
        return WavFusionOutput(torch.log(total.clamp(min=1e-9)), gates=gates, steps=steps)


def window(name: str, seconds: float, first: float, steps: int = 2, **rest: Any) -> Sample:
    """A window that says `first` for the first emotion."""
    return Sample(SampleOrigin(name, None, None, None, seconds), torch.tensor([[first, 1 - first]] * steps), **rest)


def said(samples: list[Sample], modalities: list[str] | None = None) -> Utterances:
    return classify(Told(), samples, modalities or NAMES, PRIOR)


def test_windows_are_averaged_by_their_length() -> None:
    found = said([window("a", 15.0, 0.8), window("a", 5.0, 0.4)])
    assert found.probabilities.round(6).tolist() == [[0.7, 0.3]]


def test_a_window_without_evidence_has_no_say() -> None:
    silent = Sample(SampleOrigin("a", None, None, None, 15.0))
    assert said([silent, window("a", 5.0, 0.4)]).probabilities.round(6).tolist() == [[0.4, 0.6]]


def test_an_utterance_without_evidence_has_the_prior() -> None:
    found = said([Sample(SampleOrigin("a", None, None, None, 3.0)), window("b", 1.0, 0.4)])
    assert found.probabilities.round(6).tolist() == [PRIOR, [0.4, 0.6]]


def test_a_batch_without_evidence_has_the_prior() -> None:
    assert said([Sample(SampleOrigin("a", None, None, None, 3.0))]).probabilities.tolist() == [PRIOR]


def test_a_transcript_alone_has_a_say() -> None:
    lone = Sample(SampleOrigin("a", None, None, None, 0.0), text=torch.tensor([[0.9, 0.1]]))
    assert said([lone]).probabilities.round(6).tolist() == [[0.9, 0.1]]


def test_only_the_modalities_asked_for_are_used() -> None:
    both = window("a", 1.0, 0.2, text=torch.tensor([[0.9, 0.1]]))
    assert said([both], ["text"]).probabilities.round(6).tolist() == [[0.9, 0.1]]


def test_present_modalities_are_named_in_their_order() -> None:
    both = window("a", 1.0, 0.2, text=torch.tensor([[0.9, 0.1]]))
    assert said([both, window("b", 1.0, 0.5)]).modalities == [["audio", "text"], ["audio"]]


def test_text_share_is_told_only_where_text_met_video() -> None:
    text, video = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]])
    found = said([window("a", 1.0, 0.2, text=text, video=video), window("b", 1.0, 0.2, text=text)])
    assert found.text_share == [pytest.approx(0.25), None]


def test_all_seven_subsets_begin_with_the_single_ones() -> None:
    found = ["+".join(names) for names in subsets(NAMES)]
    assert found == ["audio", "text", "video", "audio+text", "audio+video", "text+video", "audio+text+video"]


@pytest.mark.parametrize("text", ["video,audio", "audio+video", "audio,video"])
def test_a_subset_is_read_in_the_usual_order(text: str) -> None:
    assert parse_subset(text, NAMES) == ["audio", "video"]


def test_an_unknown_modality_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'audio'"):
        parse_subset("audo", NAMES)


# ------------------------------------------------------------------ a real model


@pytest.fixture(scope="module")
def model(trained: Path) -> Any:
    return read_run(trained)


@pytest.fixture(scope="module")
def samples(model: Any, made: Any) -> list[Sample]:
    found = evaluate.samples_of(
        model, made.data.part("test") + made.data.part("valid"), made.data.store, made.data.media
    )
    return [found[i] for i in range(len(found))]


def test_the_order_of_samples_changes_nothing(model: Any, samples: list[Sample]) -> None:
    shuffled = samples[:]
    random.Random(0).shuffle(shuffled)
    one, other = (classify(model.model, rows, NAMES, model.prior) for rows in (samples, shuffled))
    rows = [other.ids.index(name) for name in one.ids]
    np.testing.assert_allclose(other.probabilities[rows], one.probabilities, atol=1e-5)


@pytest.mark.parametrize("modalities", subsets(NAMES), ids="+".join)
def test_a_sample_alone_is_called_as_in_a_batch(model: Any, samples: list[Sample], modalities: list[str]) -> None:
    together = classify(model.model, samples[3:9], modalities, model.prior).probabilities
    alone = [classify(model.model, [sample], modalities, model.prior).probabilities[0] for sample in samples[3:9]]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)


def test_leaving_a_modality_out_equals_a_sample_without_it(model: Any, samples: list[Sample]) -> None:
    cut = [replace(sample, video=None) for sample in samples[:4]]
    np.testing.assert_allclose(
        classify(model.model, samples[:4], ["audio", "text"], model.prior).probabilities,
        classify(model.model, cut, NAMES, model.prior).probabilities,
        atol=1e-5,
    )


def test_probabilities_add_up_to_one(model: Any, samples: list[Sample]) -> None:
    np.testing.assert_allclose(classify(model.model, samples, NAMES, model.prior).probabilities.sum(1), 1, atol=1e-6)
