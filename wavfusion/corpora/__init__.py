"""Corpora: from the folders of their publishers to a manifest, and from a manifest to the folds of a protocol.

Given the root of a corpus as its publishers distribute it, gives its utterances, the excluded rows with their reasons,
and what differs from the published description. May import `media`, `manifest`, `files` and `errors`.

A new corpus is one file after the pattern of `ravdess.py`, its class order in `emotions.EMOTIONS`, an entry of
`READERS` and, if it has a usual protocol, one of `folds.DEFAULTS`: see docs/howto/add_corpus.md.
"""

import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from wavfusion import manifest
from wavfusion.corpora.cremad import read_cremad
from wavfusion.corpora.emotions import LABEL_SETS
from wavfusion.corpora.iemocap import read_iemocap
from wavfusion.corpora.meld import read_meld
from wavfusion.corpora.ravdess import read_ravdess
from wavfusion.corpora.reading import ReaderInput, Reading, Rows, join_reasons, strip
from wavfusion.corpora.scan import Probe, Scan
from wavfusion.corpora.table import COLUMNS, read_table
from wavfusion.errors import ConfigError, CorpusError, counted, nearest
from wavfusion.manifest import CHANNELS, MODALITIES, Channel, Corpus, Exclusion, Utterance, is_generated
from wavfusion.version import __version__

log = logging.getLogger(__name__)

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
    media_root: str | os.PathLike[str] | None = None,
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
        media_root: of a table: the folder that its media lie below, its own by default.
        scan: a cache file, made where absent: every media file that it does not list is opened (not decoded), and
            what cannot be read counts as missing. None opens no media.
        progress: show a bar of the scan on stderr.

    Raises:
        ConfigError: corpus, labels, down_mix or a field of columns is not among the valid names, or what is for a
            table is given with another corpus.
        CorpusError: root is not a folder that holds this corpus.
    """
    _check_names(corpus, labels, down_mix, columns or {})
    root = Path(root)
    if not root.is_dir() and not (corpus == "table" and root.is_file()):
        raise CorpusError(f"expected the folder of corpus {corpus!r}, found no folder at {root}")
    folder = Path(media_root) if media_root else root if root.is_dir() else root.parent
    if not folder.is_dir() or (media_root and corpus != "table"):
        raise ConfigError(f"expected the root of a table's media to be a folder, found {folder} for corpus {corpus!r}")
    try:
        if scan:
            _keep_table(root, Path(scan))
        probe: Probe = Scan(folder, Path(scan), progress).probe if scan else lambda paths: {}
        reading = READERS[corpus](ReaderInput(root, labels, down_mix, columns or {}, probe, folder))
        assert len(reading.utterances) + len(reading.excluded) == reading.rows, "a row of the source was lost"
        if scan:
            reading = _strip(reading, probe)
    except OSError as error:
        raise CorpusError(f"cannot read or write {error.filename or root}: {error.strerror}") from error
    reading = replace(reading, stripped=join_reasons(reading.stripped))
    facts = Corpus(
        corpus=corpus,
        root=str(folder.absolute()),
        labels=reading.labels,
        classes=reading.classes,
        version=__version__,
        modalities=list(reading.modalities),
        generated=is_generated(folder),
    )
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


class Counts(NamedTuple):
    """What `write_prepared` counted: rows by split (or `all`) and emotion, and those without each modality."""

    by_split: dict[str, Counter[str]]
    without: dict[str, int]  # only of modalities that some row has or should have


def write_prepared(prepared: Prepared, out: str | os.PathLike[str]) -> Counts:
    """Write manifest.jsonl, corpus.json and exclusions.json; warn where most rows lack what they should have.

    Raises:
        CorpusError: there are no rows, or their table has changed meanwhile, or the manifest would replace that table;
            no file is changed then.
    """
    out = Path(out)
    by_split: dict[str, Counter[str]] = {}
    lacking = Counter[str]()

    def counting() -> Iterator[Utterance]:
        for each in prepared.utterances:
            by_split.setdefault(each.split or "all", Counter())[each.emotion or "unlabelled"] += 1
            lacking.update(each.missing)
            yield each

    try:
        if prepared.table:
            _keep_table(prepared.table, out / "manifest.jsonl")
        out.mkdir(parents=True, exist_ok=True)
        # In a folder beside them, so that no file is replaced until all are complete.
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=out) as unfinished:
            path = Path(unfinished) / "manifest.jsonl"
            manifest.write(path, counting())
            expected, found = len(prepared.utterances), sum(map(Counter.total, by_split.values()))
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
    declared = {*prepared.modalities, *(name for name in MODALITIES if lost_modality(name, prepared.stripped))}
    without = {name: lacking[name] for name in MODALITIES if name in declared or lacking[name] < found}
    for name in declared:
        _warn_of_loss(prepared, name, without[name])
    return Counts(by_split, without)


def _warn_of_loss(prepared: Prepared, modality: str, number: int) -> None:
    """Warn where all or most rows lack a modality that they should have, with the reason and where its files may be."""
    example = lost_modality(modality, prepared.stripped)
    if example and 2 * number > len(prepared.utterances):
        of = f"{number:,} of {counted(len(prepared.utterances), 'row')}"
        hint = prepared.hints.get(modality)
        log.warning("%s: missing in %s; %s: %s%s", modality, of, *example, f"; {hint}" if hint else "")


def lost_modality(modality: str, stripped: Iterable[Exclusion]) -> Exclusion | None:
    """Return the first utterance that lost a modality with the reason of this alone; None where none did."""
    for each in stripped:
        for part in re.split(r"; (?=(?:audio|text|video)\b[a-z, ]*: )", each.reason):
            names, _, reason = part.partition(": ")
            if modality in names.split(", "):
                return Exclusion(each.id, reason)
    return None


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
