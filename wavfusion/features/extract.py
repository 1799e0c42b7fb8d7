"""From media to stored features: every window of every utterance through the three frozen encoders, once."""

import hashlib
import json
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from tqdm import tqdm

from wavfusion import media
from wavfusion.encoders.audio import AudioEncoder
from wavfusion.encoders.bundle import Encoders, load_encoders
from wavfusion.encoders.presets import Preset
from wavfusion.encoders.text import TextEncoder
from wavfusion.encoders.video import VideoEncoder
from wavfusion.errors import ConfigError, CorpusError, MediaError
from wavfusion.features.clips import (
    ABSENT,
    WINDOW,
    Clip,
    Encoded,
    FeatureSet,
    Media,
    Place,
    clip_at,
    encoded_text,
    places,
    plan_windows,
    read_feature_sets,
)
from wavfusion.features.store import Store
from wavfusion.files import append_line, read_lines, write_atomic, write_lines
from wavfusion.manifest import Corpus, Utterance
from wavfusion.media import faces
from wavfusion.processes.pool import Lost, spread

log = logging.getLogger(__name__)

Item = TypeVar("Item")

CLIPS_AT_ONCE = 24  # windows to a shard: what a kill can lose, and what a thread has in hand
SECONDS_AT_ONCE = 300.0  # of a shard's windows: at base's sizes 30 MB of features
TEXTS_AT_ONCE = 64
BATCH_SECONDS = {"cpu": WINDOW, "cuda": 8 * WINDOW}  # padded audio in one forward pass; on a CPU more is no faster
BATCHES_AT_ONCE = 2  # of sound, formed together of like lengths
MIN_SPREAD = 1e-3  # features below this standard deviation tell nothing (a random EfficientNet gives exact zeros)
HALF_MAX = 65_504.0
FACES = "faces.jsonl"  # in the store
TOO_LARGE = "features that half precision cannot hold"


@dataclass
class Summary:
    """What an extraction did.

    Attributes:
        wanted: distinct features that the corpus has, there before or not.
        made: features written, by modality.
        absent: tracks that a file does not have.
        bad: utterance, modality and reason of what could not be encoded.
        bad_packets: damaged packets passed over, by utterance.
        faces: with view `face`, of each window that was there or is now: its utterance, its seconds, and the share of
            its pictures in which the speaker's face was found; below `faces.LEAST` the whole picture was encoded.
    """

    wanted: int = 0
    made: dict[str, int] = field(default_factory=lambda: {"audio": 0, "text": 0, "video": 0})
    absent: int = 0
    bad: list[tuple[str, str, str]] = field(default_factory=list)
    bad_packets: dict[str, int] = field(default_factory=dict)
    faces: list[tuple[str, float, float]] = field(default_factory=list)

    def add(self, other: "Summary") -> None:
        """Join what another extraction of other utterances did."""
        self.made = {name: count + other.made[name] for name, count in self.made.items()}
        self.absent += other.absent
        self.bad += other.bad
        self.bad_packets |= other.bad_packets


class Recipe(NamedTuple):
    """What loads the same encoders again, in another process."""

    name: str
    preset: Preset
    modalities: tuple[str, ...]
    view: str
    device: str


@dataclass
class Decoded:
    """The decoded media of one clip, or why there are none.

    Attributes:
        face: with view `face`, the share of its pictures in which the speaker's was found.
    """

    clip: Clip
    samples: Float32[np.ndarray, " N"] | None = None
    frames: UInt8[np.ndarray, "Tv H W 3"] | None = None
    errors: dict[str, str] = field(default_factory=dict)
    bad_packets: int = 0
    face: float | None = None

    @property
    def seconds(self) -> float:
        """Of its sound."""
        return 0.0 if self.samples is None else len(self.samples) / media.SAMPLE_RATE


Chunk = tuple[dict[str, Tensor], list[Decoded]]  # features by key, and what they came from


def _recipe(encoders: Encoders) -> Recipe:
    name = encoders.name if encoders.view == "frame" else encoders.name.removesuffix(f"-{encoders.view}")
    return Recipe(name, encoders.preset, tuple(encoders.loaded), encoders.view, encoders.device)


