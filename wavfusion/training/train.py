"""What a training is: an experiment, a corpus and its stored features in, a RUN folder out.

Example, on a corpus that `wavfusion prepare` and `wavfusion extract` have made ready:

    from pathlib import Path

    from wavfusion.experiments.experiment import read_experiment
    from wavfusion.training.train import read_data, train

    data = read_data(Path("corpus/manifest.jsonl"), Path("features"))
    experiment = read_experiment("paper", {"train.epochs": "5", "model.modality_dropout": "0.2"})
    metrics = train(experiment, data, Path("runs/first"))
    print(metrics["weighted_f1"])  # of the test part; the same figures are in runs/first/metrics.json
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn

from wavfusion.encoders.bundle import Encoders, load_encoder
from wavfusion.encoders.live import LiveWavFusion
from wavfusion.errors import ConfigError, CorpusError, nearest
from wavfusion.evaluation import evaluate as scoring
from wavfusion.evaluation.inference import classify, subsets
from wavfusion.experiments.experiment import Experiment, Training
from wavfusion.fast.network import accelerate
from wavfusion.features.dataset import Features, choose_features, model_config
from wavfusion.features.store import FeatureSet
from wavfusion.metrics import familiarity
from wavfusion.metrics.calibration import fit_temperature
from wavfusion.model.config import WavFusionConfig
from wavfusion.model.wavfusion import WavFusion
from wavfusion.runs.folder import Run, preset_of, read_run, write_model
from wavfusion.runs.results import near_chance, write_results
from wavfusion.training import checkpoints
from wavfusion.training.context import train_context
from wavfusion.training.data import Data, choose_augment, read_data, resolved
from wavfusion.training.place import open_place, require_place
from wavfusion.training.start import choose_start_features, take_layers, warn_of_known
from wavfusion.training.systems import require_whole_dialogues, train_system
from wavfusion.training.trainer import FusionTrainer

__all__ = ["Data", "choose_augment", "read_data", "resolved", "train"]

log = logging.getLogger(__name__)

HELP = "docs/howto/training.md"


def train(
    experiment: Experiment,
    data: Data,
    out: Path,
    device: str = "cpu",
    *,
    start: Run | None = None,
    resume: bool = False,
    force: bool = False,
    watch: checkpoints.Watch | None = None,
) -> dict[str, Any]:
    """Train one model, keep its best epoch by validation weighted F1, score its test part, and write the RUN `out`.

    Several processes of torchrun or `accelerate launch` train together, each on its share of every batch; the first
    of them writes, and scores. `start` is a RUN whose weights it starts from, where they fit (`WavFusion.start_from`).
    `resume` continues from the newest complete checkpoint of `out`; on CPU the model is the same as without a break.
    It may then have more epochs, or another patience. `force` removes an earlier RUN, once everything that the new one
    needs is there. `watch` is told the figure of every epoch.

    Returns:
        The figures of `metrics.json`, of the test part (of the valid part where there is no test part); empty in all
        processes but the first.

    Raises:
        CorpusError: `out` holds a RUN that is neither resumed nor removed, a part is empty, features are missing.
        ConfigError: settings that do not fit together, an encoder that is not the store's, another experiment resumed.
    """
    if experiment.system is not None:
        return train_system(experiment, data, out, device, start=start, resume=resume, force=force, watch=watch)
    processes = PartialState(cpu=not device.startswith("cuda"))
    features = _features(experiment, data, start)
    experiment = resolved(experiment, features)
    features = replace(features, variants=0, augment=experiment.train.augment or [])  # those of the model: clean alone
    require_place(out, experiment, data, start, resume, force)
    config = _config(experiment, features, data, start)
    torch.manual_seed(experiment.seed)
    live = experiment.train.mode != "cached" and "audio" in config.modalities
    sets = _datasets(experiment, data, features, config, live)
    encoders = load_trained_on(features, config, start)
    model, network = build(experiment.train, config, encoders, start)
    counts = sets["train"].class_counts()
    prior = [count / sum(counts) for count in counts]
    if config.task_loss == "balanced":
        model.class_weights.copy_(_class_weights(prior, config.classes, experiment.train.class_weights))
    checkpoint = open_place(out, experiment, data, start, resume, force)
    if checkpoint is not None and checkpoints.has_ended(checkpoint, experiment.train.epochs, experiment.train.patience):
        checkpoints.load_best(network, checkpoint)
    else:
        trainer = FusionTrainer(network, model, experiment, sets, prior, out, device, watch)
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    if not processes.is_main_process:
        return {}
    mode = experiment.train.mode if live else "cached"
    languages = sorted({row.language for row in data.part("train") if row.language})
    trained = Run(out, model, features, mode, prior, data.protocol.to_json(), 1.0, languages)
    _write(trained, network.to(device), sets, encoders, device)
    if experiment.context != "off":
        fitted = train_context(read_run(out), data, experiment.context, experiment.seed, device)
        write_model(replace(read_run(out), context=fitted), encoders)
    return _finish(out, data, device)


def _datasets(
    experiment: Experiment, data: Data, features: FeatureSet, config: WavFusionConfig, live: bool
) -> dict[str, Features]:
    """Open the features of the parts that train and that choose the epoch; warn of those that lack a modality."""
    if experiment.context != "off":
        require_whole_dialogues(data)
    sets = {}
    for role, part in (("train", "train"), ("valid", data.protocol.selected_on)):
        rows, first = data.part(part), role == "train"
        if not rows:
            raise CorpusError(f"protocol {data.protocol.name!r}: expected utterances in part {part!r}, found none")
        which: dict[str, Any] = {"first_window": first, "variants": experiment.train.variants if first else 0}
        sets[role] = Features(rows, data.store, data.media, features, config, live=live, **which)
    _warn_of_gaps(sets)
    return sets


def _features(experiment: Experiment, data: Data, start: Run | None) -> FeatureSet:
    """Choose the stored features: those of the experiment's preset, or those of the encoders of `start`."""
    if start is None:
        return choose_features(data.store, experiment.preset)
    if experiment.train.mode == "scratch":
        raise ConfigError("--from: expected train.mode cached or live, as the RUN's encoders stay, found scratch")
    return choose_start_features(start, data.store, experiment.preset, data.manifest_path)


