"""`bench`: speed and memory against a baseline."""

from typing import Annotated, Any

from wavfusion.cli import options as opt
from wavfusion.cli.output import show


def bench(
    suite: Annotated[str | None, opt.choice("timed part (default all)", "train", "extract", "predict", "all")] = None,
    preset: Annotated[
        str | None, opt.option("shipped: random weights of its sizes (default base)", "base|whisper|light|tiny|FILE")
    ] = None,
    batch: Annotated[int | None, opt.option("utterances in a step (default 8)", "N", opt.count(1, 1024))] = None,
    repeats: Annotated[int | None, opt.option("of each measurement (default 5)", "N", opt.count(1, 100))] = None,
    growth: Annotated[bool, opt.flag("--growth", "our time and memory over 1, 2, 4 and 8 times the data")] = False,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    json: opt.Json = False,
) -> None:
    """Measure speed and memory against a baseline, in one run."""
    from wavfusion.bench import suites
    from wavfusion.evaluation.inference import pick_device

    typed: dict[str, Any] = opt.supplied(suite=suite, preset=preset, batch=batch, repeats=repeats, seed=seed)
    found = suites.run_suites(device=pick_device(device), times=suites.TIMES if growth else (), **typed)
    show(found, suites.measurements_to_text(found), json)
