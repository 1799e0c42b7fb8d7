"""A RUN folder: the trained model, its configuration and its encoders (config.json, model.safetensors, encoders/)."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from safetensors.torch import load_file, save

from wavfusion.corpora.protocol import PROTOCOL_FIELDS
from wavfusion.dialogues.context import ContextConfig, FittedContext, TurnContext
from wavfusion.encoders.bundle import LOADERS, Encoders, load_encoder
from wavfusion.encoders.presets import Preset
from wavfusion.errors import SHOWN, ConfigError
from wavfusion.fast.network import accelerate
from wavfusion.features.store import FeatureSet
from wavfusion.files import Constraint, Share, read_json, require_file, validated, write_atomic, write_json
from wavfusion.metrics.calibration import BOUNDS
from wavfusion.metrics.familiarity import Familiarity
from wavfusion.model.config import WavFusionConfig
from wavfusion.model.wavfusion import WavFusion
from wavfusion.runs.origin import ENVIRONMENT, EXPERIMENT, PROTOCOL, SPLIT
from wavfusion.runs.results import EXPLAINED, HISTORY, METRICS, PREDICTIONS

CONFIG, WEIGHTS, FAMILIARITY = "config.json", "model.safetensors", "familiarity.safetensors"
CONTEXT = "context.safetensors"
LOW, HIGH = BOUNDS
HUB_ID = r"\w[\w.-]*/\w[\w.-]*"  # not ./FOLDER


@dataclass(frozen=True)
class Run:
    """A RUN that has been read.

    Attributes:
        features: the encoders by name and fingerprint, and the settings of the features that they gave the model.
        mode: `cached`, `live` or `scratch`, as it was trained.
        prior: shares of the emotions in its training part.
        protocol: the fields of its protocol that stand beside every metric (`protocol.PROTOCOL_FIELDS`).
        temperature: calibrates its probabilities; fitted on the part that chose its epoch (`metrics/calibration.py`).
        languages: of the training part (ISO 639-1); none where its manifest has none.
        familiarity: the distribution of its training data; None where it is not stored.
        context: what the turns around an utterance add; None where it sees none.
        name: what the user called it, where that is not the folder's name: its hub id.
    """

    folder: Path
    model: WavFusion
    features: FeatureSet
    mode: str
    prior: list[float]
    protocol: dict[str, Any]
    temperature: float
    languages: list[str] = field(default_factory=list)
    familiarity: Familiarity | None = None
    context: FittedContext | None = None
    name: str = ""

    @property
    def classes(self) -> list[str]:
        """The emotions in the order of the logits."""
        return self.model.config.classes

    @property
    def own_temperature(self) -> float:
        """The temperature of the model's own probabilities: 1 below a context, which has one for what it makes."""
        return self.temperature if self.context is None else 1.0

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the model's weights, as they lie in the folder."""
        with open(self.folder / WEIGHTS, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def carried(self) -> dict[str, str]:
        """The folders of the encoders that lie in the RUN, by modality."""
        folders = {name: self.folder / "encoders" / name for name in LOADERS}
        return {name: str(each) for name, each in folders.items() if each.is_dir()}

    def encoders(self, modalities: Sequence[str] | None = None) -> Encoders:
        """Load the encoders that the model was trained with, or those of some modalities.

        Raises:
            ConfigError: an encoder or the face detector is not the one of the training (both fingerprints are named),
                or cannot be loaded.
        """
        names = self.model.config.modalities if modalities is None else modalities
        if self.features.view != "frame" and "video" in names:
            self._require_detector()
        loaded = {name: self.encoder(name) for name in names}
        places: dict[str, Any] = self.carried
        preset = replace(preset_of(self.features), **places)
        return Encoders(self.features.preset, preset, **loaded, view=self.features.view)

    def _require_detector(self) -> None:
        from wavfusion.media import faces  # neither FFmpeg nor OpenCV is needed to train on stored features

        faces.require_installed()
        expected, found = (self.features.video or {})["detector"], faces.detector_fingerprint()
        if expected != found:
            raise ConfigError(
                f"{self.folder}: expected the face detector {expected} that the model was trained on, found {found}, "
                f"that of this version of wavfusion"
            )

    def encoder(self, modality: str) -> Any:
        """Load one of them."""
        about = getattr(self.features, modality)
        encoder = load_encoder(modality, self.carried.get(modality, about["name"]), self.features.precision)
        if encoder.fingerprint != about["fingerprint"]:
            raise ConfigError(
                f"{self.folder}: expected the {modality} encoder {about['fingerprint']} that the model was trained on, "
                f"found {encoder.fingerprint} at {encoder.name!r}"
            )
        return encoder


def preset_of(features: FeatureSet) -> Preset:
    """Return the preset that filled a store, as far as the store tells."""
    names = {name: (getattr(features, name) or {"name": ""})["name"] for name in LOADERS}
    return Preset(
        **names,
        frame_rate=features.frame_rate,
        pretrained_rate=features.pretrained_rate,
        new_rate=features.new_rate,
        precision=features.precision,
    )


@dataclass(frozen=True)
class _Context:
    """What config.json holds of the context."""

    model: ContextConfig
    temperature: Annotated[float, Constraint(f"{LOW} to {HIGH}", lambda value: LOW <= value <= HIGH)]


@dataclass(frozen=True)
class _Config:
    """What config.json holds."""

    model: WavFusionConfig
    features: FeatureSet
    mode: Literal["cached", "live", "scratch"]
    prior: list[Share]
    temperature: Annotated[float, Constraint(f"{LOW} to {HIGH}", lambda value: LOW <= value <= HIGH)]
    languages: list[str]
    context: _Context | None = None

    def __post_init__(self) -> None:
        if len(self.prior) != len(self.model.classes):
            raise ConfigError(f"prior: expected {len(self.model.classes)} shares, found {len(self.prior)}")
        for name in self.model.modalities:
            about = getattr(self.features, name)
            if about is None or not {"name", "fingerprint"} <= set(about):
                raise ConfigError(f"features.{name}: expected name and fingerprint of the encoder, found {about}")
            if name == "video" and (self.features.view, "detector" in about) not in (("frame", False), ("face", True)):
                raise ConfigError(f"features.view: {self.features.view!r} does not agree with the face detector")


def read_run(folder: str | Path, weights: bool = True) -> Run:
    """Read a RUN folder; a ConfigError if there is none, or it is incomplete.

    Without `weights`, which is quick, the model has a configuration and tensors without values.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"expected a RUN folder (what `wavfusion train --out` writes), found none at {str(folder)!r}")
    try:
        written = read_json(folder / CONFIG)
        if isinstance(written, dict) and "system" in written:
            raise ConfigError(f"a RUN of WavFusion is needed; this is one of {written['system']}")
        config = validated(_Config, written, CONFIG)
        about = read_json(folder / PROTOCOL)
        protocol = {name: about[name] for name in PROTOCOL_FIELDS}
        with nullcontext() if weights else torch.device("meta"):
            model = WavFusion(config.model)
        path, familiarity, context = require_file(folder / WEIGHTS), None, None
        path.stat()
        if weights:
            model.load_state_dict(load_file(path))
            if any(not torch.isfinite(tensor).all() for tensor in model.state_dict().values()):
                raise ValueError(f"weights that are not finite in {WEIGHTS}")
        if weights and (folder / FAMILIARITY).exists():
            known = load_file(require_file(folder / FAMILIARITY))
            familiarity = Familiarity(known["mean"].numpy(), known["precision"].numpy(), float(known["limit"]))
        if weights and config.context is not None:
            turns = TurnContext(config.context.model)
            turns.load_state_dict(load_file(require_file(folder / CONTEXT)))
            context = FittedContext(turns.eval(), config.context.temperature)
    except FileNotFoundError as error:
        name = Path(error.filename or WEIGHTS).name
        raise ConfigError(f"{str(folder)!r}: expected a finished RUN, found no {name}; did its training end?") from None
    except Exception as error:  # a damaged file shows in as many ways as there are parsers
        reason = " ".join(str(error).split())[:SHOWN]
        raise ConfigError(f"{str(folder)!r}: expected a RUN, found {type(error).__name__}: {reason}") from None
    return Run(
        folder=folder,
        model=accelerate(model.eval()),
        features=config.features,
        mode=config.mode,
        prior=config.prior,
        protocol=protocol,
        temperature=config.temperature,
        languages=config.languages,
        familiarity=familiarity,
        context=context,
    )


def write_model(trained: Run, encoders: Encoders) -> None:
    """Write the model, its config and the encoders that no hub holds; the weights last: with them a RUN is complete."""
    folder, model, features = trained.folder, trained.model, trained.features
    for name in model.config.modalities:
        encoder = getattr(encoders, name)
        # One that was loaded by another name than its features have is that of the RUN which the training started from.
        carried = encoder is not None and encoder.name != getattr(features, name)["name"]
        learned = trained.mode == "scratch" and name == "audio"
        if encoder is not None and (encoder.name == "tiny" or carried or learned):
            local = folder / "encoders" / name
            shutil.rmtree(local, ignore_errors=True)
            local.mkdir(parents=True)
            encoder.save(local)
    if trained.mode == "scratch" and features.audio is not None and encoders.audio is not None:
        # As it will be read: training has changed the tensors that its fingerprint was made from.
        learned = load_encoder("audio", str(folder / "encoders" / "audio"), features.precision).fingerprint
        features = replace(features, audio={**features.audio, "name": "encoders/audio", "fingerprint": learned})
    rest = {name: getattr(trained, name) for name in ("mode", "prior", "temperature", "languages")}
    if (context := trained.context) is not None:
        rest["context"] = {"model": asdict(context.model.config), "temperature": context.temperature}
        _write_tensors(folder / CONTEXT, context.model.state_dict())
    write_json(folder / CONFIG, {"model": model.config.to_json(), "features": features.to_json(), **rest})
    if (known := trained.familiarity) is not None:
        tensors = {name: torch.as_tensor(value) for name, value in vars(known).items()}
        write_atomic(folder / FAMILIARITY, save(tensors, {"format": "pt"}))
    _write_tensors(folder / WEIGHTS, model.state_dict())


def write_system(folder: Path, config: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> None:
    """Write config.json and weights of a system over dialogues, which is compared with and not used on recordings."""
    write_json(folder / CONFIG, dict(config))
    _write_tensors(folder / WEIGHTS, state)


def _write_tensors(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    write_atomic(path, save({name: tensor.contiguous() for name, tensor in state.items()}, {"format": "pt"}))


def remove_run(out: Path) -> None:
    """Remove the files that an earlier training wrote, with the metrics of its model, and nothing else."""
    files = [EXPERIMENT, ENVIRONMENT, PROTOCOL, SPLIT, CONFIG, WEIGHTS, FAMILIARITY, CONTEXT]
    files += [METRICS, PREDICTIONS, HISTORY]
    evaluated = (f"evaluate/{name}" for name in (METRICS, PREDICTIONS))
    for name in (*files, *evaluated, EXPLAINED, "report.html", "compared.html"):
        (out / name).unlink(missing_ok=True)
    for name in ("checkpoints", "encoders", "tensorboard"):
        shutil.rmtree(out / name, ignore_errors=True)
