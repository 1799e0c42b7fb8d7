"""From the raw folders of a corpus to its manifest: one reader a corpus."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wavfusion import manifest
from wavfusion.corpora.cremad import read_cremad
from wavfusion.corpora.emotions import LABEL_SETS
from wavfusion.corpora.iemocap import read_iemocap
from wavfusion.corpora.meld import read_meld
from wavfusion.corpora.ravdess import read_ravdess
from wavfusion.corpora.reading import Exclusion, ReaderInput, Reading, Rows, join_reasons, strip
from wavfusion.corpora.scan import Looking, Scan
from wavfusion.corpora.table import COLUMNS, read_table
from wavfusion.errors import ConfigError, CorpusError, nearest
from wavfusion.manifest import CHANNELS, Channel, Corpus, Utterance
from wavfusion.version import __version__

READERS: dict[str, Callable[[ReaderInput], Reading]] = {
    "iemocap": read_iemocap,
    "meld": read_meld,
    "ravdess": read_ravdess,
    "cremad": read_cremad,
    "table": read_table,
}


@dataclass(frozen=True)
class Prepared:
    """A corpus ready to be written.

    Attributes:
        excluded: rows of the source that are not among the utterances.
        stripped: utterances that lost a modality, each once.
        differences: what is not as its publishers describe it, one line each.
        table: the user's own table, where the root was one; it must not be overwritten.
    """

    utterances: Sequence[Utterance]
    corpus: Corpus
    excluded: list[Exclusion]
    stripped: list[Exclusion]
    differences: list[str]
    table: Path | None = None


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
        down_mix: how several channels of sound become one.
        columns: of a table: field of the manifest -> the column that holds it, where their names differ; columns
            that are no field are then passed over.
        scan: a file of notes, made where absent: every media file is opened (not decoded) unless the notes know it,
            and what cannot be read counts as missing. None opens no media.
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
        look: Looking = Scan(folder, Path(scan), progress).look if scan else lambda paths: {}
        reading = READERS[corpus](ReaderInput(root, labels, down_mix, columns or {}, look))
        assert len(reading.utterances) + len(reading.excluded) == reading.rows, "a row of the source was lost"
        if scan:
            reading = _strip(reading, look)
    except OSError as error:
        raise CorpusError(f"cannot read or write {error.filename or root}: {error.strerror}") from error
    return Prepared(
        utterances=reading.utterances,
        corpus=Corpus(corpus, str(folder.absolute()), reading.labels, reading.classes, __version__),
        excluded=reading.excluded,
        stripped=join_reasons(reading.stripped),
        differences=reading.differences,
        table=root if root.is_file() else None,
    )


def _keep_table(table: Path, target: Path) -> None:
    """Refuse to write over the table that is read."""
    if target.exists() and target.samefile(table):
        raise CorpusError(f"expected another folder for what is written, found the table itself at {target}")


def _strip(reading: Reading, look: Looking) -> Reading:
    """Open all media, and take away the modalities whose file cannot be read."""
    looks = look(span.path for each in reading.utterances for span in (each.audio, each.video) if span)

    def stripped() -> Iterator[tuple[Utterance, str | None]]:
        return (strip(each, looks) for each in reading.utterances)

    lost = [Exclusion(each.id, reason) for each, reason in stripped() if reason]
    rows = Rows(lambda: (each for each, _ in stripped()), reading.rows - len(reading.excluded))
    # What was read into memory stays there; what was not is stripped as it is read.
    kept = rows if isinstance(reading.utterances, Rows) else list(rows)
    return replace(reading, utterances=kept, stripped=[*reading.stripped, *lost])


def write_prepared(prepared: Prepared, out: str | os.PathLike[str]) -> dict[str, Counter[str]]:
    """Write manifest.jsonl, corpus.json and exclusions.json into a folder; the same corpus gives the same bytes.

    Returns:
        The rows by split (`all` where a row has none) and emotion (`unlabelled`).

    Raises:
        CorpusError: there are no rows, or not those that were prepared, as their table has changed meanwhile; or the
            manifest would replace that table. What was there stays as it was.
    """
    out, names = Path(out), ("exclusions.json", "corpus.json", "manifest.jsonl")
    counts: dict[str, Counter[str]] = {}

    def counted() -> Iterator[Utterance]:
        for each in prepared.utterances:
            counts.setdefault(each.split or "all", Counter())[each.emotion or "unlabelled"] += 1
            yield each

    try:
        if prepared.table:
            _keep_table(prepared.table, out / "manifest.jsonl")
        out.mkdir(parents=True, exist_ok=True)
        # Beside their places, so that nothing is replaced until all are whole.
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=out) as unfinished:
            path = Path(unfinished) / "manifest.jsonl"
            manifest.write(path, counted())
            expected, found = len(prepared.utterances), sum(map(Counter.total, counts.values()))
            where = prepared.table or prepared.corpus.root
            if not found:
                raise CorpusError(
                    f"expected at least one row in {where}, found none, {len(prepared.excluded)} excluded"
                )
            if found != expected:
                raise CorpusError(f"expected {expected} rows in {where} as a moment ago, found {found}")
            manifest.write_corpus(path, prepared.corpus)
            manifest.write_exclusions(path, prepared.excluded, prepared.stripped)
            # The manifest last, so that it never stands without what belongs to it.
            for name in names:
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
        raise ConfigError(f"corpus {corpus!r} has columns of its own, found a map of columns: it is for a table")
    for field in columns:
        if field not in COLUMNS:
            raise ConfigError(f"unknown field {field!r} in the map of columns: {nearest(field, COLUMNS)}")
