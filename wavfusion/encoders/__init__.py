"""The three frozen encoders: one utterance in, features (time, width) out (eq. 1, 5 and 7).

Features never depend on what else is in a batch. A fingerprint over tensors and preprocessing tells encoders apart.
"""

import copy
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import transformers
from jaxtyping import Bool, Float, Float32, Int, UInt8
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from wavfusion.encoders import tiny
from wavfusion.errors import ConfigError, nearest
from wavfusion.fast.encoders import (
    convolve_together,
    fold_norms,
    replace_convolutions,
    replace_positional_convolution,
    skip_onednn_gelu,
)
from wavfusion.files import read_yaml

MODALITIES = ("audio", "text", "video")
MAX_TOKENS = 192  # the longest utterances have 100 words (IEMOCAP) and 69 (MELD): design H.3, H.4
MIN_SAMPLES = 400  # what one step of the convolutions sees
MAX_FRAME_RATE = 100.0  # frames a second; more is no recording of people
FRAMES_AT_ONCE = {"cpu": 2, "cuda": 64}  # on a CPU what its caches hold
PRECISIONS = ("fp32", "bf16")
AUDIO_FAMILY = ("wav2vec2", "hubert", "wavlm")
TEXT_FAMILY = ("roberta", "xlm-roberta", "camembert")
# Tensors that no feature depends on; some checkpoints lack them, and they would be drawn at random.
UNUSED = ("masked_spec_embed", "pooler.", "adapter.", "position_ids")
# What the tensors of a model do not tell about the way they are run.
LAYOUT = (
    "model_type",
    "hidden_act",
    "num_attention_heads",
    "layer_norm_eps",
    "feat_extract_norm",
    "feat_extract_activation",
    "do_stable_layer_norm",
    "conv_stride",
    "num_buckets",
    "max_bucket_distance",
    "pad_token_id",
    "strides",
    "depthwise_padding",
    "pooling_type",
    "batch_norm_eps",
)
TYPOGRAPHY = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\x92": "'", " ": " "}
)


@dataclass(frozen=True)
class Preset:
    """Three encoders and how they are run: hub ids, local folders or `tiny`.

    Attributes:
        frame_rate: video frames per second.
        pretrained_rate: learning rate of the tensors that a checkpoint filled.
        new_rate: learning rate of everything else.
        precision: `fp32`, or `bf16` for half the digits in the products of sound and words (not of pictures, whose
            features it would harm), which GPUs and newer CPUs compute faster. Such features have names of their own.
    """

    audio: str
    text: str
    video: str
    frame_rate: float = 5.0
    pretrained_rate: float = 3e-5
    new_rate: float = 1e-4
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision: found {self.precision!r}; {nearest(str(self.precision), PRECISIONS)}")
        if not 0 < self.frame_rate <= MAX_FRAME_RATE:
            raise ConfigError(f"frame_rate: expected above 0 to {MAX_FRAME_RATE} a second, found {self.frame_rate}")
        for name in ("pretrained_rate", "new_rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: expected 0 or more, found {getattr(self, name)}")


PRESETS = {
    "tiny": Preset("tiny", "tiny", "tiny", pretrained_rate=3e-3, new_rate=3e-3),
    "base": Preset("facebook/wav2vec2-base", "FacebookAI/roberta-base", "google/efficientnet-b0"),
}


