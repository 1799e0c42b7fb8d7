"""Several folds of a protocol: a RUN for each, and the figures of all their test utterances together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wavfusion.corpora.protocol import divide_parts, join_folds
from wavfusion.errors import ConfigError
from wavfusion.experiments.experiment import Experiment
from wavfusion.runs.folder import Run
from wavfusion.runs.results import PREDICTIONS, Predictions, read_csv, write_recomputed
from wavfusion.training.train import Data, train, warn_near_chance

FIGURES = ("n", "accuracy", "weighted_f1", "macro_f1", "uar")


def train_folds(
    experiment: Experiment,
    data: Data,
    out: Path,
    protocol: str | None = None,
    folds: Sequence[int] | None = None,
    where: str | None = None,
    device: str = "cpu",
    *,
    start: Run | None = None,
    resume: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Train a model of each fold into `out/foldK`, and score all test utterances together into `out`.

    `data` is that of any fold, `protocol` a name or a split file (None: the corpus's own), `folds` are numbers from 1
    (None: all), and `where` is what `data` was read with. The others are those of `train`, for each fold; with `resume`
    folds that are done stay.

    Returns:
        The pooled figures, with those of each fold as `folds`; empty in all processes but the first.

    Raises:
        CorpusError, ConfigError: as `train`; no such fold, or an utterance that two folds test.
    """
    every = divide_parts(protocol, data.utterances, data.protocol.classes, data.protocol.selected_on, where)
    for number in folds or ():
        if not 1 <= number <= len(every):
            raise ConfigError(f"--fold: expected 1 to {len(every)} of protocol {every[0].name}, found {number}")
    chosen = {each.fold: replace(data, protocol=each) for each in every if folds is None or each.fold in folds}
    found = {
        fold: train(experiment, part, out / f"fold{fold}", device, start=start, resume=resume, force=force)
        for fold, part in chosen.items()
    }
    return _pool(out, found) if all(found.values()) else {}


def _pool(out: Path, found: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """Score the predictions of all folds together."""
    first = next(iter(found.values()))
    rows = [row for number in found for row in read_csv(out / f"fold{number}" / PREDICTIONS)]
    if len(ids := {row["id"] for row in rows}) < len(rows):
        raise ConfigError(f"{out}: expected each utterance to be tested once, found {len(rows)} answers to {len(ids)}")
    protocol = join_folds([each["protocol"] for each in found.values()])
    del protocol["folds"]  # it is described as one
    same = {name: first[name] for name in ("classes", "modalities", "encoders", "contaminated", "part")}
    by_fold = {str(number): {name: each[name] for name in FIGURES} for number, each in found.items()}
    figures = Predictions(rows, first["classes"]).score()
    result = {**figures, **same, "subsets": {}, "protocol": protocol, "folds": by_fold}
    write_recomputed(out, result, rows)
    warn_near_chance(figures)
    return result
