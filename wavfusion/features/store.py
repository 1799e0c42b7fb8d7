"""The feature store: half-precision tensors in safetensors shards, named by their content (docs/reference/store.md).

This file alone knows the store's format: the shards, each written atomically with its header as the only index and a
checksum for every tensor, and the notes beside them. Several processes may write one store.
"""

import hashlib
import json
import logging
import os
import struct
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock, FileLock
from jaxtyping import Float16
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from wavfusion.encoders.presets import Precision
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.files import (
    append_line,
    parse_json,
    read_json,
    read_lines,
    require_file,
    validated,
    write_atomic,
    write_lines,
)
from wavfusion.manifest import MODALITIES

log = logging.getLogger(__name__)

HALF_MAX = 65_504.0
_CHECKSUM_BITS = 32
_CHECKSUM = (1 << _CHECKSUM_BITS) - 1
_MOST_OPEN = 64  # shards: an open one takes some 30 kB, and 0.1 ms to open again
_MAX_HEADER = 64 << 20  # bytes; a damaged length must not cost memory


@dataclass(frozen=True)
class FeatureSet:
    """Which features are wanted or stored: a preset's encoders by fingerprint, and the settings of the keys."""

    preset: str  # for view `face` it is `<preset>-face`, so that one store can hold both
    frame_rate: float = field(kw_only=True)
    pretrained_rate: float = field(kw_only=True)
    new_rate: float = field(kw_only=True)
    # Name, fingerprint and sizes of each encoder; of video with view `face` also the face detector's fingerprint.
    audio: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    video: dict[str, Any] | None = None
    audio_layers: list[int] = field(default_factory=list)
    text_layers: list[str] = field(default_factory=list)  # `last` and/or `all`
    view: str = "frame"  # or `face`
    precision: Precision = "fp32"
    variants: int = 0  # augmented ones of the audio of each utterance's first window
    augment: list[str] = field(default_factory=list)  # the kinds of changes that they are drawn from

    def to_json(self) -> dict[str, Any]:
        """Every field; those of variants only where there are any."""
        values = asdict(self)
        if not self.variants:
            del values["variants"], values["augment"]
        return values