def _config(experiment: Experiment, features: FeatureSet, data: Data, start: Run | None) -> WavFusionConfig:
    """Join the experiment and the sizes of the encoders; the weighted layers are those of the RUN to start from."""
    config = model_config(experiment.model, features, data.protocol.classes)
    if start is None:
        return config
    warn_of_known(start, data.utterances, data.protocol)
    stored = features if experiment.train.mode == "cached" else replace(features, audio_layers=config.input_layers)
    return take_layers(start, config, stored, data.store, data.manifest_path)


def _warn_of_gaps(sets: Mapping[str, Features]) -> None:
    """Warn of emotions and modalities that the training part or the selecting part lacks."""
    classes = sets["train"].config.classes
    learned, selecting = (
        [name for name, count in zip(classes, sets[role].class_counts(), strict=True) if count]
        for role in ("train", "valid")
    )
    if unlearned := [name for name in classes if name not in learned]:
        log.warning("no training utterance is %s: the model cannot learn it", " or ".join(unlearned))
    if len(learned) == 1:
        log.warning("all training utterances are %s: expected two emotions or more to learn from", learned[0])
    if missing := [name for name in learned if name not in selecting]:
        log.warning("the part that chooses the epoch has no utterance that is %s", " or ".join(missing))
    if absent := sets["train"].absent():
        log.warning("no training utterance has %s", " or ".join(absent))


