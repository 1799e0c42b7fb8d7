"""The results of a RUN: metrics.json, predictions.csv, history.csv and explain.json, written and read here alone."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from wavfusion.errors import ConfigError
from wavfusion.files import read_json, require_file, write_atomic, write_json
from wavfusion.manifest import Utterance

METRICS, PREDICTIONS, HISTORY, EXPLAINED = "metrics.json", "predictions.csv", "history.csv", "explain.json"

CsvRow = dict[str, str]  # cells by column


def write_results(
    out: Path,
    metrics: Mapping[str, Any],
    utterances: Sequence[Utterance],
    probabilities: Float[np.ndarray, "N C"],
) -> None:
    """Write metrics.json and predictions.csv; equal values give equal bytes.

    Args:
        out: the folder.
        metrics: what metrics.json holds, `classes` and `protocol` among it.
        utterances: the labelled utterances that were classified.
        probabilities: of the emotions in class order.
    """
    classes, protocol = metrics["classes"], metrics["protocol"]["hash"][:16]
    rows = []
    for each, row in zip(utterances, probabilities, strict=True):
        about = {"id": each.id, "dialogue": each.dialogue, "speaker": each.speaker, "truth": each.emotion}
        about["predicted"] = classes[row.argmax()]
        shares = {f"p_{name}": f"{share:.6f}" for name, share in zip(classes, row, strict=True)}
        rows.append({name: value or "" for name, value in about.items()} | shares | {"protocol": protocol})
    write_recomputed(out, metrics, rows)


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read metrics.json.

    Raises:
        ConfigError: there is none, or it is no JSON object.
    """
    path = folder / METRICS
    try:
        metrics = read_json(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: expected what training writes, found no such file") from None
    if not isinstance(metrics, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(metrics).__name__}")
    return metrics


def write_recomputed(out: Path, metrics: Mapping[str, Any], rows: Sequence[CsvRow]) -> None:
    """Write metrics.json and predictions.csv, the latter from rows as they were read."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / PREDICTIONS, encode_csv(rows))
    write_json(out / METRICS, dict(metrics))


def read_predictions(folder: Path) -> list[CsvRow]:
    """Read the rows of predictions.csv.

    Raises:
        ConfigError: there is none, or a line has another number of cells than the header.
    """
    return read_csv(folder / PREDICTIONS)


def write_history(out: Path, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Write history.csv: a row an epoch, with the columns of all of them."""
    columns = ["epoch", "step", *sorted({name for row in epochs for name in row} - {"epoch", "step"})]
    rows = [{name: str(row.get(name, "")) for name in columns} for row in epochs]
    write_atomic(out / HISTORY, encode_csv(rows, columns))


def read_history(folder: Path) -> list[dict[str, float]]:
    """Read the rows of history.csv as numbers, without empty cells; none where there is no such file.

    Raises:
        ConfigError: the file is damaged.
    """
    path = folder / HISTORY
    if not path.exists():
        return []
    try:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in read_csv(path)]
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"{path}: {error}") from None


def write_explained(path: Path, explained: Mapping[str, Any]) -> None:
    """Write explain.json (docs/howto/explain.md)."""
    write_json(path, dict(explained))


def read_explained(folder: Path) -> dict[str, Any] | None:
    """Read explain.json; None where there is no such file.

    Raises:
        ConfigError: it is no JSON object.
    """
    path = folder / EXPLAINED
    if not path.exists():
        return None
    explained = read_json(path)
    if not isinstance(explained, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(explained).__name__}")
    return explained


def encode_csv(rows: Sequence[CsvRow], columns: Sequence[str] | None = None) -> bytes:
    """Encode rows as CSV with a header, the columns of the first row unless given."""
    names = list(rows[0]) if columns is None else columns
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([names, *([row[name] for name in names] for row in rows)])
    return file.getvalue().encode("utf-8", "surrogatepass")


def read_csv(path: Path) -> list[CsvRow]:
    """Read a CSV file of a RUN.

    Raises:
        ConfigError: it is missing or damaged.
    """
    try:
        return parse_csv(require_file(path).read_bytes())
    except (OSError, UnicodeDecodeError, csv.Error, LookupError, ValueError) as error:
        raise ConfigError(f"{path}: expected what training writes, found {error}") from None


def parse_csv(content: bytes) -> list[CsvRow]:
    """Parse CSV with a header.

    Raises:
        ValueError, csv.Error: it is damaged, or a line has another number of cells than the header.
    """
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8", "surrogatepass"), newline=""), strict=True))
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ValueError(f"line {number} with another number of cells than the header")
    return rows
