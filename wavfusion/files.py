"""Files that are there whole or not at all, places that may be written, and lines that survive a kill."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wavfusion.errors import CorpusError


def require_file(path: Path) -> Path:
    """Refuse what stands in a file's place and would be read or waited for without end.

    Raises:
        CorpusError: a folder, pipe or device.
    """
    if path.exists() and not path.is_file():
        raise CorpusError(f"{path}: expected a file, found a folder, pipe or device")
    return path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, whatever happens meanwhile."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def require_free(paths: Sequence[Path], force: bool) -> None:
    """Refuse to overwrite results unless told to, and what is no file (a folder, a device) always.

    Raises:
        CorpusError: one of the files exists, or its folder cannot.
    """
    for path in paths:
        if path.exists() and not path.is_file():
            raise CorpusError(f"{path}: expected a file's name, found a folder or device")
        require_writable(path.parent)
        if path.exists() and not force:
            raise CorpusError(f"{path}: expected nothing there, found a result; give another --out, or --force")


def require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written or made, before anything is computed for it.

    Raises:
        CorpusError: a file in its place, or no permission.
    """
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise CorpusError(f"{folder}: expected a folder that can be written, found {there}: {error.strerror}") from None


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line in one write, so that lines of several processes do not mix."""
    line = json.dumps(row).encode("ascii") + b"\n"  # escaped, a name may hold bytes that are no text
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        # A writer killed half way may have left no line end.
        os.write(file, line if _ends_line(path) else b"\n" + line)
    finally:
        os.close(file)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read JSON lines, passing over one that a kill cut short; nothing where there is no file.

    Raises:
        CorpusError: a folder, pipe or device in its place.
    """
    if not require_file(path).exists():
        return
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def _ends_line(path: Path) -> bool:
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
