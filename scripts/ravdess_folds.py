"""Write the folds of docs/measurements/real_encoders.md: four actors test, the next two validate, the others train."""

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
        part = part_of(int(row["speaker"].removeprefix("actor")), fold)
        sys.stdout.write(f"{row['id']},{part},{fold + 1}\n")
