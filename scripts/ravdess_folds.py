"""Write the folds of docs/measurements/real_encoders.md: four actors test, the next two validate, the others train.

Speech of actors 01 to 20 alone; whatever else the manifest has is left out.
"""

import json
import sys
from pathlib import Path

ACTORS, TESTED, VALIDATING = 20, 4, 2


def part_of(actor: int, fold: int) -> str:
    """Return the part of an actor, from 1, in a fold, from 0."""
    ahead = (actor - 1 - fold * TESTED) % ACTORS
    return "test" if ahead < TESTED else "valid" if ahead < TESTED + VALIDATING else "train"


rows = [json.loads(line) for line in Path(sys.argv[1]).read_text("utf-8").splitlines()]
sys.stdout.write("id,split,fold\n")
for fold in range(ACTORS // TESTED):
    for row in rows:
        actor = int(row["speaker"].removeprefix("actor"))
        if actor <= ACTORS and row["id"].startswith("01-"):  # speech, not song
            sys.stdout.write(f"{row['id']},{part_of(actor, fold)},{fold + 1}\n")
