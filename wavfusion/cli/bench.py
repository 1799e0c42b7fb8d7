"""`bench`: speed and memory against a baseline."""

import logging
from typing import Annotated, Any

from wavfusion.cli.options import Device, Json, Seed, as_count, choice, flag, option, supplied
from wavfusion.cli.output import DONE, show

log = logging.getLogger(__name__)


def bench(
    suite: Annotated[str | None, choice("what is timed (default all)", "train", "extract", "predict", "all")] = None,
    preset: Annotated[str | None, choice("whose sizes; the weights are random (default base)", "tiny", "base")] = None,
    batch: Annotated[int | None, option("utterances in a training step (default 8)", "N", as_count(1, 1024))] = None,
    repeats: Annotated[int | None, option("of every measurement, in turns (default 5)", "N", as_count(1, 100))] = None,
    growth: Annotated[bool, flag("--growth", "our time and memory over 1, 2, 4 and 8 times the data")] = False,
    device: Device = "auto",
    seed: Seed = None,
    json: Json = False,
) -> int:
    """Measure speed and memory against a baseline, in one run."""
    from wavfusion.bench import growth as growing
    from wavfusion.bench import suites
    from wavfusion.evaluation.inference import pick_device

    typed: dict[str, Any] = supplied(suite=suite, preset=preset, batch=batch, repeats=repeats, seed=seed)
    measure = growing.measure_growth if growth else suites.run_suites
    found = measure(device=pick_device(device), **typed)
    show(found, suites.measurements_to_text(found), json)
    return DONE
