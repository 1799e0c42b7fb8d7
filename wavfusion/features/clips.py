"""Utterances cut into windows, and the keys under which the features of each window are stored.

A key is made from the encoder's fingerprint, the content of the media file and the window, never from a file's name.
"""

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from wavfusion import media as media_files
from wavfusion.encoders.text import normalized
from wavfusion.errors import MediaError
from wavfusion.features.augment import recipe_fingerprint
from wavfusion.features.store import FeatureSet, Store
from wavfusion.manifest import MODALITIES, Utterance

WINDOW = 15.0  # seconds; 92 of IEMOCAP's 7433 utterances are longer
SHORTEST_TAIL = 1.0  # seconds; a shorter last window is evened out with the one before it
ABSENT = "absent"


class Window(NamedTuple):
    """A stretch of an utterance, in seconds from its start."""

    start: float
    end: float


class Medium(NamedTuple):
    """What is known of a file: a hash of its bytes, when its tracks end (None = no such track), why it is unusable."""

    content: str
    audio: float | None = None
    video: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ClipPart:
    """One modality of one window: what to decode, and the keys of its features by layer.

    Attributes:
        setting: the channel of audio, the crop of video.
        variants: the keys of its augmented variants, from number 1 on.
        augment: the kinds of changes that they are drawn from.
    """

    path: str
    start: float
    end: float
    keys: dict[Any, str]
    setting: Any = None
    variants: Sequence[dict[Any, str]] = ()
    augment: Sequence[str] = ()

    def all_keys(self) -> list[str]:
        """The keys of its features and of those of its variants."""
        return [key for keys in (self.keys, *self.variants) for key in keys.values()]


@dataclass(frozen=True, slots=True)
class Clip:
    """One window of an utterance, with the modalities that it may have."""

    utterance: str
    window: Window
    share: tuple[float, float]  # of the utterance, start and end from 0 to 1: the window's part of the transcript
    audio: ClipPart | None = None
    video: ClipPart | None = None
    text: ClipPart | None = None

    @property
    def parts(self) -> dict[str, ClipPart]:
        """The modalities that it may have, by name."""
        return {name: part for name in MODALITIES if (part := getattr(self, name)) is not None}


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
    """Hashes and track lengths of a corpus's files, kept in the store so that unchanged files are not read again.

    The files lie below `root`, which the store calls `identity`; where the media are not on this machine, the store's
    notes are used. With `note`, what is learned of a file is written into the store.
    """

    def __init__(self, store: Store, root: str | os.PathLike[str], identity: str, *, note: bool = False) -> None:
        self.root, self.identity, self.note = Path(root), identity, note
        self._store = store
        needed = {"path", "signature", *Medium._fields}
        # The JSON objects would take five times the memory.
        self._known = {
            row["path"]: _Look(tuple(row["signature"]), Medium(*(row[name] for name in Medium._fields)))
            for row in store.files()
            if row.get("root") == identity and needed <= row.keys()
            if isinstance(row["path"], str) and isinstance(row["signature"], list)
        }
        self._looked_at: dict[str, _Look] = {}

    def __getitem__(self, path: str) -> Medium:
        """Describe a file; reads it only if it is new or changed."""
        if path not in self._looked_at:
            self._looked_at[path] = self._look(path)
        return self._looked_at[path].medium

    def locate(self, path: str) -> Path:
        """Where a file of the manifest lies."""
        return self.root / path

    def require_unchanged(self, path: str) -> None:
        """Raise MediaError if a file changed since it was described: its features would get the key of the old one."""
        signature = self._looked_at[path].signature
        if signature is not None and _signature(os.stat(self.locate(path))) != signature:
            raise MediaError(f"{path!r}: changed while it was read; run extract again")

    def _look(self, path: str) -> "_Look":
        known = self._known.get(path)
        try:
            state = os.stat(self.locate(path))
            # Reading a pipe or a device might never end.
            reason = None if stat.S_ISREG(state.st_mode) else "expected a file, found a folder, pipe or device"
        except (OSError, ValueError) as error:
            if known is not None and not self.root.exists():
                return known._replace(signature=None)
            reason = getattr(error, "strerror", None) or str(error)
        if reason is not None:
            return _Look(None, Medium(f"{ABSENT}:{path}", reason=f"{path!r}: {reason}"))
        signature = _signature(state)
        if known is not None and known.signature == signature:
            return known
        medium = examine(self.locate(path))
        if self.note:
            self._store.note_file({"root": self.identity, "path": path, "signature": signature, **medium._asdict()})
        return _Look(signature, medium)


