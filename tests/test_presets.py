"""Presets that a person writes, how deep their models are, and the families that `wavfusion encoders` lists."""

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml

from wavfusion import manifest
from wavfusion.cli.app import main
from wavfusion.encoders import video, wav2vec2, whisper
from wavfusion.encoders.bundle import Encoders, load_encoders
from wavfusion.encoders.families import FAMILIES, RANDOM
from wavfusion.encoders.presets import PRESETS, Preset, read_preset
from wavfusion.encoders.wav2vec2 import Wav2Vec2Encoder
from wavfusion.encoders.whisper import WhisperEncoder
from wavfusion.errors import ConfigError
from wavfusion.experiments import experiment
from wavfusion.features.dataset import choose_layers, model_config
from wavfusion.features.encode import describe_features
from wavfusion.features.extract import shipped_layers
from wavfusion.features.store import FeatureSet
from wavfusion.model.config import Switches, WavFusionConfig
from wavfusion.model.wavfusion import WavFusion
from wavfusion.runs.folder import read_run
from wavfusion.study.tables import read_table_file
from wavfusion.study.trainings import Study, plan_trainings
from wavfusion.training import train

pytest_plugins = ("corpus_fixture", "real")

LAYERS = ("fusion_layers", "trainable_layers", "margin_audio_layer")
MODEL = {"d_model": 32, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "vocab_size": 60, "decoder_layers": 1}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}


def small_whisper(depth: int) -> WhisperEncoder:
    torch.manual_seed(0)
    config = transformers.WhisperConfig(encoder_layers=depth, decoder_attention_heads=4, **MODEL, **TOKENS)
    return WhisperEncoder(transformers.WhisperModel(config).eval(), {}, "small whisper")


def small_hubert(depth: int) -> Wav2Vec2Encoder:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "conv_dim": (16,) * 7}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    config = transformers.HubertConfig(num_hidden_layers=depth, **sizes, **positions)
    return Wav2Vec2Encoder(transformers.HubertModel(config).eval(), {}, "small hubert")


def written(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def depths(switches: Switches) -> tuple[int | None, ...]:
    return tuple(getattr(switches, name) for name in LAYERS)


# ---------------------------------------------------------------- what a file says


def test_a_file_with_an_audio_encoder_alone_has_the_paper_s_others(tmp_path: Path) -> None:
    found = read_preset(written(tmp_path, "audio: openai/whisper-base"))
    assert found == PRESETS["whisper"] and (found.text, found.video) == (PRESETS["base"].text, PRESETS["base"].video)


def test_an_empty_preset_is_base(tmp_path: Path) -> None:
    assert read_preset(written(tmp_path, "")) == PRESETS["base"]


def test_the_other_encoders_of_such_a_file_are_loaded_only_where_they_are_used(tmp_path: Path) -> None:
    """No hub is reached here: loading RoBERTa would fail."""
    loaded = load_encoders("mine", read_preset(written(tmp_path, "audio: tiny")), ["audio"])
    assert list(loaded.loaded) == ["audio"]


@pytest.mark.parametrize(
    ("text", "used"), [("4 + 2", (6, 2)), ("5+1", (6, 1)), ("0 + 6", (6, 6)), ("3 + 1", (4, 1)), ("0 + 1", (1, 1))]
)
def test_a_preset_says_how_many_layers_are_used_and_how_many_of_them_are_deep(
    tmp_path: Path, text: str, used: tuple[int, int]
) -> None:
    assert read_preset(written(tmp_path, f"layers: {text}")).used_layers(6) == used


def test_a_model_has_the_layers_in_use_and_no_others() -> None:
    """With `layers: 3 + 1` of six the two highest are left out."""
    encoder = small_whisper(6)
    encoders = Encoders("mine", Preset("small whisper", layers="3 + 1"), encoder)
    assert shipped_layers(encoders) == [3]
    config = model_config(Switches(modalities=["audio"]), describe_features(encoders, [3], []), ["happy", "sad"])
    model = WavFusion(config)
    model.load_pretrained(encoder.transformer())
    assert (config.input_layer, len(model.layers)) == (3, 1)
    taken = model.layers[0].state_dict()["feed_forward.output_dense.weight"]
    assert torch.equal(taken, encoder.transformer()["layers.3.feed_forward.output_dense.weight"])


@pytest.mark.parametrize("text", ["6", "9 - 3", "4 + 2 + 0", "12 + 0", "-1 + 4", "[4, 2]", "four + two", "9999 + 1"])
def test_layers_in_other_words_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"'layers': expected unfused \+ deep layers, such as 9 \+ 3 or null, found"):
        read_preset(written(tmp_path, f"layers: {text}"))


