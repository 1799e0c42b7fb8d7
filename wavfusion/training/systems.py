"""Training of a system over dialogues on stored features: the same protocol, selection and RUN as WavFusion's."""

import inspect
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import make_dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from jaxtyping import Float64
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from wavfusion.comparators.baselines import pool
from wavfusion.comparators.systems import SYSTEMS
from wavfusion.corpora.protocol import shared
from wavfusion.dialogues.batch import UNLABELLED, DialogueBatch, DialogueVectors, dialogue_batches, make_dialogues
from wavfusion.dialogues.model import DialogueModel, turn_probabilities
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.evaluation.evaluate import by_style, encoder_provenance, score_utterances
from wavfusion.experiments.experiment import Experiment, System, Training
from wavfusion.features.dataset import Features, choose_features, model_config
from wavfusion.features.store import FeatureSet
from wavfusion.files import validated, write_atomic
from wavfusion.manifest import Utterance
from wavfusion.metrics.calibration import fit_temperature, tempered
from wavfusion.metrics.scores import confusion_matrix, figures
from wavfusion.model.config import Switches, WavFusionConfig
from wavfusion.processes.timing import timed
from wavfusion.runs.folder import Run, write_system
from wavfusion.runs.results import write_history, write_results
from wavfusion.training.checkpoints import BEST_BY, Watch, epochs_since_best, reading
from wavfusion.training.data import Data, resolved
from wavfusion.training.place import open_place, require_place

log = logging.getLogger(__name__)

TIMED = 3  # batches, after a first one
STATE = "system.safetensors"  # in checkpoints/: weights, the best ones, the optimiser's state, and the epochs so far
# The settings of an experiment that decide the training of a system; all others must be as they are by default.
OF_MODEL = ("modalities", "task_loss")
OF_TRAINING = ("batch_size", "epochs", "patience", "new_rate", "weight_decay", "clip")
FROM_FEATURES = ("fusion_layers", "trainable_layers", "margin_audio_layer", "pretrained_rate")


