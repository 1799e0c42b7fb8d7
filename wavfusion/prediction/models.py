"""The model that is used where the user names none."""

from importlib import metadata
from pathlib import Path

from wavfusion.errors import ConfigError

VOICE_MODEL = "wavfusion-voice"  # the distribution whose wheel holds a RUN
WEIGHTS = "model.safetensors"


def default_model() -> Path:
    """Locate the RUN folder in the installed voice model.

    Raises:
        ConfigError: it is not installed; says how to get a model.
    """
    try:
        files = metadata.files(VOICE_MODEL) or []
    except metadata.PackageNotFoundError:
        files = []
    for each in files:
        if each.name == WEIGHTS:
            return Path(str(each.locate())).parent
    raise ConfigError(
        "expected a model, a RUN folder or a hub id, as --model RUN (in Python: from_pretrained('RUN')), found none, "
        f"and {VOICE_MODEL} is not installed; `wavfusion demo` makes a small model in runs/demo"
    )


def is_run(name: str) -> bool:
    """Whether a name is that of a RUN folder."""
    return (Path(name) / WEIGHTS).is_file()
