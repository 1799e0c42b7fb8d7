"""Contents of a RUN's page: its results, and what of its history, explanation and corpus is present."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavfusion import manifest
from wavfusion.errors import ConfigError
from wavfusion.files import read_json
from wavfusion.manifest import Utterance
from wavfusion.runs.bundle import Bundle, read_bundle
from wavfusion.runs.origin import corpus_of
from wavfusion.runs.results import EXPLAINED, read_history


@dataclass(frozen=True)
class RunContents(Bundle):
    """What the page of a RUN is made of.

    Attributes:
        history: rows of history.csv, as numbers.
        explained: explain.json of the same utterances, else empty.
        corpus: rows of its manifest by id; empty where it was moved.
        root: folder of the media.
        corpus_name: as `runs.origin.corpus_of` gives it.
    """

    name: str
    history: list[dict[str, float]]
    explained: dict[str, Any]
    corpus: dict[str, Utterance]
    root: Path
    corpus_name: str


def short_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of their paths that distinguish RUNs."""
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    if len(set(paths)) < len(paths):
        raise ConfigError(f"report: expected each RUN once, found {', '.join(map(str, folders))}")
    for length in range(1, max(len(path.parts) for path in paths)):
        names = [os.path.join(*path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def read_contents(folder: Path, name: str, root: Path | None) -> RunContents:
    """Read the contents of a RUN's page.

    Raises:
        ConfigError: an incomplete RUN, or files that are not of one evaluation.
    """
    results = read_bundle(folder)
    problems = list(results.problems())
    if results.confusions(results.column("id")).sum(axis=0).tolist() != results.metrics["confusion"]:
        problems.append("another confusion in metrics.json")
    for problem in problems:
        raise ConfigError(f"{folder}: expected predictions and figures of one evaluation, found {problem}")
    history, explained = read_history(folder), _read_explained(folder, results.metrics)
    corpus, corpus_root = _read_corpus(results.environment.get("manifest", ""))
    known = {"corpus": corpus, "root": root or corpus_root, "corpus_name": corpus_of(folder)}
    return RunContents(**vars(results), name=name, history=history, explained=explained, **known)


def _read_corpus(path: Any) -> tuple[dict[str, Utterance], Path]:
    """The manifest that a RUN was trained on, and its folder; empty where it is missing."""
    try:
        return {row.id: row for row in manifest.stream(path)}, Path(manifest.read_corpus(path).root)
    except (OSError, TypeError, ValueError):
        return {}, Path()


def _read_explained(folder: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Read explain.json, where it is of the utterances of metrics.json; else empty."""
    if not (folder / EXPLAINED).exists():
        return {}
    try:
        found, wanted = read_json(folder / EXPLAINED), [metrics["protocol"]["hash"], metrics["part"]]
        if [found["protocol"]["hash"], found["split"]] != wanted:
            return {}
        parts = {name: (own["text_share"], own["contribution"]) for name, own in found["utterances"].items()}
        return {**found, "utterances": parts}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{folder}: expected what `evaluate --explain` writes, found {reason}") from None
