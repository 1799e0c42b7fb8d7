"""Where does a prediction spend its time? Seconds of each part for one clip, with random weights of base's sizes.

    python scripts/where_time_goes.py CLIP.mp4

The best of three runs each, on all cores and on one, in fp32 and bf16 (video is in fp32 in both); with the extra
[face] also the search for faces.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from wavfusion import media
from wavfusion.bench.data import CLASSES, encoders_of
from wavfusion.errors import ConfigError
from wavfusion.evaluation.inference import classify, classify_subsets, subsets
from wavfusion.experiments import experiment
from wavfusion.features.dataset import Sample, SampleOrigin, model_config
from wavfusion.features.encode import describe_features
from wavfusion.features.extract import shipped_layers
from wavfusion.media import faces
from wavfusion.model.wavfusion import WavFusion
from wavfusion.processes.timing import timed

TEXT = "I never said that you should go there at all, did I?"


def best(work: Callable[[], object]) -> str:
    """Seconds of the fastest of three runs, after one to warm it."""
    work()
    return f"{min(timed(work) for _ in range(3)):.2f} s"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, help="a video of 15 s at most")
    clip, cores = parser.parse_args(arguments).clip, torch.get_num_threads()
    encoders = encoders_of("base").quick()
    audio, text, video = encoders.audio, encoders.text, encoders.video
    assert audio is not None and text is not None and video is not None
    rate, size = encoders.preset.frame_rate, video.size
    samples, frames = media.decode_audio(clip).samples, media.decode_frames(clip, rate, size).pixels
    described = describe_features(encoders, layers := shipped_layers(encoders), ["last"])
    model = WavFusion(model_config(experiment.read_experiment("paper").model, described, CLASSES)).eval()
    row = SampleOrigin("clip", None, None, None, len(samples) / media.SAMPLE_RATE)
    features = audio.encode([samples], layers)[0][layers[0]], text.encode([TEXT])[0], video.encode(frames)
    sample, every, prior = (
        [Sample(row, *features)],
        subsets(["audio", "text", "video"]),
        [1 / len(CLASSES)] * len(CLASSES),
    )
    parts: dict[str, Callable[[], object]] = {
        "audio": lambda: audio.encode([samples], layers),
        "text": lambda: text.encode([TEXT]),
        "video": lambda: video.encode(frames),
        "the fusion, for the prediction": lambda: classify(model, sample, every[-1], prior),
        "the fusion, for all subsets": lambda: classify_subsets(model, sample, every, prior),
    }
    sys.stdout.write(f"{clip.name}, {row.duration:.1f} s, {cores} cores\n")
    sys.stdout.write(f"decoding audio {best(lambda: media.decode_audio(clip))}\n")
    sys.stdout.write(f"decoding video {best(lambda: media.decode_frames(clip, rate, size))}\n")
    try:
        sys.stdout.write(f"finding faces {best(lambda: faces.detect_faces(clip, rate))}\n")
    except ConfigError as error:
        sys.stdout.write(f"finding faces: {error}\n")
    for threads in dict.fromkeys((cores, 1)):
        torch.set_num_threads(threads)
        for name, work in parts.items():
            timings = []
            for half in (False, True):
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    timings.append(f"{'bf16' if half else 'fp32'} {best(work)}")
            sys.stdout.write(f"{name}, {threads} cores: {', '.join(timings)}\n")


if __name__ == "__main__":
    main()
