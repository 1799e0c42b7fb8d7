"""The results of a RUN: metrics.json, predictions.csv, history.csv, explain.json, written and read here alone."""

import csv
import io
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64

from wavfusion.errors import ConfigError
from wavfusion.files import read_bytes, read_json, validated, write_atomic, write_json
from wavfusion.manifest import Utterance
from wavfusion.metrics import scores

CSV_BYTES, CSV_LINES = 1 << 28, 2_000_000  # most of a table
METRICS, PREDICTIONS, HISTORY, EXPLAINED = "metrics.json", "predictions.csv", "history.csv", "explain.json"

CsvRow = dict[str, str]  # cells by column


@dataclass(frozen=True)
class Predictions:
    """Rows of predictions.csv, of one RUN or of several, one after the other, and their emotions in class order."""

    rows: list[CsvRow]
    classes: list[str]

    def column(self, name: str) -> list[str]:
        """One column."""
        return [row[name] for row in self.rows]

    @property
    def truth(self) -> list[str]:
        """The labels; empty where the rows do not hold them."""
        return [row["truth"] for row in self.rows if "truth" in row]

    @property
    def groups(self) -> list[str | None]:
        """The dialogue of each utterance; None where it has none."""
        return [name or None for name in self.column("dialogue")]

    @property
    def speakers(self) -> list[str | None]:
        """The speaker of each utterance; None where it is not known."""
        return [name or None for name in self.column("speaker")]

    @property
    def probabilities(self) -> Float64[np.ndarray, "N C"]:
        """Of the emotions, in class order."""
        return np.array([[float(row[f"p_{name}"]) for name in self.classes] for row in self.rows])

    def confusions(self, groups: Sequence[Hashable] | None) -> Int64[np.ndarray, "G C C"]:
        """One confusion matrix a group, in order of appearance; an utterance without one is its own group."""
        return scores.confusions_by_group(self.truth, self.column("predicted"), self.classes, groups)

    def score(self) -> dict[str, Any]:
        """The figures of metrics.json."""
        predicted = self.column("predicted")
        return scores.score(
            self.truth, predicted, self.classes, self.groups, self.probabilities, speakers=self.speakers
        )


def write_results(
    out: Path, metrics: Mapping[str, Any], utterances: Sequence[Utterance], probabilities: Float[np.ndarray, "N C"]
) -> None:
    """Write metrics.json, and predictions.csv of labelled utterances; equal values give equal bytes."""
    classes, protocol = metrics["classes"], metrics["protocol"]["hash"][:16]
    rows = []
    for each, row in zip(utterances, probabilities, strict=True):
        about = {"id": each.id, "dialogue": each.dialogue, "speaker": each.speaker, "truth": each.emotion}
        about["predicted"] = classes[row.argmax()]
        shares = {f"p_{name}": f"{share:.6f}" for name, share in zip(classes, row, strict=True)}
        rows.append({name: value or "" for name, value in about.items()} | shares | {"protocol": protocol})
    write_recomputed(out, metrics, rows)


def write_recomputed(out: Path, metrics: Mapping[str, Any], rows: Sequence[CsvRow]) -> None:
    """Write metrics.json and predictions.csv, the latter from rows as they were read."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / PREDICTIONS, encode_csv(rows))
    write_json(out / METRICS, dict(metrics))


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read metrics.json; a ConfigError if it is missing or no JSON object."""
    path = folder / METRICS
    if not path.exists():
        raise ConfigError(f"{path}: expected what training writes, found no such file")
    return validated(dict, read_json(path), path)


def write_explained(path: Path, explained: Mapping[str, Any]) -> None:
    """Write explain.json (docs/howto/explain.md)."""
    write_json(path, dict(explained))


def read_explained(folder: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Read explain.json, where it is of the utterances of metrics.json; else empty. A ConfigError if it is damaged."""
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


def write_history(out: Path, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Write history.csv: a row an epoch, with the columns of all of them."""
    columns = ["epoch", "step", *sorted({name for row in epochs for name in row} - {"epoch", "step"})]
    rows = [{name: str(row.get(name, "")) for name in columns} for row in epochs]
    write_atomic(out / HISTORY, encode_csv(rows, columns))


def read_history(folder: Path) -> list[dict[str, float]]:
    """Read history.csv as numbers, without empty cells; no row if it is missing, a ConfigError if it is damaged."""
    path = folder / HISTORY
    rows = read_csv(path) if path.exists() else []
    try:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in rows]
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def encode_csv(rows: Sequence[CsvRow], columns: Sequence[str] | None = None) -> bytes:
    """Encode rows as CSV with a header, the columns of the first row unless given."""
    names = list(rows[0]) if columns is None else columns
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([names, *([row[name] for name in names] for row in rows)])
    return file.getvalue().encode("utf-8", "surrogatepass")


def read_csv(path: Path) -> list[CsvRow]:
    """Read a CSV file of a RUN; a ConfigError if it is missing or damaged."""
    try:
        return parse_csv(read_bytes(path, most=CSV_BYTES))
    except (OSError, csv.Error, ValueError) as error:
        raise ConfigError(f"{path}: expected what training writes, found {error}") from None


def parse_csv(content: bytes) -> list[CsvRow]:
    """Parse CSV with a header; a ValueError or csv.Error if a line has another number of cells, or is damaged."""
    if content.count(b"\n") > CSV_LINES:
        raise ValueError(f"more than {CSV_LINES} lines")
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8", "surrogatepass"), newline=""), strict=True))
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ValueError(f"line {number} with another number of cells than the header")
    return rows
