"""The feature store: half-precision tensors in safetensors shards, named by their content (docs/reference/store.md).

A shard is written beside its name, flushed and renamed, so one that is there is whole; its header is the only index.
Every tensor carries a checksum. Several processes may write one store.
"""

import json
import logging
import os
import struct
import uuid
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock, FileLock
from jaxtyping import Float16
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from wavfusion.errors import CorpusError
from wavfusion.files import append_line, read_lines, require_file, write_atomic

log = logging.getLogger(__name__)

_CHECKSUM_BITS = 32
_CHECKSUM = (1 << _CHECKSUM_BITS) - 1
_MOST_OPEN = 64  # shards: an open one takes some 30 kB, and 0.1 ms to be opened again
_MAX_HEADER = 64 << 20  # bytes; a damaged length must not cost memory


class Store:
    """A folder of features; reads by key, memory-mapped, from as many processes as like."""

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
        self._open: dict[Path, Any] = {}
        self._sizes: dict[Path, int] = {}
        self._failures: dict[str, str] | None = None
        self.damaged: list[Path] = []
        self.refresh()

    def refresh(self) -> None:
        """Look for shards that others have written since."""
        with os.scandir(self.shards) as entries:
            names = [each.name for each in entries if each.name not in self._seen]
        for name in sorted(each for each in names if each.endswith(".safetensors")):
            self._seen.add(name)
            self._register(self.shards / name)

    def _register(self, path: Path) -> None:
        try:
            checksums = _header(path)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            log.warning("damaged shard %s: %s; the next extract makes its features anew", path, error)
            self.damaged.append(path)
            return
        self._place(path, checksums)

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
        """Read one tensor.

        Raises:
            CorpusError: no such key, or bytes that are not those that were written; names the shard.
        """
        if key not in self._index:
            damaged = f" (damaged: {', '.join(map(str, self.damaged))})" if self.damaged else ""
            raise CorpusError(f"{self.folder}: expected features {key}, found none{damaged}; run extract")
        path = self._path(key)
        try:
            if path not in self._open:
                if len(self._open) == _MOST_OPEN:  # the one that was opened first is closed
                    self._open.pop(next(iter(self._open)))
                self._open[path], self._sizes[path] = safe_open(path, "pt"), path.stat().st_size
            # To touch what is mapped beyond the end of a file is no exception but the end of the process.
            if path.stat().st_size != self._sizes[path]:
                raise ValueError("its size has changed")
            tensor: Tensor = self._open[path].get_tensor(key)
        except Exception as error:  # safetensors raises its own kind for a file that changed under us
            raise CorpusError(f"{path}: damaged shard ({error}); run extract to make its features anew") from None
        if _checksum(tensor) != self._index[key] & _CHECKSUM:
            raise CorpusError(f"{path}: damaged tensor {key}; run extract to make its features anew")
        return tensor

    def write(self, tensors: Mapping[str, Float16[Tensor, "..."]]) -> list[str]:
        """Add tensors as one shard; those that are there or that another writer has added meanwhile are left out.

        Returns:
            The keys that were written.
        """
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
            # All is written under the lock, so what is unfinished now was left by a kill.
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
        """Why there are no features under a key although they were asked for."""
        if self._failures is None:
            rows = read_lines(self.folder / "failures.jsonl")
            self._failures = {str(row["key"]): str(row["reason"]) for row in rows if {"key", "reason"} <= row.keys()}
        return self._failures

    def fail(self, key: str, utterance: str, reason: str) -> None:
        """Note that features could not be made."""
        if self.failures.get(key) != reason:
            self.failures[key] = reason
            append_line(self.folder / "failures.jsonl", {"key": key, "id": utterance, "reason": reason})

    def lock(self) -> BaseFileLock:
        """Return the lock that excludes every other writer; the system frees it when its process ends."""
        return FileLock(require_file(self.folder / ".lock"), poll_interval=0.01)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data) if tensor.numel() else 0


def _header(path: Path) -> dict[str, int]:
    """Return the checksum of every tensor; raises unless the file has just the length and the header that it should."""
    size = require_file(path).stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise ValueError(f"{size} bytes, no header")
        (length,) = struct.unpack("<Q", start)
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = json.loads(file.read(length))
    if not isinstance(header, dict) or "crc32" not in header.get("__metadata__", {}):
        raise ValueError("no checksums in the header")
    checksums: dict[str, int] = json.loads(header.pop("__metadata__")["crc32"])
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if not all(type(each) is int and 0 <= each <= _CHECKSUM for each in checksums.values()):
        raise ValueError("checksums in the header that are none")
    if size != 8 + length + end or set(checksums) != set(header):
        raise ValueError(f"{size} bytes where the header claims {8 + length + end}")
    return checksums