def read_preset(name: str) -> Preset:
    """Return a shipped preset, or read one from a YAML file with the fields of `Preset` (docs/store.md).

    Raises:
        ConfigError: no such preset or file, an unknown or missing field, a value of the wrong kind.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"preset {name!r}: expected a file or a shipped name; {nearest(name, PRESETS)}")
    values, known = read_yaml(path), Preset.__dataclass_fields__
    for key in values:
        if key not in known:
            raise ConfigError(f"{path}: {key!r} is no field of a preset; {nearest(str(key), known)}")
    try:
        return Preset(**{key: _typed(key, value) for key, value in values.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: expected audio, text, video and settings beside them; {error}") from None


def _typed(key: str, value: Any) -> Any:
    if key == "precision":
        return str(value)  # which ones there are is checked later
    if key not in MODALITIES:
        return float(str(value))  # YAML 1.1 reads 1e-4 as a word, and yes as a truth
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key}: expected an encoder's name, found {value!r}")
    return value


Encoder = TypeVar("Encoder", bound=nn.Module)


def _twin(encoder: Encoder) -> Encoder:
    """A copy of everything but the tensors, which both have."""
    shared: dict[int, Any] = {id(x): x for x in (*encoder.parameters(), *encoder.buffers())}
    return copy.deepcopy(encoder, shared)


def _products(encoder: Any) -> torch.autocast:
    """Half the digits in an encoder's products where that is its precision; one that surrounds this stays."""
    kind = next(encoder.parameters()).device.type
    half = encoder.precision == "bf16" or torch.is_autocast_enabled(kind)
    return torch.autocast(kind, torch.bfloat16, enabled=half)


class AudioEncoder(nn.Module):
    """A wav2vec 2.0, HuBERT or WavLM up to a shallow layer (eq. 7): convolutions, positional convolution, N layers."""

    def __init__(self, model: Any, preprocessing: dict[str, Any], name: str) -> None:
        super().__init__()
        self.model: Any = model
        self.name = name
        self.do_normalize = bool(preprocessing.get("do_normalize", True))
        self.config = model.config
        self.width, self.num_layers = int(self.config.hidden_size), int(self.config.num_hidden_layers)
        rate = preprocessing.get("sampling_rate", 16_000)
        if rate != 16_000:
            raise ConfigError(f"audio encoder {name!r}: expected a model of 16000 Hz, found {rate} Hz")
        self.fingerprint = fingerprint(model, {"do_normalize": self.do_normalize})
        self.together = False  # whether the convolutions take a padded batch
        self.precision = "fp32"

    def hidden(
        self, waveforms: Sequence[Float[Tensor, " _"]], layers: Sequence[int]
    ) -> tuple[dict[int, Float[Tensor, "B Ta D"]], Bool[Tensor, "B Ta"]]:
        """Run the layers below the highest asked for, and return the outputs of `layers` (0 = the input of the first).

        The convolutions see every utterance as if alone: Hugging Face's group norm over time would see the padding.
        """
        self._check(layers)
        normalized = [self._normalized(waveform) for waveform in waveforms]
        with _products(self), _single(self.model.encoder.pos_conv_embed, normalized[0].device.type):
            convolved, lengths = self._convolved(normalized)
            projected = self.model.feature_projection(convolved)
            x = projected[0] if isinstance(projected, tuple) else projected
            mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            with self._stack(max(1, *layers)) as stack, _outputs(stack, layers) as outputs, warnings.catch_warnings():
                # WavLM's own code hands torch a bool and a float mask; the result is right.
                warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask", UserWarning)
                self.model.encoder(x, attention_mask=mask)
        return outputs, mask

    def _convolved(self, waveforms: Sequence[Float[Tensor, " _"]]) -> tuple[Float[Tensor, "B T D"], Int[Tensor, " B"]]:
        """Run the convolutions; returns how many steps of each row are real, too."""
        if self.together:
            return convolve_together(self.model.feature_extractor, waveforms)
        alone = [self.model.feature_extractor(waveform[None])[0].T for waveform in waveforms]
        return pad_sequence(alone, batch_first=True), torch.tensor(
            [len(each) for each in alone], device=alone[0].device
        )

    @torch.inference_mode()
    def encode(
        self, waveforms: Sequence[Float32[np.ndarray, " _"]], layers: Sequence[int]
    ) -> list[dict[int, Float[Tensor, "Ta D"]]]:
        """Encode 16 kHz waveforms; returns one {layer: features} each, 50 steps per second."""
        device = next(self.model.parameters()).device
        outputs, mask = self.hidden([sent(torch.from_numpy(x), device) for x in waveforms], layers)
        lengths = mask.sum(1).tolist()
        return [
            {layer: outputs[layer][i, :length].float().cpu() for layer in layers} for i, length in enumerate(lengths)
        ]

    def _check(self, layers: Sequence[int]) -> None:
        for layer in layers:
            if not 0 <= layer <= self.num_layers:
                raise ConfigError(f"audio encoder {self.name!r}: expected layers 0 to {self.num_layers}, found {layer}")

    def _normalized(self, waveform: Tensor) -> Tensor:
        if self.do_normalize:
            waveform = (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + 1e-7)
        return nn.functional.pad(waveform, (0, max(0, MIN_SAMPLES - len(waveform))))

    @contextmanager
    def _stack(self, depth: int) -> Iterator[nn.ModuleList]:
        """Leave out the layers above `depth`, which nobody asked for."""
        encoder = self.model.encoder
        whole = encoder.layers
        encoder.layers = whole[:depth]
        try:
            yield encoder.layers
        finally:
            encoder.layers = whole

    def quick(self) -> "AudioEncoder":
        """A twin that shares the tensors and computes the same faster; for one thread at a time, and only to encode."""
        twin = _twin(self)
        replace_positional_convolution(twin.model.encoder.pos_conv_embed)
        # A CPU's core is busy with one utterance, a GPU is not.
        twin.together = next(self.parameters()).device.type != "cpu"
        if not twin.together:
            skip_onednn_gelu(twin.model)
            replace_convolutions(twin.model)
        return twin

    def save(self, folder: Path) -> None:
        """Write the encoder in the hub's file format, for `load_audio`."""
        _save(self.model, folder)
        _write_json(
            folder / "preprocessor_config.json", {**tiny.audio_preprocessor(), "do_normalize": self.do_normalize}
        )


