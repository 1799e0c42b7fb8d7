"""What the encoders share: weights loaded and saved in the hub's format, fingerprints, device and precision."""

import copy
import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from huggingface_hub import constants
from torch import Tensor, nn

from wavfusion.encoders.families import FAMILIES, HOW_TO_ADD
from wavfusion.errors import ConfigError, nearest
from wavfusion.fast.encoders import skip_onednn_gelu
from wavfusion.files import read_json, require_file, saving, validated, write_json

# Tensors that no feature depends on; some checkpoints lack them, and they would be drawn at random.
UNUSED = ("masked_spec_embed", "pooler.", "adapter.", "position_ids", "decoder.")
# Settings that change how a model's tensors are run; they are part of the fingerprint.
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


Encoder = TypeVar("Encoder", bound="FrozenEncoder")


class FrozenEncoder(nn.Module):
    """A Hugging Face model that gives features, and what identifies it.

    Attributes:
        name: `tiny`, a local folder or a hub id.
        width: values of one step's feature.
        fingerprint: hash of the tensors, of how they are run and of how the input is prepared.
        precision: `fp32`, or `bf16` for matrix multiplications in bfloat16.
    """

    def __init__(self, model: Any, name: str, width: int, preprocessing: dict[str, Any]) -> None:
        super().__init__()
        self.model: Any = model
        self.name, self.width, self.precision = name, width, "fp32"
        self.fingerprint = fingerprint(model, preprocessing)

    @property
    def device(self) -> torch.device:
        """Where the encoder computes."""
        return next(self.model.parameters()).device

    def autocast(self) -> torch.autocast:
        """Matrix multiplications in bfloat16 where that is the encoder's precision; an outer autocast stays on."""
        kind = self.device.type
        enabled = self.precision == "bf16" or torch.is_autocast_enabled(kind)
        return torch.autocast(kind, torch.bfloat16, enabled=enabled)

    def twin(self: Encoder) -> Encoder:
        """Copy everything but the tensors, which both share."""
        shared: dict[int, Any] = {id(x): x for x in (*self.parameters(), *self.buffers())}
        return copy.deepcopy(self, shared)

    def quick(self: Encoder) -> Encoder:
        """A twin that encodes the same faster; on a CPU its GELU takes no memory for every new length."""
        twin = self.twin()
        if self.device.type == "cpu":
            skip_onednn_gelu(twin.model)
        return twin


def send(x: Tensor, device: torch.device) -> Tensor:
    """Copy from the host to a device; from pinned memory, so that the host does not wait."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def fingerprint(model: Any, preprocessing: dict[str, Any]) -> str:
    """Hash every tensor that a feature depends on, how the tensors are run and how the input is prepared."""
    layout = {name: getattr(model.config, name, None) for name in LAYOUT}
    digest = hashlib.sha256(json.dumps([preprocessing, layout], sort_keys=True).encode())
    for name, tensor in sorted(_used(model).items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _used(model: Any) -> dict[str, Tensor]:
    """The tensors that a feature depends on."""
    return {name: x for name, x in model.state_dict().items() if _is_used(model, name)}


def _is_used(model: Any, name: str) -> bool:
    """Whether a feature depends on a tensor; the vector of a picture is what its model's pooler gives."""
    takes_pictures = model.main_input_name == "pixel_values"
    return not any(part in name for part in UNUSED if not (part == "pooler." and takes_pictures))


