import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavfusion import manifest
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.features import dataset, extract
from wavfusion.features.batches import LengthBatches, collate, model_inputs
from wavfusion.features.clips import Media
from wavfusion.features.dataset import Features, Sample, SampleOrigin, choose_features, model_config, window_text
from wavfusion.features.store import Store
from wavfusion.manifest import Utterance
from wavfusion.model.config import Switches
from wavfusion.training import train

pytest_plugins = ("corpus_fixture",)

CLASSES = ["angry", "happy"]
ROW = SampleOrigin("a", None, None, None, 1.0)


def sample(audio: int | None = None, text: int | None = None, label: int | list[float] | None = 0) -> Sample:
    return Sample(
        ROW,
        audio=None if audio is None else torch.ones(audio, 4).half(),
        text=None if text is None else torch.ones(3, text, 2).half(),
        label=label,
    )


@pytest.fixture(scope="module")
def features(made: Any) -> Any:
    def build(part: str | None = "test", switches: Switches | None = None, **rest: Any) -> Features:
        data: train.Data = made.data
        found = choose_features(data.store, None)
        config = model_config(switches or Switches(), found, data.protocol.classes)
        rows = data.part(part) if part else list(data.utterances)
        return Features(rows, data.store, data.media, found, config, **rest)

    return build


# ------------------------------------------------------------------ what the store gives


def test_the_only_preset_of_a_store_needs_no_name(made: Any) -> None:
    assert choose_features(made.data.store, None).preset == "tiny"


def test_a_preset_that_was_not_extracted_is_refused_with_those_that_were(made: Any) -> None:
    with pytest.raises(ConfigError, match=r"'base'.*found tiny"):
        choose_features(made.data.store, "base")


def test_sizes_of_the_model_are_those_of_the_encoders(made: Any) -> None:
    config = model_config(Switches(), choose_features(made.data.store, None), CLASSES)
    assert (config.hidden_size, config.text_size, config.num_text_layers, config.num_layers) == (64, 64, 1, 12)


def test_a_modality_without_features_is_refused_with_the_remedy(made: Any) -> None:
    found = replace(choose_features(made.data.store, None), video=None)
    with pytest.raises(ConfigError, match="'tiny' for audio, text; give --model.modalities audio,text, or extract"):
        model_config(Switches(), found, CLASSES)


def test_a_modality_that_no_utterance_has_is_known(features: Any, made: Any) -> None:
    data = made.data
    rows = [replace(row, video=None) for row in data.part("train")]
    found = choose_features(data.store, None)
    config = model_config(Switches(), found, data.protocol.classes)
    assert Features(rows, data.store, data.media, found, config).absent() == ["video"]


def test_an_audio_layer_that_was_not_extracted_is_named(features: Any) -> None:
    with pytest.raises(CorpusError, match=r"audio of layer 8 .*--layers 8"):
        features(switches=Switches(trainable_layers=4))


def test_weighted_audio_layers_that_were_not_extracted_are_named(made: Any) -> None:
    found = choose_features(made.data.store, None)
    with pytest.raises(ConfigError, match=r"expected layer 9 and others below .* found \[9\]; extract --layers 0,1,2"):
        model_config(Switches(audio_layers="weighted"), found, CLASSES)


def test_weighted_audio_layers_are_stacked_in_their_order(made: Any, tmp_path: Any) -> None:
    data, store = made.data, Store(tmp_path / "store", create=True)
    rows, about = data.part("test")[:3], manifest.read_corpus(made.manifest)
    extract.extract(rows, about, store, made.encoders, audio_layers=[4, 9, 10], workers=1)
    found = choose_features(store, None)
    config = model_config(Switches(audio_layers="weighted"), found, CLASSES)
    assert (config.weighted_layers, config.input_layer) == ([4, 9], 9)
    samples = Features(rows, store, Media(store, about.root, about.root), found, config)
    keys = samples._clip(samples._places[0]).audio.keys
    assert torch.equal(samples[0].audio, torch.stack([store.read(keys[layer]) for layer in (4, 9)]))


def test_an_utterance_that_was_not_extracted_is_named(features: Any, made: Any) -> None:
    data = made.data
    new = replace(data.part("test")[0], id="new", text="words that nobody has encoded")
    found = choose_features(data.store, None)
    config = model_config(Switches(), found, data.protocol.classes)
    with pytest.raises(CorpusError, match=r"text features of 'new'.*run extract"):
        Features([new], data.store, data.media, found, config)


