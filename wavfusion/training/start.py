"""A training that starts from another RUN: its stored features, its layers, and what of its data would be tested."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wavfusion.corpora.protocol import Protocol
from wavfusion.errors import ConfigError, counted
from wavfusion.features.dataset import choose_features
from wavfusion.features.store import FeatureSet, Store, made_by, read_feature_sets
from wavfusion.manifest import Utterance
from wavfusion.model.config import WavFusionConfig
from wavfusion.runs.folder import Run
from wavfusion.runs.origin import SPLIT, StartedFrom, read_origin, read_settings, training_data_of

log = logging.getLogger(__name__)

TABLE = "table"  # what every table is called: it tells no corpus from another


def describe_start(start: Run) -> StartedFrom:
    """Describe it for the RUN of the training."""
    name = start.name or start.folder.resolve().name
    return StartedFrom(name, start.weights_digest, str(training_data_of(start.folder)))


def settings_of(start: Run) -> dict[str, Any]:
    """Return the nested settings of its experiment, without those that depend on its store and its emotions."""
    found = read_settings(start.folder)
    train = {key: value for key, value in found.get("train", {}).items() if key != "class_weights"}
    return {**found, "preset": None, "train": train}


def choose_start_features(start: Run, store: Store, preset: str | None, manifest_path: str) -> FeatureSet:
    """Return the stored features that the encoders of a RUN made, with its names of these encoders.

    Raises:
        ConfigError: the store, or the preset of this name in it, has features of other encoders; says how to extract.
    """
    sets = list(read_feature_sets(store).values()) if preset is None else [choose_features(store, preset)]
    found = next((each for each in sets if _agrees(start, each)), None)
    if found is None:
        names = ", ".join(each.preset for each in sets)
        raise ConfigError(
            f"{store.folder}: expected features of the encoders of {start.name or start.folder}, found those of "
            f"others, {names}; run: {_extract(start, store, manifest_path)}"
        )
    shared = [name for name in start.model.config.modalities if getattr(found, name) is not None]
    return replace(found, **{name: getattr(start.features, name) for name in shared})


def _agrees(start: Run, stored: FeatureSet) -> bool:
    """Whether a RUN's encoders made the stored features of its modalities, as far as there are any."""
    known = start.features
    pairs = {name: (getattr(known, name), getattr(stored, name)) for name in start.model.config.modalities}
    pairs = {name: (ours, theirs) for name, (ours, theirs) in pairs.items() if theirs is not None}
    same_rate = "video" not in pairs or known.frame_rate == stored.frame_rate
    return bool(pairs) and same_rate and all(made_by(ours) == made_by(theirs) for ours, theirs in pairs.values())


def take_layers(
    start: Run, config: WavFusionConfig, features: FeatureSet, store: Store, manifest_path: str
) -> WavFusionConfig:
    """Give a model that begins at the layer of a RUN its weighted layers.

    Raises:
        ConfigError: the store lacks a layer that the model takes; says how to extract it.
    """
    known = start.model.config
    if config.weighted_layers and known.weighted_layers and config.input_layer == known.input_layer:
        config = replace(config, weighted_layers=known.weighted_layers)
    audio = config.input_layers if "audio" in config.modalities else []
    every = "text" in config.modalities and config.text_layers == "weighted" and known.num_text_layers > 1
    lacking = [f"audio layer {layer}" for layer in audio if layer not in features.audio_layers]
    lacking += ["all text layers"] if every and "all" not in features.text_layers else []
    if lacking:
        layers = "" if audio == known.input_layers else f" --layers {','.join(map(str, audio))}"
        raise ConfigError(
            f"{store.folder}: expected {', '.join(lacking)} as {start.name or start.folder} takes them, found none; "
            f"run: {_extract(start, store, manifest_path)}{layers}"
        )
    return config


def _extract(start: Run, store: Store, manifest_path: str) -> str:
    return f"wavfusion extract {manifest_path} --store {store.folder} --from {start.name or start.folder}"


def warn_of_known(start: Run, utterances: Sequence[Utterance], protocol: Protocol) -> None:
    """Warn of utterances that choose the epoch or are tested, and trained the RUN, or are of a corpus that did."""
    held = {*protocol.ids("valid"), *protocol.ids("test")}
    rows = [row for row in utterances if row.id in held]
    found = ""
    if (start.folder / SPLIT).exists():
        parts = list(read_origin(start.folder).parts_of(rows).values())
        if known := parts.count("train"):
            found = f"{counted(known, 'utterance')} of the parts valid and test"
    elif shared := {row.corpus for row in rows} & {*(training_data_of(start.folder).corpus or "").split("+")}:
        found = f"the corpus {' and '.join(sorted(shared))}" if shared != {TABLE} else ""
    if found:
        log.warning("%s trained %s, too: figures may be too high", found, start.name or start.folder)
