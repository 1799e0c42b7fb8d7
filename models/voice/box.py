"""Make the distribution's folder from a finished RUN: the encoder's layers in use and the weights, in half precision.

    python models/voice/box.py RUN OUT

OUT gets what `wavfusion push` publishes, so no path, utterance or speaker; it needs no other file, and no network.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file, save_file

from wavfusion.encoders.bundle import load_encoder
from wavfusion.encoders.whisper import WhisperEncoder
from wavfusion.files import read_json, write_json
from wavfusion.runs.folder import CONFIG, WEIGHTS, read_run
from wavfusion.runs.hub import write_hub_folder

NAME = "wavfusion-voice"
AUDIO = "encoders/audio"


def truncate(encoder: WhisperEncoder, depth: int, folder: Path) -> None:
    """Write the first layers of an encoder in half precision, in the hub's file format."""
    stack = encoder.model.encoder
    stack.layers = stack.layers[:depth]
    encoder.model.config.encoder_layers = depth
    folder.mkdir(parents=True)
    encoder.model.half()
    encoder.save(folder)


def halve(path: Path) -> None:
    """Round the floating-point tensors of a file to half precision."""
    tensors = load_file(path)
    halved = {name: each.half() if each.is_floating_point() else each for name, each in tensors.items()}
    save_file(halved, path, {"format": "pt"})


def main(run: Path, out: Path) -> None:
    """Copy the RUN, make it smaller, and publish the copy in `out`, which is emptied first."""
    trained = read_run(run)
    encoder = trained.encoder("audio")
    assert isinstance(encoder, WhisperEncoder) and trained.features.audio is not None
    with TemporaryDirectory() as scratch:
        copy = Path(scratch) / NAME
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints", "tensorboard", "encoders"))
        truncate(encoder, trained.model.config.input_layer, copy / AUDIO)
        fingerprint = load_encoder("audio", str(copy / AUDIO), trained.features.precision).fingerprint
        about = {**trained.features.audio, "name": AUDIO, "fingerprint": fingerprint}
        features = replace(trained.features, audio=about, text=None, video=None)
        write_json(copy / CONFIG, {**read_json(copy / CONFIG), "features": features.to_json()})
        halve(copy / WEIGHTS)
        shutil.rmtree(out, ignore_errors=True)
        write_hub_folder(copy, out, NAME)
    for name in ("LICENSE", "NOTICE"):
        shutil.copy(Path(__file__).parent / name, out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