def test_rows_know_dialogue_position_and_speaker(features: Any) -> None:
    row = features()[1].row
    assert (row.id, row.dialogue, row.index, row.speaker) == ("test01", "test-0", 1, "test-1")


def test_a_sample_holds_what_the_store_holds(features: Any, made: Any) -> None:
    samples = features()
    key = samples._clip(samples._places[0]).audio.keys[9]
    assert torch.equal(samples[0].audio, Store(made.store).read(key))


def test_absent_modalities_are_none(features: Any) -> None:
    heard_and_read, seen_only = features()[5], features()[6]
    assert heard_and_read.video is None and seen_only.text is None and seen_only.video is not None


def test_a_modality_of_the_store_that_the_model_lacks_is_not_read(features: Any) -> None:
    assert features(switches=Switches(modalities=["audio"]))[0].video is None


def test_training_takes_the_first_window_of_a_long_utterance(features: Any) -> None:
    assert [i for i in features(first_window=True).lengths() if i > 2] == [15.0]


def test_otherwise_all_windows_are_taken(features: Any) -> None:
    assert [i for i in features().lengths() if i > 1] == [15.0, pytest.approx(2.0, abs=0.01)]


def test_emotions_are_numbered_in_class_order(features: Any, made: Any) -> None:
    emotions = features().emotions()
    assert all(made.data.protocol.classes[emotions[row.id]] == row.emotion for row in made.data.part("test"))


def test_an_utterance_without_an_emotion_has_no_label(features: Any) -> None:
    samples = features(None)
    labels = {samples[i].row.id: samples[i].label for i in range(len(samples))}
    assert [name for name, label in labels.items() if label is None] == ["unlabelled"]


def test_class_counts_add_up_to_the_labelled_windows(features: Any, made: Any) -> None:
    assert features("train").class_counts() == [6, 6, 6, 6]


def test_a_live_sample_holds_the_waveform_instead_of_features(features: Any) -> None:
    found = features(live=True)[0]
    assert found.audio is None and len(found.waveform) == pytest.approx(round(features().lengths()[0] * 16_000), abs=2)