def load_model(name: str, family: Mapping[str, Mapping[str, Any]] | None, part: str = "") -> Any:
    """Load a Hugging Face model in eval mode, in float32, without gradients.

    `family` has the model types that are taken, and what replaces settings in the configuration of each; None takes
    every model type that the library knows. Of a model whose configuration has one of its own
    for a `part`, as CLIP's has a `vision_config`, this part alone is loaded.

    Raises:
        ConfigError: it cannot be read, is of another family (model type), lacks tensors, or has some of another shape.
    """
    with loading(name):
        _require_checkpoint_folder(name)
        found = transformers.PretrainedConfig.get_config_dict(name)[0].get("model_type")
        if found not in (family or {None, *transformers.CONFIG_MAPPING}):
            expected = f"one of {', '.join(family)}" if family else "a model type that the library transformers knows"
            raise ConfigError(f"encoder {name!r}: expected {expected}, found {found!r}; {HOW_TO_ADD}")
        _require_weights(name)
        config = transformers.AutoConfig.from_pretrained(name)
        config = getattr(config, part, config) if part else config
        config.update(family[found] if family else {})
        model, report = transformers.AutoModel.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, in one line
        )
    absent = report["missing_keys"]
    if model.main_input_name == "pixel_values" and any(key.startswith("pooler.") for key in absent):
        model.pooler = None  # as in checkpoints of classifiers; it would be drawn at random
        absent = {key for key in absent if not key.startswith("pooler.")}
    if missing := sorted(key for key in absent if _is_used(model, key)):
        raise ConfigError(
            f"encoder {name!r}: expected all its tensors, {len(missing)} are missing, first {missing[0]!r}"
        )
    if others := sorted(each for each in report["mismatched_keys"] if _is_used(model, each[0])):
        key, found, expected = others[0]
        raise ConfigError(
            f"encoder {name!r}: expected tensors of the shapes that its config.json gives, {len(others)} have others, "
            f"first {key!r}: expected {tuple(expected)}, found {tuple(found)}"
        )
    return model.eval().requires_grad_(False)


def _require_checkpoint_folder(name: str) -> None:
    """Refuse a path without a folder, and a folder that is no checkpoint."""
    folder, wanted = Path(name), "a folder in the hub's format (config.json, model.safetensors)"
    if not folder.exists():
        if name.startswith((".", "~")) or folder.is_absolute():
            beside = sorted(str(each.parent) for each in folder.parent.glob("*/config.json"))
            valid = f"; {nearest(name, beside)}" if beside else ""
            raise ConfigError(f"encoder {name!r}: expected {wanted}, found no such folder{valid}")
    elif not (folder / "config.json").is_file():
        raise ConfigError(f"encoder {name!r}: expected {wanted}, found no config.json")
    elif (folder / "model.bin").is_file():
        raise ConfigError(f"encoder {name!r}: expected {wanted}, found faster-whisper's form, which --asr takes")


def _require_weights(name: str) -> None:
    """Refuse a folder without weights."""
    if Path(name).is_dir() and not [*Path(name).glob("model*.safetensors*"), *Path(name).glob("pytorch_model*.bin*")]:
        raise ConfigError(f"encoder {name!r}: expected model.safetensors beside its config.json, found none")


def load_preprocessor(name: str) -> dict[str, Any]:
    """Read a checkpoint's preprocessor_config.json; empty where it has none."""
    with loading(name):
        path = transformers.utils.cached_file(
            name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False
        )
        return validated(dict, read_json(Path(path)), path) if path else {}


def save_checkpoint(model: Any, folder: Path, preprocessor: dict[str, Any] | None = None) -> None:
    """Write a model and its preprocessor_config.json in the hub's format; only tensors that the fingerprint covers."""
    with _quiet(), saving(folder):
        model.save_pretrained(folder, state_dict=_used(model))
    if preprocessor is not None:
        write_json(folder / "preprocessor_config.json", preprocessor)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Load in silence, and turn whatever a loader raises into a ConfigError of one line."""
    try:
        if os.path.isdir(name):
            for path in Path(name).iterdir():
                if not path.is_dir():
                    require_file(path, ConfigError)  # the library would wait for a pipe without end
        with _quiet():
            yield
    except ConfigError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split()).partition('. ')[0][:120]}"
        advice = ""
        if not os.path.exists(name):
            if constants.HF_HUB_OFFLINE:
                reason = "no such folder, no copy of such a model, and HF_HUB_OFFLINE is set, so the hub is not queried"
            close = difflib.get_close_matches(name, [each.example for each in FAMILIES], n=1, cutoff=0.8)
            advice = f"; did you mean {close[0]!r}?" if close and close[0] != name else ""
        raise ConfigError(
            f"encoder {name!r}: expected `tiny`, a local folder in the hub's format or a hub id that can be reached, "
            f"found {reason}{advice}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's reports and progress bars off the terminal."""
    verbosity, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