class Store:
    """A folder of features, read by key and memory-mapped, from any number of processes."""

    def __init__(self, folder: str | os.PathLike[str], create: bool = False) -> None:
        self.folder = Path(folder)
        self.shards = self.folder / "shards"
        if create:
            self.shards.mkdir(parents=True, exist_ok=True)
        if not self.shards.is_dir():
            raise CorpusError(
                f"{self.folder}: expected a feature store (a folder with shards/), found none; run extract"
            )
        self._index: dict[str, int] = {}  # number of the shard and checksum in one: half the memory of a pair
        self._paths: list[Path] = []
        self._seen: set[str] = set()
        self._open: dict[Path, tuple[Any, int]] = {}  # files, and their sizes when they were opened
        self._failures: dict[str, str] | None = None
        self.damaged: list[Path] = []
        self.refresh()

    def refresh(self) -> None:
        """Look for shards that others have written since."""
        with os.scandir(self.shards) as entries:
            names = [each.name for each in entries if each.name not in self._seen]
        for name in sorted(each for each in names if each.endswith(".safetensors")):
            self._seen.add(name)
            path = self.shards / name
            try:
                self._place(path, _header(path))
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                log.warning("damaged shard %s: %s; the next extract makes its features again", path, error)
                self.damaged.append(path)

    def missing(self, keys: Iterable[str]) -> bool:
        """Whether any of some features is not stored."""
        return any(key not in self for key in keys)

    def _place(self, path: Path, checksums: Mapping[str, int]) -> None:
        number = len(self._paths) << _CHECKSUM_BITS
        self._paths.append(path)
        self._index.update((key, number | checksum) for key, checksum in checksums.items())

    def _path(self, key: str) -> Path:
        return self._paths[self._index[key] >> _CHECKSUM_BITS]

    def __contains__(self, key: object) -> bool:
        return key in self._index

    def __len__(self) -> int:
        return len(self._index)

    def keys(self) -> Iterator[str]:
        """Every key that can be read."""
        return iter(self._index)

    def read(self, key: str) -> Float16[Tensor, "..."]:
        """Read one tensor; raises CorpusError where there is none, or other bytes than those that were written."""
        if key not in self._index:
            damaged = f" (damaged: {', '.join(map(str, self.damaged))})" if self.damaged else ""
            raise CorpusError(f"{self.folder}: expected features {key}, found none{damaged}; run extract")
        path = self._path(key)
        try:
            if path not in self._open:
                if len(self._open) == _MOST_OPEN:  # close the oldest
                    self._open.pop(next(iter(self._open)))
                self._open[path] = safe_open(path, "pt"), path.stat().st_size
            file, size = self._open[path]
            # Reading a mapping beyond the end of its file would kill the process.
            if path.stat().st_size != size:
                raise ValueError("its size has changed")
            tensor: Tensor = file.get_tensor(key)
        except Exception as error:  # safetensors raises its own kind for a file that changed meanwhile
            raise CorpusError(f"{path}: damaged shard ({error}); run extract to make its features again") from None
        if _checksum(tensor) != self._index[key] & _CHECKSUM:
            raise CorpusError(f"{path}: damaged tensor {key}; run extract to make its features again")
        return tensor

    def write(self, tensors: Mapping[str, Float16[Tensor, "..."]]) -> list[str]:
        """Add tensors as one shard, except those that are stored already; returns the keys that were written."""
        with self.lock():
            self.refresh()
            new = {key: x.contiguous() for key, x in tensors.items() if key not in self}
            if not new:
                return []
            checksums = {key: _checksum(x) for key, x in new.items()}
            path = self.shards / f"shard-{os.getpid()}-{uuid.uuid4().hex[:12]}.safetensors"
            write_atomic(path, save(new, {"layout": "1", "crc32": json.dumps(checksums)}))
            self._seen.add(path.name)
            self._place(path, checksums)
        return list(new)

    def discard_damaged(self) -> list[Path]:
        """Read everything once, set damaged shards aside as `*.damaged`, and return their names."""
        with self.lock():
            # Everything is written under the lock, so an unfinished file was left by a kill.
            for unfinished in (*self.folder.glob("*.tmp"), *self.shards.glob("*.tmp")):
                unfinished.unlink()
            for key in self._index:
                if self._path(key) not in self.damaged:
                    try:
                        self.read(key)
                    except CorpusError as error:
                        log.warning("%s", error)
                        self.damaged.append(self._path(key))
            found, self.damaged = self.damaged, []
            for path in found:
                self._open.pop(path, None)
                if path.exists():
                    os.replace(path, path.with_suffix(".damaged"))
            self._index = {key: place for key, place in self._index.items() if self._path(key) not in found}
        return found

    @property
    def failures(self) -> dict[str, str]:
        """Why features could not be made, by key."""
        if self._failures is None:
            rows = read_lines(self.folder / "failures.jsonl")
            self._failures = {str(row["key"]): str(row["reason"]) for row in rows if {"key", "reason"} <= row.keys()}
        return self._failures

    def fail(self, key: str, utterance: str, reason: str) -> None:
        """Note that features could not be made."""
        if self.failures.get(key) != reason:
            self.failures[key] = reason
            append_line(self.folder / "failures.jsonl", {"key": key, "id": utterance, "reason": reason})

    def note_file(self, row: Mapping[str, Any]) -> None:
        """Append what is known of a media file; see `clips.Media`."""
        append_line(self.folder / "media.jsonl", row)

    def files(self) -> Iterator[dict[str, Any]]:
        """What is known of media files, the latest last."""
        return read_lines(self.folder / "media.jsonl")

    def note_face(self, key: str, utterance: str, share: float) -> None:
        """Append the share of a window's frames in which the speaker's face was found."""
        append_line(self.folder / "faces.jsonl", {"key": key, "id": utterance, "share": round(share, 4)})

    def face_shares(self) -> dict[str, float]:
        """These shares by the key of the window's features."""
        rows = read_lines(self.folder / "faces.jsonl")
        return {row["key"]: float(row["share"]) for row in rows if {"key", "share"} <= row.keys()}

    def write_index(self, utterances: Iterable[str], rows: Iterable[str]) -> None:
        """List the keys of some utterances' windows, one JSON object a line; the utterances' ids name the file."""
        name = hashlib.sha256("\n".join(sorted(set(utterances))).encode("utf-8", "surrogatepass"))
        with self.lock():
            write_lines(self.folder / f"index-{name.hexdigest()[:12]}.jsonl", rows)

    def add_feature_set(self, wanted: FeatureSet) -> None:
        """Note which features the store holds, joined with those of earlier runs (see `merge_feature_sets`)."""
        path = self.folder / "encoders.json"
        with self.lock():
            try:
                sets = read_feature_sets(self) if path.exists() else {}
            except CorpusError as error:
                log.warning("%s: written again", error)
                sets = {}
            old = sets.get(wanted.preset)
            sets[wanted.preset] = wanted if old is None else merge_feature_sets(old, wanted)
            content = {name: values.to_json() for name, values in sets.items()}
            for values in content.values():
                del values["preset"]
            write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())

    def lock(self) -> BaseFileLock:
        """Return the lock that excludes every other writer; the system frees it when its process ends."""
        return FileLock(require_file(self.folder / ".lock"), poll_interval=0.01)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data) if tensor.numel() else 0


