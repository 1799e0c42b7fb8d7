"""What of an utterance is encoded, and the keys under which its features are stored.

A key is made from the encoder's fingerprint, the content of the media and the window, never from a file's name.
"""

import hashlib
import json
import logging
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from wavfusion.encoders.text import normalized
from wavfusion.errors import CorpusError, MediaError
from wavfusion.features.store import Store
from wavfusion.files import append_line, read_lines, require_file
from wavfusion.manifest import Utterance

log = logging.getLogger(__name__)

WINDOW = 15.0  # seconds; 92 of IEMOCAP's 7433 utterances are longer (design G.2)
SHORTEST_TAIL = 1.0  # seconds; a shorter rest is shared with the window before it
ABSENT = "absent"


class Window(NamedTuple):
    """A stretch of an utterance, in seconds from its start."""

    start: float
    end: float


class Medium(NamedTuple):
    """What is known of a file: a hash of its bytes, and the seconds of its tracks (None = no such track)."""

    content: str
    audio: float | None
    video: float | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """One modality of one window: what to decode, and the keys of its features by layer."""

    path: str
    start: float
    end: float
    keys: dict[Any, str]
    setting: Any = None


class Place(NamedTuple):
    """One window of an utterance: little to hold, and all that `clip_at` needs to say the rest."""

    utterance: Utterance
    window: Window


@dataclass(frozen=True, slots=True)
class Clip:
    """One window of an utterance, with the modalities that it may have.

    Attributes:
        share: the window's part of the utterance, from 0 to 1: what of the transcript belongs to it.
    """

    utterance: str
    window: Window
    share: tuple[float, float] = (0.0, 1.0)
    audio: Encoded | None = None
    video: Encoded | None = None
    text: Encoded | None = None

    @property
    def keys(self) -> list[str]:
        """The keys of all its features."""
        return [key for part in (self.audio, self.text, self.video) if part for key in part.keys.values()]


@dataclass(frozen=True)
class FeatureSet:
    """Which features are wanted: a preset's encoders by fingerprint, and the settings that go into the keys.

    Those of view `face` have a name of their own, `<preset>-face`, so one store can hold both.

    Attributes:
        audio, text, video: name, fingerprint and sizes of each encoder; None = not wanted. Of video with view `face`
            also the fingerprint of the face detector.
        audio_layers: the layers to store.
        text_layers: `last` and/or `all`.
        frame_rate: of the video.
        view: what of the picture is encoded: `frame`, all of it, or `face`, the speaker's.
        pretrained_rate, new_rate: the preset's learning rates.
        precision: the preset's.
    """

    preset: str
    frame_rate: float = field(kw_only=True)
    pretrained_rate: float = field(kw_only=True)
    new_rate: float = field(kw_only=True)
    audio: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    video: dict[str, Any] | None = None
    audio_layers: list[int] = field(default_factory=list)
    text_layers: list[str] = field(default_factory=list)
    view: str = "frame"
    precision: str = "fp32"


def windows(duration: float) -> list[Window]:
    """Cut an utterance into windows of at most 15 s that cover it once."""
    if duration <= WINDOW:
        return [Window(0.0, duration)]
    whole = math.ceil(duration / WINDOW) - 1
    edges = [WINDOW * i for i in range(whole + 1)]
    if duration - edges[-1] < SHORTEST_TAIL:
        edges[-1] = (edges[-2] + duration) / 2
    return [Window(start, end) for start, end in zip(edges, [*edges[1:], duration], strict=True)]