class TextEncoder(nn.Module):
    """A frozen RoBERTa over all sub-word tokens (eq. 5)."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        super().__init__()
        self.model: Any = model
        self.tokenizer, self.name = tokenizer, name
        self.width = int(model.config.hidden_size)
        self.num_layers = int(model.config.num_hidden_layers) + 1  # the embeddings count as one
        probe = tokenizer("Kids are talking by the door, aren't they? Ünïcode.")["input_ids"]
        vocabulary = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
        self.fingerprint = fingerprint(model, {"vocabulary": vocabulary, "probe": probe, "tokens": MAX_TOKENS})
        self.precision = "fp32"

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], layers: Literal["last", "all"] = "last") -> list[Tensor]:
        """Encode sentences; returns (tokens, width) each, or (layers, tokens, width) with `all`."""
        tokens = [
            self.tokenizer(normalized(text), truncation=True, max_length=MAX_TOKENS)["input_ids"] for text in texts
        ]
        device = next(self.model.parameters()).device
        padding = self.model.config.pad_token_id
        ids = pad_sequence([torch.tensor(row) for row in tokens], batch_first=True, padding_value=padding).to(device)
        lengths = torch.tensor([len(row) for row in tokens], device=device)
        mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
        with _products(self):
            output = self.model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=layers == "all")
        features = torch.stack(output.hidden_states, 1) if layers == "all" else output.last_hidden_state
        return [features[i, ..., : len(row), :].float().cpu() for i, row in enumerate(tokens)]

    def quick(self) -> "TextEncoder":
        """A twin that shares the tensors, and on a CPU takes no memory for every length that it meets."""
        twin = _twin(self)
        if next(self.parameters()).device.type == "cpu":
            skip_onednn_gelu(twin.model)
        return twin

    def save(self, folder: Path) -> None:
        """Write model and tokenizer in the hub's file format, for `load_text`."""
        _save(self.model, folder)
        self.tokenizer.save_pretrained(folder)


