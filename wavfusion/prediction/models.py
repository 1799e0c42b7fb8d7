"""The model that the user names, a RUN folder or one on a hub, or the voice model; and the models that are here."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from wavfusion.errors import ConfigError
from wavfusion.files import read_bytes
from wavfusion.runs.card import Card, make_card
from wavfusion.runs.folder import HUB_ID, WEIGHTS, Run, read_run
from wavfusion.runs.origin import PROTOCOL

VOICE_MODEL = "wavfusion-voice"  # the distribution whose wheel holds a RUN
HOW_TO_GET = (
    f"pip install {VOICE_MODEL}, or give a RUN folder or a hub id as --model RUN (in Python: from_pretrained('RUN')); "
    f"`wavfusion demo` makes a small one in runs/demo"
)
VOICE = "voice"  # names the default model where a model is named
CLONE = Path(__file__).parents[2] / "models" / VOICE  # where it lies in a clone of the repository


def default_model() -> Path:
    """Locate the RUN folder of the voice model, or raise a ConfigError that says how to get a model."""
    for found in _voice_models():
        return found
    raise ConfigError(f"expected a model, found none; {HOW_TO_GET}")


def find_run(name: str | Path) -> Run:
    """Read a RUN folder, the voice model, or the local copy of a model on a hub, or raise a ConfigError."""
    if name == VOICE and not Path(VOICE).exists():
        return read_run(default_model())
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


def _voice_models() -> Iterator[Path]:
    """The RUN folders in the installed distribution, then in the clone that the package runs from."""
    with suppress(metadata.PackageNotFoundError):
        for each in metadata.files(VOICE_MODEL) or []:
            folder = Path(str(each.locate())).parent
            if each.name == WEIGHTS and _is_run(folder):  # an encoder has a file of this name, too
                yield folder
    yield from runs_in(CLONE)


def _is_run(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file() and (folder / PROTOCOL).is_file()


def runs_in(folder: Path) -> Iterator[Path]:
    """Find the RUN folders in a folder, but not those inside others."""
    for place, folders, _ in os.walk(folder):
        folders.sort()
        if _is_run(Path(place)):
            folders.clear()
            yield Path(place)


@dataclass(frozen=True)
class KnownModel:
    """A model that is here.

    Attributes:
        card: its name, training data and figures.
        folder: the RUN.
        is_default: it answers where no model is named.
        modalities, emotions: those that it knows.
        size: bytes of its files and encoders, without checkpoints.
        licence: the first line of its LICENSE, where it has one.
    """

    card: Card
    folder: str
    is_default: bool
    modalities: list[str]
    emotions: list[str]
    size: int
    licence: str | None


def known_models(folder: Path | None, bad: list[str]) -> list[KnownModel]:
    """Describe the voice model and the RUNs in a folder, without reading weights; damaged ones are told in `bad`.

    Raises:
        ConfigError: there is no RUN in the folder.
    """
    named = [] if folder is None else list(runs_in(folder))
    if folder is not None and not named:
        raise ConfigError(f"{str(folder)!r}: expected a folder with RUNs (what `wavfusion train` writes), found none")
    voices, places = list(_voice_models()), dict[Path, Path]()
    for each in (*voices, *runs_in(Path("models", VOICE)), *named):
        places.setdefault(each.resolve(), each)
    found = []
    for place in places.values():
        try:
            found.append(_describe_model(place, place in voices[:1]))
        except ConfigError as error:
            bad.append(str(error))
    return found


def _describe_model(folder: Path, is_default: bool) -> KnownModel:
    trained = read_run(folder, weights=False)
    files = [*folder.iterdir(), *(folder / "encoders").rglob("*")]
    licence = next((path for path in sorted(folder.glob("LICENSE*")) if path.is_file()), None)
    lines = [] if licence is None else read_bytes(licence).decode("utf-8", "replace").split("\n")
    return KnownModel(
        card=make_card(trained),
        folder=str(folder),
        is_default=is_default,
        modalities=trained.model.config.modalities,
        emotions=trained.classes,
        size=sum(path.stat().st_size for path in files if path.is_file()),
        licence=next((line.strip() for line in lines if line.strip()), None),
    )
