"""Publication of a RUN with a model card: in a folder, or on a hub."""

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from wavfusion.corpora.protocol import describe_protocol
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.files import read_bytes, read_json, require_writable, write_atomic, write_json
from wavfusion.pages.fill import fill_page
from wavfusion.runs.folder import CONFIG, FAMILIARITY, HUB_ID, WEIGHTS, read_run
from wavfusion.runs.origin import ENVIRONMENT, EXPERIMENT, PROTOCOL, corpus_of, training_data_of, without_absolute_paths
from wavfusion.runs.results import METRICS


def push(folder: Path, place: str, public: bool = False, force: bool = False) -> str:
    """Publish a RUN where `from_pretrained` finds it, without an utterance of its corpus, and return its address.

    The place is a hub id, whose repository `public` opens to all, or a folder: an existing one, or `./name`. With
    `force` an earlier model is replaced.

    Raises:
        ConfigError: an incomplete RUN, an encoder that others cannot have, a hub that cannot be reached, or a public
            repository there without `public`.
        CorpusError: a folder with something in it.
    """
    if Path(place).exists() or not re.fullmatch(HUB_ID, place):
        out = Path(place)
        require_writable(out)
        if out.is_dir() and any(out.iterdir()) and (not force or out.samefile(folder)):
            raise CorpusError(f"{place}: expected an empty folder, found one with files; name another, or --force")
        write_hub_folder(folder, out, out.name)
        return place
    from huggingface_hub import HfApi

    with TemporaryDirectory() as scratch:
        write_hub_folder(folder, Path(scratch), place)
        try:
            address = HfApi().create_repo(place, private=not public, exist_ok=force)
            # An existing repository keeps its visibility.
            if not public and not HfApi().repo_info(place).private:
                raise ConfigError(f"{place}: expected a private repository, found a public one; add --public")
            message, old = "A WavFusion model", ["encoders/*", FAMILIARITY]  # of an earlier model
            HfApi().upload_folder(repo_id=place, folder_path=scratch, commit_message=message, delete_patterns=old)
        except ConfigError:
            raise
        except Exception as error:  # the hub's client raises many kinds
            reason = " ".join(str(error).split())[:120]
            raise ConfigError(f"expected a hub that takes {place!r} (./{place} is a folder), found {reason}") from None
    return str(address)


def write_hub_folder(folder: Path, out: Path, title: str) -> None:
    """Write the published files of a RUN into a folder, the weights last."""
    trained, encoders = read_run(folder), folder / "encoders"
    names = {name: getattr(trained.features, name)["name"] for name in trained.model.config.modalities}
    for name, checkpoint in names.items():
        if not (encoders / name).is_dir() and (Path(checkpoint).is_absolute() or Path(checkpoint).exists()):
            raise ConfigError(
                f"expected encoders that others can have, found {name} in {checkpoint!r}; train with its hub id, or, "
                f"where its licence lets it be passed on, copy it to {encoders / name}"
            )
    try:
        files = (CONFIG, PROTOCOL, METRICS, ENVIRONMENT)
        abouts = {file: without_absolute_paths(read_json(folder / file)) for file in files}
        bases = [name for name in names.values() if re.fullmatch(HUB_ID, name)]
        setting = read_bytes(folder / EXPERIMENT)
        detector = (trained.features.video or {}).get("detector") if "video" in names else None
        card = fill_page(
            "model_card.md",
            _cell,
            metrics=abouts[METRICS],
            protocol=describe_protocol(abouts[METRICS]["protocol"]),
            title=title,
            corpus=corpus_of(folder),
            start=training_data_of(folder).start,
            bases=bases,
            detector=detector,
        )
    except Exception as error:  # a damaged file shows in many ways
        raise ConfigError(f"{folder}: expected a complete RUN, found {type(error).__name__}: {error}") from None
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "encoders", ignore_errors=True)  # those of an earlier model
    for name in names:
        if (encoders / name).is_dir():
            shutil.copytree(encoders / name, out / "encoders" / name, dirs_exist_ok=True)
    for file, values in abouts.items():
        write_json(out / file, values)
    write_atomic(out / "README.md", f"{card}\n".encode("utf-8", "backslashreplace"))
    write_atomic(out / EXPERIMENT, setting)
    (out / FAMILIARITY).unlink(missing_ok=True)
    for file in (FAMILIARITY, WEIGHTS):
        if (folder / file).exists():
            shutil.copyfile(folder / file, out / file)


def _cell(value: object) -> object:
    """Keep a name from breaking out of its table."""
    return " ".join(value.split()).replace("|", "\\|").replace("<", "&lt;") if isinstance(value, str) else value
