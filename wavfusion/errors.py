"""The three errors that a user can meet, each with what was expected, what was found and where; collected warnings."""

import difflib
import logging
from collections.abc import Iterable


class MediaError(ValueError):
    """An unusable media file, named with the reason."""


class CorpusError(ValueError):
    """An invalid corpus, manifest or store."""


class ConfigError(ValueError):
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
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    close.sort(key=lambda each: sorted(each) != sorted(name))  # letters that changed places are the likeliest slip
    return (f"did you mean {close[0]!r}? " if close else "") + "valid: " + ", ".join(choices)