def test_waveforms_that_live_training_keeps_are_bounded(features: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every waveform was kept, so that memory grew with the corpus."""
    kept = features(live=True)
    unbounded = [kept[i].waveform for i in range(len(kept))]
    monkeypatch.setattr(dataset, "LIVE_BYTES", 60_000)
    bounded = features(live=True)
    again = [bounded[i].waveform for _ in range(2) for i in range(len(bounded))]
    assert all(map(same_waveform, again, 2 * unbounded))
    assert 0 < sum(x.nbytes for x in bounded._waveforms.values() if x is not None) <= 60_000


def same_waveform(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def test_a_training_utterance_without_any_modality_is_left_out(features: Any, made: Any) -> None:
    """A batch of such utterances alone cannot be run."""
    data = made.data
    bare = replace(data.part("train")[0], id="bare", audio=None, video=None, text=None)
    found = choose_features(data.store, None)
    config = model_config(Switches(), found, data.protocol.classes)
    kept = Features([bare, data.part("train")[1]], data.store, data.media, found, config, first_window=True)
    assert [kept[i].row.id for i in range(len(kept))] == ["train01"]


def test_undecodable_sound_is_absent_from_live_training(features: Any, made: Any, tmp_path: Any) -> None:
    """A file whose header is whole and whose samples are not ended the training."""
    data = made.data
    (tmp_path / "clips").mkdir()
    for row in data.part("train")[:2]:
        name = f"clips/{row.id}.mp4"
        content = (made.root / name).read_bytes()
        (tmp_path / name).write_bytes(content if row.id == "train01" else bad_samples(content))
    found = choose_features(data.store, None)
    config = model_config(Switches(modalities=["audio"]), found, data.protocol.classes)
    moved = Media(data.store, tmp_path, "moved")
    kept = Features(data.part("train")[:2], data.store, moved, found, config, first_window=True, live=True)
    assert [kept[i].row.id for i in range(len(kept))] == ["train01"]


def bad_samples(content: bytes) -> bytes:
    """An mp4 whose media data are noise."""
    start = content.index(b"mdat") + 4
    end = content.index(b"moov") - 4 if content.index(b"moov") > start else len(content)
    return content[:start] + bytes(i * 37 % 256 for i in range(end - start)) + content[end:]


# ------------------------------------------------------------------ labels


def test_soft_labels_are_the_shares_of_the_known_emotions() -> None:
    row = Utterance("a", "table", emotion="happy", votes={"happy": 0.5, "angry": 0.25, "bored": 0.25})
    assert dataset.soft_label(row, CLASSES) == pytest.approx([1 / 3, 2 / 3])


@pytest.mark.parametrize("votes", [None, {}, {"bored": 1.0}])
def test_soft_labels_without_a_vote_are_the_label(votes: dict[str, float] | None) -> None:
    assert dataset.soft_label(Utterance("a", "table", emotion="happy", votes=votes), CLASSES) == [0.0, 1.0]


# ------------------------------------------------------------------ windows of text


def test_text_of_a_whole_utterance_is_left_as_it_is() -> None:
    text = torch.ones(3, 2)
    assert window_text(text, (0.0, 1.0)) is text


def test_no_text_stays_no_text() -> None:
    assert window_text(None, (0.0, 0.5)) is None


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(15.1, 100.0), st.booleans())
def test_windows_of_text_cover_every_token(tokens: int, seconds: float, layers: bool) -> None:
    from wavfusion.features.clips import windows

    text = torch.arange(tokens)[:, None].float()
    text = text.expand(2, tokens, 1) if layers else text
    seen = [window_text(text, (w.start / seconds, w.end / seconds)) for w in windows(seconds)]
    found = {int(value) for part in seen if part is not None for value in part.flatten()}
    assert found == set(range(tokens))


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0, 0.99), st.floats(0.001, 1))
def test_a_window_has_at_least_one_token(tokens: int, start: float, length: float) -> None:
    part = window_text(torch.ones(tokens, 2), (start, min(1.0, start + length)))
    assert part is not None and 1 <= len(part) <= math.ceil(length * tokens) + 1


# ------------------------------------------------------------------ batches


def test_padding_is_zero_and_masked() -> None:
    batch = collate([sample(audio=3), sample(audio=5)])
    assert batch["audio_mask"].sum(1).tolist() == [3, 5] and batch["audio"][0, 3:].abs().sum() == 0


def test_an_absent_modality_of_one_sample_is_an_empty_mask() -> None:
    batch = collate([sample(audio=3), sample(text=4)])
    assert not batch["audio_mask"][1].any() and batch["text_mask"].sum(1).tolist() == [0, 4]


def test_a_modality_that_no_sample_has_is_none() -> None:
    batch = collate([sample(audio=3)])
    assert batch["video"] is None and batch["video_mask"] is None


def test_layers_of_text_keep_their_axis() -> None:
    assert collate([sample(text=2), sample(text=4)])["text"].shape == (2, 3, 4, 2)


def test_features_leave_the_store_in_full_precision() -> None:
    assert collate([sample(audio=3)])["audio"].dtype == torch.float32


def test_soft_labels_are_a_table() -> None:
    assert collate([sample(audio=1, label=[0.25, 0.75])] * 2)["labels"].shape == (2, 2)


def test_a_sample_without_a_label_takes_the_labels_of_its_batch_away() -> None:
    assert collate([sample(audio=1), sample(audio=1, label=None)])["labels"] is None


def test_modalities_that_were_not_chosen_are_none() -> None:
    inputs = model_inputs(collate([sample(audio=3, text=2)]), ["text"], "cpu")
    assert inputs["audio"] is None and inputs["audio_mask"] is None and inputs["text"].shape == (1, 3, 2, 2)


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 15), min_size=1, max_size=200), st.integers(1, 9), st.integers(0, 5), st.integers(0, 40))
def test_an_epoch_takes_every_sample_once(lengths: list[float], batch_size: int, seed: int, epoch: int) -> None:
    sampler = LengthBatches(lengths, batch_size, seed)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths))) and len(sampler) == len(lengths)


def order(seed: int, epoch: int) -> list[int]:
    sampler = LengthBatches([1.0 + i % 7 for i in range(300)], 8, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_seed_and_epoch_decide_the_order() -> None:
    assert order(1, 4) == order(1, 4)


@pytest.mark.parametrize("other", [(1, 5), (2, 4)])
def test_another_epoch_or_seed_has_another_order(other: tuple[int, int]) -> None:
    assert order(1, 4) != order(*other)


def test_neighbours_have_similar_lengths() -> None:
    lengths = torch.rand(512, generator=torch.Generator().manual_seed(0)).tolist()
    batches = torch.tensor([lengths[i] for i in LengthBatches(lengths, 8, 0)]).view(-1, 8)
    assert (batches.amax(1) - batches.amin(1)).mean() < 0.15
