"""Training from the store on transformers' Trainer; a RUN folder comes out (design G.2)."""

import csv
import io
import logging
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tensorboardX import SummaryWriter
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from wavfusion import manifest
from wavfusion.corpora.protocol import Protocol, resolve, row_digest
from wavfusion.encoders.audio import AudioEncoder
from wavfusion.encoders.bundle import Encoders, load_encoder
from wavfusion.encoders.live import LiveWavFusion
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.evaluation import evaluate as scoring
from wavfusion.evaluation.inference import Utterances, classify, subsets
from wavfusion.evaluation.shared_space import pulls
from wavfusion.experiments.experiment import Experiment, Training, read_yaml
from wavfusion.features.clips import FeatureSet, Media
from wavfusion.features.dataset import (
    Features,
    LengthBatches,
    add_absent_modalities,
    choose_features,
    collate,
    model_config,
    model_inputs,
)
from wavfusion.features.store import Store
from wavfusion.files import require_file, write_whole
from wavfusion.manifest import Corpus, Utterance
from wavfusion.metrics import familiarity, scores
from wavfusion.metrics.calibration import fit_temperature
from wavfusion.metrics.familiarity import Familiarity
from wavfusion.model.config import MODALITIES, WavFusionConfig
from wavfusion.model.distributed import num_processes, total
from wavfusion.model.wavfusion import WavFusion, WavFusionOutput
from wavfusion.runs.folder import FAMILIARITY, Run, preset_of, read_json, read_run, write_json, write_model
from wavfusion.training import checkpoints
from wavfusion.training.recorded import Recorded
from wavfusion.training.resident import SHARE, Resident
from wavfusion.version import __version__

log = logging.getLogger(__name__)

READERS = 2  # processes that read batches ahead for a GPU


@dataclass(frozen=True)
class Data:
    """What is trained on: a corpus, its division and its features."""

    utterances: Sequence[Utterance]
    corpus: Corpus
    protocol: Protocol
    store: Store
    media: Media
    manifest_path: str = ""

    def part(self, name: str) -> list[Utterance]:
        """The utterances of train, valid or test."""
        chosen = set(self.protocol.ids(name))
        return [row for row in self.utterances if row.id in chosen]


def train(
    experiment: Experiment, data: Data, out: Path, device: str = "cpu", *, resume: bool = False, force: bool = False
) -> dict[str, Any]:
    """Train one model, keep its best epoch by validation weighted F1, and score its test part.

    Several processes of torchrun or `accelerate launch` train together, each on its share of every batch; the first of
    them writes, and scores.

    Args:
        experiment: switches, optimiser, seed.
        data: corpus, protocol and store.
        out: the RUN folder.
        device: `cpu` or `cuda`.
        resume: go on from the newest whole checkpoint of `out`; on CPU the model is the same as without a break.
        force: remove an earlier RUN, once everything that the new one needs is there.

    Returns:
        The figures of the test part (those of the valid part where there is no test part); nothing but in the first
        process.

    Raises:
        CorpusError: `out` holds a RUN that is neither resumed nor removed, a part is empty, features are not there.
        ConfigError: settings that do not fit together, an encoder that is not the store's, another experiment resumed.
    """
    processes = PartialState(cpu=not device.startswith("cuda"))
    features = choose_features(data.store, experiment.preset)
    experiment = resolved(experiment, features)
    _require_place(out, experiment, data, resume, force)
    selecting = data.protocol.selected_on
    if experiment.train.recorded and processes.num_processes > 1:
        raise ConfigError(f"train.recorded: expected one process, found {processes.num_processes}")
    for part in ("train", selecting):
        if not data.part(part):
            raise CorpusError(f"protocol {data.protocol.name!r}: expected utterances in part {part!r}, found none")
    config = model_config(experiment.model, features, data.protocol.classes)
    torch.manual_seed(experiment.seed)
    live = experiment.train.mode != "cached" and "audio" in config.modalities
    sets = {}
    for role, part in (("train", "train"), ("valid", selecting)):
        rows, first = data.part(part), role == "train"
        sets[role] = Features(rows, data.store, data.media, features, config, first_window=first, live=live)
    _warn_of_lacks(sets)
    encoders = load_trained_on(features, config)
    model, network = build(experiment.train, config, encoders)
    prior = _prior(sets["train"])
    if config.task_loss == "balanced":
        model.weigh_classes(_class_weights(prior))
    checkpoint = _begin(out, experiment, data, resume, force)
    if checkpoint is not None and checkpoints.has_ended(checkpoint, experiment.train.patience):
        checkpoints.load_best(network, checkpoint)
    else:
        trainer = _trainer(network, model, experiment, sets, prior, out, device)
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    if not processes.is_main_process:
        return {}
    mode = experiment.train.mode if live else "cached"
    languages = sorted({row.language for row in data.part("train") if row.language})
    trained = Run(out, model, features, mode, prior, data.protocol.to_json(), 1.0, languages)
    _write(trained, network.to(device), sets, encoders, device)
    return _finish(out, data, device)


