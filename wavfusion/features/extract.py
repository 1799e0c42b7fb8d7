"""From a manifest to stored features in one stream: plan windows and keys, decode, encode, write."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from torch import Tensor
from tqdm import tqdm

from wavfusion.encoders.bundle import Encoders, load_encoders
from wavfusion.encoders.presets import Preset
from wavfusion.errors import ConfigError
from wavfusion.features.batches import batched
from wavfusion.features.clips import ABSENT, Clip, ClipPart, Media, encoded_text
from wavfusion.features.decode import Decoded
from wavfusion.features.describe import describe_features, require_informative
from wavfusion.features.encode import Chunk, EncoderPool, encode_ahead, encode_chunk
from wavfusion.features.plan import CLIPS_AT_ONCE, Plan, plan_chunks
from wavfusion.features.store import FeatureSet, Store, fits_half
from wavfusion.manifest import Corpus, Utterance
from wavfusion.processes.pool import Lost, spread

log = logging.getLogger(__name__)

Item = TypeVar("Item")

TEXTS_AT_ONCE = 64
TOO_LARGE = "features that half precision cannot hold"


@dataclass
class Summary:
    """What an extraction did.

    Attributes:
        wanted: distinct features of the corpus, stored before or now, or not at all.
        made: features written, by modality.
        absent: tracks that a file does not have.
        bad: utterance, modality and reason of what could not be encoded.
        bad_packets: damaged packets that were skipped, by utterance.
        faces: with view `face`, of each window: its utterance, its seconds, and the share of its frames in which the
            speaker's face was found; below `faces.LEAST` the whole frame was encoded.
    """

    wanted: int = 0
    made: dict[str, int] = field(default_factory=lambda: {"audio": 0, "text": 0, "video": 0})
    absent: int = 0
    bad: list[tuple[str, str, str]] = field(default_factory=list)
    bad_packets: Counter[str] = field(default_factory=Counter)
    faces: list[tuple[str, float, float]] = field(default_factory=list)

    def add(self, other: "Summary") -> None:
        """Add what another extraction of other utterances did."""
        self.made = {name: count + other.made[name] for name, count in self.made.items()}
        self.absent += other.absent
        self.bad += other.bad
        self.bad_packets += other.bad_packets


def extract(
    utterances: Sequence[Utterance],
    corpus: Corpus,
    store: Store,
    encoders: Encoders,
    *,
    root: Path | None = None,
    audio_layers: Sequence[int] = (9,),
    text_layers: Literal["last", "all"] = "last",
    workers: int = 2,
    fast: bool = True,
    progress: bool = False,
    engine: str = "threads",
) -> Summary:
    """Fill a store with the features of a corpus; stored features stay, damaged ones are made again.

    Args:
        utterances: rows of the manifest, also those without an emotion.
        corpus: tells where the paths start.
        store: where the features go; several processes may fill one.
        encoders: a preset's, for at least the modalities that the corpus has.
        root: where the corpus lies now, if elsewhere than `corpus` says.
        audio_layers: layers whose outputs are kept, all in one pass.
        text_layers: the text encoder's last layer, or all.
        workers: threads that decode, and on a CPU encode; or processes.
        fast: False for the baseline: one clip after the other through the encoders as they were loaded.
        progress: show a bar on stderr; otherwise a line is logged every tenth of the utterances.
        engine: `threads`; or `processes` or `ray`, which load the encoders of the same preset by themselves, and whose
            machines all have store and corpus at the same paths (`pool.spread`).

    Raises:
        ConfigError: features that do not vary, or too large for half precision, or a name that is used by another view;
            no extra `[ray]`, or a machine of its cluster that has other encoders.
    """
    wanted = describe_features(encoders, audio_layers, [text_layers])
    root, workers = root or Path(corpus.root), max(1, workers)
    store.discard_damaged()
    store.add_feature_set(wanted)
    if engine == "threads":
        known = Media(store, root, corpus.root, note=True)
        summary, plan = Extraction(store, known, wanted, encoders, workers, fast).run(utterances, progress)
    else:
        worker = ExtractionWorker(store.folder, root, corpus.root, _Recipe.of(encoders), wanted, fast)
        summary, plan = _extract_spread(worker, utterances, workers, engine, progress)
        store.refresh()
    _finish(store, utterances, plan, summary)
    return summary


class Extraction:
    """Fills a store with the features of utterances, in one process.

    Args:
        store: where the features go.
        known: the corpus's files.
        wanted: the features.
        encoders: those that `wanted` describes.
        workers: threads.
        fast: see `extract`.
    """

    def __init__(
        self, store: Store, known: Media, wanted: FeatureSet, encoders: Encoders, workers: int, fast: bool
    ) -> None:
        self.store, self.known, self.wanted, self.encoders = store, known, wanted, encoders
        self.workers, self.fast, self.summary = workers, fast, Summary()
        self._informative = False

    def run(self, utterances: Sequence[Utterance], progress: bool | None = None) -> tuple[Summary, Plan]:
        """Encode what the store lacks; returns what was done, and the plan of every utterance.

        Args:
            utterances: each is planned once.
            progress: as in `extract`; None reports nothing.
        """
        self.summary = Summary()
        plan: Plan = [[] for _ in utterances]
        twins = (self.workers if self.encoders.on_cpu else 1) if self.fast else 0
        pool = EncoderPool([self.encoders.quick() for _ in range(twins)] or [self.encoders])
        self._extract_texts(utterances, pool, progress)
        chunks = self._checked(plan_chunks(utterances, plan, self.store, self.known, self.wanted, self.workers))
        if self.fast:
            done = encode_ahead(chunks, self.store, self.known, self.encoders, pool, self.workers)
        else:
            done = (encode_chunk(chunk, self.store, self.known, self.encoders, pool, False) for chunk in chunks)
        for chunk in _reported(done, lambda each: each.utterances, len(utterances), progress):
            self._write_chunk(chunk)
        return self.summary, plan

    def _extract_texts(self, utterances: Iterable[Utterance], pool: EncoderPool, progress: bool | None) -> None:
        """Encode the transcripts, each distinct one once."""
        missing = (
            (key, utterance.text)
            for utterance in utterances
            if utterance.text is not None and (part := encoded_text(utterance, self.wanted)) is not None
            for key in part.keys.values()
            if key not in self.store
        )
        layers: Any = self.wanted.text_layers[0] if self.wanted.text_layers else "last"
        for batch in _reported(batched(missing, TEXTS_AT_ONCE), len, None, progress, "texts"):
            self._require_informative()
            texts = dict(batch)
            with pool.acquire() as encoders:
                assert encoders.text is not None
                rows = encoders.text.encode(list(texts.values()), layers)
            self._write(dict(zip(texts, rows, strict=True)))

    def _checked(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            if chunk.clips:
                self._require_informative()
            yield chunk

    def _require_informative(self) -> None:
        if not self._informative:
            require_informative(self.encoders, self.wanted)
            self._informative = True

    def _write_chunk(self, chunk: Chunk) -> None:
        """Write one chunk as one shard, and note what failed."""
        for decoded in chunk.decoded:
            _drop_too_large(chunk.features, decoded)
            # Before the shard: after a kill in between, stored features would have no share.
            if decoded.face is not None and decoded.clip.video is not None:
                self.store.note_face(decoded.clip.video.keys["frames"], decoded.clip.utterance, decoded.face)
        self._write(chunk.features)
        for decoded in chunk.decoded:
            if decoded.bad_packets:
                self.summary.bad_packets[decoded.clip.utterance] += decoded.bad_packets
            for modality, reason in decoded.errors.items():
                self._note_failure(decoded.clip, modality, reason)

    def _note_failure(self, clip: Clip, modality: str, reason: str) -> None:
        part: ClipPart = getattr(clip, modality)
        for key in part.keys.values():
            self.store.fail(key, clip.utterance, f"no {modality} track" if reason == ABSENT else reason)
        if reason == ABSENT:
            self.summary.absent += 1
        else:
            self.summary.bad.append((clip.utterance, modality, reason))

    def _write(self, features: dict[str, Tensor]) -> None:
        """Write one shard."""
        for key, x in features.items():
            if not fits_half(x):
                raise ConfigError(f"{key.partition('-')[0]} encoder of {self.encoders.name!r}: {TOO_LARGE}")
        for key in self.store.write({key: x.half() for key, x in features.items()}):
            self.summary.made[key.partition("-")[0]] += 1


def _drop_too_large(features: dict[str, Tensor], decoded: Decoded) -> None:
    """Take out what one file's absurd samples have made, so that the others are kept."""
    for modality, part in (("audio", decoded.clip.audio), ("video", decoded.clip.video)):
        keys = [key for key in part.keys.values() if key in features] if part else []
        if not all(fits_half(features[key]) for key in keys):
            decoded.errors[modality] = TOO_LARGE
            for key in keys:
                del features[key]