class Media:
    """What is known of a corpus's files, kept in the store so that unchanged ones are not read again.

    Where the media lie elsewhere (features carried to another machine), what was known of them holds.

    Args:
        root: where the files lie now.
        identity: what the store calls this root.
        note: keep in the store what is learned of a file; a reader leaves the store as it is.
    """

    def __init__(self, store: Store, root: str | os.PathLike[str], identity: str, *, note: bool = False) -> None:
        self.root, self.identity, self.note = Path(root), identity, note
        self._file = store.folder / "media.jsonl"
        needed = {"path", "signature", *Medium._fields}
        # A JSON object a file would take five times the memory.
        self._known = {
            row["path"]: _Look(tuple(row["signature"]), Medium(*(row[name] for name in Medium._fields)))
            for row in read_lines(self._file)
            if row.get("root") == identity and needed <= row.keys()
            if isinstance(row["path"], str) and isinstance(row["signature"], list)
        }
        self._looked_at: dict[str, _Look] = {}

    def __getitem__(self, path: str) -> Medium:
        """Describe a file; reads it only where it is new or changed."""
        if path not in self._looked_at:
            self._looked_at[path] = self._look(path)
        return self._looked_at[path].medium

    def locate(self, path: str) -> Path:
        """Where a file of the manifest lies."""
        return self.root / path

    def require_unchanged(self, path: str) -> None:
        """Refuse a file that is no longer the one that was described; its features would get the old one's key.

        Raises:
            MediaError: it changed since.
        """
        look = self._looked_at.get(path)
        seen = None if look is None else look.signature
        if seen is not None and _signature(os.stat(self.locate(path))) != seen:
            raise MediaError(f"{path!r}: changed while it was read; run extract again")

    def _look(self, path: str) -> "_Look":
        known = self._known.get(path)
        try:
            state = os.stat(self.locate(path))
        except (OSError, ValueError) as error:
            if known is not None and not self.root.exists():
                return known._replace(signature=None)
            reason = f"{path!r}: {getattr(error, 'strerror', None) or error}"
            return _Look(None, Medium(f"{ABSENT}:{path}", None, None, reason))
        if not stat.S_ISREG(state.st_mode):  # a pipe or a device would be read for ever
            reason = f"{path!r}: expected a file, found a folder, pipe or device"
            return _Look(None, Medium(f"{ABSENT}:{path}", None, None, reason))
        signature = _signature(state)
        if known is not None and known.signature == signature:
            return known
        medium = examine(self.locate(path))
        if self.note:
            append_line(self._file, {"root": self.identity, "path": path, "signature": signature, **medium._asdict()})
        return _Look(signature, medium)


class _Look(NamedTuple):
    """A look at a file: what it was, and by what a change would show (None: it was not there)."""

    signature: tuple[int, ...] | None
    medium: Medium


def _signature(state: os.stat_result) -> tuple[int, ...]:
    """What differs once a file was written to, also where its modification time was set back."""
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def examine(path: Path) -> Medium:
    """Hash a file and measure its tracks; an unreadable one has no tracks and a reason."""
    from wavfusion import media  # FFmpeg is not needed to train on stored features

    try:
        content = media.content_hash(path)
    except (MediaError, OSError) as error:
        return Medium(f"{ABSENT}:{path}", None, None, str(error))
    try:
        tracks = media.probe(path)
    except MediaError as error:
        return Medium(content, None, None, str(error))
    return Medium(content, tracks.audio, tracks.video)


def plan_windows(utterance: Utterance, media: Mapping[str, Medium] | Media, wanted: FeatureSet) -> list[Clip]:
    """Say what to decode of an utterance, window by window, and under which keys its features lie."""
    return [clip_at(place, media, wanted) for place in places(utterance, media)]


def places(utterance: Utterance, media: Mapping[str, Medium] | Media) -> list[Place]:
    """Cut an utterance into windows."""
    return [Place(utterance, window) for window in windows(_duration(_spans(utterance, media)))]


def clip_at(place: Place, media: Mapping[str, Medium] | Media, wanted: FeatureSet) -> Clip:
    """Say what to decode of one window, and under which keys its features lie."""
    utterance, window = place
    spans = _spans(utterance, media)
    duration = _duration(spans)
    return Clip(
        utterance.id,
        window,
        (window.start / duration, window.end / duration) if duration > 0 else (0.0, 1.0),
        audio=_part("audio", utterance, media, spans["audio"], window, wanted),
        video=_part("video", utterance, media, spans["video"], window, wanted),
        text=encoded_text(utterance, wanted),
    )