def describe_features(encoders: Encoders, audio_layers: Sequence[int], text_layers: Sequence[str]) -> FeatureSet:
    """Say which features a set of encoders gives.

    Raises:
        ConfigError: a layer that the audio encoder does not have.
    """
    audio = encoders.audio
    for layer in audio_layers if audio else ():
        if audio is not None and not 0 <= layer <= audio.num_layers:
            raise ConfigError(f"--layers: expected 0 to {audio.num_layers} for {audio.name!r}, found {layer}")
    detector = {} if encoders.view == "frame" else {"detector": faces.detector_fingerprint()}
    return FeatureSet(
        encoders.name,
        audio=_about_audio(audio) if audio else None,
        text=_about(encoders.text, num_layers=encoders.text.num_layers) if encoders.text else None,
        video=_about(encoders.video, **detector) if encoders.video else None,
        audio_layers=sorted(set(audio_layers)) if audio else [],
        text_layers=list(text_layers) if encoders.text else [],
        frame_rate=encoders.preset.frame_rate,
        pretrained_rate=encoders.preset.pretrained_rate,
        new_rate=encoders.preset.new_rate,
        view=encoders.view,
        precision=encoders.preset.precision,
    )


def _about(encoder: TextEncoder | VideoEncoder | AudioEncoder, **sizes: Any) -> dict[str, Any]:
    return {"name": encoder.name, "fingerprint": encoder.fingerprint, "width": encoder.width, **sizes}


def _about_audio(encoder: AudioEncoder) -> dict[str, Any]:
    config = encoder.config
    relative = config.model_type == "wavlm"
    return _about(
        encoder,
        num_layers=encoder.num_layers,
        num_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        layer_norm_eps=config.layer_norm_eps,
        pre_norm=bool(config.do_stable_layer_norm),
        position_buckets=config.num_buckets if relative else 0,
        position_distance=config.max_bucket_distance if relative else 800,
    )


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
    """Fill a store with the features of a corpus; what is there already stays, what is damaged is made anew.

    Args:
        utterances: rows of the manifest; those without an emotion too.
        corpus: tells where the paths start.
        store: where the features go; several processes may fill one.
        encoders: a preset's, for at least the modalities that the corpus has.
        root: where the corpus lies now, if elsewhere than `corpus` says.
        audio_layers: layers whose outputs are kept, all in one pass.
        text_layers: the text encoder's last layer, or all.
        workers: threads that decode, and on a CPU encode; or processes.
        fast: False for the plain way: one clip after the other through the encoders as they were loaded.
        progress: show a bar on stderr; otherwise a line is logged every tenth of the clips.
        engine: `threads`; or `processes` or `ray`, which load the encoders of the same preset by themselves, and whose
            machines all see store and corpus in the same place (`cluster.spread`).

    Raises:
        ConfigError: features without spread, or too large for half precision, or a name that is taken by another view;
            no extra `[ray]`, or a machine of its cluster that has other encoders.
    """
    wanted = describe_features(encoders, audio_layers, [text_layers])
    root = root or Path(corpus.root)
    store.discard_damaged()
    _remember(store, wanted)
    summary = Summary()
    if engine != "threads":
        _require_spread(encoders, wanted)  # those of the processes are the same
        filler = Filler(store.folder, root, corpus.root, _recipe(encoders), wanted, fast)
        summary = _fill_spread(filler, utterances, workers, engine, progress)
        store.refresh()
    known = Media(store, root, corpus.root, note=True)
    if engine == "threads":
        if any(key not in store for clip in _planned(utterances, known, wanted) for key in clip.keys):
            _require_spread(encoders, wanted)
        summary = _fill(utterances, known, wanted, store, encoders, max(1, workers), fast, progress)
    summary.wanted = _write_index(store, utterances, _planned(utterances, known, wanted))
    if encoders.view != "frame":
        summary.faces = _read_faces(store, _planned(utterances, known, wanted))
    return summary


def _planned(utterances: Iterable[Utterance], known: Media, wanted: FeatureSet) -> Iterator[Clip]:
    """Plan one utterance after the other: the clips of all together would take more memory than anything else."""
    return (clip for utterance in utterances for clip in plan_windows(utterance, known, wanted))


