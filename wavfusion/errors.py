"""The three errors that a user can meet, each saying what was expected, what was found and where; and the warnings."""

import difflib
import logging
from collections.abc import Iterable


class MediaError(ValueError):
    """A media file that cannot be used, named with the reason."""


class CorpusError(ValueError):
    """A corpus, manifest or store that is not what it should be."""


class ConfigError(ValueError):
    """A setting, name or argument that does not exist or does not fit."""


class CollectedWarnings(logging.Handler):
    """Keeps what is warned of while it is open, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def __enter__(self) -> "CollectedWarnings":
        logging.getLogger("wavfusion").addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("wavfusion").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        if record.getMessage() not in self.said:
            self.said.append(record.getMessage())


def nearest(name: str, choices: Iterable[str]) -> str:
    """Say the valid choices for a wrong name, the nearest first: ``did you mean 'x'? valid: x, y``."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return (f"did you mean {close[0]!r}? " if close else "") + "valid: " + ", ".join(choices)
