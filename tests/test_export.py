import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import onnxruntime
import pytest
import torch
from corpus_fixture import write_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model import SUBSETS, build

import wavfusion
from wavfusion.cli.app import main
from wavfusion.corpora.protocol import PROTOCOL_FIELDS
from wavfusion.encoders.bundle import load_encoders
from wavfusion.encoders.presets import PRESETS
from wavfusion.errors import ConfigError
from wavfusion.evaluation.inference import layer_shares
from wavfusion.features.dataset import model_config
from wavfusion.features.encode import describe_features
from wavfusion.files import write_json
from wavfusion.model import WavFusion
from wavfusion.model.config import MODALITIES, Switches
from wavfusion.prediction import export
from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.runs.folder import Run, read_run, write_model

CLASSES, PRIOR = ["happy", "sad", "neutral", "angry"], [0.1, 0.2, 0.3, 0.4]
TEMPERATURE = 1.7
every_subset = pytest.mark.parametrize("names", SUBSETS, ids="+".join)


@pytest.fixture(scope="module", autouse=True)
def symbols() -> Any:
    """The exporter calls functions with symbols for lengths, which are no integers: their types go unchecked here."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def write_run(folder: Path, **switches: Any) -> Path:
    """A RUN of the tiny encoders whose model was drawn at random."""
    sizes = {"fusion_layers": 1, "trainable_layers": 2, "margin_audio_layer": 11, "modality_dropout": 0.2}
    chosen = Switches(**sizes | switches)
    loaded = load_encoders("tiny", PRESETS["tiny"])
    features = describe_features(loaded, [10], ["last"])
    torch.manual_seed(len(switches))
    model = WavFusion(model_config(chosen, features, CLASSES))
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    folder.mkdir(parents=True)
    write_json(folder / "protocol.json", dict.fromkeys(PROTOCOL_FIELDS))
    write_model(Run(folder, model, features, "cached", PRIOR, {}, TEMPERATURE), loaded)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN with its model.onnx."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "run")
    assert main(["export", str(folder), "--out", str(folder / "model.onnx")]) == 0
    return folder


@pytest.fixture(scope="module")
def run(exported: Path) -> Run:
    return read_run(exported)


@pytest.fixture(scope="module")
def session(exported: Path) -> Any:
    return onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])


def drawn(model: WavFusion, lengths: dict[str, list[int]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Features of the given lengths, with noise where they are padded."""
    random, config, inputs = torch.Generator().manual_seed(seed), model.config, {}
    for name in config.modalities:
        steps = max(1, *lengths[name])
        inputs[name] = torch.randn(len(lengths[name]), *config.feature_shape(name, steps), generator=random)
        inputs[f"{name}_mask"] = torch.arange(steps) < torch.tensor(lengths[name])[:, None]
    return inputs


@torch.inference_mode()
def torch_says(model: WavFusion, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """What torch makes of the inputs, a modality that no row has left out altogether."""
    absent = [name for name in model.config.modalities if not inputs[f"{name}_mask"].any()]
    absent = absent if len(absent) < len(model.config.modalities) else []
    every = dict.fromkeys([key for name in MODALITIES for key in (name, f"{name}_mask")])
    output = model(**every | {key: x for key, x in inputs.items() if key.removesuffix("_mask") not in absent})
    shares = layer_shares(output)
    said = {"probabilities": (output.logits / TEMPERATURE).softmax(-1), "logits": output.logits}
    said |= {} if shares is None else {"text_share": shares.mean(1)}
    return {key: x.numpy() for key, x in said.items()}


def worst(model: WavFusion, session: Any, inputs: dict[str, torch.Tensor]) -> float:
    """The largest difference between torch and onnxruntime."""
    expected = torch_says(model, inputs)
    found = session.run(list(expected), {key: x.numpy() for key, x in inputs.items()})
    return max(float(np.abs(expected[key] - x).max()) for key, x in zip(expected, found, strict=True))


def lengths_of(random: np.random.Generator, names: list[str]) -> dict[str, list[int]]:
    """Random lengths of one to five rows; 0 where a modality is not among the names."""
    size = int(random.integers(1, 6))
    return {
        name: random.integers(1, high, size).tolist() if name in names else [0] * size
        for name, high in (("audio", 300), ("text", 40), ("video", 80))
    }


# ------------------------------------------------------------------ the same numbers as torch


@every_subset
def test_a_subset_is_answered_as_torch_does_at_ten_random_lengths(run: Run, session: Any, names: list[str]) -> None:
    random = np.random.default_rng(len(names))
    found = [worst(run.model, session, drawn(run.model, lengths_of(random, names), i)) for i in range(10)]
    assert max(found) <= 1e-4


rows = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4)