def _finish(store: Store, utterances: Iterable[Utterance], plan: Plan, summary: Summary) -> None:
    """Write the index of the stored features, and count what was wanted and in which windows a face was found."""
    keys: set[str] = set()
    shares = store.face_shares()

    def rows() -> Iterator[str]:
        for planned in (each for windows in plan for each in windows):
            wanted: dict[str, dict[str, str]] = json.loads(planned.keys)
            for layers in wanted.values():
                keys.update(layers.values())
            share = shares.get(wanted.get("video", {}).get("frames", ""))
            if share is not None and wanted["video"]["frames"] in store:
                summary.faces.append((planned.utterance, planned.video_seconds, share))
            stored = {
                name: {layer: key for layer, key in layers.items() if key in store} for name, layers in wanted.items()
            }
            yield json.dumps({"id": planned.utterance, "window": planned.window, **stored}, ensure_ascii=True)

    store.write_index((each.id for each in utterances), rows())
    summary.wanted = len(keys)


def _reported(
    items: Iterable[Item],
    count: Callable[[Item], int],
    total: int | None,
    progress: bool | None,
    what: str = "utterances",
) -> Iterator[Item]:
    """Pass items on and report progress after each: a bar, or a line every tenth; nothing where `progress` is None."""
    done = 0
    with tqdm(
        total=total, desc="extract", unit=f" {what}", disable=not progress or total == 0, leave=bool(total)
    ) as bar:
        for item in items:
            yield item
            before, done = done, done + count(item)
            bar.update(count(item))
            if progress is False and total and 10 * done // total > 10 * before // total:
                log.info("extract: %d of %d %s", done, total, what)


