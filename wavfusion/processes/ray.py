"""Actors of a Ray cluster: of the one at RAY_ADDRESS, of one that runs here, or of one started on this machine."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from wavfusion.errors import ConfigError

BLOCKS = 4096  # into which Ray divides the items; each is work that a dead machine costs

Row = dict[str, Any]


def map_actors(
    actor: type, arguments: tuple[Any, ...], rows: Sequence[Row], workers: int, device: str
) -> Iterator[Row]:
    """Call `actor(*arguments)` with each row, on `workers` actors; gives what they return, as it comes."""
    with _cluster(workers) as ray:
        results = ray.data.from_items(list(rows), override_num_blocks=min(len(rows), BLOCKS)).map(
            actor,
            fn_constructor_args=arguments,
            concurrency=workers,
            num_cpus=1,
            num_gpus=1 if device.startswith("cuda") else None,
        )
        yield from results.iter_rows()


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    """Join a Ray cluster, or start one on this machine; leaves what was joined or started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        expected = "expected the extra [ray]: pip install 'wavfusion[ray]'"
        raise ConfigError(f"--engine ray: {expected}; found no {error.name}") from None
    joined = ray.is_initialized()
    if not joined:
        settings: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.WARNING}
        try:
            ray.init(address="auto", **settings)
        except ConnectionError as error:
            if os.environ.get("RAY_ADDRESS"):
                reason = " ".join(str(error).split())[:200]
                raise ConfigError(f"--engine ray: expected a cluster at RAY_ADDRESS, found {reason}") from None
            # Ray Data waits without end where actors take every core (ray-project/ray#44687).
            ray.init(address="local", num_cpus=workers + 1, include_dashboard=False, **settings)
    try:
        cores = int(ray.cluster_resources().get("CPU", 0))
        if cores <= workers:
            expected = f"a core more than --workers {workers} in the cluster"
            raise ConfigError(f"--engine ray: expected {expected}, found {cores}")
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield ray
    finally:
        if not joined:
            ray.shutdown()