def read_data(
    manifest_path: Path, store: Path, protocol_name: str | None = None, fold: int = 1, selected_on: str = "valid"
) -> Data:
    """Open what a training needs: the manifest with its corpus, one fold of the protocol, the store.

    Raises:
        CorpusError: one of them is not there or damaged.
        ConfigError: no such protocol.
    """
    utterances, corpus = manifest.read(manifest_path), manifest.read_corpus(manifest_path)
    features = Store(store)
    protocol = resolve(protocol_name, utterances, corpus.classes, fold, selected_on)
    media = Media(features, corpus.root, corpus.root)
    return Data(utterances, corpus, protocol, features, media, str(manifest_path))


FILES = (
    *("experiment.yaml", "environment.json", "protocol.json", "split.csv", "config.json", "model.safetensors"),
    FAMILIARITY,
    *("metrics.json", "predictions.csv", "history.csv", "evaluate/metrics.json", "evaluate/predictions.csv"),
    *("explain.json", "report.html", "compared.html"),
)


def remove_run(out: Path) -> None:
    """Remove what an earlier training wrote, with the figures of its model, and nothing else."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    for name in ("checkpoints", "encoders", "tensorboard"):
        shutil.rmtree(out / name, ignore_errors=True)


def resolved(experiment: Experiment, features: FeatureSet) -> Experiment:
    """Fill in what an experiment leaves to the preset of the stored features: its name and its learning rates."""
    rates = {
        name: getattr(features, name)
        for name in ("pretrained_rate", "new_rate")
        if getattr(experiment.train, name) is None
    }
    return replace(experiment, preset=features.preset, train=replace(experiment.train, **rates))


def _begin(out: Path, experiment: Experiment, data: Data, resume: bool, force: bool) -> Path | None:
    """Let the first process make the RUN folder ready, and say which checkpoint all go on from."""
    processes = PartialState()
    processes.wait_for_everyone()  # to have seen what there was
    checkpoint = None
    if processes.is_main_process:
        if force:
            remove_run(out)
        _write_setting(out, experiment, data)
        checkpoint = checkpoints.newest(out) if resume else None
    return broadcast_object_list([checkpoint])[0]


def _warn_of_lacks(sets: Mapping[str, Features]) -> None:
    """Say what the training will lack, before hours are spent."""
    classes = sets["train"].config.classes
    learned, judged = (
        [name for name, count in zip(classes, sets[role].class_counts(), strict=True) if count]
        for role in ("train", "valid")
    )
    if len(learned) == 1:
        log.warning("all training utterances are %s: there is nothing to tell apart", learned[0])
    if unjudged := [name for name in learned if name not in judged]:
        log.warning("the part that chooses the epoch has no utterance that is %s", " or ".join(unjudged))
    if absent := sets["train"].absent():
        log.warning("no training utterance has %s", " or ".join(absent))


def _require_place(out: Path, experiment: Experiment, data: Data, resume: bool, force: bool) -> None:
    """Refuse to overwrite a RUN, and to go on with one under another experiment or protocol."""
    if resume and force:
        raise ConfigError("expected one of --resume (go on) and --force (begin anew), found both")
    setting = out / "experiment.yaml"
    there = setting.exists() or (out / "model.safetensors").exists()
    if there and not resume and not force:
        raise CorpusError(
            f"{out}: expected no RUN there, found one; go on with --resume, begin anew with --force, or choose another"
        )
    if not resume or not setting.exists():
        return
    old, new = read_yaml(require_file(setting)), asdict(experiment)
    if old != new:
        changed = ", ".join(_changes(old, new))
        raise ConfigError(f"--resume {out}: expected the experiment that it began with, found {changed}")
    protocol = out / "protocol.json"
    try:
        same = not protocol.exists() or read_json(protocol)["hash"] == data.protocol.hash
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ConfigError(f"{protocol}: expected what training writes, found {error}") from None
    if not same:
        raise ConfigError(f"--resume {out}: expected the protocol that it began with, found another division")
    began, now = _processes_of(out), num_processes()
    if began != now:
        raise ConfigError(f"--resume {out}: expected the {began} processes that it began with, found {now}")


def _processes_of(out: Path) -> int:
    """How many processes began a RUN; an older one does not say: 1."""
    try:
        return int(read_json(out / "environment.json")["processes"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError, CorpusError):
        return 1


def _changes(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """Say which settings differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in new:
            yield from _changes(old.get(key), new[key], f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield f"{prefix} {new} where it was {old}"


def load_trained_on(features: FeatureSet, config: WavFusionConfig) -> Encoders:
    """Load the encoders whose features are stored, as far as the model needs them, and check that they are the same.

    Raises:
        ConfigError: an encoder is not the one that filled the store; both fingerprints are named.
    """
    loaded: dict[str, Any] = {}
    for name in config.modalities:
        about = getattr(features, name)
        # Only the audio encoder lends tensors to the model; the others are needed where no hub holds them.
        if name != "audio" and about["name"] != "tiny":
            continue
        loaded[name] = load_encoder(name, about["name"], features.precision)
        if loaded[name].fingerprint != about["fingerprint"]:
            raise ConfigError(
                f"{name} encoder {about['name']!r}: expected {about['fingerprint']}, which made the stored features, "
                f"found {loaded[name].fingerprint}; extract again"
            )
    return Encoders(features.preset, preset_of(features), **loaded, view=features.view)


def build(setting: Training, config: WavFusionConfig, encoders: Encoders) -> tuple[WavFusion, nn.Module]:
    """Make the model with its pretrained tensors, and the network that is trained: it, or an encoder before it."""
    model = WavFusion(config)
    model.set_fast(setting.fast)
    audio, mode = encoders.audio, setting.mode
    if audio is not None and mode == "scratch":
        _draw_anew(audio)
    if audio is not None:
        model.load_pretrained(audio.model.encoder.state_dict())
    if audio is None or mode == "cached":
        return model, model
    return model, LiveWavFusion(audio, model, learn=mode == "scratch")


def _draw_anew(encoder: AudioEncoder) -> None:
    """Give an encoder the random weights that its library starts training from."""
    encoder.model = type(encoder.model)(encoder.config)
    for module in encoder.model.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.ones_(module.weight)


def _prior(samples: Features) -> list[float]:
    counts = samples.class_counts()
    return [count / sum(counts) for count in counts]


def _write(trained: Run, network: nn.Module, sets: Mapping[str, Features], encoders: Encoders, device: str) -> None:
    """Calibrate the model, learn where its training data lie, and write it."""
    names, prior = trained.model.config.modalities, trained.prior
    said = {role: classify(network, samples, names, prior, device) for role, samples in sets.items()}
    temperature = _temperature(said["valid"], sets["valid"].emotions())
    write_model(replace(trained, temperature=temperature, familiarity=_familiarity(**said)), encoders)


def _temperature(said: Utterances, truth: Mapping[str, int]) -> float:
    """Calibrate on the utterances that chose the epoch."""
    there = [i for i, names in enumerate(said.modalities) if names]
    labels = np.array([truth[said.ids[i]] for i in there], dtype=np.int64)
    return fit_temperature(said.probabilities[there], labels) if there else 1.0


def _familiarity(train: Utterances, valid: Utterances) -> Familiarity | None:
    """Where the training part lies; nothing is known of a single utterance."""
    if train.vectors is None or valid.vectors is None or len(train.ids) < 2:
        return None
    return familiarity.fit(train.vectors, valid.vectors)


def _class_weights(prior: Sequence[float]) -> Tensor:
    """Inverse frequencies with mean 1 over the training part; an emotion that it lacks weighs nothing."""
    there = sum(share > 0 for share in prior)
    return torch.tensor([1 / (there * share) if share > 0 else 0.0 for share in prior])


# ---------------------------------------------------------------------- the Trainer


class _Network(nn.Module):
    """Keeps the model's own frozen `config` from the Trainer, which would write into it."""

    def __init__(self, network: nn.Module, recorded: Recorded | None) -> None:
        super().__init__()
        self.network, self.recorded = network, recorded

    def forward(self, **inputs: Any) -> WavFusionOutput:
        run = self.recorded if self.training and self.recorded is not None else self.network
        return run(**inputs)


class FusionTrainer(Trainer):
    """transformers' Trainer with our batches, parameter groups, loss parts and validation by whole utterances."""

    optimizer: Any
    control: Any

    def __init__(
        self, network: nn.Module, fusion: WavFusion, rates: tuple[float, float], recorded: bool, **rest: Any
    ) -> None:
        self.fusion, self.rates = fusion, rates
        self.prior: list[float] = []
        self._parts: dict[str, Tensor] = {}  # sums since the last log, of so many steps
        self._steps = 0
        super().__init__(model=_Network(network, Recorded(fusion) if recorded else None), **rest)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBatches:
        train: Features | Resident = train_dataset or self.train_dataset
        size, seed = self.args.per_device_train_batch_size, self.args.seed
        return LengthBatches(train.lengths(), size, seed, self.args.world_size)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        ready = model_inputs(inputs, self.fusion.config.modalities, self.args.device)
        if self.args.world_size == 1:
            return ready
        # Processes that ran different parts of the network would wait for each other without end.
        waveforms = any(x is not None for x in ready.get("waveforms", ()))
        own = [ready[name] is not None or (name == "audio" and waveforms) for name in MODALITIES]
        there = total(torch.tensor(own, dtype=torch.int32, device=self.args.device)).tolist()
        return add_absent_modalities(
            ready, [name for name, count in zip(MODALITIES, there, strict=True) if count], self.fusion.config
        )

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the total loss of eq. 15, and keep its parts for the next log."""
        output = model(**inputs)
        for name, value in output.losses.items():  # a tensor kept of every step would cut the heap to pieces
            self._parts.setdefault(name, torch.zeros_like(value, dtype=torch.float64)).add_(value.detach())
        self._steps += 1
        return (output.loss, output) if return_outputs else output.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss parts' means, the learning rates of the groups, and the margin loss's pull."""
        if "loss" in logs:
            logs |= {f"loss_{name}": float(value) / self._steps for name, value in self._parts.items()}
            self._parts, self._steps = {}, 0
            logs |= {f"lr_{group['name']}": group["lr"] for group in self.optimizer.param_groups}
            if self.fusion.shared_encoder is not None:
                logs |= pulls(self.model.network, self._prepare_inputs(self._probe()), self.fusion)
        super().log(logs, start_time)

    def _probe(self) -> dict[str, Any]:
        """The batch on which the gradients of the losses are compared: always the same, from all over the part."""
        train: Features | Resident = self.train_dataset
        size = min(self.args.per_device_train_batch_size * self.args.world_size, len(train))
        return self.data_collator([train[i * len(train) // size] for i in range(size)])

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over four groups: pretrained and new tensors, with and without decay."""
        if self.optimizer is None:
            groups = parameter_groups(self.model, self.fusion, self.rates, self.args.weight_decay)
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(groups, **{**settings, "lr": self.rates[1]})
        return self.optimizer

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score the validation part by whole utterances; every process does, and the first one's figures count."""
        samples: Features = eval_dataset or self.eval_dataset
        names = self.fusion.config.modalities
        said = classify(self.model, samples, names, self.prior, str(self.args.device))
        if not math.isfinite(float(said.probabilities.sum())):
            raise ConfigError(
                f"epoch {self.state.epoch or 0:.0f}: expected finite probabilities, found NaN: the training diverged; "
                f"lower train.pretrained_rate ({self.rates[0]:g}) or train.new_rate ({self.rates[1]:g})"
            )
        classes = self.fusion.config.classes
        truth = samples.emotions()
        rows = torch.tensor([truth[name] for name in said.ids]).numpy()
        figures = scores.figures(scores.confusion_matrix(rows, said.probabilities.argmax(1), len(classes)))
        result = {f"{metric_key_prefix}_{name}": float(value) for name, value in figures.items()}
        result = broadcast_object_list([result])[0]  # as all must stop at one epoch
        self.log(result)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, result)
        return result


def parameter_groups(
    network: nn.Module, fusion: WavFusion, rates: tuple[float, float], weight_decay: float
) -> list[dict[str, Any]]:
    """Divide the tensors that learn by origin (design G.2) and by decay: none on biases, norms and codewords."""
    named = {id(parameter): name for name, parameter in fusion.named_parameters()}
    pretrained = fusion.pretrained_names()
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            from_checkpoint = id(parameter) not in named or named[id(parameter)] in pretrained
            decays = parameter.dim() > 1 and not name.endswith("codewords")
            groups.setdefault((from_checkpoint, decays), []).append(parameter)
    return [
        {
            "name": "pretrained" if old else "new",
            "params": parameters,
            "lr": rates[0] if old else rates[1],
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (old, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def stepper(
    network: nn.Module,
    fusion: WavFusion,
    rates: tuple[float, float],
    clip: float,
    fused: bool | None = None,
    recorded: bool = False,
) -> Callable[[Mapping[str, Any]], None]:
    """Return what makes one training step of a batch without the Trainer around it: for timing."""
    network.train()
    run: Callable[..., Any] = Recorded(fusion) if recorded else network
    optimiser = torch.optim.AdamW(parameter_groups(network, fusion, rates, 0.01), fused=fused)
    cuda = next(network.parameters()).is_cuda

    def step(inputs: Mapping[str, Any]) -> None:
        with torch.autocast("cuda", torch.bfloat16) if cuda else nullcontext():
            loss = run(**inputs).loss
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimiser.step()
        optimiser.zero_grad()

    return step


def _trainer(
    network: nn.Module,
    model: WavFusion,
    experiment: Experiment,
    sets: Mapping[str, Features],
    prior: list[float],
    out: Path,
    device: str,
) -> FusionTrainer:
    settings = experiment.train
    assert settings.pretrained_rate is not None and settings.new_rate is not None
    cuda = device.startswith("cuda")
    held = _held(sets["train"], settings, device)
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=settings.epochs,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup,
        max_grad_norm=settings.clip,
        weight_decay=settings.weight_decay,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=checkpoints.KEPT,
        load_best_model_at_end=True,
        metric_for_best_model=checkpoints.BEST_BY,
        greater_is_better=True,
        bf16=settings.precision == "bf16" or (settings.precision == "auto" and cuda and torch.cuda.is_bf16_supported()),
        use_cpu=not cuda,
        dataloader_pin_memory=cuda and held is None,
        dataloader_num_workers=READERS if cuda and held is None and settings.mode == "cached" else 0,
        logging_nan_inf_filter=not cuda,  # it asks the device at every step
        seed=experiment.seed,
        data_seed=experiment.seed,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        disable_tqdm=not sys.stderr.isatty(),
    )
    trainer = FusionTrainer(
        network,
        model,
        (settings.pretrained_rate, settings.new_rate),
        settings.recorded,
        args=arguments,
        data_collator=collate if held is None else held.collate,
        train_dataset=sets["train"] if held is None else held,
        eval_dataset=sets["valid"],
        callbacks=[checkpoints.Patience(settings.patience), checkpoints.Checkpoints(), History(out)],
    )
    trainer.prior = prior
    if arguments.process_index > 0:
        torch.manual_seed(experiment.seed + 100_003 * arguments.process_index)  # other dropout than the first's
    # The library's own write to stdout, which is for results.
    trainer.remove_callback(PrinterCallback if arguments.disable_tqdm else ProgressCallback)
    trainer.add_callback(Lines() if arguments.disable_tqdm else Bar())
    return trainer


def _held(samples: Features, settings: Training, device: str) -> Resident | None:
    """Put the features of the training part on the device, where that is wanted, or where there is room on a GPU."""
    if settings.resident or settings.recorded:
        return Resident(samples, device, settings.recorded)
    cuda = device.startswith("cuda")
    if settings.resident is False or not (cuda and settings.fast and settings.mode == "cached"):
        return None
    try:
        return Resident(samples, device, room=SHARE * torch.cuda.mem_get_info(device)[0])
    except MemoryError as error:
        log.info("training reads from the store at every step: %s", error)
        return None


class Bar(ProgressCallback):
    """The Trainer's progress bar with the time left, without its copies of the log on stdout."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        """Say nothing: the history says it."""


class Lines(TrainerCallback):
    """A line an epoch, where no terminal shows the bar."""

    begun, first = 0.0, 0.0

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        """Start the clock."""
        self.begun, self.first = time.monotonic(), state.epoch or 0.0

    def on_evaluate(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        """Say how it goes, and how long it takes if patience does not end it."""
        if not state.is_world_process_zero:
            return
        said = {key: value for entry in state.log_history for key, value in entry.items()}
        pace = (time.monotonic() - self.begun) / (state.epoch - self.first)
        log.info(
            "epoch %d of %d: loss %.4f, validation weighted F1 %.4f, %.0f s left",
            round(state.epoch),
            args.num_train_epochs,
            said["loss"],
            said[checkpoints.BEST_BY],
            pace * (args.num_train_epochs - state.epoch),
        )


class History(TrainerCallback):
    """Write what the Trainer logs as CSV, a row an epoch, and for TensorBoard."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.writer: SummaryWriter | None = None

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        """Rewrite the table from the whole state, so that a resumed run leaves no row twice."""
        if not state.is_world_process_zero:
            return
        rows: dict[float, dict[str, Any]] = {}
        for entry in state.log_history:
            if "train_runtime" not in entry:
                rows.setdefault(entry["epoch"], {}).update(entry)
        columns = ["epoch", "step"] + sorted({key for row in rows.values() for key in row} - {"epoch", "step"})
        file = io.StringIO()
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())
        write_whole(self.out / "history.csv", file.getvalue().encode())
        if self.writer is None:
            self.writer = SummaryWriter(str(self.out / "tensorboard"))
        for key, value in (logs or {}).items():
            if isinstance(value, int | float) and key != "epoch":
                self.writer.add_scalar(key, value, state.global_step)

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        """Close the event file."""
        if self.writer is not None:
            self.writer.close()


# ---------------------------------------------------------------------- what a RUN holds beside its model


def _write_setting(out: Path, experiment: Experiment, data: Data) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "experiment.yaml", experiment.to_yaml().encode())
    write_json(out / "protocol.json", data.protocol.to_json())
    file = io.StringIO()
    rows = {row.id: row for row in data.utterances}
    told = ((key, part, row_digest(rows[key])) for key, part in data.protocol.parts.items())
    csv.writer(file, lineterminator="\n").writerows([("id", "split", "digest"), *told])
    write_whole(out / "split.csv", file.getvalue().encode("utf-8", "surrogatepass"))
    write_json(out / "environment.json", {**environment(), "seed": experiment.seed, **_places(data)})


def _places(data: Data) -> dict[str, str]:
    return {"manifest": os.path.abspath(data.manifest_path), "store": str(data.store.folder.absolute())}


def environment() -> dict[str, Any]:
    """Versions, hardware and git revision of this process."""
    names = ("torch", "transformers", "accelerate", "numpy", "safetensors", "av", "soxr")
    return {
        "wavfusion": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in names},
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": num_processes(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_revision": _git_revision(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The revision of the package's own checkout; None where it was installed from a wheel."""
    folder = Path(__file__).parents[1]
    ask = ["git", "rev-parse", "HEAD", "HEAD:./__init__.py"]  # the second fails where the package is not the checkout's
    try:
        return subprocess.run(ask, cwd=folder, capture_output=True, text=True, timeout=10, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError):
        return None


def _finish(out: Path, data: Data, device: str) -> dict[str, Any]:
    """Score the RUN as it was written."""
    trained = read_run(out)
    part = "test" if data.part("test") else "valid"
    utterances = data.part(part)
    every = subsets(trained.model.config.modalities)
    sets = every if trained.model.config.modality_dropout > 0 else every[-1:]
    result, said = scoring.evaluate(trained, utterances, data.store, data.media, sets, device)
    result["part"] = part
    scoring.write_results(out, result, said, utterances, trained.classes)
    return result
