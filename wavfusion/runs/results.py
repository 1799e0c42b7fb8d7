"""The results of a RUN: metrics.json, predictions.csv, history.csv, explain.json, written and read here alone."""

import csv
import hashlib
import io
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float, Float64, Int64

from wavfusion.errors import SHOWN, ConfigError
from wavfusion.files import (
    Constraint,
    Count,
    Share,
    read_bytes,
    read_json,
    validated,
    write_atomic,
    write_json,
)
from wavfusion.manifest import Utterance
from wavfusion.metrics import scores
from wavfusion.metrics.clusters import Clusters, choose_clusters

CSV_BYTES, CSV_LINES = 1 << 28, 2_000_000  # most of a table
METRICS, PREDICTIONS, HISTORY, EXPLAINED = "metrics.json", "predictions.csv", "history.csv", "explain.json"
LARGEST = 1e12  # of a number in history.csv: a plot of larger ones has no axis

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

    def require_truth(self, where: object) -> None:
        """Refuse predictions without labels by a ConfigError."""
        if not self.truth:
            found = f"none in {PREDICTIONS}; `evaluate` with --manifest brings them"
            raise ConfigError(f"{where}: expected labels (the column truth), found {found}")

    @property
    def clusters(self) -> Clusters:
        """What intervals and tests resample; `cluster` names recordings or texts where `write_results` chose them."""
        named = [row.get("cluster", "") for row in self.rows]
        hidden = {unit: [name if name.startswith(unit) else None for name in named] for unit in _HIDDEN}
        dialogues = [name or None for name in self.column("dialogue")]
        return choose_clusters({"dialogue": dialogues, "speaker": self.speakers, **hidden})

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
        predicted, (unit, groups) = self.column("predicted"), self.clusters
        return scores.score(
            self.truth, predicted, self.classes, groups, self.probabilities, speakers=self.speakers, unit=unit
        )

    def count_clusters(self) -> dict[str, Any]:
        """The field `clusters` of metrics.json."""
        unit, groups = self.clusters
        return scores.count_clusters(groups, self.speakers, len(self.rows), unit)


_HIDDEN = ("recording", "text")  # units that predictions.csv names by a digest: it holds no path and no word


def clusters_of(utterances: Sequence[Utterance]) -> Clusters:
    """Choose what intervals and tests resample, from the columns of the manifest."""
    spans = [row.audio or row.video for row in utterances]
    return choose_clusters(
        {
            "dialogue": [row.dialogue for row in utterances],
            "recording": [span and span.path for span in spans],
            "speaker": [row.speaker for row in utterances],
            "text": [row.text.casefold().strip() if row.text else None for row in utterances],
        }
    )


