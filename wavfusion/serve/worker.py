"""The process in which a server labels recordings, one after the other.

What it is told and what it tells are lines of JSON, so that a recording which breaks a decoder, lasts too long or is
not wanted any more costs this process and nothing else.
"""

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any

from wavfusion import media, transcripts
from wavfusion.errors import CollectedWarnings, ConfigError, CorpusError, MediaError
from wavfusion.prediction.recognizer import EmotionRecognizer

OVERLAPPING = 4  # times a recording's length that segments may last together: that many speak at once
Tell = Callable[[Mapping[str, Any]], None]


def serve_requests() -> None:
    """Load a model by the first line, answer each other one, and end with the server."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever else prints
    asked: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()

    def tell(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    first = asked.get()
    folder = first.pop("folder")
    try:
        recognizer = EmotionRecognizer.from_pretrained(**first)
    except (ConfigError, CorpusError, OSError) as error:
        tell({"error": str(error)})
        return
    os.chdir(folder)  # its complaints name a recording by its place in there
    tell({"classes": recognizer.classes, "modalities": recognizer.modalities})
    while True:
        tell(answer(recognizer, asked.get(), tell))


def _listen(asked: "SimpleQueue[dict[str, Any]]") -> None:
    """Take in what is asked; when the server is gone, nobody waits for what is under way."""
    for line in sys.stdin:
        asked.put(json.loads(line))
    os._exit(0)


def answer(recognizer: EmotionRecognizer, asked: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Label one recording: `rows` and `warnings`, or the one line of an `error`.

    Args:
        recognizer: the model.
        asked: `file`; `words` or a timed file of `segments`, or None; `speakers`; `longest`, in seconds.
        tell: takes the share that is done, as `progress`.
    """
    try:
        with CollectedWarnings() as warned:
            length = max((end for end in media.probe(asked["file"]) if end is not None), default=0.0)
            if length > asked["longest"]:
                raise MediaError(f"expected at most {asked['longest'] / 60:g} minutes, found {length / 60:.1f}")
            segments = asked["segments"] and transcripts.read(asked["segments"])
            together = sum(each.end - each.start for each in segments or ())
            if together > OVERLAPPING * max(length, 60.0):
                raise MediaError(f"expected segments of {OVERLAPPING} times its length at most, found {together:.0f} s")
            rows = recognizer.predict(
                asked["file"],
                asked["words"],
                segments=segments,
                speakers=asked["speakers"],
                progress=lambda seconds: tell({"progress": min(1.0, seconds / length) if length else 0.0}),
            )
            return {"rows": [asdict(each) for each in rows], "warnings": warned.said}
    except (ConfigError, CorpusError, MediaError) as error:
        return {"error": str(error)}
    except Exception:  # the server's log has it; who asked is told no inside of ours
        traceback.print_exc()
        return {"error": "the server failed on this recording; its log says how"}


if __name__ == "__main__":
    serve_requests()