def train_system(
    experiment: Experiment,
    data: Data,
    out: Path,
    device: str = "cpu",
    *,
    start: Run | None = None,
    resume: bool = False,
    force: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train a system over dialogues, keep its best epoch by validation weighted F1, and score its test part.

    On a CPU a training that is resumed ends with the same bytes as one without a break.

    Returns:
        The figures of `metrics.json`.

    Raises:
        ConfigError: an option or setting that the system does not have, parts that share a dialogue, or a RUN to start
            from, as a system has none.
        CorpusError: as `train`.
    """
    features = choose_features(data.store, experiment.preset)
    experiment = resolved(experiment, features)
    assert experiment.system is not None
    if start is not None:
        raise ConfigError(f"--from: expected an experiment of WavFusion, found one of {experiment.system.name}")
    config = model_config(experiment.model, features, data.protocol.classes)
    require_system(experiment, config)
    require_whole_dialogues(data)
    require_place(out, experiment, data, None, resume, force)
    parts = read_dialogues(data, features, config, experiment.system)
    torch.manual_seed(experiment.seed)
    model = make_system(experiment.system, _widths(parts["train"]), len(config.classes))
    model.fit(parts["train"], config.task_loss == "balanced")
    open_place(out, experiment, data, None, resume, force)
    _train(model.to(device), experiment, parts, config.classes, out, device, watch)
    return _finish(model.cpu(), experiment, data, parts, features, out)


def require_system(experiment: Experiment, config: WavFusionConfig) -> None:
    """Refuse settings that have no effect on a system, modalities that it does not take, and unknown options."""
    system = experiment.system
    assert system is not None
    for name, kept, default in (("model", OF_MODEL, Switches()), ("train", OF_TRAINING, Training())):
        given = vars(getattr(experiment, name))
        for key, value in vars(default).items():
            if key not in (*kept, *FROM_FEATURES) and given[key] != value:
                reason = f"as {system.name} has no such setting"
                raise ConfigError(f"{name}.{key}: expected {value}, {reason}, found {given[key]}")
    taken = getattr(SYSTEMS[system.name], "modalities", None)
    if taken is not None and tuple(config.modalities) != taken:
        found = ", ".join(config.modalities)
        raise ConfigError(f"model.modalities: expected {', '.join(taken)}, which {system.name} takes, found {found}")
    if config.task_loss not in ("ce", "balanced"):
        raise ConfigError(f"model.task_loss: expected ce or balanced with {system.name}, found {config.task_loss}")
    known, kinds = inspect.signature(SYSTEMS[system.name]).parameters, get_type_hints(SYSTEMS[system.name].__init__)
    options = [(key, kinds[key], each.default) for key, each in known.items() if each.kind is each.KEYWORD_ONLY]
    validated(make_dataclass(system.name, options), system.options, f"system.options of {system.name}")


def require_whole_dialogues(data: Data) -> None:
    """Refuse parts that share a dialogue: neighbours of a test turn would have been trained on, with their labels."""
    found = shared("dialogue", data.utterances, data.protocol.parts)
    if found:
        pair, names = next(iter(found.items()))
        raise ConfigError(
            f"protocol {data.protocol.name}: expected parts without a common dialogue, since a system sees the turns "
            f"around an utterance, found {names[0]!r} in {' and '.join(pair.split('+'))}; random5-dialogues keeps "
            f"dialogues whole"
        )


def make_system(system: System, widths: Mapping[str, int], num_classes: int) -> DialogueModel:
    """Make the network of a system."""
    return SYSTEMS[system.name](widths, num_classes, **system.options)


def read_dialogues(
    data: Data, features: FeatureSet, config: WavFusionConfig, system: System
) -> dict[str, list[DialogueVectors]]:
    """Read the mean vectors of all turns, and cut them into the dialogues of each part.

    Where the system sees all turns, those without one of the emotions stand in their dialogue, without a label.
    """
    part_of = dict(data.protocol.parts)
    if system.turns == "all":
        of_dialogue = {row.dialogue: part_of[row.id] for row in data.utterances if row.dialogue and row.id in part_of}
        part_of |= {row.id: of_dialogue[row.dialogue] for row in data.utterances if row.dialogue in of_dialogue}
    rows = [row for row in data.utterances if row.id in part_of]
    samples = Features(rows, data.store, data.media, features, config)
    ids, pooled = pool(samples, config.modalities)
    steps = read_steps(samples, config.modalities) if SYSTEMS[system.name].reads_steps else {}
    place = {key: number for number, key in enumerate(ids)}
    found = {}
    for part in ("train", "valid", "test"):
        own = [row for row in rows if part_of[row.id] == part]
        where = [place[row.id] for row in own]
        vectors = {}
        for name, table in pooled.items():
            of_part = torch.from_numpy(table[np.array(where, dtype=np.int64)].astype(np.float32))
            vectors[name] = (of_part[:, :-1], of_part[:, -1] > 0)
        of_own = {name: [every[place] for place in where] for name, every in steps.items()}
        found[part] = make_dialogues(own, vectors, data.protocol.classes, of_own)
    selecting = data.protocol.selected_on
    for part in ("train", selecting):
        if not found[part]:
            raise CorpusError(f"protocol {data.protocol.name!r}: expected utterances in part {part!r}, found none")
    return {**found, "valid": found[selecting]}


def read_steps(samples: Features, modalities: Sequence[str]) -> dict[str, list[Tensor]]:
    """Read the features of every step, windows joined, in half precision; [0, D] where an utterance has none."""
    found: dict[str, dict[str, list[Tensor]]] = {name: {} for name in modalities}
    for number in range(len(samples)):
        sample = samples[number]
        for name, of_name in found.items():
            x = getattr(sample, name)
            own = of_name.setdefault(sample.row.id, [])
            if x is not None:
                own.append((x[-1] if x.dim() == 3 else x).half())
    widths = {name: next((x[0].shape[1] for x in each.values() if x), 1) for name, each in found.items()}
    return {
        name: [torch.cat(x) if x else torch.zeros(0, widths[name]).half() for x in each.values()]
        for name, each in found.items()
    }


def time_system(experiment: Experiment, data: Data, device: str) -> tuple[float, float]:
    """Seconds to read the dialogues, and of a training step for as many utterances as `batch_size` says."""
    opened = time.monotonic()
    features = choose_features(data.store, experiment.preset)
    config = model_config(experiment.model, features, data.protocol.classes)
    assert experiment.system is not None
    dialogues = read_dialogues(data, features, config, experiment.system)["train"]
    model = make_system(experiment.system, _widths(dialogues), len(config.classes)).to(device).train()
    opening, size = time.monotonic() - opened, experiment.train.batch_size
    batches = list(dialogue_batches(dialogues, size, seed=0))[: TIMED + 1]

    def step(batch: DialogueBatch) -> None:
        torch.autograd.backward(model.loss(batch.to(device)))

    seconds = [timed(partial(step, batch), device) for batch in batches]
    turns = sum(int(batch.mask.sum()) for batch in batches[1:] or batches)
    return opening, sum(seconds[1:] or seconds) / turns * size


def _widths(dialogues: Sequence[DialogueVectors]) -> dict[str, int]:
    return {name: x.shape[1] for name, x in dialogues[0].vectors.items()}


def _train(
    model: DialogueModel,
    experiment: Experiment,
    parts: Mapping[str, Sequence[DialogueVectors]],
    classes: Sequence[str],
    out: Path,
    device: str,
    watch: Watch | None,
) -> None:
    """Train until the epochs or the patience end, and leave the best weights in the model."""
    settings, system = experiment.train, experiment.system
    assert system is not None and settings.new_rate is not None
    kind = torch.optim.AdamW if system.optimiser == "adamw" else torch.optim.Adam
    optimiser = kind(model.parameters(), settings.new_rate, weight_decay=settings.weight_decay)
    best, history = _resume(out, model, optimiser)
    best = best or {name: x.clone() for name, x in model.state_dict().items()}
    while len(history) < settings.epochs and epochs_since_best(history) < settings.patience:
        epoch = len(history)
        rate = settings.new_rate * system.rate_decay**epoch
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = _epoch(model, optimiser, parts["train"], settings, experiment.seed + epoch, device)
        scores = _score(model, parts["valid"], settings.batch_size, len(classes), device)
        history.append({"epoch": epoch + 1.0, "step": epoch + 1.0, "loss": loss, "learning_rate": rate, **scores})
        if epochs_since_best(history) == 0:
            best = {name: x.clone() for name, x in model.state_dict().items()}
        line = "epoch %d of %d: loss %.4f, validation weighted F1 %.4f"
        log.info(line, epoch + 1, settings.epochs, loss, scores[BEST_BY])
        write_history(out, history)
        _save(out, model, best, optimiser, history)
        if watch is not None:
            watch(epoch + 1, scores[BEST_BY])
    model.load_state_dict(best)


def _epoch(
    model: DialogueModel,
    optimiser: torch.optim.Optimizer,
    dialogues: Sequence[DialogueVectors],
    settings: Training,
    seed: int,
    device: str,
) -> float:
    """Train on every dialogue once, with order and dropout of the seed; returns the mean loss of the batches."""
    torch.manual_seed(seed)
    model.train()
    losses = []
    for batch in dialogue_batches(dialogues, settings.batch_size, seed):
        optimiser.zero_grad()
        loss = model.loss(batch.to(device))
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimiser.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def _score(
    model: DialogueModel, dialogues: Sequence[DialogueVectors], size: int, num_classes: int, device: str
) -> dict[str, float]:
    """Figures of the labelled turns."""
    found = turn_probabilities(model, dialogue_batches(dialogues, size), device)
    predicted = {key: int(probabilities.argmax()) for key, probabilities, _ in found}
    turns = (turn for each in dialogues for turn in zip(each.ids, each.label.tolist(), strict=True))
    truth = {key: label for key, label in turns if label != UNLABELLED}
    rows, columns = np.array(list(truth.values())), np.array([predicted[key] for key in truth])
    scored = figures(confusion_matrix(rows, columns, num_classes))
    return {f"eval_{name}": float(scored[name]) for name in ("accuracy", "weighted_f1", "macro_f1", "uar")}


def _save(
    out: Path,
    model: nn.Module,
    best: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    history: Sequence[Mapping[str, float]],
) -> None:
    """Write everything that the next epoch needs into one file."""
    tensors = {f"model.{name}": x for name, x in model.state_dict().items()}
    tensors |= {f"best.{name}": x for name, x in best.items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": torch.as_tensor(x) for name, x in state.items()}
    (out / "checkpoints").mkdir(exist_ok=True)
    whole = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    write_atomic(out / "checkpoints" / STATE, save(whole, {"history": json.dumps(list(history))}))


def _resume(
    out: Path, model: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Load the last epoch where there is one; returns the best weights and the epochs so far."""
    path = out / "checkpoints" / STATE
    if not path.exists():
        return {}, []
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimiser": {}}
    with reading(path), safe_open(str(path), "pt") as file:
        history = json.loads(file.metadata()["history"])
        for key in file.keys():  # noqa: SIM118 - the file is no dictionary
            kind, name = key.split(".", 1)
            groups[kind][name] = file.get_tensor(key)
        model.load_state_dict(groups["model"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, x in groups["optimiser"].items():
            number, what = name.split(".")
            state.setdefault(int(number), {})[what] = x
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return groups["best"], history


def _finish(
    model: DialogueModel,
    experiment: Experiment,
    data: Data,
    parts: Mapping[str, Sequence[DialogueVectors]],
    features: FeatureSet,
    out: Path,
) -> dict[str, Any]:
    """Calibrate on the part that chose the epoch, write the model, and score the test part."""
    classes, system = data.protocol.classes, experiment.system
    assert system is not None
    labels = torch.cat([each.label for each in parts["train"]])
    prior = torch.bincount(labels[labels >= 0], minlength=len(classes)).double().numpy()
    prior /= prior.sum()
    size, rows = experiment.train.batch_size, {row.id: row for row in data.utterances}

    def classify(dialogues: Sequence[DialogueVectors]) -> Iterator[tuple[Utterance, np.ndarray, bool]]:
        for key, probabilities, known in turn_probabilities(model, dialogue_batches(dialogues, size)):
            if data.protocol.parts.get(key):  # else a turn that is context alone
                yield rows[key], probabilities.numpy() if known else prior, bool(known)

    valid = [(row, p) for row, p, known in classify(parts["valid"]) if known]
    truth = np.array([classes.index(str(row.emotion)) for row, _ in valid], dtype=np.int64)
    temperature = fit_temperature(np.stack([p for _, p in valid]), truth) if valid else 1.0
    about = {"name": system.name, "options": system.options, "sees": sees(model)}
    rest = {"classes": classes, "prior": prior.tolist(), "temperature": temperature, "features": features.to_json()}
    write_system(out, {"system": about, **rest}, model.state_dict())
    part = "test" if parts["test"] else "valid"
    found = {row.id: tempered(p, temperature) if known else p for row, p, known in classify(parts[part])}
    tested = data.part("test" if parts["test"] else data.protocol.selected_on)
    table: Float64[np.ndarray, "N C"] = np.stack([found[row.id] for row in tested])
    result = {
        **score_utterances(table, tested, classes),
        "classes": classes,
        "modalities": list(model.widths),
        "subsets": {},
        "contributions": {},
        "styles": by_style(table, tested, classes),
        "protocol": data.protocol.to_json(),
        **encoder_provenance(features, list(model.widths), {row.corpus for row in tested}),
        "system": about,
        "part": part,
    }
    write_results(out, result, tested, table)
    return result


def sees(model: DialogueModel) -> str:
    """Which turns a system sees for one turn: `turn`, `past` or `whole`."""
    return "past" if getattr(model, "past", False) else type(model).sees
