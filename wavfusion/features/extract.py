"""From a manifest to stored features in one stream: plan windows and keys, decode, encode, write."""

import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor
from tqdm import tqdm

from wavfusion.encoders.bundle import Encoders, load_encoders
from wavfusion.errors import ConfigError
from wavfusion.features.augment import KINDS, read_kinds
from wavfusion.features.batches import batched, drawn_ahead
from wavfusion.features.clips import ABSENT, Clip, Media, encoded_text, plan_windows
from wavfusion.features.encode import Chunk, ChunkEncoder, Decoded, describe_features, require_informative
from wavfusion.features.store import FeatureSet, Store, fits_half
from wavfusion.manifest import MODALITIES, Corpus, Utterance
from wavfusion.processes.pool import Lost, spread

log = logging.getLogger(__name__)

Item = TypeVar("Item")
# The windows of each utterance as JSON, which takes little memory, until the end shows which features were stored.
Plan = list[list[str]]

CLIPS_AT_ONCE = 24  # windows to a shard: what a kill can lose, and what a thread has in hand
SECONDS_AT_ONCE = 300.0  # of a shard's windows: at base's sizes 30 MB of features
BLOCKS_AHEAD = 2  # of utterances whose files are hashed and probed ahead
TEXTS_AT_ONCE = 64
TOO_LARGE = "features that half precision cannot hold"


@dataclass
class Summary:
    """What an extraction did."""

    wanted: int = 0  # distinct features of the corpus, stored before or now, or not at all
    made: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(MODALITIES, 0)))  # by modality
    absent: int = 0  # tracks that a file does not have
    bad: list[tuple[str, str, str]] = field(default_factory=list)  # utterance, modality, why it could not be encoded
    bad_packets: Counter[str] = field(default_factory=Counter)  # damaged ones that were skipped, by utterance
    cut_texts: int = 0  # of those encoded now, how many have more tokens than the text encoder is given
    # With view `face`, of each window: its utterance, its seconds, the share of its frames in which the speaker's face
    # was found; below `faces.LEAST` the whole frame was encoded.
    faces: list[tuple[str, float, float]] = field(default_factory=list)

    def add(self, other: "Summary") -> None:
        """Add what another extraction of other utterances did."""
        self.made.update(other.made)
        self.bad_packets.update(other.bad_packets)
        self.absent += other.absent
        self.cut_texts += other.cut_texts
        self.bad += other.bad


