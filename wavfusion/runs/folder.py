"""A RUN folder: the trained model, its encoders, and how it came about."""

import hashlib
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from wavfusion import manifest
from wavfusion.corpora.protocol import SAID
from wavfusion.encoders.bundle import LOADERS, Encoders, load_encoder
from wavfusion.encoders.presets import Preset
from wavfusion.errors import ConfigError
from wavfusion.fast.network import accelerate
from wavfusion.features.store import FeatureSet
from wavfusion.files import read_json, require_file, write_atomic, write_json
from wavfusion.metrics.calibration import BOUNDS
from wavfusion.metrics.familiarity import Familiarity
from wavfusion.model.config import WavFusionConfig
from wavfusion.model.wavfusion import WavFusion

log = logging.getLogger(__name__)

FAMILIARITY = "familiarity.safetensors"
HUB_ID = r"\w[\w.-]*/\w[\w.-]*"  # not ./FOLDER


@dataclass(frozen=True)
class Run:
    """A RUN that has been read.

    Attributes:
        features: the encoders by name and fingerprint, and what they gave the model.
        mode: `cached`, `live` or `scratch`, as it was trained.
        prior: shares of the emotions in its training part.
        protocol: what its figures must say of it (`protocol.SAID`).
        temperature: that calibrates its probabilities, fitted on the part that chose its epoch (`calibration`).
        languages: of the training part, as its manifest tells (ISO 639-1); none where it does not.
        familiarity: where its training data lie; None where there is no `familiarity.safetensors`.
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

    @property
    def classes(self) -> list[str]:
        """The emotions in the order of the logits."""
        return self.model.config.classes

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the model's weights, as they lie in the folder."""
        with open(self.folder / "model.safetensors", "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def encoders(self, modalities: Sequence[str] | None = None) -> Encoders:
        """Load the encoders that the model was trained with, for all or some of its modalities.

        Raises:
            ConfigError: an encoder or the face detector is another one, both fingerprints are named; or one of them
                cannot be loaded.
        """
        names = [name for name in self.model.config.modalities if modalities is None or name in modalities]
        view = self.features.view
        if view != "frame" and "video" in names:
            self._require_detector()
        loaded = {name: self._encoder(name) for name in names}
        return Encoders(self.features.preset, preset_of(self.features), **loaded, view=view)

    def _require_detector(self) -> None:
        from wavfusion.media import faces  # neither FFmpeg nor OpenCV is needed to train on stored features

        faces.require_installed()
        expected, found = (self.features.video or {})["detector"], faces.detector_fingerprint()
        if expected != found:
            raise ConfigError(
                f"{self.folder}: expected the face detector {expected} that the model was trained on, found {found}, "
                f"that of this version of wavfusion"
            )

    def _encoder(self, modality: str) -> Any:
        about = getattr(self.features, modality)
        own = self.folder / "encoders" / modality
        encoder = load_encoder(modality, str(own) if own.is_dir() else about["name"], self.features.precision)
        if encoder.fingerprint != about["fingerprint"]:
            raise ConfigError(
                f"{self.folder}: expected the {modality} encoder {about['fingerprint']} that the model was trained on, "
                f"found {encoder.fingerprint} at {encoder.name!r}"
            )
        return encoder


def preset_of(features: FeatureSet) -> Preset:
    """The preset that filled a store, as far as the store tells."""
    names = {name: (getattr(features, name) or {"name": ""})["name"] for name in LOADERS}
    return Preset(
        **names,
        frame_rate=features.frame_rate,
        pretrained_rate=features.pretrained_rate,
        new_rate=features.new_rate,
        precision=features.precision,
    )


def read_run(folder: str | Path) -> Run:
    """Read a RUN folder.

    Raises:
        ConfigError: no such folder, or not a whole RUN.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"expected a RUN folder (what `wavfusion train --out` writes), found none at {str(folder)!r}")
    try:
        values, about = read_json(folder / "config.json"), read_json(folder / "protocol.json")
        protocol = {name: about[name] for name in SAID}
        model = WavFusion(WavFusionConfig.from_json(values["model"]))
        model.load_state_dict(load_file(require_file(folder / "model.safetensors")))
        features = FeatureSet(**values["features"])
        mode, prior = str(values["mode"]), [float(share) for share in values["prior"]]
        temperature, languages = float(values["temperature"]), [str(each) for each in values["languages"]]
        _check(model, features, mode, prior, temperature)
        familiarity = _read_familiarity(folder / FAMILIARITY)
    except FileNotFoundError as error:
        name = Path(error.filename or "model.safetensors").name
        raise ConfigError(f"{str(folder)!r}: expected a finished RUN, found no {name}; did its training end?") from None
    except ConfigError:
        raise
    except Exception as error:  # a damaged file shows in as many ways as there are parsers
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{str(folder)!r}: expected a RUN, found {type(error).__name__}: {reason}") from None
    return Run(folder, accelerate(model.eval()), features, mode, prior, protocol, temperature, languages, familiarity)


def _read_familiarity(path: Path) -> Familiarity | None:
    if not path.exists():
        return None
    tensors = load_file(require_file(path))
    mean, precision = tensors["mean"].numpy(), tensors["precision"].numpy()
    return Familiarity(mean, precision, float(tensors["limit"]))


def _check(model: WavFusion, features: FeatureSet, mode: str, prior: Sequence[float], temperature: float) -> None:
    """Refuse what no training writes; a ValueError says what."""
    if mode not in ("cached", "live", "scratch"):
        raise ValueError(f"mode {mode!r} in config.json; valid: cached, live, scratch")
    if len(prior) != len(model.config.classes) or not all(0 <= share <= 1 for share in prior):
        raise ValueError(f"a prior of {list(prior)} for {len(model.config.classes)} emotions in config.json")
    if not BOUNDS[0] <= temperature <= BOUNDS[1]:
        raise ValueError(f"a temperature of {temperature} in config.json; valid: {BOUNDS[0]} to {BOUNDS[1]}")
    for name in model.config.modalities:
        about = getattr(features, name)
        if not isinstance(about, dict) or not {"name", "fingerprint"} <= set(about):
            raise ValueError(f"no name and fingerprint of the {name} encoder in config.json")
        if name == "video" and (features.view, "detector" in about) not in (("frame", False), ("face", True)):
            raise ValueError(f"view {features.view!r} and its face detector do not agree in config.json")
    if any(not torch.isfinite(tensor).all() for tensor in model.state_dict().values()):
        raise ValueError("weights that are not finite in model.safetensors")


def write_model(trained: Run, encoders: Encoders) -> None:
    """Write the model, its config and the encoders that no hub holds; the weights last, since they make a RUN whole."""
    folder, model, features, mode = trained.folder, trained.model, trained.features, trained.mode
    for name in model.config.modalities:
        encoder = getattr(encoders, name)
        if encoder is not None and (encoder.name == "tiny" or (mode == "scratch" and name == "audio")):
            own = folder / "encoders" / name
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir(parents=True)
            encoder.save(own)
    if mode == "scratch" and features.audio is not None and encoders.audio is not None:
        # As it will be read: training has changed the tensors that its fingerprint was made from.
        learned_fingerprint = load_encoder("audio", str(folder / "encoders" / "audio"), features.precision).fingerprint
        learned = {**features.audio, "name": "encoders/audio", "fingerprint": learned_fingerprint}
        features = replace(features, audio=learned)
    about = {key: getattr(features, key) for key in FeatureSet.__dataclass_fields__}
    said = {name: getattr(trained, name) for name in ("mode", "prior", "temperature", "languages")}
    write_json(folder / "config.json", {"model": model.config.to_json(), "features": about, **said})
    if trained.familiarity is not None:
        known = trained.familiarity
        tensors = {"mean": torch.from_numpy(known.mean), "precision": torch.from_numpy(known.precision)}
        write_atomic(folder / FAMILIARITY, save({**tensors, "limit": torch.tensor(known.limit)}, {"format": "pt"}))
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(folder / "model.safetensors", save(state, {"format": "pt"}))


def without_absolute_paths(values: Any) -> Any:
    """What of a RUN's JSON others may see: of absolute paths, which tell of the user's machine, the last name only."""
    if isinstance(values, dict):
        return {key: without_absolute_paths(each) for key, each in values.items()}
    if isinstance(values, list):
        return [without_absolute_paths(each) for each in values]
    absolute = isinstance(values, str) and re.match(r"[/\\~]|[A-Za-z]:[/\\]", values)
    return re.split(r"[/\\]", values.rstrip("/\\"))[-1] if absolute else values


def corpus_of(folder: Path) -> str:
    """The corpus that a RUN was trained on, `generated`, or `unknown` where its manifest is not there any more."""
    try:
        corpus = manifest.read_corpus(read_json(folder / "environment.json")["manifest"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"
    return "generated" if (Path(corpus.root) / "world.json").is_file() else corpus.corpus
