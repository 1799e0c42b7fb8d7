"""The RUN folder of a training: what may lie there, what is resumed, and what is written before the first step."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from wavfusion.errors import ConfigError, CorpusError
from wavfusion.experiments.experiment import Experiment
from wavfusion.runs.folder import WEIGHTS, Run, remove_run
from wavfusion.runs.origin import (
    EXPERIMENT,
    num_processes_of,
    protocol_hash_of,
    read_settings,
    training_data_of,
    write_origin,
)
from wavfusion.training import checkpoints
from wavfusion.training.data import Data
from wavfusion.training.distributed import num_processes
from wavfusion.training.start import describe_start

EXTENDED = ("train.epochs", "train.patience")  # may differ where a training is resumed


def require_place(out: Path, experiment: Experiment, data: Data, start: Run | None, resume: bool, force: bool) -> None:
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
    old, new = read_settings(out), experiment.to_plain()
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
        for key in [*new, *(key for key in old if key not in new)]:
            yield from _changes(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield prefix, f"{prefix} {new} where it was {old}"


def open_place(
    out: Path, experiment: Experiment, data: Data, start: Run | None, resume: bool, force: bool
) -> Path | None:
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
