"""How a RUN came about: its experiment, protocol and split, and the versions, hardware and places of its training."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch

from wavfusion.corpora.protocol import Protocol, row_digest
from wavfusion.errors import ConfigError
from wavfusion.experiments.experiment import Experiment, without_retired
from wavfusion.files import PathText, read_json, read_yaml, require_file, validated, write_atomic, write_json
from wavfusion.manifest import SPLITS, Utterance, is_generated, read_corpus
from wavfusion.runs.results import encode_csv, read_csv
from wavfusion.version import __version__

T = TypeVar("T")

EXPERIMENT, PROTOCOL, SPLIT, ENVIRONMENT = "experiment.yaml", "protocol.json", "split.csv", "environment.json"


def write_origin(
    out: Path,
    experiment: Experiment,
    protocol: Protocol,
    utterances: Sequence[Utterance],
    manifest_path: str | Path,
    store: Path,
    num_processes: int,
    start: "StartedFrom | None" = None,
) -> None:
    """Write experiment.yaml, protocol.json, split.csv and environment.json of a training into its RUN."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / EXPERIMENT, experiment.to_yaml().encode())
    write_json(out / PROTOCOL, protocol.to_json())
    rows = {row.id: row for row in utterances}
    split = [{"id": key, "split": part, "digest": row_digest(rows[key])} for key, part in protocol.parts.items()]
    write_atomic(out / SPLIT, encode_csv(split, ("id", "split", "digest")))
    places = {"manifest": os.path.abspath(manifest_path), "store": str(store.absolute())}
    trained_on = replace(_describe_data([rows[key] for key in protocol.ids("train")], manifest_path), start=start)
    data = {"seed": experiment.seed, **places, "trained_on": asdict(trained_on)}
    write_json(out / ENVIRONMENT, {**environment(num_processes), **data})


@dataclass(frozen=True)
class StartedFrom:
    """The model that a training started from: its name, the SHA-256 of its weights, and its training data in words."""

    name: str
    weights: str
    trained_on: str


@dataclass(frozen=True)
class TrainedOn:
    """The training part of a RUN; what is not known is None.

    Attributes:
        corpus: its name, or several joined by `+`.
        generated: its media were generated, by `lookalike`.
        utterances, speakers: how many.
        start: the model whose weights it started from.
    """

    corpus: str | None = None
    generated: bool | None = None
    utterances: int | None = None
    speakers: int | None = None
    start: StartedFrom | None = None

    def __str__(self) -> str:
        """Describe it in a few words: `iemocap (recorded), 4290 utterances of 8 speakers`."""
        kind = {None: "", True: " look-alike (generated)", False: " (recorded)"}[self.generated]
        counts = "" if self.utterances is None else f", {self.utterances} utterances"
        people = f" of {self.speakers} speakers" if counts and self.speakers else ""
        start = f", starting from {self.start.name} ({self.start.trained_on})" if self.start else ""
        return f"{self.corpus or 'an unknown corpus'}{kind}{counts}{people}{start}"


def _describe_data(utterances: Sequence[Utterance], manifest_path: str | Path) -> TrainedOn:
    """Describe the utterances of a training part."""
    names, speakers = sorted({row.corpus for row in utterances}), {row.speaker for row in utterances}
    generated = _read_corpus(manifest_path).generated
    return TrainedOn("+".join(names), generated, len(utterances), None if None in speakers else len(speakers))


def _read_corpus(manifest_path: str | Path) -> TrainedOn:
    """Return what corpus.json tells, where it is still there; an older one does not say whether it is generated."""
    try:
        corpus = read_corpus(manifest_path)
    except (OSError, ValueError):
        return TrainedOn()
    generated = is_generated(Path(corpus.root)) if corpus.generated is None else corpus.generated
    return TrainedOn(corpus.corpus, generated)


@dataclass(frozen=True)
class Origin:
    """What a RUN was trained on: where manifest and store lay, part and `row_digest` of each utterance, promises."""

    manifest: Path
    store: Path
    parts: dict[str, str]
    digests: dict[str, str]
    promises: dict[str, list[str]]

    def parts_of(self, utterances: Sequence[Utterance]) -> dict[str, str]:
        """Return the part of each utterance that the RUN had; ids alone do not show it: those of tables are numbers."""
        return {row.id: self.parts[row.id] for row in utterances if self.digests.get(row.id) == row_digest(row)}


