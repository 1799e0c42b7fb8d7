"""A trained model as an ONNX file, which runs without this package (docs/howto/export.md)."""

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wavfusion.errors import ConfigError
from wavfusion.evaluation.inference import layer_shares, subsets
from wavfusion.fast.network import restore
from wavfusion.files import parse_json
from wavfusion.media import SAMPLE_RATE
from wavfusion.model.config import AUDIO_STEP, MODALITIES, WavFusionConfig
from wavfusion.model.sequence import GRU
from wavfusion.model.wavfusion import WavFusion, WavFusionOutput
from wavfusion.runs.folder import Run, read_run
from wavfusion.runs.origin import without_absolute_paths
from wavfusion.speech.activity import load_onnxruntime
from wavfusion.version import __version__

FILE = "model.onnx"  # in a RUN: what `predict --runtime onnx` runs
OPSET = 18  # what PyTorch's exporter writes without a conversion
LARGEST = 2_100_000_000  # bytes; a file ends at 2 GiB
TOLERANCE = 1e-4  # between torch and onnxruntime, of logits and text weights
LONGEST = {"audio": 120, "text": 24, "video": 40}  # steps at which the two are compared at most
INPUTS = [name for modality in MODALITIES for name in (modality, f"{modality}_mask")]


class OnnxGRU(nn.Module):
    """A GRU of one layer and one direction as ONNX's own operator, where the exporter would write a loop of steps."""

    def __init__(self, gru: nn.Module) -> None:
        super().__init__()
        rows = {}
        for name, x in gru.named_parameters():
            reset, update, new = x.detach().chunk(3)
            rows[name] = torch.cat([update, reset, new])  # ONNX's order of the gates
        self.size = rows["weight_hh_l0"].shape[1]
        self.register_buffer("entry", rows["weight_ih_l0"][None])
        self.register_buffer("recurrence", rows["weight_hh_l0"][None])
        self.register_buffer("biases", torch.cat([rows["bias_ih_l0"], rows["bias_hh_l0"]])[None])

    def forward(self, x: Float[Tensor, "B T D"]) -> tuple[Float[Tensor, "B T H"]]:
        """Stand for the operator while a model is exported; it computes nothing."""
        inputs, shape = (x.transpose(0, 1), *self.buffers()), (x.shape[1], 1, x.shape[0], self.size)
        settings: Any = {"hidden_size": self.size, "linear_before_reset": 1}
        hidden = torch.onnx.ops.symbolic("GRU", inputs, settings, dtype=x.dtype, shape=shape, version=OPSET)
        return (hidden.squeeze(1).transpose(0, 1),)


