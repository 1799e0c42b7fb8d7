"""`serve`: a web page and an HTTP API that label recordings."""

import re
from pathlib import Path
from typing import Annotated, Any

from wavfusion.cli import options as opt
from wavfusion.errors import ConfigError
from wavfusion.files import read_bytes, require_writable


def serve(
    model: opt.Model = None,
    host: Annotated[str, opt.option("address to listen on (default 127.0.0.1)", "ADDRESS", opt.name)] = "127.0.0.1",
    port: Annotated[int, opt.option("0 = any that is free (default 8000)", "N", opt.count(0, 65535))] = 8000,
    names: Annotated[str, opt.option("host names of this server, where it is called by name", "NAME,...")] = "",
    token_file: Annotated[Path | None, opt.option("holds the token of requests", "FILE", opt.path)] = None,
    keep: Annotated[Path | None, opt.option("keep recordings and results (default: none)", "DIR", opt.path)] = None,
    max_megabytes: Annotated[int | None, opt.option("of an upload (default 1000)", "N", opt.count(1))] = None,
    max_minutes: Annotated[int | None, opt.option("of a recording (default 120)", "N", opt.count(1))] = None,
    max_work: Annotated[int | None, opt.option("minutes to label one (default 60)", "N", opt.count(1))] = None,
    queue: Annotated[int | None, opt.option("recordings that wait (default 64)", "N", opt.count(1))] = None,
    asr: opt.Asr = None,
    runtime: opt.Runtime = None,
    precision: opt.Precision = None,
    plain: opt.Plain = False,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
) -> None:
    """Serve a web page and an HTTP API that label recordings."""
    try:
        from wavfusion.serve import app
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"serve: expected the extra [serve]: pip install 'wavfusion[serve]'; found no {error.name}"
        ) from None
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.prediction.models import default_model
    from wavfusion.serve.jobs import Limits

    token = read_bytes(token_file).decode("utf-8-sig", "replace").strip() if token_file else None
    if token is not None and not re.fullmatch(r"[!-~]+( [!-~]+)*", token):
        found = "characters that no header may hold" if token else "nothing"
        raise ConfigError(f"--token-file {token_file}: expected a token, found {found}")
    if keep:
        require_writable(keep)
        keep.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"name": model or str(default_model()), "device": pick_device(device), "fast": not plain}
    settings |= opt.supplied(runtime=runtime, precision=precision, asr=asr)
    limits = Limits(**opt.supplied(megabytes=max_megabytes, minutes=max_minutes, work=max_work, queue=queue))
    hosts = frozenset(each.strip().lower() for each in names.split(",") if each.strip())
    app.serve(settings, host, port, limits, hosts, token, keep)