def test_more_layers_than_the_checkpoint_has_are_one_line() -> None:
    encoders = Encoders("mine", Preset("small whisper", layers="9 + 3"), small_whisper(6))
    with pytest.raises(ConfigError) as caught:
        describe_features(encoders, [], [])
    assert str(caught.value) == (
        "layers: expected at most the 6 of audio encoder 'small whisper', such as 4 + 2, found 9 + 3, which are 12"
    )


@pytest.mark.parametrize(
    ("depth", "deep"), [(1, 1), (2, 1), (3, 1), (4, 1), (6, 2), (8, 2), (12, 3), (16, 4), (24, 6), (32, 8)]
)
def test_without_layers_a_quarter_is_deep_as_in_the_paper(depth: int, deep: int) -> None:
    assert Preset().used_layers(depth) == (depth, deep)


# ---------------------------------------------------------------- from the checkpoint's depth to a model


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, (3, 3, 9)),
        ({"fusion_layers": 1, "trainable_layers": 1}, (1, 1, 11)),
        ({"fusion_layers": 4, "trainable_layers": 4}, (4, 4, 8)),
        ({"trainable_layers": 4}, (3, 4, 9)),
        ({"fusion_layers": 1, "margin_audio_layer": 9}, (1, 3, 9)),
        ({"fusion": "concat", "trainable_layers": 0}, (3, 0, 9)),
        ({"modalities": ["audio"]}, (3, 3, 9)),
        ({"fusion": "mult"}, (3, 3, 9)),
    ],
)
def test_the_margin_loss_is_fed_by_the_last_layer_that_does_not_fuse(settings: Any, found: tuple[int, ...]) -> None:
    assert depths(Switches(**settings).with_layers(12, 3)) == found


def test_of_a_store_without_audio_or_of_an_older_version_the_layers_are_the_paper_s() -> None:
    about = FeatureSet("x", frame_rate=5.0, pretrained_rate=1e-5, new_rate=2e-4)
    older = dataclasses.replace(about, audio={"num_layers": 24})
    assert [depths(choose_layers(Switches(), each)) for each in (about, older)] == [(3, 3, 9), (3, 3, 21)]


@pytest.mark.parametrize("name", experiment.shipped_experiments())
@pytest.mark.parametrize("depth", [2, 4, 6, 12, 24])
def test_extract_stores_what_the_shipped_experiments_start_from(name: str, depth: int) -> None:
    """A whole pass over 24 layers stored layer 9 alone; training on audio wanted layer 21."""
    tiny = load_encoders("tiny", PRESETS["tiny"])
    encoders = dataclasses.replace(tiny, audio=copy.copy(tiny.audio))
    encoders.audio.num_layers = depth
    features = describe_features(encoders, layers := shipped_layers(encoders), ["last"])
    switches = experiment.read_experiment(name).model
    if switches.trainable_layers is not None:
        pytest.skip("it says itself how many layers train: its page says which layer to store")
    for modalities in (["audio"], ["audio", "text"], ["audio", "text", "video"]):
        config = model_config(dataclasses.replace(switches, modalities=modalities), features, ["happy", "sad"])
        assert layers == [config.input_layer] == [depth - config.fusion_layers]


