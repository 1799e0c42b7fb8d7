"""Do the gates find what was planted? Their text weight against the look-alike's camera flag, on the test part.

    python scripts/gate_auc.py TREE RUN...

TREE is what `lookalike` wrote. 0.5 = not at all, 1 = always a higher text weight where the camera shows somebody else.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from wavfusion.evaluation.evaluate import evaluate, open_part
from wavfusion.evaluation.explain import gate_auc
from wavfusion.runs.folder import read_run


def measure(run: Path, flags: dict[str, bool]) -> float:
    """The area under the ROC curve of one RUN."""
    trained = read_run(run)
    part, store, media = open_part(trained, None, None, "test")
    _, outputs = evaluate(trained, part.utterances, store, media, [trained.model.config.modalities])
    return gate_auc(dict(zip(outputs.ids, outputs.text_share, strict=True)), flags)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a RUN, and the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    options = parser.parse_args(arguments)
    rows = map(json.loads, (options.tree / "truth.jsonl").read_text(encoding="utf-8").splitlines())
    flags = {row["id"]: row["camera"] for row in rows}
    found = []
    for run in options.runs:
        found.append(measure(run, flags))
        sys.stdout.write(f"{run.name}  {found[-1]:.3f}\n")
    sys.stdout.write(f"median {statistics.median(found):.3f}\n")


if __name__ == "__main__":
    main()
