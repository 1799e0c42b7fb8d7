"""The page of a corpus: emotions, durations, words, agreement, speakers, what was left out."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from wavfusion import manifest
from wavfusion.corpora import cremad, iemocap, meld, ravdess
from wavfusion.corpora.reading import compare_counts
from wavfusion.corpora.scan import MediaFacts
from wavfusion.manifest import SPLITS, Corpus, Utterance
from wavfusion.pages.fill import write_page

SHOWN_SPEAKERS = 30
SECONDS = (0, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30)
WORDS = (0, 1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 100)
VOTES = (0, 40, 50, 60, 70, 80, 90, 100)


def write_corpus_page(
    manifest_path: Path, out: Path, facts: Mapping[str, MediaFacts], where: str | None = None
) -> None:
    """Write the page of a corpus as `prepare` wrote it: emotions, durations, words, agreement, what was left out.

    A row without times whose file is not in `facts` is left out of the durations; `where` takes only the rows of which
    it holds (`manifest.parse_where`).
    """
    rows, corpus = manifest.read(manifest_path, where), manifest.read_corpus(manifest_path)
    left_out = manifest.read_exclusions(manifest_path)
    by, group, stated = _published(corpus)
    lengths = [length for row in rows if (length := _seconds(row, facts)) is not None]
    counts, by_speaker = _counts(rows, group), _counts(rows, lambda row: row.speaker)
    order = {name: str(number) for number, name in enumerate(SPLITS)}
    counts = dict(sorted(counts.items(), key=lambda item: order.get(item[0], item[0])))
    most = sorted(by_speaker, key=lambda name: (-by_speaker[name].total(), name))[:SHOWN_SPEAKERS]
    emotions = Counter(row.emotion for row in rows if row.emotion is not None)
    write_page(
        out,
        "corpus.html",
        corpus=corpus,
        where=where,
        classes=[*corpus.classes, *(["none"] if emotions.total() < len(rows) else [])],
        facts={
            "rows": len(rows),
            "unlabelled": len(rows) - emotions.total(),
            "speakers": len(by_speaker),
            "dialogues": len({row.dialogue for row in rows if row.dialogue}),
            "hours": sum(lengths) / 3600,
            "excluded": len(left_out.excluded),
            "stripped": len(left_out.stripped),
        },
        emotions={
            "by": by,
            "counts": counts,
            "shares": {name: emotions[name] / max(1, emotions.total()) for name in corpus.classes},
        },
        published=stated if stated.keys() & counts.keys() else {},
        differences=[
            line for name, found in stated.items() for line in compare_counts(name, counts.get(name, {}), found)
        ],
        durations=_histogram("durations", lengths, SECONDS),
        words=_words(rows),
        agreement=_agreement(rows),
        speakers={"counts": {name: by_speaker[name] for name in most}, "shown": len(most)},
        modalities={name: n for name in manifest.MODALITIES if (n := sum(name not in row.missing for row in rows))},
        reasons=_reasons(left_out),
    )


def _seconds(row: Utterance, facts: Mapping[str, MediaFacts]) -> float | None:
    """Duration of an utterance, by its longest modality."""
    found = []
    for name, span in (("audio", row.audio), ("video", row.video)):
        if span is not None:
            length = getattr(facts.get(span.path, MediaFacts()), name)
            ends = [end for end in (span.end, length) if end is not None]
            found += [min(ends) - (span.start or 0.0)] if ends else []
    return max(found, default=None)


def _published(corpus: Corpus) -> tuple[str, Callable[[Utterance], str], dict[str, dict[str, int]]]:
    """The grouping of a corpus's published counts: its name, the group of a row, and the counts."""
    if corpus.corpus == "iemocap" and corpus.labels:
        counts = {session: iemocap.published_counts(session, corpus.labels) for session in iemocap.PUBLISHED}
        return "session", lambda row: str(row.session), counts
    if corpus.corpus == "ravdess":
        return "channel", lambda row: ravdess.CHANNELS[row.id[:2]], ravdess.PUBLISHED
    if corpus.corpus == "cremad":
        return "part", lambda row: "all", {"all": cremad.PUBLISHED}
    return "part", lambda row: row.split or "all", meld.PUBLISHED if corpus.corpus == "meld" else {}


def _counts(rows: Sequence[Utterance], group: Callable[[Utterance], str | None]) -> dict[str, Counter[str]]:
    """Count the emotions of each group; rows without one are left out."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if name := group(row):
            counts[name][row.emotion or "none"] += 1
    return counts


def _histogram(title: str, values: Sequence[float | int], edges: Sequence[float | int]) -> dict[str, Any] | None:
    """Counts between edges, lower edges included; the last bin has no upper edge."""
    if not values:
        return None
    counts, _ = np.histogram(values, [*edges, np.inf])
    labels = [f"{low:g}–{high:g}" for low, high in pairwise(edges)] + [f"from {edges[-1]:g}"]
    ends = zip(("low", "median", "high", "longest"), np.quantile(values, [0, 0.5, 0.95, 1]), strict=True)
    return {"title": title, "labels": labels, "counts": counts.tolist(), **dict(ends)}


def _words(rows: Sequence[Utterance]) -> dict[str, Any] | None:
    texts = [re.findall(r"[\w']+", row.text.lower()) for row in rows if row.text]
    found = _histogram("words", [len(words) for words in texts], WORDS)
    labels = [f"{low}–{high - 1}" if high - low > 1 else str(low) for low, high in pairwise(WORDS)]
    vocabulary = {word for words in texts for word in words}
    return found and {**found, "labels": [*labels, f"from {WORDS[-1]}"], "vocabulary": len(vocabulary)}


def _agreement(rows: Sequence[Utterance]) -> dict[str, Any] | None:
    voted = [(row.emotion, row.votes) for row in rows if row.votes]
    tops = [max(votes.values()) for _, votes in voted]
    found = _histogram("agreement", [100 * top for top in tops], VOTES)
    if found is None:
        return None
    same = sum(votes.get(emotion or "", 0.0) == max(votes.values()) for emotion, votes in voted)
    full = sum(top > 0.999 for top in tops)
    return {**found, "rows": len(voted), "full": full / len(voted), "same": same / len(voted)}


def _reasons(left_out: manifest.Exclusions) -> dict[str, list[str]]:
    """Ids by reason, the names of files taken out of the reasons."""
    found: dict[str, list[str]] = defaultdict(list)
    for each in (*left_out.excluded, *left_out.stripped):
        found[re.sub(r"'[^']*'|\d+\.\d+", "…", each.reason)].append(each.id)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))