Spans = dict[str, tuple[float, float] | None]


def _spans(utterance: Utterance, media: Mapping[str, Medium] | Media) -> Spans:
    return {"audio": _span(utterance, "audio", media), "video": _span(utterance, "video", media)}


def _duration(spans: Spans) -> float:
    return max((end - start for start, end in (span for span in spans.values() if span)), default=0.0)


def _span(utterance: Utterance, modality: str, media: Mapping[str, Medium] | Media) -> tuple[float, float] | None:
    """Start and end of a modality in its file; (start, start) where the file cannot tell and the manifest does not."""
    span = getattr(utterance, modality)
    if span is None or modality in utterance.missing:
        return None
    track = getattr(media[span.path], modality)
    start = span.start or 0.0
    end = span.end if track is None else min(track, span.end if span.end is not None else track)
    return start, max(start, end if end is not None else start)


def _within(span: tuple[float, float] | None, window: Window) -> tuple[float, float] | None:
    """The window's part of a span in the file's time; None where the track is over before it."""
    if span is None:
        return None
    start, end = round(span[0] + window.start, 4), round(min(span[0] + window.end, span[1]), 4)
    return (start, end) if window.start == 0 or start < end else None


def _part(
    modality: str,
    utterance: Utterance,
    media: Mapping[str, Medium] | Media,
    span: tuple[float, float] | None,
    window: Window,
    wanted: FeatureSet,
) -> Encoded | None:
    """Sound or picture of one window; None where there is none or nobody wants it."""
    source, encoder, times = getattr(utterance, modality), getattr(wanted, modality), _within(span, window)
    if source is None or encoder is None or times is None:
        return None
    made_of = (encoder, media[source.path].content, *times)
    if modality == "audio":
        layers = {layer: _key("audio", *made_of, channel=source.channel, layer=layer) for layer in wanted.audio_layers}
        return Encoded(source.path, *times, layers, source.channel)
    view = wanted.view if wanted.view == "frame" else f"{wanted.view} {encoder['detector']}"
    key = _key("video", *made_of, crop=source.crop, rate=wanted.frame_rate, view=view)
    return Encoded(source.path, *times, {"frames": key}, source.crop)


def encoded_text(utterance: Utterance, wanted: FeatureSet) -> Encoded | None:
    """The words of an utterance, which are encoded whole; None where there are none or nobody wants them."""
    if wanted.text is None or utterance.text is None or not normalized(utterance.text) or "text" in utterance.missing:
        return None
    content = hashlib.sha256(normalized(utterance.text).encode("utf-8", "surrogatepass")).hexdigest()
    keys = {layers: _key("text", wanted.text, content, 0.0, 0.0, layers=layers) for layers in wanted.text_layers}
    return Encoded("", 0.0, 0.0, keys)


def _key(modality: str, encoder: Mapping[str, Any], content: str, start: float, end: float, **settings: Any) -> str:
    parts = [encoder["fingerprint"], content, start, end, settings]
    return f"{modality}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]}"


def made_by(about: Mapping[str, Any]) -> str:
    """What made features, by fingerprint: an encoder, and the face detector before it where there is one."""
    detector = about.get("detector")
    return str(about["fingerprint"]) + (f" with the face detector {detector}" if detector else "")


def read_feature_sets(store: Store) -> dict[str, FeatureSet]:
    """Return what has been extracted into a store, by preset.

    Raises:
        CorpusError: nothing has, or `encoders.json` is damaged.
    """
    path = store.folder / "encoders.json"
    if not require_file(path).exists():
        raise CorpusError(f"{path}: expected what extract writes, found no such file; run extract")
    try:
        return {
            name: FeatureSet(**{**values, "preset": name})
            for name, values in json.loads(path.read_text("utf-8")).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise CorpusError(f"{path}: expected what extract writes, found {error}; run extract") from None
