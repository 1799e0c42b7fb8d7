"""transformers' Trainer for a WavFusion: batches, parameter groups, loss parts, validation, and what it shows."""

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from wavfusion.errors import ConfigError
from wavfusion.evaluation.inference import classify
from wavfusion.evaluation.shared_space import compare_gradients
from wavfusion.experiments.experiment import Experiment, Training
from wavfusion.features.batches import LengthBatches, add_absent_modalities, collate, model_inputs
from wavfusion.features.dataset import Features
from wavfusion.files import naming, saving
from wavfusion.metrics import scores
from wavfusion.model.config import MODALITIES
from wavfusion.model.wavfusion import WavFusion, WavFusionOutput
from wavfusion.runs.results import write_history
from wavfusion.training.checkpoints import BEST_BY, KEPT, Checkpoints, Patience, Watch, Watched, reading
from wavfusion.training.distributed import synchronise, total
from wavfusion.training.resident import SHARE, Resident

log = logging.getLogger(__name__)

READERS = 2  # processes that read batches ahead for a GPU


class Bar(ProgressCallback):
    """The Trainer's progress bar with the time left, without its copies of the log on stdout."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        """Print nothing: `history.csv` has it."""


class Lines(TrainerCallback):
    """A line an epoch, where no terminal shows the bar."""

    started, first_epoch = 0.0, 0.0

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        """Start the clock."""
        self.started, self.first_epoch = time.monotonic(), state.epoch or 0.0

    def on_evaluate(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        """Log loss, validation figure, and the time left if patience does not end the training."""
        if not state.is_world_process_zero:
            return
        latest = {key: value for entry in state.log_history for key, value in entry.items()}
        done, pace = state.epoch, (time.monotonic() - self.started) / (state.epoch - self.first_epoch)
        left = pace * (args.num_train_epochs - done)
        line = "epoch %d of %d: loss %.4f, validation weighted F1 %.4f, %.0f s left"
        log.info(line, round(done), args.num_train_epochs, latest["loss"], latest[BEST_BY], left)


class History(TrainerCallback):
    """Write what the Trainer logs as CSV, a row an epoch, and for TensorBoard."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.writer: Any = None

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        """Rewrite the table from the whole state, so that a resumed run leaves no row twice."""
        if not state.is_world_process_zero:
            return
        rows: dict[float, dict[str, Any]] = {}
        for entry in state.log_history:
            if "train_runtime" not in entry:
                rows.setdefault(entry["epoch"], {}).update(entry)
        write_history(self.out, list(rows.values()))
        with naming(folder := self.out / "tensorboard"):
            if self.writer is None:
                folder.mkdir(exist_ok=True)
                self.writer = EventsWriter(str(folder / "events"))  # SummaryWriter fails in a thread of its own
            for key, value in (logs or {}).items():
                if isinstance(value, int | float) and key != "epoch":
                    summary = scalar(key, value)
                    self.writer.write_event(Event(wall_time=time.time(), step=state.global_step, summary=summary))
            self.writer.flush()

    def close(self) -> None:
        """Close the event file; nothing is left to be written that a full disk could refuse."""
        if self.writer is not None:
            with suppress(OSError):
                self.writer.close()


class _Network(nn.Module):
    """Keeps the model's own frozen `config` from the Trainer, which would write into it, and averages its weights."""

    def __init__(self, network: nn.Module, average: float) -> None:
        super().__init__()
        self.network = network
        self.averaged = None
        if average:
            mean = get_ema_multi_avg_fn(average)  # type: ignore[no-untyped-call]
            self.averaged = AveragedModel(network, multi_avg_fn=mean, use_buffers=True).requires_grad_(False)

    @property
    def scored(self) -> nn.Module:
        """What validation scores: the averaged weights, where there are any."""
        return self.network if self.averaged is None else self.averaged.module

    def forward(self, **inputs: Any) -> WavFusionOutput:
        return self.network(**inputs)


class Average(TrainerCallback):
    """Takes the weights of every step into their moving average (Polyak and Juditsky 1992)."""

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        """Update the average."""
        model.averaged.update_parameters(model.network)


