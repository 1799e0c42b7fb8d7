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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from wavfusion import manifest
from wavfusion.corpora.protocol import Protocol, resolve
from wavfusion.encoders.bundle import Encoders, load_encoder
from wavfusion.encoders.live import LiveWavFusion
from wavfusion.errors import ConfigError, CorpusError, nearest
from wavfusion.evaluation import evaluate as scoring
from wavfusion.evaluation.inference import classify, subsets
from wavfusion.experiments.experiment import Experiment, Training
from wavfusion.fast.network import accelerate
from wavfusion.features.augment import read_kinds
from wavfusion.features.clips import Media
from wavfusion.features.dataset import Features, choose_features, choose_layers, model_config
from wavfusion.features.store import FeatureSet, Store
from wavfusion.manifest import Utterance
from wavfusion.metrics import familiarity
from wavfusion.metrics.calibration import fit_temperature
from wavfusion.model.config import WavFusionConfig
from wavfusion.model.wavfusion import WavFusion
from wavfusion.runs.folder import WEIGHTS, Run, preset_of, read_run, remove_run, write_model
from wavfusion.runs.origin import (
    EXPERIMENT,
    num_processes_of,
    protocol_hash_of,
    read_settings,
    training_data_of,
    write_origin,
)
from wavfusion.runs.results import near_chance, write_results
from wavfusion.training import checkpoints
from wavfusion.training.distributed import num_processes
from wavfusion.training.start import choose_start_features, describe_start, take_layers, warn_of_known
from wavfusion.training.trainer import FusionTrainer

log = logging.getLogger(__name__)

EXTENDED = ("train.epochs", "train.patience")  # may differ where a training is resumed
HELP = "docs/howto/training.md"


@dataclass(frozen=True)
class Data:
    """Utterances, their protocol and their stored features."""

    utterances: Sequence[Utterance]
    protocol: Protocol
    store: Store
    media: Media
    manifest_path: str = ""

    def part(self, name: str) -> list[Utterance]:
        """Return the utterances of `train`, `valid` or `test`."""
        chosen = set(self.protocol.ids(name))
        return [row for row in self.utterances if row.id in chosen]


