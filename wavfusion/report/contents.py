"""A RUN as its page shows it: its results, and what lies around them as far as it is there."""

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from wavfusion import manifest
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.manifest import Utterance
from wavfusion.metrics import scores
from wavfusion.runs import bundle
from wavfusion.runs.origin import corpus_of
from wavfusion.runs.results import read_explained, read_history


@dataclass(frozen=True)
class Shown:
    """A RUN as its page shows it.

    Attributes:
        history: rows of history.csv, as numbers.
        explained: explain.json of the same utterances, else nothing.
        corpus: what its manifest says of its utterances, by id; nothing where it lies elsewhere now.
        root: where the media lie.
        corpus_name: as `run.corpus_of` says.
    """

    name: str
    results: bundle.Bundle
    history: list[dict[str, float]]
    explained: dict[str, Any]
    corpus: dict[str, Utterance]
    root: Path
    corpus_name: str

    @property
    def classes(self) -> list[str]:
        """The emotions in class order."""
        return list(self.results.protocol["classes"])

    def column(self, name: str) -> list[str]:
        """A column of predictions.csv."""
        return [row[name] for row in self.results.rows]

    def confusions(self, groups: Sequence[Hashable]) -> Int64[np.ndarray, "G C C"]:
        """One confusion matrix for each group; an utterance without one counts alone."""
        names = [name or None for name in groups]
        return scores.confusions_by_group(self.column("truth"), self.column("predicted"), self.classes, names)


def short_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of their paths that tell RUNs apart."""
    whole = [Path(os.path.abspath(folder)) for folder in folders]
    if len(set(whole)) < len(whole):
        raise ConfigError(f"report: expected each RUN once, found {', '.join(map(str, folders))}")
    for length in range(1, max(len(path.parts) for path in whole)):
        names = [os.path.join(*path.parts[-length:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in whole]


def read_shown(folder: Path, name: str, root: Path | None) -> Shown:
    """Read what the page of a RUN needs.

    Raises:
        ConfigError: not a whole RUN, or its files are not of one evaluation.
    """
    results = bundle.read_bundle(folder)
    corpus, own_root = _read_corpus(results.environment)
    history, explained = read_history(folder), _read_explained(folder, results.metrics)
    shown = Shown(name, results, history, explained, corpus, root or own_root, corpus_of(folder))
    problems = list(results.problems())
    if shown.confusions(shown.column("id")).sum(axis=0).tolist() != results.metrics["confusion"]:
        problems.append("another confusion in metrics.json")
    for problem in problems:
        raise ConfigError(f"{folder}: expected predictions and figures of one evaluation, found {problem}")
    return shown


def _read_corpus(environment: Mapping[str, Any]) -> tuple[dict[str, Utterance], Path]:
    """The manifest that a RUN was trained on, as far as it is still there."""
    try:
        path = Path(environment["manifest"])
        return {row.id: row for row in manifest.stream(path)}, Path(manifest.read_corpus(path).root)
    except (CorpusError, OSError, KeyError, TypeError):
        return {}, Path()


def _read_explained(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the model's parts do, where that was explained on the utterances of metrics.json."""
    try:
        found, wanted = read_explained(folder), [metrics["protocol"]["hash"], metrics["part"]]
        if found is None or [found["protocol"]["hash"], found["split"]] != wanted:
            return {}
        parts = {name: (own["text_share"], own["contribution"]) for name, own in found["utterances"].items()}
        return {**found, "utterances": parts}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{folder}: expected what `evaluate --explain` writes, found {reason}") from None