def extract(
    utterances: Sequence[Utterance],
    corpus: Corpus,
    store: Store,
    encoders: Encoders,
    *,
    root: Path | None = None,
    audio_layers: Sequence[int] | None = None,
    text_layers: Literal["last", "all"] = "last",
    variants: int = 0,
    augment: Sequence[str] | None = None,
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
        audio_layers: layers whose outputs are kept, all in one pass; None = `shipped_layers`.
        text_layers: the text encoder's last layer, or all.
        variants: augmented variants of the audio of each utterance's first window, for training.
        augment: the kinds of changes that they are drawn from; None = all of `augment.KINDS`.
        workers: threads that decode, and on a CPU encode; or processes.
        fast: False for the baseline: one clip after the other through the encoders as they were loaded.
        progress: show a bar on stderr; otherwise a line is logged every tenth of the utterances.
        engine: `threads`; or `processes` or `ray`, which load the encoders of the same preset by themselves, and whose
            machines all have store and corpus at the same paths (`pool.spread`).

    Raises:
        ConfigError: features that do not vary, or too large for half precision, or a name that is used by another view;
            variants of nothing; no extra `[ray]`, or a machine of its cluster that has other encoders.
    """
    layers = shipped_layers(encoders) if audio_layers is None else audio_layers
    wanted = _with_variants(describe_features(encoders, layers, [text_layers]), variants, augment)
    root, workers = root or Path(corpus.root), max(1, workers)
    store.discard_damaged()
    store.add_feature_set(wanted)
    if engine == "threads":
        known = Media(store, root, corpus.root, note=True)
        summary, plan = Extraction(store, known, wanted, encoders, workers, fast).run(utterances, progress)
    else:
        name = encoders.name if encoders.view == "frame" else encoders.name.removesuffix(f"-{encoders.view}")
        load = partial(load_encoders, name, encoders.preset, tuple(encoders.loaded), encoders.view)
        build = partial(_extraction_worker, store.folder, root, corpus.root, load, encoders.device, wanted, fast)
        parts = list(batched(utterances, _clips_at_once(utterances, workers)))
        summary, plan = _gathered(spread(build, parts, workers, engine, encoders.device), parts, progress)
        store.refresh()
    _finish(store, utterances, plan, summary)
    if summary.cut_texts and encoders.text is not None:
        log.warning("text: %s", encoders.text.say_cut(summary.cut_texts))
    return summary


def _with_variants(wanted: FeatureSet, variants: int, augment: Iterable[str] | None) -> FeatureSet:
    if not variants and augment is not None:
        raise ConfigError("augment: expected variants of 1 or more, which it describes, found 0")
    if variants and wanted.audio is None:
        raise ConfigError("variants: expected a corpus with audio, which they change, found none")
    return replace(wanted, variants=variants, augment=read_kinds(augment or KINDS)) if variants else wanted


def shipped_layers(encoders: Encoders) -> list[int]:
    """List the audio layers that the shipped experiments start from: the one below the deep layers of the preset."""
    if encoders.audio is None:
        return []
    used, deep = encoders.preset.used_layers(encoders.audio.num_layers)
    return [used - deep]


class Extraction:
    """Fills a store with the features of utterances, in one process; `encoders` are those that `wanted` describes."""

    def __init__(
        self, store: Store, known: Media, wanted: FeatureSet, encoders: Encoders, workers: int, fast: bool
    ) -> None:
        self.store, self.known, self.wanted, self.encoders, self.workers = store, known, wanted, encoders, workers
        self.encoder, self.summary = ChunkEncoder(store, known, encoders, workers, fast), Summary()
        self._informative = False

    def run(self, utterances: Sequence[Utterance], progress: bool | None = None) -> tuple[Summary, Plan]:
        """Encode what the store lacks; returns what was done, and the plan. `progress` None reports nothing."""
        self.store.refresh()
        self.summary = Summary()
        plan: Plan = [[] for _ in utterances]
        self._extract_texts(utterances, progress)
        done = self.encoder.encode_all(self._plan_chunks(utterances, plan))
        for chunk in _reported(done, lambda each: each.utterances, len(utterances), progress):
            self._write_chunk(chunk)
        return self.summary, plan

    def _extract_texts(self, utterances: Iterable[Utterance], progress: bool | None) -> None:
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
            with self.encoder.acquire() as encoders:
                assert encoders.text is not None
                self.summary.cut_texts += encoders.text.count_cut([*texts.values()])
                # On a CPU one at a time, for the reason of BATCH_SECONDS.
                together = batched(list(texts.values()), 1 if encoders.kind == "cpu" else TEXTS_AT_ONCE)
                rows = [row for some in together for row in encoders.text.encode(some, layers)]
            self._write(dict(zip(texts, rows, strict=True)))

    def _plan_chunks(self, utterances: Sequence[Utterance], plan: Plan) -> Iterator[Chunk]:
        """Plan the windows of utterances, and cut those that the store lacks into chunks, a few for every worker."""
        most = _clips_at_once(utterances, self.workers)
        blocks = list(batched(range(len(utterances)), most))
        # Two extractions that start together take the blocks in different orders, and seldom do the same work twice.
        random.Random().shuffle(blocks)
        for block in self._examined(blocks, utterances):
            self.store.refresh()
            chunk, seconds = Chunk([]), 0.0
            for number in block:
                for clip in plan_windows(utterances[number], self.known, self.wanted):
                    plan[number].append(_shortened(clip))
                    if not any(part and self.store.missing(part.all_keys()) for part in (clip.audio, clip.video)):
                        continue
                    self._require_informative()
                    length = clip.window.end - clip.window.start
                    if chunk.clips and (len(chunk.clips) == most or seconds + length > SECONDS_AT_ONCE):
                        yield chunk
                        chunk, seconds = Chunk([]), 0.0
                    chunk.clips.append(clip)
                    seconds += length
                chunk.utterances += 1
            yield chunk

    def _examined(self, blocks: Sequence[list[int]], utterances: Sequence[Utterance]) -> Iterator[list[int]]:
        """Hash and probe the files of some blocks ahead, in threads; yields each block once its files are known."""
        begun: set[str] = set()

        def new_paths(block: list[int]) -> list[str]:
            rows = [utterances[number] for number in block]
            spans = [(name, getattr(row, name), row) for row in rows for name in ("audio", "video")]
            paths = {span.path for name, span, row in spans if span and name not in row.missing} - begun
            begun.update(paths)
            return sorted(paths)

        executor = ThreadPoolExecutor(self.workers)
        try:
            looks = ([executor.submit(self.known.__getitem__, path) for path in new_paths(block)] for block in blocks)
            for block, futures in zip(blocks, drawn_ahead(looks, BLOCKS_AHEAD), strict=True):
                for future in futures:
                    future.result()
                yield block
        finally:
            executor.shutdown(cancel_futures=True)

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
                if reason == ABSENT:
                    self.summary.absent += 1
                else:
                    self.summary.bad.append((decoded.clip.utterance, modality, reason))
                for key in decoded.clip.parts[modality].all_keys():
                    why = f"no {modality} track" if reason == ABSENT else reason
                    self.store.fail(key, decoded.clip.utterance, why)

    def _write(self, features: dict[str, Tensor]) -> None:
        """Write one shard."""
        for key, x in features.items():
            if not fits_half(x):
                raise ConfigError(f"{key.partition('-')[0]} encoder of {self.encoders.name!r}: {TOO_LARGE}")
        written = self.store.write({key: x.half() for key, x in features.items()})
        self.summary.made.update(key.partition("-")[0] for key in written)


def _clips_at_once(utterances: Sequence[Utterance], workers: int) -> int:
    return min(CLIPS_AT_ONCE, 1 + len(utterances) // (4 * workers))


def _shortened(clip: Clip) -> str:
    """Keep of a planned clip what the index and the summary need."""
    seconds = clip.video.end - clip.video.start if clip.video is not None else 0.0
    keys = {name: part.keys for name, part in clip.parts.items()}
    variants = [*clip.audio.variants] if clip.audio is not None else []
    planned = {"id": clip.utterance, "window": clip.window, "video_seconds": seconds, "keys": keys}
    return json.dumps(planned | {"variants": variants})


def _drop_too_large(features: dict[str, Tensor], decoded: Decoded) -> None:
    """Take out what one file's absurd samples have made, so that the others are kept."""
    for modality, part in decoded.clip.parts.items():
        keys = [key for key in part.all_keys() if key in features]
        if not all(fits_half(features[key]) for key in keys):
            decoded.errors[modality] = TOO_LARGE
            for key in keys:
                del features[key]


def _finish(store: Store, utterances: Iterable[Utterance], plan: Plan, summary: Summary) -> None:
    """Write the index of the stored features, and count what was wanted and in which windows a face was found."""
    keys: set[str] = set()
    shares = store.face_shares()

    def present(layers: dict[str, str]) -> dict[str, str]:
        return {layer: key for layer, key in layers.items() if key in store}

    def rows() -> Iterator[str]:
        for planned in map(json.loads, chain.from_iterable(plan)):
            wanted: dict[str, dict[str, str]] = planned["keys"]
            for layers in wanted.values():
                keys.update(layers.values())
            frames = wanted.get("video", {}).get("frames", "")
            if frames in shares and frames in store:
                summary.faces.append((planned["id"], planned["video_seconds"], shares[frames]))
            stored: dict[str, Any] = {name: present(layers) for name, layers in wanted.items()}
            if planned["variants"]:
                stored["audio_variants"] = [present(layers) for layers in planned["variants"]]
                keys.update(key for layers in planned["variants"] for key in layers.values())
            yield json.dumps({"id": planned["id"], "window": planned["window"], **stored})

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


def _extraction_worker(
    folder: Path, root: Path, identity: str, load: Callable[[], Encoders], device: str, wanted: FeatureSet, fast: bool
) -> Callable[[Sequence[Utterance]], tuple[Summary, Plan]]:
    """Load the encoders in another process, and open the store; raises ConfigError if they are others than `wanted`."""
    encoders, store = load().to(device), Store(folder)
    if describe_features(encoders, wanted.audio_layers, wanted.text_layers) != replace(wanted, variants=0, augment=[]):
        raise ConfigError(f"preset {wanted.preset!r}: expected the same encoders in every process, found others")
    return Extraction(store, Media(store, root, identity, note=True), wanted, encoders, workers=1, fast=fast).run


def _gathered(
    outcomes: Iterable[tuple[int, tuple[Summary, Plan] | Lost]], parts: Sequence[list[Utterance]], progress: bool
) -> tuple[Summary, Plan]:
    """Join what several processes did; one that died again and again costs the utterances that it had."""
    summary, total = Summary(), sum(map(len, parts))
    plans: list[Plan] = [[] for _ in parts]
    for number, outcome in _reported(outcomes, lambda each: len(parts[each[0]]), total, progress):
        if isinstance(outcome, Lost):
            summary.bad += [(row.id, "any", outcome.reason) for row in parts[number]]
        else:
            summary.add(outcome[0])
            plans[number] = outcome[1]
    return summary, [*chain.from_iterable(plans)]