def _fill(
    utterances: Sequence[Utterance],
    known: Media,
    wanted: FeatureSet,
    store: Store,
    encoders: Encoders,
    workers: int = 1,
    fast: bool = True,
    progress: bool | None = None,
) -> Summary:
    """Encode what a store lacks of some utterances; with `progress` None nothing tells how far it is."""
    todo = [place for utterance in utterances for place in _todo(utterance, known, wanted, store)]
    summary = Summary()
    own = encoders.quick() if fast else encoders
    _extract_texts(utterances, wanted, store, own, summary)
    cut = list(_cut(todo, workers))
    # Two extractions that start together take their work in different orders, and seldom do the same twice.
    random.Random().shuffle(cut)
    chunks = ([clip_at(place, known, wanted) for place in chunk] for chunk in cut)
    plain = (_encode(chunk, store, known, own, lambda: nullcontext(own), fast) for chunk in chunks)
    made = _encode_ahead(chunks, store, known, own, workers) if fast else plain
    for features, decoded in made if progress is None else _told(made, lambda each: len(each[1]), len(todo), progress):
        _write_chunk(features, decoded, store, encoders, summary)
    return summary


@dataclass(frozen=True)
class Filler:
    """What a process of its own needs to fill a store with the features of some utterances.

    Attributes:
        folder: the store's.
        identity: what the store calls `root`, below which the media lie.
        recipe: how the encoders are loaded, and where they compute.
        wanted: the features, whose encoders must be those that are loaded.
    """

    folder: Path
    root: Path
    identity: str
    recipe: Recipe
    wanted: FeatureSet
    fast: bool

    def __call__(self) -> Callable[[Sequence[Utterance]], Summary]:
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

        def fill(utterances: Sequence[Utterance]) -> Summary:
            store.refresh()
            return _fill(utterances, known, self.wanted, store, encoders, fast=self.fast)

        return fill