class VideoEncoder(nn.Module):
    """A frozen EfficientNet: one globally averaged vector a frame (eq. 1)."""

    def __init__(self, model: Any, preprocessing: dict[str, Any], name: str) -> None:
        super().__init__()
        self.model: Any = model
        self.name = name
        self.width = int(model.config.hidden_dim)
        self.preprocessing = _frame_preprocessing(preprocessing, int(model.config.image_size))
        self.size: tuple[int, int] = (self.preprocessing["height"], self.preprocessing["width"])
        self.interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = self.preprocessing["interpolation"]
        self.fingerprint = fingerprint(model, self.preprocessing)

    @torch.inference_mode()
    def encode(self, frames: UInt8[np.ndarray, "Tv H W 3"]) -> Float[Tensor, "Tv E"]:
        """Encode RGB frames that already have `size` pixels (media.decode_frames resizes with `interpolation`).

        Always in fp32: half the digits in pictures move an answer ten times as much as in all the rest.
        """
        device = next(self.model.parameters()).device
        chunks = torch.split(sent(torch.from_numpy(frames), device), FRAMES_AT_ONCE[device.type])
        with torch.autocast(device.type, enabled=False):
            return torch.cat([self.model(pixel_values=self.pixel_values(x)).pooler_output for x in chunks]).cpu()

    def pixel_values(self, frames: UInt8[Tensor, "Tv H W 3"]) -> Float[Tensor, "Tv 3 H W"]:
        """Scale and normalise as the checkpoint's own processor does."""
        steps = self.preprocessing
        mean, std = (torch.tensor(steps[name], device=frames.device, dtype=torch.float64) for name in ("mean", "std"))
        # Hugging Face's EfficientNet divides by the deviation twice where `include_top` is set.
        spread = std.square() if steps["include_top"] else std
        factor, shift = steps["scale"] / spread, -(steps["offset"] + mean) / spread
        # The axes of a picture as it lies in memory are those of channels last.
        return frames.float().mul_(factor.float()).add_(shift.float()).permute(0, 3, 1, 2)

    def quick(self) -> "VideoEncoder":
        """A twin that shares most tensors and computes the same faster, only to encode."""
        twin = _twin(self)
        fold_norms(twin.model)
        twin.model.to(memory_format=torch.channels_last)
        return twin

    def save(self, folder: Path) -> None:
        """Write the encoder in the hub's file format, for `load_video`."""
        _save(self.model, folder)
        steps = self.preprocessing
        codes = {name: code for code, name in _RESAMPLING.items()}
        values = {
            "size": {"height": steps["height"], "width": steps["width"]},
            "resample": codes[steps["interpolation"]],
            "rescale_factor": steps["scale"],
            "rescale_offset": steps["offset"] == 1.0,
            "image_mean": steps["mean"],
            "image_std": steps["std"],
            "include_top": steps["include_top"],
        }
        _write_json(folder / "preprocessor_config.json", {**tiny.video_preprocessor(), **values})


@dataclass(frozen=True)
class Encoders:
    """The loaded encoders of a preset; None for a modality that nothing needs.

    Attributes:
        view: what of the picture the video encoder is given: `frame`, all of it, or `face`, the speaker's.
    """

    name: str
    preset: Preset
    audio: AudioEncoder | None = None
    text: TextEncoder | None = None
    video: VideoEncoder | None = None
    view: str = "frame"

    @property
    def kind(self) -> str:
        """Of the device on which they compute: `cpu` or `cuda`."""
        loaded = [each for each in (self.audio, self.text, self.video) if each is not None]
        return next((next(each.parameters()).device.type for each in loaded), "cpu")

    @property
    def on_cpu(self) -> bool:
        """Whether they compute on a CPU."""
        return self.kind == "cpu"

    def quick(self) -> "Encoders":
        """Twins that share the tensors and encode the same faster; each thread needs its own."""
        loaded = {name: getattr(self, name) for name in MODALITIES if getattr(self, name) is not None}
        return replace(self, **{name: encoder.quick() for name, encoder in loaded.items()})

    def to(self, device: str) -> "Encoders":
        """Move the encoders to a device."""
        for encoder in (self.audio, self.text, self.video):
            if encoder is not None:
                encoder.to(device)
        return self


