"""Checkpoints of a training: marked when complete, resumed from, and the best epoch among them."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from accelerate import PartialState
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerState

from wavfusion.errors import SHOWN, ConfigError
from wavfusion.files import Constraint, Count, naming, read_json, require_file, validated, write_atomic

log = logging.getLogger(__name__)

AVERAGED = "averaged.module."  # names of the averaged weights, beside those of the last step
COMPLETE = "complete"  # written last into a checkpoint, with a digest of each of its files
BEST_BY = "eval_weighted_f1"
KEPT = 3  # the best, the newest, and the one before it while the newest is incomplete


Watch = Callable[[int, float], None]  # is told the validation weighted F1 of every epoch; may raise PrunedError


class PrunedError(Exception):
    """Ends a training whose epochs are worth no more time."""


class Watched(TrainerCallback):
    """Tells what watches a training of every epoch."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_evaluate(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        """Pass the last figure on."""
        scores = [entry[BEST_BY] for entry in state.log_history if BEST_BY in entry]
        self.watch(len(scores), scores[-1])


class Checkpoints(TrainerCallback):
    """Marks a checkpoint as complete when all of it is on disk."""

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        """Flush every file, those of the other processes too, then write the marker."""
        PartialState().wait_for_everyone()
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        with naming(folder):
            digests = {path.name: _digest(path, flush=True) for path in folder.iterdir()}
        write_atomic(folder / COMPLETE, json.dumps(digests).encode())


def _digest(path: Path, flush: bool = False) -> str:
    with open(require_file(path), "rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


class Patience(TrainerCallback):
    """Stops when the validation figure has not risen for some epochs.

    The count is read from the log, which a checkpoint holds, so that a resumed training stops where it would have.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        """Count the epochs since the best one."""
        if epochs_since_best(state.log_history) >= self.patience:
            control.should_training_stop = True


def epochs_since_best(log_history: Sequence[Mapping[str, Any]]) -> int:
    """Return how many epochs ago the validation weighted F1 was first at its highest."""
    scores = [entry[BEST_BY] for entry in log_history if BEST_BY in entry]
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def newest(out: Path) -> Path | None:
    """Return the newest checkpoint that is complete, with that of its best epoch; later ones are removed."""
    steps = {path.name.removeprefix("checkpoint-"): path for path in (out / "checkpoints").glob("checkpoint-*/")}
    found = [steps[step] for step in sorted(filter(str.isdecimal, steps), key=int, reverse=True)]
    for folder in found:
        damaged = next((each for each in _needed(folder) if not _is_complete(each)), None)
        if damaged is None:
            return folder
        log.warning("%s: skipped, since %s is incomplete or damaged", folder, damaged.name)
        shutil.rmtree(folder)
    if found:
        log.warning("%s: no complete checkpoint is left; training starts again", out)
    return None


def _needed(checkpoint: Path) -> Iterator[Path]:
    """The checkpoints that resuming from one reads: itself, then the one of the best epoch so far."""
    yield checkpoint
    yield _best(checkpoint)


def _is_complete(checkpoint: Path) -> bool:
    """Whether every file has the digest that the marker, which is written last, gives it."""
    try:
        digests = read_json(checkpoint / COMPLETE)
        return bool(digests) and digests == {name: _digest(checkpoint / name) for name in digests}
    except (OSError, ValueError, TypeError):
        return False


@dataclass(frozen=True)
class _State:
    """What is read here of the Trainer's trainer_state.json."""

    epoch: float
    global_step: Count
    max_steps: Count
    best_global_step: Count
    best_metric: float
    log_history: list[Annotated[dict[str, float], Constraint("figures with their epoch", lambda row: "epoch" in row)]]


def _state(checkpoint: Path) -> _State:
    path = checkpoint / "trainer_state.json"
    state = validated(_State, read_json(path), path, others=True)
    with reading(checkpoint):
        TrainerState.load_from_json(str(path))
    return state


@contextmanager
def reading(checkpoint: str | Path) -> Iterator[None]:
    """Turn whatever torch, safetensors and the Trainer raise on a checkpoint of other content into a ConfigError."""
    try:
        yield
    except (ConfigError, OSError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:SHOWN]}"
        remedy = "remove it, and --resume goes on from the one before"
        raise ConfigError(f"{checkpoint}: expected a checkpoint of this training, found {reason}; {remedy}") from None


def _best(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"checkpoint-{_state(checkpoint).best_global_step}")


def has_ended(checkpoint: Path, epochs: int, patience: int) -> bool:
    """Whether the training ended with this checkpoint; the Trainer would start another epoch."""
    state = _state(checkpoint)
    return round(state.epoch) >= epochs or epochs_since_best(state.log_history) >= patience


def load_best(network: nn.Module, checkpoint: Path) -> None:
    """Load the best epoch, as the last checkpoint knows it."""
    best = _best(checkpoint)
    with reading(best):
        tensors = load_file(best / "model.safetensors")
        averaged = any(name.startswith(AVERAGED) for name in tensors)
        prefix = AVERAGED if averaged else "network."
        found = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
        network.load_state_dict(found)
