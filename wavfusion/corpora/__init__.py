"""Corpora: from the folders of their publishers to a manifest, and from a manifest to the folds of a protocol.

Given the root of a corpus as its publishers distribute it, gives its utterances, the excluded rows with their reasons,
and what differs from the published description. May import `media`, `manifest`, `files` and `errors`.

A new corpus is one file after the pattern of `ravdess.py`, its class order in `emotions.EMOTIONS`, an entry of
`READERS` and, if it has a usual protocol, one of `folds.DEFAULTS`: see docs/howto/add_corpus.md.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from wavfusion import manifest
from wavfusion.corpora.cremad import read_cremad
from wavfusion.corpora.emotions import LABEL_SETS
from wavfusion.corpora.iemocap import read_iemocap
from wavfusion.corpora.meld import read_meld
from wavfusion.corpora.ravdess import read_ravdess
from wavfusion.corpora.reading import ReaderInput, Reading, Rows, join_reasons, strip
from wavfusion.corpora.scan import Probe, Scan
from wavfusion.corpora.table import COLUMNS, read_table
from wavfusion.errors import ConfigError, CorpusError, nearest
from wavfusion.manifest import CHANNELS, Channel, Corpus, Exclusion, Utterance, is_generated
from wavfusion.version import __version__

READERS: dict[str, Callable[[ReaderInput], Reading]] = {
    "iemocap": read_iemocap,
    "meld": read_meld,
    "ravdess": read_ravdess,
    "cremad": read_cremad,
    "table": read_table,
}


@dataclass(frozen=True, kw_only=True)
class Prepared(Reading):
    """A corpus ready to be written; `table` is the user's own, where the root is one, and must not be overwritten."""

    corpus: Corpus
    table: Path | None


def prepare(
    corpus: str,
    root: str | os.PathLike[str],
    labels: str | None = None,
    down_mix: Channel = "mix",
    *,
    columns: Mapping[str, str] | None = None,
    scan: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Prepared:
    """Read a corpus as its publishers distribute it.

    Args:
        corpus: a name of READERS.
        root: the corpus's folder; for `table` also the table itself.
        labels: a label set of the corpus, its first by default.
        down_mix: how several audio channels become one.
        columns: of a table: field of the manifest -> the column that holds it, where their names differ; columns
            that are no field are then ignored.
        scan: a cache file, made where absent: every media file that it does not list is opened (not decoded), and
            what cannot be read counts as missing. None opens no media.
        progress: show a bar of the scan on stderr.

    Raises:
        ConfigError: corpus, labels, down_mix or a field of columns is not among the valid names.
        CorpusError: root is not a folder that holds this corpus.
    """
    _check_names(corpus, labels, down_mix, columns or {})
    root = Path(root)
    if not root.is_dir() and not (corpus == "table" and root.is_file()):
        raise CorpusError(f"expected the folder of corpus {corpus!r}, found no folder at {root}")
    folder = root if root.is_dir() else root.parent
    try:
        if scan:
            _keep_table(root, Path(scan))
        probe: Probe = Scan(folder, Path(scan), progress).probe if scan else lambda paths: {}
        reading = READERS[corpus](ReaderInput(root, labels, down_mix, columns or {}, probe))
        assert len(reading.utterances) + len(reading.excluded) == reading.rows, "a row of the source was lost"
        if scan:
            reading = _strip(reading, probe)
    except OSError as error:
        raise CorpusError(f"cannot read or write {error.filename or root}: {error.strerror}") from error
    reading = replace(reading, stripped=join_reasons(reading.stripped))
    facts = Corpus(corpus, str(folder.absolute()), reading.labels, reading.classes, __version__, is_generated(folder))
    return Prepared(**vars(reading), corpus=facts, table=root if root.is_file() else None)


def _keep_table(table: Path, target: Path) -> None:
    """Refuse to overwrite the table that is read."""
    if target.exists() and target.samefile(table):
        raise CorpusError(f"expected another folder for what is written, found the table itself at {target}")


def _strip(reading: Reading, probe: Probe) -> Reading:
    """Open all media, and remove the modalities whose file cannot be read."""
    facts = probe(span.path for each in reading.utterances for span in (each.audio, each.video) if span)

    def stripped() -> Iterator[tuple[Utterance, str | None]]:
        return (strip(each, facts) for each in reading.utterances)

    removed = [Exclusion(each.id, reason) for each, reason in stripped() if reason]
    rows = Rows(lambda: (each for each, _ in stripped()), len(reading.utterances))
    # Utterances in memory stay there; those of a long table are stripped as they are read.
    kept = rows if isinstance(reading.utterances, Rows) else list(rows)
    return replace(reading, utterances=kept, stripped=[*reading.stripped, *removed])


def write_prepared(prepared: Prepared, out: str | os.PathLike[str]) -> dict[str, Counter[str]]:
    """Write manifest.jsonl, corpus.json and exclusions.json, and count rows by split (or `all`) and emotion.

    Raises:
        CorpusError: there are no rows, or their table has changed meanwhile, or the manifest would replace that table;
            no file is changed then.
    """
    out = Path(out)
    counts: dict[str, Counter[str]] = {}

    def counted() -> Iterator[Utterance]:
        for each in prepared.utterances:
            counts.setdefault(each.split or "all", Counter())[each.emotion or "unlabelled"] += 1
            yield each

    try:
        if prepared.table:
            _keep_table(prepared.table, out / "manifest.jsonl")
        out.mkdir(parents=True, exist_ok=True)
        # In a folder beside them, so that no file is replaced until all are complete.
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=out) as unfinished:
            path = Path(unfinished) / "manifest.jsonl"
            manifest.write(path, counted())
            expected, found = len(prepared.utterances), sum(map(Counter.total, counts.values()))
            where = prepared.table or prepared.corpus.root
            if not found:
                excluded = len(prepared.excluded)
                raise CorpusError(f"expected at least one row in {where}, found none, {excluded} excluded")
            if found != expected:
                raise CorpusError(f"expected {expected} rows in {where} as a moment ago, found {found}")
            manifest.write_corpus(path, prepared.corpus)
            manifest.write_exclusions(path, prepared.excluded, prepared.stripped)
            # The manifest last, so that it never exists without the others.
            for name in ("exclusions.json", "corpus.json", "manifest.jsonl"):
                path.with_name(name).replace(out / name)
    except OSError as error:
        raise CorpusError(f"cannot read or write {error.filename or out}: {error.strerror}") from error
    return counts


def _check_names(corpus: str, labels: str | None, down_mix: str, columns: Mapping[str, str]) -> None:
    if corpus not in READERS:
        raise ConfigError(f"unknown corpus {corpus!r}: {nearest(corpus, READERS)}")
    if down_mix not in CHANNELS:
        raise ConfigError(f"unknown down-mix {down_mix!r}: {nearest(down_mix, CHANNELS)}")
    sets = LABEL_SETS.get(corpus, {})
    if labels is not None and not sets:
        raise ConfigError(f"corpus {corpus!r} has one label set and takes no name, found labels {labels!r}")
    if labels is not None and labels not in sets:
        raise ConfigError(f"unknown label set {labels!r} of {corpus!r}: {nearest(labels, sets)}")
    if columns and corpus != "table":
        raise ConfigError(f"corpus {corpus!r} has columns of its own; a map of columns is for a table")
    for field in columns:
        if field not in COLUMNS:
            raise ConfigError(f"unknown field {field!r} in the map of columns: {nearest(field, COLUMNS)}")