@dataclass(frozen=True)
class _Environment:
    """What is read of environment.json; a RUN of an older version lacks `processes` and `trained_on`."""

    manifest: PathText | None = None
    store: PathText | None = None
    processes: int = 1
    trained_on: TrainedOn | None = None


@dataclass(frozen=True)
class _Protocol:
    """What is read of protocol.json."""

    hash: str
    counts: dict[str, int]
    promises: dict[str, list[str]]
    name: str = ""
    fold: int = 1
    folds: int = 1
    left_out: int = 0
    selected_on: str = ""
    speakers_disjoint: bool | None = None
    speakers_shared: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)


def read_origin(folder: Path) -> Origin:
    """Read what a RUN was trained on; a ConfigError if files are missing or damaged, or contradict each other."""
    try:
        places = _read(folder / ENVIRONMENT, _Environment)
        protocol = _read(folder / PROTOCOL, _Protocol)
        rows = read_csv(folder / SPLIT)
        counts = {name: sum(row["split"] == name for row in rows) for name in SPLITS}
        if counts != protocol.counts:
            raise ConfigError(f"{counts} utterances in {SPLIT} where {PROTOCOL} counts {protocol.counts}")
        if not (places.manifest and places.store):
            raise ConfigError(f"no manifest and store in {ENVIRONMENT}")
        if unknown := set(protocol.promises) - {entry.name for entry in fields(Utterance)}:
            raise ConfigError(f"promises about {', '.join(sorted(unknown))} in {PROTOCOL}")
        parts, digests = ({row["id"]: row[name] for row in rows} for name in ("split", "digest"))
    except (OSError, LookupError, ValueError) as error:
        raise ConfigError(
            f"{folder}: expected {ENVIRONMENT}, {PROTOCOL} and {SPLIT} as training writes them, found {error}"
        ) from None
    return Origin(Path(places.manifest), Path(places.store), parts, digests, protocol.promises)


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the nested settings of a RUN's experiment.yaml, without retired ones."""
    return without_retired(read_yaml(require_file(folder / EXPERIMENT)))


def require_protocol(folder: Path) -> None:
    """Refuse a protocol.json that no training writes, by a ConfigError."""
    _read(folder / PROTOCOL, _Protocol)


def protocol_hash_of(folder: Path) -> str | None:
    """Read the hash of the protocol that a RUN was started under; None where there is none."""
    path = folder / PROTOCOL
    return _read(path, _Protocol).hash if path.exists() else None


def num_processes_of(folder: Path) -> int:
    """Read how many processes started a RUN; 1 where that cannot be known."""
    try:
        return _read(folder / ENVIRONMENT, _Environment).processes
    except (OSError, ValueError):
        return 1


def training_data_of(folder: Path) -> TrainedOn:
    """Read what a RUN was trained on; of an older version what its manifest, where it is still there, tells."""
    try:
        about = _read(folder / ENVIRONMENT, _Environment)
    except (OSError, ValueError):
        return TrainedOn()
    return about.trained_on or _read_corpus(about.manifest or "")


def corpus_of(folder: Path) -> str:
    """Name the corpus that a RUN was trained on: `generated` by `lookalike`, or `unknown`."""
    found = training_data_of(folder)
    return "generated" if found.generated else found.corpus or "unknown"


def without_absolute_paths(values: Any) -> Any:
    """Reduce the absolute paths in a RUN's JSON, which tell of the user's machine, to their last name."""
    if isinstance(values, dict):
        return {key: without_absolute_paths(each) for key, each in values.items()}
    if isinstance(values, list):
        return [without_absolute_paths(each) for each in values]
    absolute = isinstance(values, str) and re.match(r"[/\\~]|[A-Za-z]:[/\\]", values)
    return re.split(r"[/\\]", values.rstrip("/\\"))[-1] if absolute else values


def _read(path: Path, kind: type[T]) -> T:
    return validated(kind, read_json(path), path, others=True)


def environment(num_processes: int) -> dict[str, Any]:
    """Collect versions, hardware and git revision of this process, one of `num_processes`."""
    names = ("torch", "transformers", "accelerate", "numpy", "safetensors", "av", "soxr")
    return {
        "wavfusion": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in names},
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": num_processes,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_revision": _git_revision(),
    }


def _version(name: str) -> str | None:
    """The version of a package; None where it was installed without its metadata."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The revision of the package's own checkout; None where it was installed from a wheel."""
    # The second revision fails where the package does not belong to the checkout.
    command = ["git", "-C", str(Path(__file__).parents[1]), "rev-parse", "HEAD", "HEAD:./__init__.py"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError):
        return None