class _Recipe(NamedTuple):
    """What loads the same encoders again, in another process."""

    name: str
    preset: Preset
    modalities: tuple[str, ...]
    view: str
    device: str

    @classmethod
    def of(cls, encoders: Encoders) -> "_Recipe":
        name = encoders.name if encoders.view == "frame" else encoders.name.removesuffix(f"-{encoders.view}")
        return cls(name, encoders.preset, tuple(encoders.loaded), encoders.view, encoders.device)


@dataclass(frozen=True)
class ExtractionWorker:
    """What another process needs to fill a store with the features of some utterances.

    Attributes:
        folder: the store's.
        identity: what the store calls `root`, below which the media lie.
        recipe: how the encoders are loaded, and where they compute.
        wanted: the features, whose encoders must be those that are loaded.
    """

    folder: Path
    root: Path
    identity: str
    recipe: _Recipe
    wanted: FeatureSet
    fast: bool

    def __call__(self) -> Callable[[Sequence[Utterance]], tuple[Summary, Plan]]:
        """Load the encoders and open the store.

        Raises:
            ConfigError: the encoders that are loaded here are others.
        """
        encoders, store = load_encoders(*self.recipe[:4]).to(self.recipe.device), Store(self.folder)
        found = describe_features(encoders, self.wanted.audio_layers, self.wanted.text_layers)
        if found != self.wanted:
            raise ConfigError(
                f"preset {self.wanted.preset!r}: expected the same encoders in every process, found others"
            )
        known = Media(store, self.root, self.identity, note=True)
        extraction = Extraction(store, known, self.wanted, encoders, workers=1, fast=self.fast)

        def fill(utterances: Sequence[Utterance]) -> tuple[Summary, Plan]:
            store.refresh()
            return extraction.run(utterances)

        return fill


def _extract_spread(
    worker: ExtractionWorker, utterances: Sequence[Utterance], workers: int, engine: str, progress: bool
) -> tuple[Summary, Plan]:
    """Let several processes fill a store; one that dies again and again costs the utterances that it had."""
    size = min(CLIPS_AT_ONCE, 1 + len(utterances) // (4 * workers))
    parts, summary = list(batched(utterances, size)), Summary()
    plans: list[Plan] = [[] for _ in parts]
    outcomes = spread(worker, parts, workers, engine, worker.recipe.device)
    for number, outcome in _reported(outcomes, lambda each: len(parts[each[0]]), len(utterances), progress):
        if isinstance(outcome, Lost):
            summary.bad += [(row.id, "any", outcome.reason) for row in parts[number]]
        else:
            summary.add(outcome[0])
            plans[number] = outcome[1]
    return summary, [windows for plan in plans for windows in plan]
