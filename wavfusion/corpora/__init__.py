"""From the raw folders of a corpus to its manifest: one reader a corpus."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import wavfusion
from wavfusion import manifest
from wavfusion.corpora.iemocap import read_iemocap
from wavfusion.corpora.meld import read_meld
from wavfusion.corpora.ravdess import read_ravdess
from wavfusion.corpora.reading import Exclusion, Reading
from wavfusion.corpora.table import read_table
from wavfusion.emotions import LABEL_SETS
from wavfusion.errors import ConfigError, CorpusError, nearest
from wavfusion.manifest import CHANNELS, Channel, Corpus, Utterance

READERS: dict[str, Callable[[Path, str | None, Channel], Reading]] = {
    "iemocap": read_iemocap,
    "meld": read_meld,
    "ravdess": read_ravdess,
    "table": read_table,
}


@dataclass(frozen=True)
class Prepared:
    """A corpus ready to be written.

    Attributes:
        excluded: rows of the source that are not among the utterances.
        stripped: utterances that lost a modality.
        differences: what is not as its publishers describe it, one line each.
    """

    utterances: list[Utterance]
    corpus: Corpus
    excluded: list[Exclusion]
    stripped: list[Exclusion]
    differences: list[str]


def prepare(
    corpus: str, root: str | os.PathLike[str], labels: str | None = None, down_mix: Channel = "mix"
) -> Prepared:
    """Read a corpus as its publishers distribute it; nothing is decoded.

    Args:
        corpus: a name of READERS.
        root: the corpus's folder; for `table` also the table itself.
        labels: a label set of the corpus, its first by default.
        down_mix: how several channels of sound become one.

    Raises:
        ConfigError: corpus, labels or down_mix is not among the valid names.
        CorpusError: root is not a folder that holds this corpus.
    """
    _check_names(corpus, labels, down_mix)
    root = Path(root)
    if not root.is_dir() and not (corpus == "table" and root.is_file()):
        raise CorpusError(f"expected the folder of corpus {corpus!r}, found no folder at {root}")
    try:
        reading = READERS[corpus](root, labels, down_mix)
    except OSError as error:
        raise CorpusError(f"cannot read {error.filename or root}: {error.strerror}") from error
    assert len(reading.utterances) + len(reading.excluded) == reading.rows, "a row of the source was lost"
    folder = root if root.is_dir() else root.parent
    return Prepared(
        utterances=reading.utterances,
        corpus=Corpus(corpus, str(folder.absolute()), reading.labels, reading.classes, wavfusion.__version__),
        excluded=reading.excluded,
        stripped=reading.stripped,
        differences=reading.differences,
    )


def write(prepared: Prepared, out: str | os.PathLike[str]) -> None:
    """Write manifest.jsonl, corpus.json and exclusions.json into a folder; the same corpus gives the same bytes."""
    path = Path(out) / "manifest.jsonl"
    exclusions = {
        name: [each._asdict() for each in listed]
        for name, listed in (("excluded", prepared.excluded), ("stripped", prepared.stripped))
    }
    manifest.write_lines(path.with_name("exclusions.json"), [json.dumps(exclusions, ensure_ascii=False, indent=1)])
    manifest.write_corpus(path, prepared.corpus)
    # Last, so that a manifest never stands without what belongs to it.
    manifest.write(path, prepared.utterances)


def _check_names(corpus: str, labels: str | None, down_mix: str) -> None:
    if corpus not in READERS:
        raise ConfigError(f"unknown corpus {corpus!r}: {nearest(corpus, READERS)}")
    if down_mix not in CHANNELS:
        raise ConfigError(f"unknown down-mix {down_mix!r}: {nearest(down_mix, CHANNELS)}")
    sets = LABEL_SETS.get(corpus, {})
    if labels is not None and not sets:
        raise ConfigError(f"corpus {corpus!r} has one label set and takes no name, found labels {labels!r}")
    if labels is not None and labels not in sets:
        raise ConfigError(f"unknown label set {labels!r} of {corpus!r}: {nearest(labels, sets)}")
