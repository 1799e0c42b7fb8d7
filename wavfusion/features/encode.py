"""What encoders give, and chunks of windows decoded and encoded by several threads, ahead of what is written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from wavfusion import media
from wavfusion.encoders.bundle import Encoders
from wavfusion.encoders.checkpoint import FrozenEncoder
from wavfusion.errors import ConfigError, MediaError
from wavfusion.features.augment import augment
from wavfusion.features.batches import drawn_ahead
from wavfusion.features.clips import ABSENT, WINDOW, Clip, ClipPart, Media
from wavfusion.features.store import FeatureSet, Store
from wavfusion.media import faces

# Padded audio in one forward pass. On a CPU every utterance is encoded alone, which is as fast, so that its features do
# not depend, in the last digit, on which others the store lacks.
BATCH_SECONDS = {"cpu": 0.0, "cuda": 8 * WINDOW}
MIN_DEVIATION = 1e-3  # standard deviation below which features carry no information (a random EfficientNet gives 0)
BATCHES_AT_ONCE = 2  # of audio, formed together from similar lengths


class Waveform(NamedTuple):
    """Audio to encode, and the keys of its features by layer."""

    keys: Mapping[int, str]
    samples: Float32[np.ndarray, " N"]


@dataclass
class Decoded:
    """The decoded media of one clip."""

    clip: Clip
    waveforms: list[Waveform] = field(default_factory=list)  # of the audio, and of its variants, that are not stored
    frames: UInt8[np.ndarray, "Tv H W 3"] | None = None
    errors: dict[str, str] = field(default_factory=dict)  # by modality, why it could not be decoded
    bad_packets: int = 0  # damaged ones that were skipped
    face: float | None = None  # with view `face`, the share of frames in which the speaker's face was found

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return sum(len(each.samples) for each in self.waveforms) / media.SAMPLE_RATE


@dataclass
class Chunk:
    """Windows that are decoded, encoded and written together."""

    clips: list[Clip]  # none where everything is stored
    utterances: int = 0  # how many are done once the chunk is written
    features: dict[str, Tensor] = field(default_factory=dict)  # by key, once encoded
    decoded: list[Decoded] = field(default_factory=list)  # what the features were made from


class ChunkEncoder:
    """Decodes and encodes chunks, in threads if `fast`.

    On a CPU every thread encodes with its share of the cores, which is faster than all cores on one clip. A GPU takes
    the batches of one thread at a time, while others decode.
    """

    def __init__(self, store: Store, known: Media, encoders: Encoders, workers: int, fast: bool) -> None:
        self.store, self.known, self.encoders, self.workers, self.fast = store, known, encoders, workers, fast
        self._free: SimpleQueue[Encoders] = SimpleQueue()
        twins = workers if encoders.kind == "cpu" else 1
        for each in [encoders.quick() for _ in range(twins)] if fast else [encoders]:
            self._free.put(each)

    @contextmanager
    def acquire(self) -> Iterator[Encoders]:
        """Wait for encoders that no other thread uses, and give them back after use."""
        encoders = self._free.get()
        try:
            yield encoders
        finally:
            self._free.put(encoders)

    def encode_all(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Decode and encode chunks in their order."""
        return self.encode_ahead(chunks) if self.fast else map(self.encode, chunks)

    def encode_ahead(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Decode and encode chunks in threads, a few ahead of what is taken."""
        with threads(self.workers) as executor:
            futures = (executor.submit(self.encode, chunk) for chunk in chunks)
            for future in drawn_ahead(futures, self.workers):
                yield future.result()

    def encode(self, chunk: Chunk) -> Chunk:
        """Fill in a chunk's features; holds the frames of one clip at a time, and some batches of audio."""
        waiting: list[Decoded] = []
        longest = BATCHES_AT_ONCE * BATCH_SECONDS[self.encoders.kind]
        for number, clip in enumerate(chunk.clips, start=1):
            decoded = decode(clip, self.store, self.known, self.encoders, thorough=not self.fast)
            if decoded.frames is not None and clip.video is not None:
                with self.acquire() as own:
                    assert own.video is not None
                    chunk.features[clip.video.keys["frames"]] = own.video.encode_resized(decoded.frames).half()
                decoded.frames = None
            chunk.decoded.append(decoded)
            waiting.append(decoded)
            if number == len(chunk.clips) or sum(each.seconds for each in waiting) >= longest:
                with self.acquire() as own:
                    chunk.features |= _audio_features(waiting, own)
                for each in waiting:
                    each.waveforms = []
                waiting = []
        return chunk


def decode(clip: Clip, store: Store, known: Media, encoders: Encoders, thorough: bool = False) -> Decoded:
    """Decode those modalities of a clip whose features are not stored; see `media.decode_frames` for `thorough`."""
    decoded = Decoded(clip)
    for modality, part in (("audio", clip.audio), ("video", clip.video)):
        if part is None or not store.missing(part.all_keys()):
            continue
        medium = known[part.path]
        if medium.reason is not None or getattr(medium, modality) is None:
            decoded.errors[modality] = medium.reason or ABSENT
            continue
        try:
            if modality == "audio":
                samples, bad = media.decode_audio(known.locate(part.path), part.start, part.end, part.setting)
                decoded.waveforms = _waveforms(part, samples, medium.content, store)
            else:
                decoded.frames, bad = _decode_video(decoded, part, known, encoders, thorough)
            decoded.bad_packets += bad
            known.require_unchanged(part.path)
        except (MediaError, OSError) as error:
            if modality == "audio":
                decoded.waveforms = []
            else:
                decoded.frames = None
            decoded.errors[modality] = str(error)
    return decoded


def _waveforms(part: ClipPart, samples: Float32[np.ndarray, " N"], content: str, store: Store) -> list[Waveform]:
    """Make those variants of decoded audio whose features are not stored; what was decoded decides their draws."""
    found = [Waveform(part.keys, samples)] if store.missing(part.keys.values()) else []
    for number, keys in enumerate(part.variants, start=1):
        if store.missing(keys.values()):
            identity = [content, part.start, part.end, part.setting, number]
            found.append(Waveform(keys, augment(samples, part.augment, identity)))
    return found


def _decode_video(decoded: Decoded, part: ClipPart, known: Media, encoders: Encoders, thorough: bool) -> media.Frames:
    assert encoders.video is not None
    path, rate, span = known.locate(part.path), encoders.preset.frame_rate, (part.start, part.end)
    regions = None
    if encoders.view == "face":
        regions, decoded.face = faces.detect_faces(path, rate, *span, part.setting)
    target, interpolation = encoders.video.target, encoders.video.interpolation
    return media.decode_frames(path, rate, target, *span, part.setting, interpolation, regions, thorough)


def _audio_features(chunk: Sequence[Decoded], encoders: Encoders) -> dict[str, Tensor]:
    waveforms = [each for decoded in chunk for each in decoded.waveforms]
    features: dict[str, Tensor] = {}
    for batch in audio_batches([each.samples for each in waveforms], BATCH_SECONDS[encoders.kind]):
        assert encoders.audio is not None
        encoded = encoders.audio.encode([waveforms[i].samples for i in batch], sorted(waveforms[batch[0]].keys))
        for i, layers in zip(batch, encoded, strict=True):
            features.update({waveforms[i].keys[layer]: x.half() for layer, x in layers.items()})
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


def describe_features(encoders: Encoders, audio_layers: Sequence[int], text_layers: Sequence[str]) -> FeatureSet:
    """Describe the features of a set of encoders; raises ConfigError for a layer that the audio encoder lacks."""
    audio, preset = encoders.audio, encoders.preset
    depth = audio.num_layers if audio is not None else 0
    for layer in audio_layers:
        if audio is not None and not 0 <= layer <= depth:
            raise ConfigError(f"--layers: expected 0 to {depth} for {audio.name!r}, found {layer}")
    detector = {} if encoders.view == "frame" else {"detector": faces.detector_fingerprint()}
    used, deep = preset.used_layers(depth) if audio else (0, 0)
    sizes = {"num_layers": used, "deep_layers": deep, **audio.sizes()} if audio else {}
    return FeatureSet(
        encoders.name,
        audio=_describe(audio, **sizes) if audio else None,
        text=_describe(encoders.text, num_layers=encoders.text.num_layers) if encoders.text else None,
        video=_describe(encoders.video, **detector) if encoders.video else None,
        audio_layers=sorted(set(audio_layers)) if audio else [],
        text_layers=list(text_layers) if encoders.text else [],
        frame_rate=preset.frame_rate,
        pretrained_rate=preset.pretrained_rate,
        new_rate=preset.new_rate,
        view=encoders.view,
        precision=preset.precision,
    )


def _describe(encoder: FrozenEncoder, **sizes: Any) -> dict[str, Any]:
    return {"name": encoder.name, "fingerprint": encoder.fingerprint, "width": encoder.width, **sizes}


def require_informative(encoders: Encoders, wanted: FeatureSet) -> None:
    """Raise ConfigError if an encoder's features are constant, on noise: silence may rightly give constants."""
    noise = np.random.default_rng(0)
    tried: dict[str, list[Tensor]] = {}
    if encoders.audio is not None and wanted.audio_layers:
        samples = noise.normal(size=media.SAMPLE_RATE).astype(np.float32)
        tried["audio"] = list(encoders.audio.encode([samples], wanted.audio_layers)[0].values())
    if encoders.text is not None:
        tried["text"] = encoders.text.encode(["Kids are talking by the door."])
    if encoders.video is not None:
        frames = noise.integers(0, 256, (2, *encoders.video.size, 3), np.uint8)
        tried["video"] = [encoders.video.encode_resized(frames)]
    for modality, features in tried.items():
        deviation = min(float(x.std()) for x in features)
        if not deviation >= MIN_DEVIATION:
            raise ConfigError(
                f"{modality} encoder of {encoders.name!r}: expected features that differ, found a spread of "
                f"{deviation:.1e}, below {MIN_DEVIATION}"
            )


@contextmanager
def threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Make an executor whose threads share the cores; queued work is dropped when its user fails."""
    before = torch.get_num_threads()
    each = max(1, before // workers)
    torch.set_num_threads(each)
    executor = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,))
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
