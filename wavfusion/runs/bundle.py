"""A results bundle: predictions and metrics of a RUN without its corpus, from which others recompute the metrics."""

import io
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from wavfusion import manifest
from wavfusion.corpora.protocol import PROTOCOL_FIELDS, describe_protocol, hash_of, shared
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.files import json_bytes, parse_json, parse_yaml, read_bytes, require_file
from wavfusion.metrics import scores
from wavfusion.runs.origin import ENVIRONMENT, EXPERIMENT, PROTOCOL, SPLIT, corpus_of, without_absolute_paths
from wavfusion.runs.results import CSV_BYTES, METRICS, PREDICTIONS, Predictions, encode_csv, parse_csv

MEMBERS = (PREDICTIONS, SPLIT, METRICS, PROTOCOL, ENVIRONMENT, EXPERIMENT)
BYTES, LINES, CELLS = 1 << 24, 200_000, 5_000_000  # of a bundle and each member, a table, confusions one an utterance
# Corpora whose labels anybody has: in a public table, in the names of the clips, or made here (docs/howto/publish.md).
OPEN_LABELS = ("cremad", "meld", "ravdess", "generated")
TOLERANCE = 1e-6  # another machine adds in another order


@dataclass(frozen=True)
class Bundle(Predictions):
    """The files of a bundle or of a RUN.

    Attributes:
        parts: part of each utterance of the protocol.
        metrics, protocol, environment: metrics.json, protocol.json, environment.json.
        experiment: the text of experiment.yaml.
    """

    parts: dict[str, str]
    metrics: dict[str, Any]
    protocol: dict[str, Any]
    environment: dict[str, Any]
    experiment: str

    @property
    def settings(self) -> dict[str, Any]:
        """The nested settings of experiment.yaml."""
        return parse_yaml(self.experiment, EXPERIMENT)

    def context(self) -> dict[str, Any]:
        """Return the fields of metrics.json that are no metrics."""
        rest = {name: self.metrics[name] for name in ("modalities", "encoders", "contaminated", "part")}
        protocol = {name: self.protocol[name] for name in PROTOCOL_FIELDS}
        return {"classes": self.classes, "protocol": protocol, **rest, "subsets": {}}

    @property
    def confusion(self) -> Int64[np.ndarray, "C C"]:
        """The stated confusion matrix."""
        return np.array(self.metrics["confusion"], np.int64).reshape(2 * [len(self.classes)])

    def problems(self) -> Iterator[str]:
        """List where the files contradict each other."""
        protocol, part = self.protocol, self.metrics["part"]
        if protocol["hash"] != hash_of(self.parts, self.classes, protocol["selected_on"]):
            yield "protocol.json: its hash is not that of split.csv"
        if any(row["protocol"] != protocol["hash"][:16] for row in self.rows):
            yield "predictions.csv: made under another protocol"
        if sorted(row["id"] for row in self.rows) != sorted(key for key, each in self.parts.items() if each == part):
            yield f"predictions.csv: its utterances are not those of part {part!r}"
        trained = self.settings.get("model", {}).get("modalities") or manifest.MODALITIES
        if lacking := [name for name in self.metrics["modalities"] if name not in trained]:
            yield f"metrics.json: modalities {', '.join(lacking)}, which experiment.yaml does not train"
        counts = Counter(self.column("predicted"))
        if self.confusion.sum(0).tolist() != [counts[name] for name in self.classes]:
            yield "metrics.json: the columns of its confusion matrix do not count the predictions"


def read_bundle(path: Path) -> Bundle:
    """Read a bundle from anybody, or a RUN; a ConfigError if it is damaged or neither of them.

    Nothing is unpacked to disk, nor more than BYTES of a member to memory.
    """
    try:
        run = path.is_dir()
        files = {name: read_bytes(path / name, ConfigError, CSV_BYTES) for name in MEMBERS} if run else _unzip(path)
        if max(files[name].count(b"\n") for name in (PREDICTIONS, SPLIT)) > LINES:
            raise ValueError(f"a table of more than {LINES} lines")
        rows, parts = (parse_csv(files[name]) for name in (PREDICTIONS, SPLIT))
        protocol = parse_json(files[PROTOCOL], PROTOCOL)
        bundle = Bundle(
            rows=rows,
            classes=protocol["classes"],
            parts={row["id"]: row["split"] for row in parts},
            metrics=parse_json(files[METRICS], METRICS),
            protocol=protocol,
            environment=parse_json(files[ENVIRONMENT], ENVIRONMENT),
            experiment=files[EXPERIMENT].decode(),
        )
        _check(bundle)
    except Exception as error:  # a damaged file shows in as many ways as there are parsers
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(f"{str(path)!r}: expected a complete RUN or a bundle of results, found {reason}") from None
    return bundle


def make_bundle(folder: Path, with_truth: bool = False) -> tuple[bytes, bool]:
    """Pack the results of a RUN, equal ones into equal bytes; return the archive and whether it holds the labels.

    Labels go in only of corpora whose labels are open, or with `with_truth`. The metrics are computed from the decimals
    of predictions.csv. A ConfigError tells of an incomplete RUN, or of files that are not of one evaluation.
    """
    run = read_bundle(folder)
    run.require_truth(folder)
    found = run.score() | run.context()
    for problem in (*run.problems(), *_differences(run.metrics["confusion"], found["confusion"], "confusion")):
        raise ConfigError(f"{folder}: expected predictions and metrics of one evaluation, found {problem}")
    truth = with_truth or corpus_of(folder) in OPEN_LABELS
    abouts = {"metrics": found, "protocol": run.protocol, "environment": run.environment}
    files = {f"{name}.json": json_bytes(without_absolute_paths(values)) for name, values in abouts.items()}
    files[PREDICTIONS] = encode_csv(run.rows, [name for name in run.rows[0] if truth or name != "truth"])
    files[SPLIT] = encode_csv([{"id": key, "split": part} for key, part in run.parts.items()])
    files[EXPERIMENT] = run.experiment.encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)  # without a time
            info.compress_type, info.create_system = zipfile.ZIP_DEFLATED, 3
            archive.writestr(info, content)
    return packed.getvalue(), truth