@settings(max_examples=25)
@given(rows)
def test_rows_of_any_lengths_and_absences_are_answered_as_torch_does(run: Run, session: Any, rows: Any) -> None:
    lengths = {name: [row[i] for row in rows] for i, name in enumerate(MODALITIES)}
    assert worst(run.model, session, drawn(run.model, lengths)) <= 1e-4


def test_what_is_written_at_padding_changes_nothing(run: Run, session: Any) -> None:
    inputs = drawn(run.model, {"audio": [40, 7], "text": [3, 9], "video": [1, 5]})
    fed = {key: x.numpy() for key, x in inputs.items()}
    cut = {name: fed[name] * fed[f"{name}_mask"][..., None] for name in MODALITIES}
    np.testing.assert_allclose(session.run(None, fed)[1], session.run(None, fed | cut)[1], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "recommended",
        "concat",
        "mult",
        "weighted text",
        "mean gate, no LVC",
        "mean and deviation",
        "concat, weighted outputs",
        "keep_self_attn",
        "stable layer norm",
        "concat, stable layer norm",
        "wavlm",
        "audio",
        "text",
        "video",
        "audio+text",
        "text+video, recommended",
    ],
)
def test_a_model_of_any_switch_is_answered_as_torch_does(name: str) -> None:
    model = build(name, fusion_layers=1, trainable_layers=2, margin_audio_layer=4)  # small, for the exporter's time
    session = export.start(export.translate(model, {}, TEMPERATURE))
    random = np.random.default_rng(0)
    subsets = [some for some in SUBSETS if set(some) <= set(model.config.modalities)]
    found = [worst(model, session, drawn(model, lengths_of(random, some), i)) for some in subsets for i in range(2)]
    assert max(found) <= 1e-4


def test_the_check_finds_a_model_that_differs(run: Run, exported: Path, session: Any) -> None:
    other = read_run(exported).model
    with torch.no_grad():
        other.head.bias[1] += 0.01
    found = [export.difference(model, session, TEMPERATURE) for model in (run.model, other)]
    assert found[0] < 1e-5 and found[1] == pytest.approx(0.01, rel=1e-2)


# ------------------------------------------------------------------ the file


