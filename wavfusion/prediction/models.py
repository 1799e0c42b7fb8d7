"""The model that the user names, a RUN folder or one on a hub, or the installed one."""

import re
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from wavfusion.errors import ConfigError
from wavfusion.runs.folder import HUB_ID, WEIGHTS, Run, read_run

VOICE_MODEL = "wavfusion-voice"  # the distribution whose wheel holds a RUN


def default_model() -> Path:
    """Locate the RUN folder in the installed voice model, or raise a ConfigError that says how to get a model."""
    with suppress(metadata.PackageNotFoundError):
        for each in metadata.files(VOICE_MODEL) or []:
            if each.name == WEIGHTS:
                return Path(str(each.locate())).parent
    raise ConfigError(
        "expected a model, a RUN folder or a hub id, as --model RUN (in Python: from_pretrained('RUN')), found none, "
        f"and {VOICE_MODEL} is not installed; `wavfusion demo` makes a small model in runs/demo"
    )


def find_run(name: str | Path) -> Run:
    """Read a RUN folder, or the local copy of one on a hub, or raise a ConfigError."""
    if Path(name).exists() or not re.fullmatch(HUB_ID, str(name)):
        return read_run(name)
    from huggingface_hub import constants, snapshot_download

    try:
        folder = snapshot_download(str(name))
    except Exception as error:  # the hub client raises many kinds
        reason = " ".join(str(error).split()).partition(". ")[0][:200]
        if constants.HF_HUB_OFFLINE:
            reason = "no such folder, no copy of such a model, and HF_HUB_OFFLINE is set, so the hub is not queried"
        raise ConfigError(
            f"{str(name)!r}: expected a RUN folder or a hub id that can be reached, found {reason}"
        ) from None
    return replace(read_run(folder), name=str(name))