def recompute(bundle: Bundle, manifest_path: Path | None = None) -> tuple[dict[str, Any], Bundle, list[str]]:
    """Recompute the metrics of a bundle; return them, the bundle with its labels, and where it states others.

    Without labels, in the bundle or in a manifest, only the metrics of its confusion matrix are computed.

    Raises:
        CorpusError: a manifest without the bundle's utterances.
        ConfigError: labels that are no emotion of the model.
    """
    differences = list(bundle.problems())
    if manifest_path is not None:
        known = {row.id: row for row in manifest.read(manifest_path)}
        if lacking := [key for key in (*bundle.parts, *bundle.column("id")) if key not in known]:
            without = f"{len(lacking)} missing, such as {lacking[0]!r}"
            raise CorpusError(f"{manifest_path}: expected all utterances of the bundle's protocol, found {without}")
        labelled = [{**row, "truth": str(known[row["id"]].emotion)} for row in bundle.rows]
        pairs = list(shared("speaker", [known[key] for key in bundle.parts], bundle.parts))
        differences += _differences(bundle.protocol["speakers_shared"], pairs, "protocol.speakers_shared")
        stated, bundle = bundle.truth, replace(bundle, rows=labelled)
        differences += _differences(stated, bundle.truth, "truth") if stated else []
    found = bundle.score() if bundle.truth else _score_confusion(bundle)
    found |= bundle.context()
    differences += _differences(bundle.metrics, found, "")
    return {"nll": None, "ece": None, "interval": None} | found, bundle, differences


def _check(bundle: Bundle) -> None:
    """Refuse what no RUN writes; raises whatever it meets."""
    context, classes, first = bundle.context(), bundle.classes, bundle.rows[0]
    # What the metrics and their report look up must be present: a KeyError says what is missing.
    _ = describe_protocol(context["protocol"]), "+".join(context["modalities"]), list(bundle.problems())
    _ = first["dialogue"], first["speaker"], bundle.environment["wavfusion"]
    _ = [context["encoders"][name]["name"] for name in context["contaminated"]]
    names = [name for name in first if name[:2] == "p_"]
    if not 0 <= bundle.confusion.min() <= bundle.confusion.max() <= len(bundle.rows):
        raise ValueError("a confusion matrix with other counts than the utterances")
    if names != [f"p_{name}" for name in classes] or len(bundle.rows) * len(classes) ** 2 > CELLS:
        raise ValueError(f"{len(bundle.rows)} predictions of {', '.join(names)} where classes are {', '.join(classes)}")
    for row in bundle.rows:
        p = {name: float(row[f"p_{name}"]) for name in classes}
        if not (p[row["predicted"]] >= max(p.values()) - TOLERANCE and abs(sum(p.values()) - 1) < 1e-3):
            raise ValueError(f"{row['id']!r} predicted as {row['predicted']!r}, which is not the most probable of {p}")


def _score_confusion(bundle: Bundle) -> dict[str, Any]:
    places = np.indices(bundle.confusion.shape).reshape(2, -1)
    truth, predicted = ([bundle.classes[i] for i in np.repeat(each, bundle.confusion.reshape(-1))] for each in places)
    found = scores.score(truth, predicted, bundle.classes) | {"clusters": bundle.count_clusters()}
    return {name: value for name, value in found.items() if name != "interval"}


def _differences(stated: Any, found: Any, name: str) -> Iterator[str]:
    """List where a stated value is not the computed one."""
    if isinstance(found, dict) and isinstance(stated, dict):
        for key in found:
            yield from _differences(stated.get(key), found[key], f"{name}.{key}".strip("."))
    elif isinstance(found, list) and isinstance(stated, list) and len(stated) == len(found):
        for number, pair in enumerate(zip(stated, found, strict=True)):
            yield from _differences(*pair, f"{name}[{number}]")
    else:
        numbers = isinstance(stated, int | float) and isinstance(found, int | float)
        if not (stated == found or (numbers and found - TOLERANCE <= stated <= found + TOLERANCE)):
            yield f"{name}: {str(stated)[:60]} is stated, {str(found)[:60]} is computed"


def _unzip(path: Path) -> dict[str, bytes]:
    if require_file(path).stat().st_size > BYTES:
        raise ValueError(f"more than {BYTES} bytes")
    files = {}
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        found = sorted(info.filename for info in infos if info.compress_type in (0, 8))
        if found != sorted(MEMBERS) or len(infos) > len(found):
            raise ValueError(f"not the deflated {', '.join(MEMBERS)}: {', '.join(info.filename for info in infos)}")
        for name in MEMBERS:
            with archive.open(name) as file:  # bounded here: the stated size may be false
                files[name] = file.read(BYTES + 1)
            if len(files[name]) > BYTES:
                raise ValueError(f"{name} of more than {BYTES} bytes")
    return files