def _digest(unit: str, name: Hashable | None) -> str:
    digest = hashlib.sha256(str(name).encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return "" if name is None else f"{unit} {digest}"


def write_results(
    out: Path, metrics: Mapping[str, Any], utterances: Sequence[Utterance], probabilities: Float[np.ndarray, "N C"]
) -> None:
    """Write metrics.json, and predictions.csv of labelled utterances; equal values give equal bytes."""
    rows = prediction_rows(utterances, probabilities, metrics["classes"], metrics["protocol"]["hash"])
    write_recomputed(out, metrics, rows)


def prediction_rows(
    utterances: Sequence[Utterance], probabilities: Float[np.ndarray, "N C"], classes: Sequence[str], protocol: str
) -> list[CsvRow]:
    """Make the rows of predictions.csv of labelled utterances; `protocol` is the hash of the one that chose them."""
    rows, (unit, names) = [], clusters_of(utterances)
    for each, row, name in zip(utterances, probabilities, names, strict=True):
        about = {"id": each.id, "dialogue": each.dialogue, "speaker": each.speaker, "truth": each.emotion}
        about["predicted"] = classes[row.argmax()]
        shares = {f"p_{name}": f"{share:.6f}" for name, share in zip(classes, row, strict=True)}
        ends = {"protocol": protocol[:16]} | ({"cluster": _digest(unit, name)} if unit in _HIDDEN else {})
        rows.append({name: value or "" for name, value in about.items()} | shares | ends)
    return rows


def write_recomputed(out: Path, metrics: Mapping[str, Any], rows: Sequence[CsvRow]) -> None:
    """Write metrics.json and predictions.csv, the latter from rows as they were read."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / PREDICTIONS, encode_csv(rows))
    write_json(out / METRICS, dict(metrics))


def _is_interval(ends: Sequence[float]) -> bool:
    return len(ends) == 2 and ends[0] <= ends[1]


_Interval = Annotated[list[float], Constraint("[low, high]", _is_interval)]


@dataclass(frozen=True)
class _Bounds:
    this_test_set: _Interval
    new_speakers: _Interval | None = None


@dataclass(frozen=True)
class _OfClass:
    precision: Share
    recall: Share
    f1: Share
    support: Count


@dataclass(frozen=True)
class _Figures:
    """What is read of the figures of a RUN, a subset or a style."""

    n: Count
    accuracy: Share
    weighted_f1: Share
    macro_f1: Share
    uar: Share
    confusion: list[list[Count]]
    interval: dict[str, _Bounds]


@dataclass(frozen=True)
class _Encoder:
    name: str
    saw_corpus: str


@dataclass(frozen=True)
class _Change:
    before: float | None
    after: float | None


@dataclass(frozen=True)
class _Calibration:
    temperature: float
    nll: _Change
    ece: _Change


@dataclass(frozen=True)
class _Metrics(_Figures):
    """What is read of the metrics.json of a RUN."""

    classes: list[str]
    per_class: dict[str, _OfClass]
    nll: float
    ece: Share
    modalities: list[str]
    part: str
    encoders: dict[str, _Encoder]
    contaminated: list[str]
    subsets: dict[str, _Figures] = field(default_factory=dict)
    styles: dict[str, _Figures] = field(default_factory=dict)
    contributions: dict[str, dict[str, float]] = field(default_factory=dict)
    calibration: _Calibration | None = None

    def __post_init__(self) -> None:
        size, parts = len(self.classes), (*self.subsets.values(), *self.styles.values())
        for each in (self, *parts):
            if [len(row) for row in each.confusion] != [size] * size:
                raise ConfigError(f"confusion: expected {size} x {size} counts, found {each.confusion}"[:200])
            needed = ("accuracy", "weighted_f1", "macro_f1", "uar") if each is self else ("accuracy",)
            if lacking := [name for name in needed if name not in each.interval]:
                raise ConfigError(f"interval: expected one of {', '.join(needed)}, found none of {', '.join(lacking)}")
        if lacking := [name for name in self.classes if name not in self.per_class]:
            raise ConfigError(f"per_class: expected every class, found none of {', '.join(lacking)}"[:200])


def require_metrics(values: Any, where: object) -> dict[str, Any]:
    """Return the content of a RUN's metrics.json if it is what training and evaluation write; else a ConfigError."""
    validated(_Metrics, values, where, others=True)
    return dict(values)


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read metrics.json; a ConfigError if it is missing or no JSON object."""
    path = folder / METRICS
    if not path.exists():
        raise ConfigError(f"{path}: expected what training writes, found no such file")
    return validated(dict, read_json(path), path)


def chance_of(figures: Mapping[str, Any]) -> float:
    """Return the UAR of a guess: 1 / number of emotions that were tested, as UAR is the mean recall over these."""
    return 1 / sum(each["support"] > 0 for each in figures["per_class"].values())


def majority_of(figures: Mapping[str, Any]) -> tuple[str, float]:
    """Return the most frequent emotion of the test part, and the accuracy of an answer that is always that one."""
    name, most = max(figures["per_class"].items(), key=lambda item: item[1]["support"])
    return name, most["support"] / figures["n"]


def near_chance(figures: Mapping[str, Any]) -> str | None:
    """Say that the UAR, by its 95 % interval where there is one, may be that of a guess; None where it is above."""
    chance = chance_of(figures)
    uar, bounds = figures["uar"], uar_interval(figures)
    if (bounds or [uar])[0] > chance:
        return None
    return f"UAR {describe_uar(uar, bounds)} cannot be told from chance, {chance:.1%}"


def uar_interval(figures: Mapping[str, Any]) -> list[float] | None:
    """Return the 95 % interval of the UAR for utterances like those that were tested; None where there is none."""
    bounds = (figures.get("interval") or {}).get("uar") or {}
    return [float(end) for end in bounds.get("this_test_set") or []] or None


def describe_uar(uar: float, bounds: Sequence[float] | None) -> str:
    """Write the UAR with its interval: `45.2% [40.1, 50.3]`."""
    return f"{uar:.1%}" + (f" [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else "")


def describe_absent(answers: Mapping[str, int]) -> str:
    """Say which emotions of a model a corpus does not have, given how often each was the model's answer."""
    named = ", ".join(f"{name} ({number} answers)" for name, number in answers.items())
    return f"not in the corpus: {named}; left out: probabilities are divided by their sum over the other emotions"


def write_explained(path: Path, explained: Mapping[str, Any]) -> None:
    """Write explain.json (docs/howto/explain.md)."""
    write_json(path, dict(explained))


@dataclass(frozen=True)
class _Second:
    second: float
    text_share: float


@dataclass(frozen=True)
class _Gates:
    utterances: Count
    by_layer: list[float]
    by_emotion: dict[str, float]
    by_second: list[_Second]


@dataclass(frozen=True)
class _Retrieval:
    precision_at_1: float | None
    chance: float | None


@dataclass(frozen=True)
class _Space:
    violated: float | None
    triplets: Count
    retrieval: _Retrieval


@dataclass(frozen=True)
class _Margin:
    alpha: float
    own: _Space | None = None
    post_hoc: _Space | None = None


@dataclass(frozen=True)
class _ExplainedUtterance:
    text_share: float | None
    contribution: dict[str, float]


@dataclass(frozen=True)
class _Hash:
    hash: str


@dataclass(frozen=True)
class _Explained:
    """What is read of explain.json."""

    split: str
    protocol: _Hash
    utterances: dict[str, _ExplainedUtterance]
    contributions: dict[str, dict[str, float]]
    gates: _Gates | None = None
    margin: _Margin | None = None
    shift: dict[str, list[float]] | None = None

    def __post_init__(self) -> None:
        shift = self.shift
        if shift is not None and ("seconds" not in shift or len({len(each) for each in shift.values()}) > 1):
            raise ConfigError("shift: expected seconds, and as many values of each modality, found others")


def read_explained(folder: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Read explain.json, where it is of the utterances of metrics.json; else empty. A ConfigError if it is damaged."""
    path = folder / EXPLAINED
    if not path.exists():
        return {}
    found = read_json(path)
    checked = validated(_Explained, found, path, others=True)
    if [checked.protocol.hash, checked.split] != [metrics["protocol"]["hash"], metrics["part"]]:
        return {}
    parts = {name: (each.text_share, each.contribution) for name, each in checked.utterances.items()}
    return {**found, "utterances": parts}


def write_history(out: Path, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Write history.csv: a row an epoch, with the columns of all of them."""
    columns = ["epoch", "step", *sorted({name for row in epochs for name in row} - {"epoch", "step"})]
    rows = [{name: str(row.get(name, "")) for name in columns} for row in epochs]
    write_atomic(out / HISTORY, encode_csv(rows, columns))


def read_history(folder: Path) -> list[dict[str, float]]:
    """Read history.csv as numbers, without empty cells and NaN; no row if it is missing, a ConfigError if damaged."""
    path = folder / HISTORY
    rows = read_csv(path) if path.exists() else []
    return [{name: number for name, cell in row.items() if (number := _number(cell, path)) is not None} for row in rows]


def _number(cell: str, path: Path) -> float | None:
    """A number of history.csv; None for an empty cell, or the NaN of a training that diverged."""
    try:
        number = float(cell) if cell else math.nan
    except ValueError:
        number = math.inf
    if abs(number) > LARGEST:
        raise ConfigError(f"{path}: expected numbers up to {LARGEST:g}, found {cell[:SHOWN]!r}")
    return None if math.isnan(number) else number


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