class FusionTrainer(Trainer):
    """transformers' Trainer with our batches, parameter groups, loss parts and validation by whole utterances.

    `network` is `fusion`, or an encoder before it; `experiment` is resolved, `sets` holds samples by role (`train`,
    `valid`), `prior` the shares of the emotions in the training part, `out` is the RUN; `watch` is told of
    every epoch.
    """

    optimizer: Any
    control: Any

    def __init__(
        self,
        network: nn.Module,
        fusion: WavFusion,
        experiment: Experiment,
        sets: Mapping[str, Features],
        prior: list[float],
        out: Path,
        device: str,
        watch: Watch | None = None,
    ) -> None:
        settings, train = experiment.train, sets["train"]
        assert settings.pretrained_rate is not None and settings.new_rate is not None
        self.fusion, self.prior, self.rates = fusion, prior, (settings.pretrained_rate, settings.new_rate)
        self.layer_decay = settings.layer_decay
        self._loss_sums: dict[str, Tensor] = {}  # of each part since the last log, over so many steps
        self._num_steps = 0
        held, self.history = _held(train, settings, device), History(out)
        arguments = _arguments(experiment, out, device, resident=held is not None)
        super().__init__(
            model=_Network(network, settings.average),
            args=arguments,
            data_collator=collate if held is None else held.collate,
            train_dataset=train if held is None else held,
            eval_dataset=sets["valid"],
            callbacks=[Patience(settings.patience), Checkpoints(), self.history],
        )
        if settings.average:
            self.add_callback(Average())
        if watch is not None:
            self.add_callback(Watched(watch))
        if arguments.world_size > 1:
            synchronise(network)
        if arguments.process_index > 0:
            torch.manual_seed(experiment.seed + 100_003 * arguments.process_index)  # other dropout than the first's
        # The library's own write to stdout, which is for results.
        self.remove_callback(PrinterCallback if arguments.disable_tqdm else ProgressCallback)
        self.add_callback(Lines() if arguments.disable_tqdm else Bar())

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBatches:
        train: Features | Resident = train_dataset or self.train_dataset
        size, seed = self.args.per_device_train_batch_size, self.args.seed
        return LengthBatches(train.lengths(), size, seed, self.args.world_size, train.variants)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        ready = model_inputs(inputs, self.fusion.config.modalities, self.args.device)
        if self.args.world_size == 1:
            return ready
        # Processes that ran different parts of the network would wait for each other without end.
        waveforms = any(x is not None for x in ready.get("waveforms", ()))
        present = [ready[name] is not None or (name == "audio" and waveforms) for name in MODALITIES]
        counts = total(torch.tensor(present, dtype=torch.int32, device=self.args.device)).tolist()
        given = [name for name, count in zip(MODALITIES, counts, strict=True) if count]
        return add_absent_modalities(ready, given, self.fusion.config)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the total loss of eq. 15, and keep its parts for the next log."""
        output = model(**inputs)
        for name, value in output.losses.items():  # a tensor kept of every step would cut the heap to pieces
            self._loss_sums.setdefault(name, torch.zeros_like(value, dtype=torch.float64)).add_(value.detach())
        self._num_steps += 1
        return (output.loss, output) if return_outputs else output.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the loss parts, the learning rates, and the margin loss's share of the gradient."""
        if "loss" in logs:
            logs |= {f"loss_{name}": float(value) / self._num_steps for name, value in self._loss_sums.items()}
            self._loss_sums, self._num_steps = {}, 0
            # The highest layer comes first in its groups: its rate is the one that is set.
            logs |= {f"lr_{group['name']}": group["lr"] for group in reversed(self.optimizer.param_groups)}
            if self.fusion.shared_encoder is not None:
                logs |= compare_gradients(self.model.network, self._prepare_inputs(self._probe()), self.fusion)
        super().log(logs, start_time)

    def _probe(self) -> dict[str, Any]:
        """The batch on which the gradients of the losses are compared: always the same, from all over the part."""
        train: Features | Resident = self.train_dataset
        size = min(self.args.per_device_train_batch_size * self.args.world_size, len(train))
        return self.data_collator([train[i * len(train) // size] for i in range(size)])

    def train(self, *arguments: Any, **settings: Any) -> Any:
        """Train as the Trainer does, leave the best epoch in `network`, and close the history however it ends."""
        try:
            result = super().train(*arguments, **settings)
        finally:
            self.history.close()
        self.model.network.load_state_dict(self.model.scored.state_dict())
        return result

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with saving(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with reading(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(checkpoint or ""):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(checkpoint or ""):
            super()._load_rng_state(checkpoint)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over four groups: pretrained and new tensors, with and without decay."""
        if self.optimizer is None:
            groups = parameter_groups(self.model, self.fusion, self.rates, self.args.weight_decay, self.layer_decay)
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(groups, **{**settings, "lr": self.rates[1]})
        return self.optimizer

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score the validation part by whole utterances; every process does, and the first one's figures count."""
        samples: Features = eval_dataset or self.eval_dataset
        config, truth = self.fusion.config, samples.emotions()
        predicted = classify(self.model.scored, samples, config.modalities, self.prior, str(self.args.device))
        if not math.isfinite(float(predicted.probabilities.sum())):
            raise ConfigError(
                f"epoch {self.state.epoch or 0:.0f}: expected finite probabilities, found NaN: the training diverged; "
                f"lower train.pretrained_rate ({self.rates[0]:g}) or train.new_rate ({self.rates[1]:g})"
            )
        rows = np.array([truth[name] for name in predicted.ids])
        counts = scores.confusion_matrix(rows, predicted.probabilities.argmax(1), len(config.classes))
        result = {f"{metric_key_prefix}_{name}": float(value) for name, value in scores.figures(counts).items()}
        result = broadcast_object_list([result])[0]  # as all must stop at one epoch
        self.log(result)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, result)
        return result


def parameter_groups(
    network: nn.Module,
    fusion: WavFusion,
    rates: tuple[float, float],
    weight_decay: float,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Divide the tensors that learn by origin, depth and weight decay: none on biases, norms and codewords.

    `layer_decay` lowers the rate of pretrained tensors from each layer to the one below.
    """
    named = {id(parameter): name for name, parameter in fusion.named_parameters()}
    pretrained = fusion.pretrained_names()
    layers = [*reversed([*fusion.layers, *fusion.deep_layers])]
    depth = {id(parameter): number for number, layer in enumerate(layers) for parameter in layer.parameters()}
    groups: dict[tuple[bool, bool, int], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            from_checkpoint = id(parameter) not in named or named[id(parameter)] in pretrained
            decays = parameter.dim() > 1 and not name.endswith("codewords")
            below = depth.get(id(parameter), 0) if from_checkpoint and layer_decay < 1 else 0
            groups.setdefault((from_checkpoint, decays, below), []).append(parameter)
    return [
        {
            "name": "pretrained" if old else "new",
            "params": parameters,
            "lr": rates[0] * layer_decay**below if old else rates[1],
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (old, decays, below), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def stepper(
    network: nn.Module, fusion: WavFusion, rates: tuple[float, float], clip: float, fused: bool | None = None
) -> Callable[[Mapping[str, Any]], None]:
    """Return a function that makes one training step of a batch without the Trainer around it: for timing."""
    network.train()
    optimiser = torch.optim.AdamW(parameter_groups(network, fusion, rates, 0.01), fused=fused)
    cuda = next(network.parameters()).is_cuda

    def step(inputs: Mapping[str, Any]) -> None:
        with torch.autocast("cuda", torch.bfloat16) if cuda else nullcontext():
            loss = network(**inputs).loss
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimiser.step()
        optimiser.zero_grad()

    return step


def _arguments(experiment: Experiment, out: Path, device: str, resident: bool) -> TrainingArguments:
    settings, cuda = experiment.train, device.startswith("cuda")
    has_bfloat16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    return TrainingArguments(
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
        save_total_limit=KEPT,
        load_best_model_at_end=True,
        metric_for_best_model=BEST_BY,
        greater_is_better=True,
        bf16=settings.precision == "bf16" or (settings.precision == "auto" and has_bfloat16),
        use_cpu=not cuda,
        dataloader_pin_memory=cuda and not resident,
        dataloader_num_workers=READERS if cuda and not resident and settings.mode == "cached" else 0,
        logging_nan_inf_filter=not cuda,  # it would wait for the device at every step
        seed=experiment.seed,
        data_seed=experiment.seed,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        disable_tqdm=not sys.stderr.isatty(),
    )


def _held(samples: Features, settings: Training, device: str) -> Resident | None:
    """Hold the features of the training part on the device, where that is set, or where a GPU has room."""
    if settings.resident:
        return Resident(samples, device)
    cuda = device.startswith("cuda")
    if settings.resident is False or not (cuda and settings.fast and settings.mode == "cached"):
        return None
    try:
        return Resident(samples, device, room=SHARE * torch.cuda.mem_get_info(device)[0])
    except MemoryError as error:
        log.info("training reads from the store at every step: %s", error)
        return None
