"""Media files found by the paths that people write: slash, case, normal form and usual ending may differ."""

import os
import unicodedata
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath

from wavfusion.corpora.reading import AUDIO_ENDINGS, VIDEO_ENDINGS, list_files, path_below
from wavfusion.errors import SHOWN

ENDINGS = {"audio": AUDIO_ENDINGS + VIDEO_ENDINGS, "video": VIDEO_ENDINGS}


class Lookup:
    """The files below a folder, listed once a path is not found as it is written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders = (root, root.absolute(), root.resolve())

    def written(self, name: str) -> str:
        """Return a path as it is written, relative to the root; a ValueError where it leads outside."""
        try:
            return path_below(name, *self._folders)
        except ValueError as error:
            raise ValueError(f"{error}; --root DIR names the folder that the media lie below") from None

    def find(self, name: str, modality: str) -> tuple[str | None, str]:
        """Return the path of a file relative to the root, or None and why there is none.

        A path that no file has is compared without regard to slash, case and normal form, then without its ending.
        Where several files are alike, none is taken. A path that leads outside the root is a ValueError.
        """
        written = self.written(name)
        if os.path.isfile(self.root / written):
            return written, ""
        by_path, by_stem, _ = self._files
        key = _folded(written)
        same = by_path.get(key) or [path for path in by_stem.get(_stem(key), ()) if _ends(path, modality)]
        if len(same) == 1:
            return same[0], ""
        name = name if len(name) <= SHOWN else f"{name[: SHOWN - 3]}..."
        if same:
            return None, f"{name!r} fits several files: {', '.join(sorted(same)[:3])}"
        if others := by_stem.get(_stem(key)):
            return None, f"no such file: {name} ({others[0]!r} is no {modality})"
        return None, f"no such file: {name}"

    def place_of(self, name: str, modality: str) -> str:
        """Say where files of a name that is not found lie."""
        paths = self._files[2].get(_stem(_folded(self.written(name)).rpartition("/")[2]), ())
        places = sorted({path.rpartition("/")[0] or "." for path in paths if _ends(path, modality)})
        if not places:
            return f"no {modality} file of that name lies below {self.root}"
        more = f" and {len(places) - 1} more" * (len(places) > 1)
        found = f"a file of that name lies in {places[0]!r}{more}"
        # The folder from which the path would lead there, if it does.
        inner, place = PurePosixPath(_folded(name)).parent.parts, PurePosixPath(places[0])
        if PurePosixPath(_folded(places[0])).parts[len(place.parts) - len(inner) :] != inner:
            return found
        return f"{found}: give --root {self.root.joinpath(*place.parts[: len(place.parts) - len(inner)])}"

    @cached_property
    def _files(self) -> tuple[dict[str, list[str]], dict[str, list[str]], dict[str, list[str]]]:
        """Paths by folded path, by that without its ending, and by folded name without its ending."""
        by_path: dict[str, list[str]] = defaultdict(list)
        by_stem: dict[str, list[str]] = defaultdict(list)
        by_name: dict[str, list[str]] = defaultdict(list)
        for path in list_files(self.root, refuse=False):
            key = _folded(path)
            by_path[key].append(path)
            if _ends(path, "audio"):
                by_stem[_stem(key)].append(path)
                by_name[_stem(key).rpartition("/")[2]].append(path)
        return by_path, by_stem, by_name


def _folded(path: str) -> str:
    """A path without what systems treat differently: slash, case, composed letters, blanks around it."""
    return PurePosixPath(unicodedata.normalize("NFC", path.strip().replace("\\", "/")).casefold()).as_posix()


def _stem(path: str) -> str:
    """A path without its ending, if that is one of a recording: the rest of a name may hold dots."""
    stem, dot, ending = path.rpartition(".")
    return stem if dot + ending in ENDINGS["audio"] else path


def _ends(path: str, modality: str) -> bool:
    return path.casefold().endswith(ENDINGS[modality])
