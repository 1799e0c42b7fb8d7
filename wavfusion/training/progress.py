"""What a training shows while it runs: a bar or a line an epoch, `history.csv`, and events for TensorBoard."""

import logging
import time
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from wavfusion.runs.results import write_history
from wavfusion.training.checkpoints import BEST_BY

log = logging.getLogger(__name__)


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
        pace = (time.monotonic() - self.started) / (state.epoch - self.first_epoch)
        log.info(
            "epoch %d of %d: loss %.4f, validation weighted F1 %.4f, %.0f s left",
            round(state.epoch),
            args.num_train_epochs,
            latest["loss"],
            latest[BEST_BY],
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
        write_history(self.out, list(rows.values()))
        if self.writer is None:
            self.writer = SummaryWriter(str(self.out / "tensorboard"))
        for key, value in (logs or {}).items():
            if isinstance(value, int | float) and key != "epoch":
                self.writer.add_scalar(key, value, state.global_step)

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        """Close the event file."""
        if self.writer is not None:
            self.writer.close()