class _Look(NamedTuple):
    """A file as it was found, and its signature, which shows a change (None: there was no file)."""

    signature: tuple[int, ...] | None
    medium: Medium


def _signature(state: os.stat_result) -> tuple[int, ...]:
    """Values that change when a file is written to, even if its modification time is set back."""
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def examine(path: Path) -> Medium:
    """Hash a file and measure its tracks; an unreadable file has no tracks and a reason."""
    content = f"{ABSENT}:{path}"
    try:
        content = media_files.content_hash(path)
        tracks = media_files.probe(path)
        return Medium(content, tracks.audio, tracks.video)
    except (MediaError, OSError) as error:
        return Medium(content, reason=str(error))


Known: TypeAlias = Mapping[str, Medium] | Media


def plan_windows(utterance: Utterance, media: Known, wanted: FeatureSet) -> list[Clip]:
    """Plan what to decode of an utterance, window by window, and the keys of the features."""
    return [clip_at(utterance, window, media, wanted) for window in windows(duration_of(utterance, media))]


def clip_at(utterance: Utterance, window: Window, media: Known, wanted: FeatureSet) -> Clip:
    """Plan what to decode of one window, and the keys of its features."""
    duration = duration_of(utterance, media)
    share = (window.start / duration, window.end / duration) if duration > 0 else (0.0, 1.0)
    return Clip(
        utterance=utterance.id,
        window=window,
        share=share,
        audio=_part("audio", utterance, media, window, wanted),
        video=_part("video", utterance, media, window, wanted),
        text=encoded_text(utterance, wanted),
    )


def duration_of(utterance: Utterance, media: Known) -> float:
    """Seconds of the longer of an utterance's audio and video; 0 without either."""
    spans = (_span(utterance, name, media) for name in ("audio", "video"))
    return max((span[1] - span[0] for span in spans if span), default=0.0)


def _span(utterance: Utterance, modality: str, media: Known) -> tuple[float, float] | None:
    """Start and end of a modality in its file; (start, start) where neither file nor manifest gives an end."""
    span = getattr(utterance, modality)
    if span is None or modality in utterance.missing:
        return None
    start = span.start or 0.0
    end = min((each for each in (getattr(media[span.path], modality), span.end) if each is not None), default=start)
    return start, max(start, end)


def _part(modality: str, utterance: Utterance, media: Known, window: Window, wanted: FeatureSet) -> ClipPart | None:
    """Audio or video of one window; None where it is missing, over before the window, or not wanted."""
    source, encoder, span = getattr(utterance, modality), getattr(wanted, modality), _span(utterance, modality, media)
    if encoder is None or span is None:
        return None
    start, end = round(span[0] + window.start, 4), round(min(span[0] + window.end, span[1]), 4)
    if start >= end and window.start > 0:
        return None
    made_of = (encoder, media[source.path].content, start, end)
    if modality == "audio":

        def keys(**variant: Any) -> dict[int, str]:
            settings = {"channel": source.channel, **variant}
            return {layer: _key("audio", *made_of, layer=layer, **settings) for layer in wanted.audio_layers}

        # Training, which alone takes variants, takes the first window of an utterance.
        count = wanted.variants if window.start == 0 else 0
        recipe = recipe_fingerprint(wanted.augment) if count else ""
        variants = [keys(variant=number, augment=recipe) for number in range(1, count + 1)]
        return ClipPart(source.path, start, end, keys(), source.channel, variants, wanted.augment)
    view = wanted.view if wanted.view == "frame" else f"{wanted.view} {encoder['detector']}"
    key = _key("video", *made_of, crop=source.crop, rate=wanted.frame_rate, view=view)
    return ClipPart(source.path, start, end, {"frames": key}, source.crop)


def encoded_text(utterance: Utterance, wanted: FeatureSet) -> ClipPart | None:
    """The text of an utterance, which is encoded as a whole; None where it is missing or not wanted."""
    text = normalized(utterance.text or "")
    if wanted.text is None or not text or "text" in utterance.missing:
        return None
    content = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    keys = {layers: _key("text", wanted.text, content, 0.0, 0.0, layers=layers) for layers in wanted.text_layers}
    return ClipPart("", 0.0, 0.0, keys)


def _key(modality: str, encoder: Mapping[str, Any], content: str, start: float, end: float, **settings: Any) -> str:
    parts = [encoder["fingerprint"], content, start, end, settings]
    return f"{modality}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]}"
