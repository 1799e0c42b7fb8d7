"""The three errors that a user can meet, their words, and collected warnings."""

import difflib
import logging
import re
from collections.abc import Iterable

SHOWN, LONGEST = 200, 2000  # characters of a quoted value, and of a whole message
_QUOTED = re.compile(rf"(?<!\w)(?:'[^']{{{SHOWN - 1},}}'|\"[^\"]{{{SHOWN - 1},}}\")")


def shortened(message: str) -> str:
    """Cut what a message quotes, and the message itself: a value from a file may be of any length."""
    short = _QUOTED.sub(lambda found: f"{found[0][: SHOWN - 4]}...{found[0][-1]}", message)
    return short if len(short) <= LONGEST else f"{short[: LONGEST - 3]}..."


class _ShortError(ValueError):
    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


class MediaError(_ShortError):
    """An unusable media file, named with the reason."""


class CorpusError(_ShortError):
    """An invalid corpus, manifest or store."""


class ConfigError(_ShortError):
    """An unknown or unfitting setting, name or argument."""


class CollectedWarnings(logging.Handler):
    """Collects warnings while it is open, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def __enter__(self) -> "CollectedWarnings":
        logging.getLogger("wavfusion").addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("wavfusion").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Collect one."""
        if (message := record.getMessage()) not in self.messages:
            self.messages.append(message)


def nearest(name: str, choices: Iterable[str]) -> str:
    """List the valid choices for a wrong name, the nearest first: ``did you mean 'x'? valid: x, y``."""
    name, choices = name[:SHOWN], list(choices)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    close.sort(key=lambda each: sorted(each) != sorted(name))  # letters that changed places are the likeliest slip
    return (f"did you mean {close[0]!r}? " if close else "") + "valid: " + ", ".join(choices)


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
