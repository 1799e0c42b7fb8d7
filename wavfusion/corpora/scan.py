"""Which tracks the media of a corpus have: every file is opened once, in several threads, and cached in a file."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from tqdm import tqdm

from wavfusion.errors import ConfigError, MediaError
from wavfusion.files import read_lines, validated, write_lines
from wavfusion.manifest import Seconds

CHUNK = 64  # files between two writes of the cache: the most that a kill can lose


class MediaFacts(NamedTuple):
    """When each track of a file ends, in seconds (None: no such track), or why the file cannot be read."""

    audio: float | None = None
    video: float | None = None
    reason: str | None = None

    @property
    def duration(self) -> float | None:
        """Seconds until the last track ends; None of a file that cannot be read."""
        return None if self.reason else max(self.audio or 0.0, self.video or 0.0)


@dataclass(frozen=True, slots=True)
class _CacheRow:
    """The facts of a file, and its size in bytes and time of the last change in nanoseconds."""

    path: str
    stamp: list[int] | None
    audio: Seconds | None
    video: Seconds | None
    reason: str | None


# From paths to the facts of the files; files that were not opened are left out.
Probe: TypeAlias = Callable[[Iterable[str]], Mapping[str, MediaFacts]]


class Scan:
    """Probes the media below a folder; a file whose size and time are those in the cache is not opened again."""

    def __init__(self, root: Path, cache: Path, progress: bool = False) -> None:
        self.root, self.cache, self.progress = root, cache, progress
        self._rows: dict[str, _CacheRow] = {}
        for values in read_lines(cache):
            try:
                row = validated(_CacheRow, values, cache, others=True)
                self._rows[row.path] = row
            except ConfigError:  # as a kill or another program left it: the file is opened again
                continue
        self._facts = {
            path: MediaFacts(row.audio, row.video, row.reason)
            for path, row in self._rows.items()
            if row.stamp == self._stamp(path)
        }

    def probe(self, paths: Iterable[str]) -> Mapping[str, MediaFacts]:
        """Return the facts of these files and of all that were asked for before."""
        todo = [path for path in dict.fromkeys(paths) if path not in self._facts]
        if not todo:
            return self._facts
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        bar = tqdm(total=len(todo), desc="scan", unit="file", disable=not self.progress)
        # Threads: FFmpeg opens files outside of Python's lock, and processes were no faster.
        with bar, ThreadPoolExecutor() as pool, self.cache.open("a", encoding="utf-8") as file:
            # A line that a kill cut short must not spoil the next one.
            file.write("\n" if file.tell() else "")
            for begin in range(0, len(todo), CHUNK):
                chunk = todo[begin : begin + CHUNK]
                for path, facts in zip(chunk, pool.map(self._open, chunk), strict=True):
                    self._facts[path] = facts
                    self._rows[path] = _CacheRow(path, self._stamp(path), facts.audio, facts.video, facts.reason)
                    file.write(json.dumps(asdict(self._rows[path])) + "\n")
                file.flush()
                bar.update(len(chunk))
        write_lines(self.cache, (json.dumps(asdict(self._rows[path])) for path in sorted(self._rows)))
        return self._facts

    def _stamp(self, path: str) -> list[int] | None:
        try:
            status = os.stat(self.root / path)
        except (OSError, ValueError):
            return None
        return [status.st_size, status.st_mtime_ns]

    def _open(self, path: str) -> MediaFacts:
        try:
            from wavfusion import media  # a machine that trains on stored features has no FFmpeg

            return MediaFacts(*media.probe(self.root / path))
        except MediaError as error:
            # With the path below the root, so that the message is the same wherever the corpus lies.
            return MediaFacts(reason=str(error).replace(repr(os.fspath(self.root / path)), repr(path)))