def sent(x: Tensor, device: torch.device) -> Tensor:
    """Copy from the host to a device; from pinned memory the host does not wait for that."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def load_audio(name: str) -> AudioEncoder:
    """Load an audio encoder: `tiny`, a local folder or a hub id.

    Raises:
        ConfigError: it cannot be read, is of another family, or lacks tensors.
    """
    if name == "tiny":
        return AudioEncoder(tiny.audio_model(), tiny.audio_preprocessor(), name)
    model = _pretrained(name, AUDIO_FAMILY, layerdrop=0.0, apply_spec_augment=False)
    return AudioEncoder(model, _preprocessor(name), name)


def load_text(name: str) -> TextEncoder:
    """Load a text encoder with its tokenizer: `tiny`, a local folder or a hub id.

    Raises:
        ConfigError: it cannot be read, is of another family, or lacks tensors.
    """
    if name == "tiny":
        return TextEncoder(tiny.text_model(), tiny.tokenizer(), name)
    model = _pretrained(name, TEXT_FAMILY)
    with _loading(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    tokens, rows = len(tokenizer), int(model.config.vocab_size)
    # Without its files the library makes a tokenizer of five special tokens and says nothing.
    if not rows // 2 <= tokens <= rows:
        raise ConfigError(
            f"encoder {name!r}: expected the tokenizer of a model of {rows} tokens, found one of {tokens}"
        )
    return TextEncoder(model, tokenizer, name)


def load_video(name: str) -> VideoEncoder:
    """Load a video encoder: `tiny`, a local folder or a hub id.

    Raises:
        ConfigError: it cannot be read, is of another family, or lacks tensors.
    """
    if name == "tiny":
        return VideoEncoder(tiny.video_model(), tiny.video_preprocessor(), name)
    return VideoEncoder(_pretrained(name, ("efficientnet",)), _preprocessor(name), name)


LOADERS: dict[str, Callable[[str], Any]] = {"audio": load_audio, "text": load_text, "video": load_video}


def load_encoder(modality: str, name: str, precision: str = "fp32") -> Any:
    """Load the encoder of a modality by its `LOADERS`, for a preset's precision; that is part of its fingerprint.

    Raises:
        ConfigError: as the loaders do.
    """
    encoder = LOADERS[modality](name)
    if precision != "fp32" and modality != "video":
        encoder.precision = precision
        encoder.fingerprint = hashlib.sha256(f"{encoder.fingerprint} {precision}".encode()).hexdigest()[:32]
    return encoder


def fingerprint(model: Any, preprocessing: dict[str, Any]) -> str:
    """Hash every tensor that a feature depends on, how the tensors are run and how the input is prepared."""
    layout = {name: getattr(model.config, name, None) for name in LAYOUT}
    digest = hashlib.sha256(json.dumps([preprocessing, layout], sort_keys=True).encode())
    for name, tensor in sorted(_used(model).items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def normalized(text: str) -> str:
    """Write typographic quotes, dashes and ellipses as the text encoder met them; half of a surrogate pair is a `?`."""
    return " ".join(text.translate(TYPOGRAPHY).encode("utf-8", "replace").decode().split())


# PIL's resampling codes, as preprocessor_config.json holds them.
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def _frame_preprocessing(values: dict[str, Any], image_size: int) -> dict[str, Any]:
    size = values.get("size", image_size)
    sides = size if isinstance(size, dict) else {"shortest_edge": size}
    if values.get("do_center_crop", False) or not values.get("do_normalize", True):
        raise ConfigError("video encoder: expected do_center_crop false and do_normalize true, found otherwise")
    height, width = (int(sides.get(side) or sides.get("shortest_edge") or image_size) for side in ("height", "width"))
    return {
        "height": height,
        "width": width,
        "interpolation": _RESAMPLING.get(int(values.get("resample", 3)), "bicubic"),
        "resizer": "swscale 1",
        "scale": float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 1.0,
        "offset": 1.0 if values.get("rescale_offset", False) else 0.0,
        "mean": [float(x) for x in values.get("image_mean", [0.485, 0.456, 0.406])],
        "std": [float(x) for x in values.get("image_std", [0.47853944, 0.4732864, 0.47434163])],
        "include_top": bool(values.get("include_top", True)),
    }


@contextmanager
def _outputs(stack: nn.ModuleList, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Catch the outputs of layers as they run, before any norm that ends the stack."""
    caught: dict[int, Tensor] = {}

    def keep(number: int, output: Any) -> None:
        caught[number] = output[0] if isinstance(output, tuple) else output

    hooks = [
        stack[number - 1].register_forward_hook(lambda _, __, output, number=number: keep(number, output))
        for number in layers
        if number > 0
    ]
    if 0 in layers:
        hooks.append(stack[0].register_forward_pre_hook(lambda _, inputs: keep(0, inputs[0])))
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _single(module: nn.Module, kind: str) -> Iterator[None]:
    """Run a module in single precision on a kind of device, under autocast too.

    oneDNN's grouped convolution of 4 or 8 channels a group and 16 taps or more is wrong in bf16: on an Intel CPU with
    AMX what comes out is off by more than its own spread (PyTorch 2.13).
    """
    half = torch.is_autocast_enabled(kind)

    def enter(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        torch.set_autocast_enabled(kind, False)
        return tuple(x.float() for x in inputs)

    def leave(*_: object) -> None:
        torch.set_autocast_enabled(kind, half)

    hooks = [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's reports and bars off the terminal."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Load in silence, and turn what a loader raises into one line."""
    try:
        with _quiet():
            yield
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()).partition(". ")[0][:120]
        raise ConfigError(
            f"encoder {name!r}: expected `tiny`, a local folder in the hub's format or a hub id that can be reached, "
            f"found {type(error).__name__}: {reason}; without a network give a local folder"
        ) from error


def _save(model: Any, folder: Path) -> None:
    """Write what the fingerprint covers, so that no file holds a tensor that nobody would miss."""
    with _quiet():
        model.save_pretrained(folder, state_dict=_used(model))


def _used(model: Any) -> dict[str, Tensor]:
    """The tensors that a feature depends on."""
    return {name: x for name, x in model.state_dict().items() if not any(part in name for part in UNUSED)}


def _pretrained(name: str, family: Sequence[str], **settings: Any) -> Any:
    with _loading(name):
        config = transformers.AutoConfig.from_pretrained(name)
        if config.model_type not in family:
            raise ConfigError(f"encoder {name!r}: expected one of {', '.join(family)}, found {config.model_type!r}")
        for key, value in settings.items():
            setattr(config, key, value)
        # float32 whatever the file holds: half precision is a choice of the store's, made after encoding.
        model, report = transformers.AutoModel.from_pretrained(
            name, config=config, dtype=torch.float32, weights_only=True, output_loading_info=True
        )
    missing = sorted(key for key in report["missing_keys"] if not any(part in key for part in UNUSED))
    if missing:
        raise ConfigError(
            f"encoder {name!r}: expected all its tensors, {len(missing)} are missing, first {missing[0]!r}"
        )
    return model.eval().requires_grad_(False)


def _preprocessor(name: str) -> dict[str, Any]:
    with _loading(name):
        path = transformers.utils.cached_file(
            name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False
        )
        return dict(json.loads(Path(path).read_text(encoding="utf-8"))) if path else {}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