class _Outputs(nn.Module):
    """The outputs of the file, in their order."""

    def __init__(self, model: WavFusion, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs: dict[str, Any] = dict.fromkeys(INPUTS)
        output = self.model(**inputs | dict(zip(_names(self.model.config), tensors, strict=True)))
        outputs, shares = ((output.logits / self.temperature).softmax(-1), output.logits), layer_shares(output)
        return outputs if shares is None else (*outputs, shares.mean(1))


class OnnxWavFusion(nn.Module):
    """An exported model with the arguments of `WavFusion`; returns logits and text weights."""

    def __init__(self, session: Any, config: WavFusionConfig) -> None:
        super().__init__()
        self.session, self.config = session, config
        self.outputs = [each.name for each in session.get_outputs()]

    def forward(self, labels: None = None, **inputs: Tensor | None) -> WavFusionOutput:
        """Run the file, on the CPU."""
        size = next(x.shape[0] for x in inputs.values() if x is not None)
        tensors: list[Tensor | None] = []
        for name in self.config.modalities:
            absent = inputs[name] is None  # and stands as one masked step
            tensors += _drawn(self.config, name, [0] * size) if absent else (inputs[name], inputs[f"{name}_mask"])
        feed = {key: x.cpu().numpy() for key, x in zip(_names(self.config), tensors, strict=True) if x is not None}
        found = {key: torch.from_numpy(x) for key, x in zip(self.outputs, self.session.run(None, feed), strict=True)}
        output = WavFusionOutput(found["logits"])
        if "text_share" in found:
            # One step and one channel, whose mean is the mean that the file has computed.
            output.gates, output.steps = [found["text_share"][:, None, None]], torch.ones(size, 1, dtype=torch.bool)
        return output


def export_run(folder: Path) -> tuple[bytes, float]:
    """Export the model of a RUN; returns the file and its largest difference from torch.

    Raises:
        ConfigError: an incomplete RUN, one too large for a file, or the `[export]` extra is missing.
    """
    _require("onnxruntime", "onnx", "onnxscript")
    trained = read_run(folder)
    if trained.context is not None:
        raise ConfigError(
            f"{folder}: expected a RUN without dialogue context, which is not exported, found one with it"
        )
    content = translate(trained.model, describe_graph(trained), trained.temperature)
    return content, difference(trained.model, start(content), trained.temperature)


def translate(model: WavFusion, about: Mapping[str, str], temperature: float) -> bytes:
    """Write a model as ONNX, for any lengths and any batch, with `about` as its metadata.

    Raises:
        ConfigError: more weights than one ONNX file holds.
    """
    weight = sum(x.nbytes for x in model.state_dict().values())
    if weight > LARGEST:
        raise ConfigError(f"expected up to {LARGEST} bytes of weights, what one ONNX file holds, found {weight}")
    config, copied = model.config, restore(copy.deepcopy(model)).cpu().eval()
    for part in [each for each in copied.modules() if isinstance(each, GRU)]:
        for name, gru in list(part.named_children()):
            part.add_module(name, OnnxGRU(gru))
    names = _names(config)
    example = [x for name in config.modalities for x in _drawn(config, name, [LONGEST[name], 3, 1])]
    # A mask's second axis is its steps, and so is the last but one of features.
    axes = {
        name: {0: "batch", (1 if x.dtype == torch.bool else x.dim() - 2): f"{name.removesuffix('_mask')}_steps"}
        for name, x in zip(names, example, strict=True)
    }
    gated = config.num_deep > 0 and {"text", "video"} <= set(config.modalities)
    free = {axis: torch.export.Dim(axis) for named in axes.values() for axis in named.values()}
    shapes = tuple({number: free[axis] for number, axis in named.items()} for named in axes.values())
    # MATH is the only attention kernel whose output has the memory layout that the exporter assumes.
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")  # from PyTorch about PyTorch
        # Traced here, as torch.onnx first tries other ways, which fail on these lengths and take longer.
        traced = torch.export.export(
            _Outputs(copied, temperature), tuple(example), dynamic_shapes=(shapes,), strict=False
        )
        program: Any = torch.onnx.export(
            traced,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=names,
            output_names=["probabilities", "logits", *(["text_share"] if gated else [])],
        )
    # The exporter notes the source line of every node, with the paths of the machine that it ran on.
    import_module("onnx_ir.passes.common").ClearMetadataAndDocStringPass()(program.model)
    program.model.metadata_props.update(about)
    proto = program.model_proto
    del proto.graph.value_info[:]  # intermediate shapes
    for value in (*proto.graph.input, *proto.graph.output):  # whose free axes PyTorch numbers
        for number, axis in axes.get(value.name, {0: "batch"}).items():
            value.type.tensor_type.shape.dim[number].dim_param = axis
    content: bytes = proto.SerializeToString()
    return content


def describe_graph(trained: Run) -> dict[str, str]:
    """Return what a user of the file needs to know without this package, each value as JSON."""
    config, features = trained.model.config, trained.features
    spacing: dict[str, dict[str, Any]] = {
        "audio": {
            "width": config.hidden_size,
            "layers": config.input_layers,
            "sample_rate": SAMPLE_RATE,
            "seconds_between_steps": AUDIO_STEP,
            "middle_of_first_step": config.audio_centre,
        },
        "text": {
            "width": config.text_size,
            "layers": list(range(-config.num_text_layers, 0)),  # counted from the last
            "step": "sub-word token, in order",
        },
        "video": {"width": config.video_size, "frames_per_second": config.frame_rate, "view": features.view},
    }
    inputs = {}
    for name in config.modalities:
        about = getattr(features, name)
        encoder = {"encoder": without_absolute_paths(about["name"]), "fingerprint": about["fingerprint"]}
        inputs[name] = {**encoder, "rounded_to": "float16", **spacing[name]}
    values = {
        "wavfusion": __version__,
        "weights": trained.weights_digest,
        "classes": config.classes,
        "prior": trained.prior,
        "temperature": trained.temperature,
        "modalities": config.modalities,
        "inputs": inputs,
    }
    return {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}


def start(content: bytes) -> Any:
    """Open an exported file in onnxruntime, with torch's number of threads and without spinning."""
    runtime: Any = _require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def difference(model: WavFusion, session: Any, temperature: float, repeats: int = 3, seed: int = 0) -> float:
    """Return the largest difference of logits and text weights from torch, over all subsets at random lengths."""
    random, expected_outputs = np.random.default_rng(seed), _Outputs(model.cpu().eval(), temperature)
    found = []
    for subset in subsets(model.config.modalities):
        for _ in range(repeats):
            size, inputs = int(random.integers(1, 5)), list[Tensor]()
            for name in model.config.modalities:
                drawn = random.integers(0, LONGEST[name] + 1, size).tolist()
                lengths = drawn if name in subset else [0] * size
                inputs += _drawn(model.config, name, lengths, int(random.integers(2**31)))
            fed = {name: x.numpy() for name, x in zip(_names(model.config), inputs, strict=True)}
            pairs = zip(expected_outputs(*inputs), session.run(None, fed), strict=True)
            found += [np.abs(expected.numpy() - got).max() for expected, got in pairs]
    return float(np.max(found))


def open_exported(trained: Run) -> OnnxWavFusion:
    """Open the file that `export` has put into a RUN.

    Raises:
        ConfigError: the file is missing, unreadable or of other weights, or onnxruntime is missing.
    """
    path, remedy = trained.folder / FILE, f"wavfusion export {trained.folder} --out {trained.folder / FILE}"
    if not path.is_file():
        raise ConfigError(f"{path}: expected what `{remedy}` writes, found no file")
    _require("onnxruntime")
    try:
        session = start(path.read_bytes())
        weights = parse_json(session.get_modelmeta().custom_metadata_map["weights"], "weights")
    except Exception as error:  # damaged files raise many kinds
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"{path}: expected what `{remedy}` writes, found {type(error).__name__}: {reason}") from None
    if weights != trained.weights_digest:
        raise ConfigError(f"{path}: expected the weights of this RUN, found other ones; `{remedy} --force` renews it")
    return OnnxWavFusion(session, trained.model.config)


def _require(*names: str) -> Any:
    """Import packages of the extra `[export]` and return the last."""
    load = {"onnxruntime": load_onnxruntime}
    try:
        return [load.get(name, partial(import_module, name))() for name in names][-1]
    except ImportError as error:
        raise ConfigError(f"expected {error.name}, found it not installed: pip install 'wavfusion[export]'") from None


def _names(config: WavFusionConfig) -> list[str]:
    return [name for name in INPUTS if name.removesuffix("_mask") in config.modalities]


def _drawn(
    config: WavFusionConfig, name: str, lengths: Sequence[int], seed: int = 0
) -> tuple[Float[Tensor, "B *L T E"], Bool[Tensor, "B T"]]:
    """Random features of some lengths, padded with noise, and their mask."""
    steps = max(1, *lengths)
    x = torch.randn(len(lengths), *config.feature_shape(name, steps), generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(steps) < torch.tensor(lengths)[:, None]