def test_the_file_runs_where_this_package_and_torch_cannot_be_imported(
    run: Run, exported: Path, tmp_path: Path
) -> None:
    inputs = drawn(run.model, {"audio": [0, 7], "text": [3, 9], "video": [1, 5]})
    np.savez(tmp_path / "inputs.npz", **{key: x.numpy() for key, x in inputs.items()})
    code = f"""
import sys
sys.modules.update(wavfusion=None, torch=None)
import json, numpy, onnxruntime
session = onnxruntime.InferenceSession({str(exported / "model.onnx")!r})
names = [each.name for each in session.get_outputs()]
said = session.run(None, dict(numpy.load({str(tmp_path / "inputs.npz")!r})))
print(json.dumps(dict(zip(names, [x.tolist() for x in said]))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = torch_says(run.model, inputs)
    assert json.loads(done.stdout) == {key: pytest.approx(x, abs=1e-4) for key, x in expected.items()}


def test_the_file_tells_what_a_reader_needs(run: Run, session: Any) -> None:
    told = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    audio = {key: told["inputs"]["audio"][key] for key in ("encoder", "fingerprint", "width", "layers")}
    assert {key: told[key] for key in ("wavfusion", "classes", "prior", "modalities")} | {"audio": audio} == {
        "wavfusion": wavfusion.__version__,
        "classes": CLASSES,
        "prior": PRIOR,
        "modalities": MODALITIES,
        "audio": {
            "encoder": "tiny",
            "fingerprint": run.features.audio["fingerprint"],
            "width": run.model.config.hidden_size,
            "layers": [run.model.config.input_layer],
        },
    }


def test_the_inputs_are_named_with_their_free_axes(session: Any) -> None:
    found = {each.name: [axis if isinstance(axis, str) else "" for axis in each.shape] for each in session.get_inputs()}
    expected = {name: ["batch", f"{name}_steps", ""] for name in MODALITIES}
    assert found == expected | {f"{name}_mask": axes[:2] for name, axes in expected.items()}


def test_the_file_holds_no_path_of_the_machine_that_made_it(exported: Path) -> None:
    content = (exported / "model.onnx").read_bytes()
    package = str(Path(wavfusion.__file__).parent).encode()
    assert (package in content, b".py" in content, str(exported).encode() in content) == (False, False, False)


def test_no_file_is_left_where_onnxruntime_differs_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    folder = write_run(tmp_path / "run", modalities=["text"])
    status, lines = (
        main(["export", str(folder), "--out", str(tmp_path / "a.onnx")]),
        capfd.readouterr().err.splitlines(),
    )
    assert (status, len(lines), (tmp_path / "a.onnx").exists()) == (1, 1, False) and "differs from torch by" in lines[0]


@pytest.mark.parametrize(("name", "why"), [("model.onnx", "--force"), ("model.safetensors", "ends in .onnx")])
def test_a_file_that_is_there_stays(exported: Path, capfd: pytest.CaptureFixture[str], name: str, why: str) -> None:
    before = (exported / name).read_bytes()
    status = main(["export", str(exported), "--out", str(exported / name)])
    assert status == 2 and why in capfd.readouterr().err and (exported / name).read_bytes() == before


def test_a_missing_extra_is_said_with_its_command(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    status = main(["export", str(exported), "--out", str(tmp_path / "a.onnx")])
    expected = "wavfusion: expected onnxscript, found it not installed: pip install 'wavfusion[export]'\n"
    assert (status, capfd.readouterr().err) == (2, expected)


def test_a_model_too_large_for_one_file_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "LARGEST", 1000)
    with pytest.raises(ConfigError, match="expected up to 1000 bytes of weights, what one ONNX file holds"):
        export.translate(run.model, {}, TEMPERATURE)


# ------------------------------------------------------------------ predict --runtime onnx


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_clip(path, "angry", 1.2, 0)
    return path


@pytest.mark.parametrize("transcript", [None, "stop shouting"])
def test_predict_says_through_onnxruntime_what_it_says_through_torch(
    exported: Path, clip: Path, transcript: str | None
) -> None:
    said = [
        EmotionRecognizer.from_pretrained(exported, runtime=runtime).predict(clip, transcript)[0]
        for runtime in ("torch", "onnx")
    ]
    figures = [each.probabilities | {f"from {k}": v for k, v in each.contribution.items()} for each in said]
    share = [each.text_share for each in said]
    assert figures[1] == pytest.approx(figures[0], abs=1e-4) and share[1] == pytest.approx(share[0], abs=1e-4)


def test_the_shell_runs_the_file(exported: Path, clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "predict",
        "--model",
        str(exported),
        str(clip),
        "--format",
        "json",
        "--runtime",
        "onnx",
        "--device",
        "cpu",
    ]
    assert main(arguments) == 0
    said = EmotionRecognizer.from_pretrained(exported).predict(clip)[0]
    assert json.loads(capfd.readouterr().out)[0]["probabilities"] == pytest.approx(said.probabilities, abs=1e-4)


def test_a_run_without_its_file_names_the_command(
    exported: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(exported, tmp_path / "run", ignore=shutil.ignore_patterns("*.onnx"))
    assert main(["predict", "--model", str(copy), str(clip), "--runtime", "onnx"]) == 2
    assert f"wavfusion export {copy} --out {copy / 'model.onnx'}" in capfd.readouterr().err


def test_a_file_of_other_weights_is_refused(exported: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "run", lvc=False)
    shutil.copy(exported / "model.onnx", other)
    with pytest.raises(ConfigError, match="expected the weights of this RUN, found other ones"):
        EmotionRecognizer.from_pretrained(other, runtime="onnx")


def test_a_damaged_file_is_refused(exported: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(exported, tmp_path / "run")
    (copy / "model.onnx").write_bytes((exported / "model.onnx").read_bytes()[:5000])
    with pytest.raises(ConfigError, match="model.onnx: expected what"):
        EmotionRecognizer.from_pretrained(copy, runtime="onnx")


def test_an_unknown_runtime_names_the_nearest(exported: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        EmotionRecognizer.from_pretrained(exported, runtime="onxx")