def load_trained_on(features: FeatureSet, config: WavFusionConfig, start: Run | None = None) -> Encoders:
    """Load the encoders whose features are stored, as far as the model needs them, and check that they are the same.

    Those that lie in the RUN `start` are loaded from there.

    Raises:
        ConfigError: an encoder is not the one that filled the store; both fingerprints are named.
    """
    loaded: dict[str, Any] = {}
    carried = {} if start is None else start.carried
    for name in config.modalities:
        about = getattr(features, name)
        # The model starts from tensors of the audio encoder; the others are written where no hub holds them.
        if name != "audio" and about["name"] != "tiny" and name not in carried:
            continue
        loaded[name] = load_encoder(name, carried.get(name, about["name"]), features.precision)
        if (found := loaded[name].fingerprint) != about["fingerprint"]:
            raise ConfigError(
                f"{name} encoder {about['name']!r}: expected {about['fingerprint']}, which made the stored features, "
                f"found {found}; extract again"
            )
    return Encoders(features.preset, preset_of(features), **loaded, view=features.view)


def build(
    setting: Training, config: WavFusionConfig, encoders: Encoders, start: Run | None = None
) -> tuple[WavFusion, nn.Module]:
    """Make the model with its first tensors, and the network to train: the model, or an encoder before it."""
    model, audio, mode = WavFusion(config), encoders.audio, setting.mode
    if setting.fast:
        accelerate(model)
    if audio is not None and mode == "scratch":
        audio.randomize()
    if audio is not None:
        model.load_pretrained(audio.transformer())
    if start is not None:
        model.start_from(start.model)
    if audio is None or mode == "cached":
        return model, model
    return model, LiveWavFusion(audio, model, learn=mode == "scratch")


def _write(trained: Run, network: nn.Module, sets: Mapping[str, Features], encoders: Encoders, device: str) -> None:
    """Calibrate the model on what chose the epoch, fit the distribution of its training data, and write it."""
    names, truth = trained.model.config.modalities, sets["valid"].emotions()
    train, valid = (classify(network, sets[role], names, trained.prior, device) for role in ("train", "valid"))
    present = [i for i, given in enumerate(valid.modalities) if given]
    labels = np.array([truth[valid.ids[i]] for i in present], dtype=np.int64)
    temperature = fit_temperature(valid.probabilities[present], labels) if present else 1.0
    known = None
    if train.vectors is not None and valid.vectors is not None and len(train.ids) > 1:  # a distribution takes two
        known = familiarity.fit(train.vectors, valid.vectors)
    write_model(replace(trained, temperature=temperature, familiarity=known), encoders)


def _class_weights(
    prior: Sequence[float], classes: Sequence[str] = (), chosen: Mapping[str, float] | None = None
) -> Tensor:
    """Weigh emotions by those chosen, 1 if not named, or by inverse frequency, with mean 1 over the training part."""
    for name in chosen or {}:
        if name not in classes:
            raise ConfigError(f"train.class_weights: found {name!r}; {nearest(name, classes)}")
    inverse = [1 / share if share > 0 else 0.0 for share in prior]
    weights = inverse if chosen is None else [chosen.get(name, 1.0) for name in classes]
    mean = sum(share * weight for share, weight in zip(prior, weights, strict=True))
    if mean == 0:
        raise ConfigError("train.class_weights: expected a weight above 0 for an emotion of the training part, found 0")
    return torch.tensor([weight / mean for weight in weights])


def _finish(out: Path, data: Data, device: str) -> dict[str, Any]:
    """Score the RUN, read back from its files."""
    trained = read_run(out)
    part = "test" if data.part("test") else "valid"
    utterances, every = data.part(part), subsets(trained.model.config.modalities)
    sets = every if trained.model.config.modality_dropout > 0 else every[-1:]
    result, predicted = scoring.evaluate(trained, utterances, data.store, data.media, sets, device)
    result["part"] = part
    write_results(out, result, utterances, predicted.probabilities)
    if part == "valid":
        log.warning("no test part: all figures are of the part that chose the epoch, and too high for other recordings")
    warn_near_chance(result)
    return result


def warn_near_chance(figures: Mapping[str, Any]) -> None:
    """Warn of a training whose UAR may be that of a guess, with what to try."""
    if doubt := near_chance(figures):
        log.warning("%s; try --config recommended, more epochs, other rates, or another preset: %s", doubt, HELP)