def train(
    experiment: Experiment,
    data: Data,
    out: Path,
    device: str = "cpu",
    *,
    start: Run | None = None,
    resume: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Train one model, keep its best epoch by validation weighted F1, score its test part, and write the RUN `out`.

    Several processes of torchrun or `accelerate launch` train together, each on its share of every batch; the first
    of them writes, and scores. `start` is a RUN whose weights it starts from, where they fit (`WavFusion.start_from`).
    `resume` continues from the newest complete checkpoint of `out`; on CPU the model is the same as without a break.
    It may then have more epochs, or another patience. `force` removes an earlier RUN, once everything that the new one
    needs is there.

    Returns:
        The figures of `metrics.json`, of the test part (of the valid part where there is no test part); empty in all
        processes but the first.

    Raises:
        CorpusError: `out` holds a RUN that is neither resumed nor removed, a part is empty, features are missing.
        ConfigError: settings that do not fit together, an encoder that is not the store's, another experiment resumed.
    """
    processes = PartialState(cpu=not device.startswith("cuda"))
    features = _features(experiment, data, start)
    experiment = resolved(experiment, features)
    features = replace(features, variants=0, augment=experiment.train.augment or [])  # those of the model: clean alone
    _require_place(out, experiment, data, start, resume, force)
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
    checkpoint = _start(out, experiment, data, start, resume, force)
    if checkpoint is not None and checkpoints.has_ended(checkpoint, experiment.train.epochs, experiment.train.patience):
        checkpoints.load_best(network, checkpoint)
    else:
        trainer = FusionTrainer(network, model, experiment, sets, prior, out, device)
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    if not processes.is_main_process:
        return {}
    mode = experiment.train.mode if live else "cached"
    languages = sorted({row.language for row in data.part("train") if row.language})
    trained = Run(out, model, features, mode, prior, data.protocol.to_json(), 1.0, languages)
    _write(trained, network.to(device), sets, encoders, device)
    return _finish(out, data, device)


def _datasets(
    experiment: Experiment, data: Data, features: FeatureSet, config: WavFusionConfig, live: bool
) -> dict[str, Features]:
    """Open the features of the parts that train and that choose the epoch; warn of those that lack a modality."""
    sets = {}
    for role, part in (("train", "train"), ("valid", data.protocol.selected_on)):
        rows, first = data.part(part), role == "train"
        if not rows:
            raise CorpusError(f"protocol {data.protocol.name!r}: expected utterances in part {part!r}, found none")
        which: dict[str, Any] = {"first_window": first, "variants": experiment.train.variants if first else 0}
        sets[role] = Features(rows, data.store, data.media, features, config, live=live, **which)
    _warn_of_gaps(sets)
    return sets


def read_data(
    manifest_path: Path,
    store: Path,
    protocol: str | Protocol | None = None,
    fold: int = 1,
    selected_on: str = "valid",
    where: str | None = None,
) -> Data:
    """Read a manifest, resolve one fold of its protocol, unless one is given, and open the store.

    `where` divides only the rows of which it holds (`manifest.parse_where`).

    Raises:
        CorpusError: one of them is missing or damaged.
        ConfigError: no such protocol.
    """
    utterances, features = manifest.read(manifest_path, where), Store(store)
    corpus = manifest.read_corpus(manifest_path)
    if not isinstance(protocol, Protocol):
        protocol = resolve(protocol, utterances, corpus.classes, fold, selected_on, where)
    return Data(utterances, protocol, features, Media(features, corpus.root, corpus.root), str(manifest_path))


def resolved(experiment: Experiment, features: FeatureSet) -> Experiment:
    """Fill in the preset of the stored features, and its layers and learning rates where the experiment has none."""
    names = ("pretrained_rate", "new_rate")
    rates = {name: getattr(features, name) for name in names if getattr(experiment.train, name) is None}
    model, training = choose_layers(experiment.model, features), choose_augment(experiment.train, features)
    return replace(experiment, preset=features.preset, model=model, train=replace(training, **rates))


def choose_augment(training: Training, features: FeatureSet) -> Training:
    """Fill in the changes of the stored variants where variants are wanted; raises ConfigError if there are none."""
    if not training.variants:
        return training
    augment = features.augment if training.augment is None else read_kinds(training.augment)
    if not augment:
        raise ConfigError(
            f"train.variants: expected variants among the features of preset {features.preset!r}, found none; "
            f"extract --variants {training.variants}"
        )
    return replace(training, augment=augment)


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


def _start(out: Path, experiment: Experiment, data: Data, start: Run | None, resume: bool, force: bool) -> Path | None:
    """Let the first process prepare the RUN folder, and return the checkpoint that all continue from."""
    processes = PartialState()
    processes.wait_for_everyone()  # each has checked the folder before one changes it
    checkpoint = None
    if processes.is_main_process:
        if force:
            remove_run(out)
        places = data.manifest_path, data.store.folder
        began = describe_start(start) if start else None
        write_origin(out, experiment, data.protocol, data.utterances, *places, num_processes(), began)
        checkpoint = checkpoints.newest(out) if resume else None
    return broadcast_object_list([checkpoint])[0]


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


def _require_place(out: Path, experiment: Experiment, data: Data, start: Run | None, resume: bool, force: bool) -> None:
    """Refuse to overwrite a RUN, and to resume one under another experiment or protocol, or from another start."""
    if resume and force:
        raise ConfigError("expected one of --resume (continue) and --force (start again), found both")
    if start is not None and out.resolve() == start.folder.resolve():
        raise CorpusError(f"{out}: expected another folder than that of --from, which is kept")
    started = (out / EXPERIMENT).exists()
    if (started or (out / WEIGHTS).exists()) and not resume and not force:
        remedy = "continue it with --resume, start again with --force, or choose another folder"
        raise CorpusError(f"{out}: expected no RUN there, found one; {remedy}")
    if not resume or not started:
        return
    old, new = read_settings(out), asdict(experiment)
    if changed := [line for key, line in _changes(old, new) if key not in EXTENDED]:
        found = ", ".join(changed)
        raise ConfigError(f"--resume {out}: expected the experiment that it was started with, found {found}")
    before, epochs = old["train"].get("epochs"), experiment.train.epochs
    if not isinstance(before, int) or epochs < before:
        raise ConfigError(f"--resume {out}: expected train.epochs {before} as it was started, or more, found {epochs}")
    if protocol_hash_of(out) not in (None, data.protocol.hash):
        raise ConfigError(f"--resume {out}: expected the protocol that it was started with, found another")
    first, again = training_data_of(out).start, describe_start(start) if start else None
    if first != again:
        names = [
            f"--from {each.name} with weights {each.weights[:8]}" if each else "no --from" for each in (first, again)
        ]
        raise ConfigError(f"--resume {out}: expected {names[0]} as it was started, found {names[1]}")
    started_by, now = num_processes_of(out), num_processes()
    if started_by != now:
        raise ConfigError(f"--resume {out}: expected the {started_by} processes that it was started with, found {now}")


def _changes(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """List the settings that differ, by dotted key, with both values in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in new:
            yield from _changes(old.get(key), new[key], f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield prefix, f"{prefix} {new} where it was {old}"


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