def _fill_spread(filler: Filler, utterances: Sequence[Utterance], workers: int, engine: str, progress: bool) -> Summary:
    """Let several processes fill a store; one that dies again and again costs the utterances that it had."""
    size = min(CLIPS_AT_ONCE, 1 + len(utterances) // (4 * workers))
    parts, summary = list(batched(utterances, size)), Summary()
    found = spread(filler, parts, workers, engine, filler.recipe.device)
    for number, outcome in _told(found, lambda each: len(parts[each[0]]), len(utterances), progress):
        if isinstance(outcome, Lost):
            summary.bad += [(row.id, "any", outcome.reason) for row in parts[number]]
        else:
            summary.add(outcome)
    return summary


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Cut a sequence into lists of at most `size` (itertools has it from Python 3.12)."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _todo(utterance: Utterance, known: Media, wanted: FeatureSet, store: Store) -> Iterator[Place]:
    """The windows of an utterance whose sound or picture a store lacks."""
    for place in places(utterance, known):
        clip = clip_at(place, known, wanted)
        if _lacking(clip.audio, store) or _lacking(clip.video, store):
            yield place


def _cut(todo: Sequence[Place], workers: int) -> Iterator[list[Place]]:
    """Cut windows into chunks that are decoded, encoded and written as one; a few for every worker."""
    chunk: list[Place] = []
    most = min(CLIPS_AT_ONCE, 1 + len(todo) // (4 * workers))
    seconds = 0.0
    for place in todo:
        length = place.window.end - place.window.start
        if chunk and (len(chunk) == most or seconds + length > SECONDS_AT_ONCE):
            yield chunk
            chunk, seconds = [], 0.0
        chunk.append(place)
        seconds += length
    if chunk:
        yield chunk


def _told(chunks: Iterable[Item], count: Callable[[Item], int], total: int, progress: bool) -> Iterator[Item]:
    """Pass chunks on, and tell after each how far it is: a bar, or a line every tenth (`count`: of its clips)."""
    done = 0
    with tqdm(total=total, desc="extract", unit="clip", disable=not progress or total == 0) as bar:
        for chunk in chunks:
            yield chunk
            before, done = done, done + count(chunk)
            bar.update(count(chunk))
            if not progress and 10 * done // total > 10 * before // total:
                log.info("extract: %d of %d clips", done, total)


def _require_spread(encoders: Encoders, wanted: FeatureSet) -> None:
    """Refuse encoders whose features tell nothing; tried on noise, since silence may well give constants."""
    noise = np.random.default_rng(0)
    tried: dict[str, list[Tensor]] = {}
    if encoders.audio is not None and wanted.audio_layers:
        samples = noise.normal(size=media.SAMPLE_RATE).astype(np.float32)
        tried["audio"] = list(encoders.audio.encode([samples], wanted.audio_layers)[0].values())
    if encoders.text is not None:
        tried["text"] = encoders.text.encode(["Kids are talking by the door."])
    if encoders.video is not None:
        tried["video"] = [encoders.video.encode(noise.integers(0, 256, (2, *encoders.video.size, 3), np.uint8))]
    for modality, features in tried.items():
        spread = min(float(x.std()) for x in features)
        if not spread >= MIN_SPREAD:
            raise ConfigError(
                f"{modality} encoder of {encoders.name!r}: expected features that differ, found a spread of "
                f"{spread:.1e}, below {MIN_SPREAD}"
            )


def _remember(store: Store, wanted: FeatureSet) -> None:
    """Note which features the store holds; layers of earlier runs with the same encoders stay listed."""
    path = store.folder / "encoders.json"
    with store.lock():
        try:
            sets = read_feature_sets(store) if path.exists() else {}
        except CorpusError as error:
            log.warning("%s: written anew", error)
            sets = {}
        old = sets.get(wanted.preset)
        sets[wanted.preset] = wanted if old is None else merge(old, wanted)
        content = {
            name: {key: x for key, x in asdict(values).items() if key != "preset"} for name, values in sets.items()
        }
        write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())


def merge(old: FeatureSet, new: FeatureSet) -> FeatureSet:
    """Join what two extractions with one preset's name hold; an encoder that has changed replaces the old one.

    Raises:
        ConfigError: they are of different views or precisions, of which one name can hold but one.
    """
    for kind in ("view", "precision"):
        held, asked = getattr(old, kind), getattr(new, kind)
        if held != asked:
            raise ConfigError(
                f"preset {new.preset!r}: expected a name of its own in this store, found features of {kind} {held!r} "
                f"under it where {kind} {asked!r} is wanted; rename the preset's file"
            )

    def same(name: str) -> bool:
        before, after = getattr(old, name), getattr(new, name)
        return bool(before and after and before["fingerprint"] == after["fingerprint"])

    return replace(
        new,
        audio=new.audio or old.audio,
        text=new.text or old.text,
        video=new.video or old.video,
        audio_layers=sorted({*(old.audio_layers if same("audio") or not new.audio else []), *new.audio_layers}),
        text_layers=sorted({*(old.text_layers if same("text") or not new.text else []), *new.text_layers}),
    )


def _extract_texts(
    utterances: Iterable[Utterance], wanted: FeatureSet, store: Store, encoders: Encoders, summary: Summary
) -> None:
    """Encode the transcripts, each distinct one once."""
    lacking = (
        (key, (utterance.text, layers))
        for utterance in utterances
        if utterance.text is not None and (part := encoded_text(utterance, wanted)) is not None
        for layers, key in part.keys.items()
        if key not in store
    )
    for chunk in batched(lacking, TEXTS_AT_ONCE):  # what is written is not lacking any more
        assert encoders.text is not None
        new: dict[str, tuple[str, Any]] = dict(chunk)
        rows = encoders.text.encode([text for text, _ in new.values()], chunk[0][1][1])
        _write(dict(zip(new, rows, strict=True)), store, encoders, summary)


Borrow = Callable[[], AbstractContextManager[Encoders]]  # of encoders that no other thread uses meanwhile


def _encode(
    chunk: Sequence[Clip], store: Store, known: Media, encoders: Encoders, borrow: Borrow, fast: bool = True
) -> Chunk:
    """Decode and encode a chunk; of its pictures only one clip's are held at a time, of its sound some batches."""
    features: dict[str, Tensor] = {}
    all_decoded: list[Decoded] = []
    heard: list[Decoded] = []
    longest = BATCHES_AT_ONCE * BATCH_SECONDS[encoders.kind]
    for number, clip in enumerate(chunk, start=1):
        decoded = decode(clip, store, known, encoders, fast)
        if decoded.frames is not None:
            assert clip.video is not None
            with borrow() as own:
                assert own.video is not None
                features[clip.video.keys["frames"]] = own.video.encode(decoded.frames).half()
            decoded.frames = None
        all_decoded.append(decoded)
        heard.append(decoded)
        if number == len(chunk) or sum(each.seconds for each in heard) >= longest:
            with borrow() as own:
                features |= _audio_features(heard, own)
            for each in heard:
                each.samples = None
            heard = []
    return features, all_decoded


def _encode_ahead(
    chunks: Iterable[list[Clip]], store: Store, known: Media, encoders: Encoders, workers: int
) -> Iterator[Chunk]:
    """Decode and encode chunks in threads, a few ahead of what is taken.

    On a CPU every thread encodes with one core, which wastes less than all cores on one clip do. A GPU takes one
    thread's at a time, while others decode.
    """
    free: SimpleQueue[Encoders] = SimpleQueue()
    for _ in range(workers if encoders.on_cpu else 1):
        free.put(encoders.quick())

    @contextmanager
    def borrow() -> Iterator[Encoders]:
        own = free.get()
        try:
            yield own
        finally:
            free.put(own)

    with threads(workers) as pool:
        waiting: deque[Future[Chunk]] = deque()
        for chunk in chunks:
            store.refresh()
            waiting.append(pool.submit(_encode, chunk, store, known, encoders, borrow))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads share the cores; what waits is dropped when its user fails."""
    before = torch.get_num_threads()
    each = max(1, before // workers)
    torch.set_num_threads(each)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def decode(clip: Clip, store: Store, known: Media, encoders: Encoders, fast: bool = True) -> Decoded:
    """Decode what a clip still lacks."""
    decoded = Decoded(clip)
    for modality, part in (("audio", clip.audio), ("video", clip.video)):
        if part is None or not _lacking(part, store):
            continue
        medium = known[part.path]
        if medium.reason is not None or getattr(medium, modality) is None:
            decoded.errors[modality] = medium.reason or ABSENT
            continue
        try:
            decoded.bad_packets += decode_part(
                decoded, modality, known.locate(part.path), part, encoders, thorough=not fast
            )
            known.require_unchanged(part.path)
        except (MediaError, OSError) as error:
            setattr(decoded, "samples" if modality == "audio" else "frames", None)
            decoded.errors[modality] = str(error)
    return decoded


def decode_part(
    decoded: Decoded,
    modality: str,
    path: Path,
    part: Encoded,
    encoders: Encoders,
    film: media.VideoReader | None = None,
    thorough: bool = False,
) -> int:
    """Decode one modality of a clip into `decoded`, out of a film where one is open; returns the damaged packets.

    `thorough` is that of `media.decode_frames`.

    Raises:
        MediaError: nothing can be decoded there.
    """
    if modality == "audio":
        sound = media.decode_audio(path, part.start, part.end, part.setting)
        if len(sound.samples) == 0:
            raise MediaError(f"{str(path)!r}: no sample between {part.start:g} and {part.end:g} s")
        decoded.samples = sound.samples
        return sound.bad_packets
    assert encoders.video is not None
    size, scaling, rate = encoders.video.size, encoders.video.interpolation, encoders.preset.frame_rate
    if film is not None:
        frames = film.frames(part.start, part.end)
    else:
        parts = None
        if encoders.view == "face":
            parts, decoded.face = faces.detect_faces(path, rate, part.start, part.end, part.setting)
        span = part.start, part.end
        frames = media.decode_frames(path, rate, size, *span, part.setting, scaling, parts, thorough)
    decoded.frames = frames.pixels
    return frames.bad_packets


def _lacking(part: Encoded | None, store: Store) -> bool:
    return part is not None and any(key not in store for key in part.keys.values())


def _write_chunk(
    features: dict[str, Tensor], chunk: Sequence[Decoded], store: Store, encoders: Encoders, summary: Summary
) -> None:
    """Write one chunk as one shard, and note what failed."""
    for decoded in chunk:
        _drop_too_large(features, decoded)
        # Before the shard: what a kill leaves without its line would be found in no summary.
        if decoded.face is not None and decoded.clip.video is not None:
            key = decoded.clip.video.keys["frames"]
            row = {"key": key, "id": decoded.clip.utterance, "share": round(decoded.face, 4)}
            append_line(store.folder / FACES, row)
    _write(features, store, encoders, summary)
    for decoded in chunk:
        if decoded.bad_packets:
            summary.bad_packets[decoded.clip.utterance] = decoded.bad_packets
        for modality, reason in decoded.errors.items():
            part: Encoded = getattr(decoded.clip, modality)
            for key in part.keys.values():
                store.fail(key, decoded.clip.utterance, f"no {modality} track" if reason == ABSENT else reason)
            if reason == ABSENT:
                summary.absent += 1
            else:
                summary.bad.append((decoded.clip.utterance, modality, reason))


def _drop_too_large(features: dict[str, Tensor], decoded: Decoded) -> None:
    """Take out what one file's absurd samples have made, so that the others are kept."""
    for modality, part in (("audio", decoded.clip.audio), ("video", decoded.clip.video)):
        keys = [key for key in part.keys.values() if key in features] if part else []
        if not all(fits_half(features[key]) for key in keys):
            decoded.errors[modality] = TOO_LARGE
            for key in keys:
                del features[key]


def fits_half(x: Tensor) -> bool:
    """Whether features can be stored in half precision."""
    return bool(torch.isfinite(x).all()) and float(x.abs().max()) <= HALF_MAX


def _audio_features(chunk: Sequence[Decoded], encoders: Encoders) -> dict[str, Tensor]:
    heard = [(x.clip.audio.keys, x.samples) for x in chunk if x.clip.audio is not None and x.samples is not None]
    features: dict[str, Tensor] = {}
    for batch in audio_batches([samples for _, samples in heard], BATCH_SECONDS[encoders.kind]):
        assert encoders.audio is not None
        encoded = encoders.audio.encode([heard[i][1] for i in batch], sorted(heard[batch[0]][0]))
        for i, layers in zip(batch, encoded, strict=True):
            features.update({heard[i][0][layer]: x.half() for layer, x in layers.items()})
    return features


def audio_batches(waveforms: Sequence[Float32[np.ndarray, " _"]], seconds: float) -> Iterator[list[int]]:
    """Group waveforms of similar length, at most some padded seconds together; yields their numbers."""
    batch: list[int] = []
    for i in sorted(range(len(waveforms)), key=lambda i: len(waveforms[i])):
        if batch and len(waveforms[i]) * (len(batch) + 1) > seconds * media.SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _read_faces(store: Store, clips: Iterable[Clip]) -> list[tuple[str, float, float]]:
    """What is known of the faces in windows whose features are stored; see `Summary.faces`."""
    shares = {row["key"]: row["share"] for row in read_lines(store.folder / FACES) if {"key", "share"} <= row.keys()}
    found = []
    for clip in clips:
        key = clip.video.keys["frames"] if clip.video is not None else None
        if key in shares and key in store and clip.video is not None:
            found.append((clip.utterance, clip.video.end - clip.video.start, float(shares[key])))
    return found


def _write(features: Mapping[str, Tensor], store: Store, encoders: Encoders, summary: Summary) -> None:
    """Write one shard."""
    for key, x in features.items():
        if not fits_half(x):
            raise ConfigError(f"{key.partition('-')[0]} encoder of {encoders.name!r}: {TOO_LARGE}")
    for key in store.write({key: x.half() for key, x in features.items()}):
        summary.made[key.partition("-")[0]] += 1


def _write_index(store: Store, utterances: Iterable[Utterance], clips: Iterable[Clip]) -> int:
    """List the keys of every utterance, for readers that know nothing but safetensors (docs/reference/store.md).

    Returns:
        How many distinct features the clips have, there or not.
    """
    keys: set[str] = set()

    def rows() -> Iterator[str]:
        for clip in clips:
            keys.update(clip.keys)
            yield _index_row(clip, store)

    name = hashlib.sha256("\n".join(sorted({each.id for each in utterances})).encode("utf-8", "surrogatepass"))
    with store.lock():
        write_lines(store.folder / f"index-{name.hexdigest()[:12]}.jsonl", rows())
    return len(keys)


def _index_row(clip: Clip, store: Store) -> str:
    parts = {"audio": clip.audio, "text": clip.text, "video": clip.video}
    found = {
        name: {str(layer): key for layer, key in part.keys.items() if key in store}
        for name, part in parts.items()
        if part is not None
    }
    return json.dumps({"id": clip.utterance, "window": list(clip.window), **found}, ensure_ascii=True)