def _header(path: Path) -> dict[str, int]:
    """Return the checksum of every tensor; raises unless file length and header agree."""
    size = require_file(path).stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise ValueError(f"{size} bytes, no header")
        (length,) = struct.unpack("<Q", start)
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = parse_json(file.read(length), path)
    if not isinstance(header, dict) or "crc32" not in header.get("__metadata__", {}):
        raise ValueError("no checksums in the header")
    checksums: dict[str, int] = parse_json(header.pop("__metadata__")["crc32"], path)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if not all(type(each) is int and 0 <= each <= _CHECKSUM for each in checksums.values()):
        raise ValueError("invalid checksums in the header")
    if size != 8 + length + end or set(checksums) != set(header):
        raise ValueError(f"{size} bytes where the header claims {8 + length + end}")
    return checksums


def fits_half(x: Tensor) -> bool:
    """Whether features can be stored in half precision."""
    return bool(torch.isfinite(x).all()) and float(x.abs().max()) <= HALF_MAX


def made_by(about: Mapping[str, Any]) -> str:
    """Name what made features by its fingerprint: an encoder, and the face detector before it where there is one."""
    detector = about.get("detector")
    return str(about["fingerprint"]) + (f" with the face detector {detector}" if detector else "")


def read_feature_sets(store: Store) -> dict[str, FeatureSet]:
    """Return what has been extracted into a store, by preset; raises CorpusError where that is nothing or damaged."""
    path = store.folder / "encoders.json"
    try:
        sets = read_json(path, CorpusError)
        if not isinstance(sets, dict) or not all(isinstance(values, dict) for values in sets.values()):
            raise CorpusError(f"{path}: expected an object for every preset, found something else")
        return {
            name: validated(FeatureSet, {**values, "preset": name}, path, refuse=CorpusError)
            for name, values in sets.items()
        }
    except FileNotFoundError:
        raise CorpusError(f"{path}: expected what extract writes, found no such file; run extract") from None
    except CorpusError as error:
        raise CorpusError(f"{error}; run extract") from None


def merge_feature_sets(old: FeatureSet, new: FeatureSet) -> FeatureSet:
    """Join two extractions of one preset's name, view and precision; a changed encoder replaces the old one."""
    for kind in ("view", "precision"):
        held, wanted = getattr(old, kind), getattr(new, kind)
        if held != wanted:
            raise ConfigError(
                f"preset {new.preset!r}: expected a name of its own in this store, found features of {kind} {held!r} "
                f"under it where {kind} {wanted!r} is wanted; rename the preset's file"
            )

    joined: dict[str, Any] = {name: getattr(new, name) or getattr(old, name) for name in MODALITIES}
    for name in ("audio", "text"):
        before, layers = getattr(old, name), f"{name}_layers"
        kept = before and before["fingerprint"] == joined[name]["fingerprint"]
        joined[layers] = sorted({*(getattr(old, layers) if kept else []), *getattr(new, layers)})
        if name == "audio" and kept and (not new.variants or new.augment == old.augment):
            joined |= {"variants": max(old.variants, new.variants), "augment": old.augment}
    return replace(new, **joined)