@pytest.mark.parametrize("depth", [1, 2, 4, 6, 24, 32])
@pytest.mark.parametrize("audio", [small_whisper, small_hubert], ids=["whisper", "hubert"])
def test_the_paper_s_model_learns_behind_an_encoder_of_any_depth(audio: Any, depth: int) -> None:
    encoders = Encoders("mine", Preset("a", "tiny", "tiny"), audio(depth))
    features = describe_features(encoders, [], [])
    text = {"name": "t", "fingerprint": "t", "width": 16}
    setting = train.resolved(experiment.read_experiment("paper"), dataclasses.replace(features, text=text, video=text))
    config = model_config(setting.model, dataclasses.replace(features, text=text, video=text), ["happy", "sad"])
    model, _ = train.build(setting.train, config, encoders)
    assert (len(model.deep_layers), config.input_layer) == (-(-depth // 4), depth - -(-depth // 4))
    mask, labels = torch.ones(4, 6, dtype=torch.bool), torch.tensor([0, 1, 0, 1])
    inputs = {"audio": torch.randn(4, 6, 32), "text": torch.randn(4, 6, 16), "video": torch.randn(4, 6, 16)}
    out = model(**inputs, **{f"{name}_mask": mask for name in inputs}, labels=labels)
    out.loss.backward()
    assert {"task", "margin"} <= set(out.losses)
    learning = model.deep_layers[0].feed_forward.intermediate_dense.weight.grad
    assert learning is not None and float(learning.abs().max()) > 0


@pytest.fixture(scope="module")
def run_of_whisper(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A preset file that names a Whisper of 6 layers alone, its store, and a RUN of `--config paper`, by the verbs."""
    folder = tmp_path_factory.mktemp("whisper")
    small_whisper(6).save(folder / "checkpoint")
    preset = written(folder, f"audio: {folder / 'checkpoint'}\ntext: tiny\nvideo: tiny")
    store, run = folder / "store", folder / "run"
    assert main(["extract", str(made.manifest), "--store", str(store), "--preset", preset, "--workers", "1"]) == 0
    names = ["--manifest", str(made.manifest), "--store", str(store), "--train.epochs", "1"]
    assert main(["train", "--config", "paper", *names, "--out", str(run)]) == 0
    return made, store, run, names


def test_a_whisper_of_six_layers_trains_with_the_paper_s_experiment(run_of_whisper: Any) -> None:
    _, store, run, _ = run_of_whisper
    stored = json.loads((store / "encoders.json").read_text())["mine"]["audio"]
    assert (stored["num_layers"], stored["deep_layers"]) == (6, 2)
    said = yaml.safe_load((run / "experiment.yaml").read_text())["model"]
    assert [said[name] for name in LAYERS] == [2, 2, 4]
    config = read_run(run).model.config
    assert (depths(config), config.input_layer) == ((2, 2, 4), 4)


def test_it_goes_on_after_a_break_with_the_same_words(run_of_whisper: Any) -> None:
    """The experiment of the RUN states the layers that the command leaves to the preset."""
    _, _, run, names = run_of_whisper
    assert main(["train", "--config", "paper", *names, "--out", str(run), "--resume"]) == 0


def test_it_trains_live_and_labels_a_clip(
    run_of_whisper: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made, _, run, names = run_of_whisper
    live = ["--train.mode", "live", "--model.modalities", "audio,text", "--out", str(tmp_path / "live")]
    assert main(["train", "--config", "paper", *names, *live]) == 0
    capfd.readouterr()
    clip = str(made.root / manifest.read(made.manifest)[0].audio.path)
    for each in (run, tmp_path / "live"):
        assert main(["predict", "--model", str(each), clip, "--transcript", "stop", "--format", "json"]) == 0
        assert sum(json.loads(capfd.readouterr().out)[0]["probabilities"].values()) == pytest.approx(1, abs=1e-3)


def test_rows_that_state_the_layers_of_the_preset_share_its_training(made: Any, tmp_path: Path) -> None:
    """Studies that an older version started, whose experiments had these numbers, go on with their trainings."""
    stated = "model.fusion_layers: 3, model.trainable_layers: 3, model.margin_audio_layer: 9"
    rows = f"- {{name: a, settings: {{}}}}\n- {{name: b, settings: {{{stated}}}}}"
    table = read_table_file(written(tmp_path, f"title: One\ncorpus: any\nrows:\n{rows}"))
    plan = plan_trainings(Study(made.manifest, made.store), [table], tmp_path)
    assert len(plan.jobs) == 1 and plan.rows["mine", "a"] == plan.rows["mine", "b"]


def test_an_explicit_layer_still_decides(run_of_whisper: Any) -> None:
    made, store, _, _ = run_of_whisper
    data = train.read_data(made.manifest, store)
    typed = {"model.fusion_layers": "1", "model.margin_audio_layer": "3"}
    found = train.resolved(experiment.read_experiment("paper", typed), train.choose_features(data.store, None))
    assert depths(found.model) == (1, 2, 3)


def test_a_model_of_an_older_run_is_read_as_it_was_written() -> None:
    older = {"classes": ["happy"], "fusion_layers": 1, "trainable_layers": 1, "margin_audio_layer": 9}
    assert depths(WavFusionConfig.from_json(older)) == (1, 1, 9)


# ---------------------------------------------------------------- the families


def test_every_model_type_of_a_loader_is_listed() -> None:
    types = {name: [each.type for each in FAMILIES if each.modality == name] for name in ("audio", "text", "video")}
    assert types["audio"] == [*wav2vec2.FAMILY, *whisper.FAMILY]
    assert set(video.FAMILY) <= set(types["video"]) and "any" in types["text"]


def test_every_shipped_preset_is_of_listed_examples() -> None:
    examples = {each.example for each in FAMILIES} | {"tiny"}
    assert all({each.audio, each.text, each.video} <= examples for each in PRESETS.values())


def test_encoders_lists_families_and_presets(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["encoders"]) == 0
    said = capfd.readouterr().out
    assert re.search(
        r"^audio +whisper +Whisper's encoder +openai/whisper-base +real: whisper-base$", said, re.MULTILINE
    )
    assert re.search(r"^light +openai/whisper-base +sentence-transformers/all-MiniLM-L6-v2 ", said, re.MULTILINE)
    assert main(["encoders", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert [each["type"] for each in found["families"] if each["verified"] not in (RANDOM, "not tried")] == [
        "whisper",
        "bert",
    ]
    assert found["presets"]["whisper"]["audio"] == "openai/whisper-base"


@pytest.mark.parametrize("kind", ["speecht5", "zonkformer"])
def test_an_unknown_architecture_names_the_known_ones_and_how_to_add_one(tmp_path: Path, kind: str) -> None:
    """Of a type that transformers does not know, its own message was shown."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    said = (
        f"expected one of wav2vec2, .*, whisper, found '{kind}'; `wavfusion encoders` lists all, CONTRIBUTING.md says"
    )
    with pytest.raises(ConfigError, match=said):
        load_encoders("mine", Preset(str(tmp_path)), ["audio"])


# ---------------------------------------------------------------- real weights


@pytest.mark.slow
def test_real_whisper_and_minilm_train_and_label_by_the_verbs(
    made: Any, whisper_base: Path, minilm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = f"audio: {whisper_base}\ntext: {minilm}\nvideo: tiny"
    preset, store = written(tmp_path, values), str(tmp_path / "store")
    assert main(["extract", str(made.manifest), "--store", store, "--preset", preset]) == 0
    names = ["--manifest", str(made.manifest), "--store", store, "--out", str(tmp_path / "run")]
    assert main(["train", "--config", "paper", *names, "--train.epochs", "2"]) == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "run" / "model.onnx")]) == 0
    clip = str(made.root / manifest.read(made.manifest)[0].audio.path)
    command = ["predict", "--model", str(tmp_path / "run"), clip, "--transcript", "stop", "--format", "json"]
    found = []
    for runtime in ("torch", "onnx"):
        capfd.readouterr()
        assert main([*command, "--runtime", runtime]) == 0
        found.append(json.loads(capfd.readouterr().out)[0]["probabilities"])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_a_file_named_as_a_shipped_preset_is_refused(tmp_path: Path) -> None:
    """Features are stored under the file's name: `whisper.yaml` of a user mixed its text with RoBERTa's."""
    (tmp_path / "whisper.yaml").write_text("audio: openai/whisper-base\n")
    with pytest.raises(ConfigError, match="expected a file of another name than the shipped preset 'whisper'$"):
        read_preset(str(tmp_path / "whisper.yaml"))
