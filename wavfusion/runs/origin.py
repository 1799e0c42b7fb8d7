"""How a RUN came about: its experiment, protocol and split, and the versions, hardware and places of its training."""

import csv
import io
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from wavfusion.corpora.protocol import Protocol, row_digest
from wavfusion.errors import CorpusError
from wavfusion.experiments.experiment import Experiment, without_retired
from wavfusion.files import read_json, read_yaml, require_file, write_atomic, write_json
from wavfusion.manifest import Utterance
from wavfusion.version import __version__


def write_origin(
    out: Path,
    experiment: Experiment,
    protocol: Protocol,
    utterances: Sequence[Utterance],
    manifest_path: str | Path,
    store: Path,
    num_processes: int,
) -> None:
    """Write experiment.yaml, protocol.json, split.csv and environment.json of a training into its RUN."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "experiment.yaml", experiment.to_yaml().encode())
    write_json(out / "protocol.json", protocol.to_json())
    file = io.StringIO()
    rows = {row.id: row for row in utterances}
    parts = ((key, part, row_digest(rows[key])) for key, part in protocol.parts.items())
    csv.writer(file, lineterminator="\n").writerows([("id", "split", "digest"), *parts])
    write_atomic(out / "split.csv", file.getvalue().encode("utf-8", "surrogatepass"))
    places = {"manifest": os.path.abspath(manifest_path), "store": str(store.absolute())}
    write_json(out / "environment.json", {**environment(num_processes), "seed": experiment.seed, **places})


def read_settings(out: Path) -> dict[str, Any]:
    """Read the nested settings of a RUN's experiment.yaml, without retired ones.

    Raises:
        ConfigError, CorpusError: no file, or no YAML.
    """
    return without_retired(read_yaml(require_file(out / "experiment.yaml")))


def num_processes_of(out: Path) -> int:
    """How many processes started a RUN; an older one does not tell: 1."""
    try:
        return int(read_json(out / "environment.json")["processes"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError, CorpusError):
        return 1


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
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The revision of the package's own checkout; None where it was installed from a wheel."""
    folder = Path(__file__).parents[1]
    # The second revision fails where the package does not belong to the checkout.
    command = ["git", "rev-parse", "HEAD", "HEAD:./__init__.py"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError):
        return None
