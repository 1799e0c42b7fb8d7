"""`demo`: a real conversation labelled by the voice model; then the main job on a generated corpus, all offline.

The job is: generate, prepare, extract, train, evaluate, predict, report.
"""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from wavfusion.cli import options as opt
from wavfusion.cli.output import show
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.files import require_writable, write_atomic, write_json

if TYPE_CHECKING:
    from wavfusion.manifest import Utterance
    from wavfusion.prediction.recognizer import Prediction

log = logging.getLogger(__name__)

CLIPS, EPOCHS = 720, 24  # with 600 clips all three modalities beat video alone by 0.1 only
AVERAGE = 0.9  # without it text alone had 0.32 or 0.13, by the rounding of one thread or two; with it 0.28 and 0.25
CLIP_RATE = 10  # frames per second of the clip that is cut out for `predict`
CLIP_SIZE = (256, 256)
CONVERSATION = Path(__file__).parents[1] / "examples" / "conversation.ogg"  # half a minute; NOTICE says whose


def demo(
    out: Annotated[Path, opt.option("folder of the RUN (default runs/demo)", "DIR", opt.path)] = Path("runs/demo"),
    force: Annotated[bool, opt.flag("--force", "remove an earlier demo in DIR first")] = False,
    clips: Annotated[int | None, opt.option("size of the corpus (default 720)", "N", opt.count(6))] = None,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    json: opt.Json = False,
) -> None:
    """Label a real conversation, then run everything on a generated corpus, offline."""
    from wavfusion.evaluation.inference import pick_device

    device = pick_device(device)
    _make_room(out, force)
    label_conversation(out, device)
    summary = run_demo(out, device=device, **opt.supplied(clips=clips, seed=seed))
    show(summary, f"{demo_to_text(summary)}\npage: {out / 'report.html'}", json)


def label_conversation(out: Path, device: str = "cpu") -> Path | None:
    """Label half a minute of a real conversation with the voice model; returns its page, None without such a model."""
    from wavfusion.prediction import timeline
    from wavfusion.prediction.models import default_model
    from wavfusion.prediction.recognizer import EmotionRecognizer
    from wavfusion.transcripts import read

    try:
        recognizer = EmotionRecognizer.from_pretrained(default_model(), device)
    except ConfigError as error:
        log.info("demo: no real recording is labelled: %s", error)
        return None
    recording, page = out / CONVERSATION.name, out / "conversation.html"
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(CONVERSATION, recording)
    predictions = recognizer.predict(recording, segments=read(CONVERSATION.with_suffix(".stm")))
    write_atomic(page, timeline.write_predictions("html", predictions, recognizer.classes, out))
    log.info("demo: a real conversation\n%s\ndemo: page of it: %s", timeline.to_table(predictions), page)
    return page


def run_demo(out: Path, clips: int = CLIPS, seed: int = 0, device: str = "cpu") -> dict[str, Any]:
    """Make `out` the RUN of a generated corpus, with corpus, store and clip in `out/work`; returns what is printed.

    Raises:
        ConfigError: the `[demo]` extra is missing.
    """
    from wavfusion import corpora, lookalike
    from wavfusion.corpora import protocol
    from wavfusion.encoders.bundle import load_encoders
    from wavfusion.encoders.presets import PRESETS
    from wavfusion.experiments import experiment
    from wavfusion.features import extract
    from wavfusion.features.clips import Media
    from wavfusion.features.store import Store
    from wavfusion.report.runs import write_run_page
    from wavfusion.training import train

    started, work = time.monotonic(), out / "work"
    log.info("demo: generating a corpus of %d clips", clips)
    world = lookalike.make_lookalike("iemocap", work / "corpus", clips=clips, priors="sqrt", seed=seed)
    prepared = corpora.prepare("iemocap", work / "corpus")
    corpora.write_prepared(prepared, work / "manifest")
    log.info("demo: extracting features with the tiny encoders")
    store, corpus = Store(work / "store", create=True), prepared.corpus
    encoders = load_encoders("tiny", PRESETS["tiny"]).to(device)
    extract.extract(prepared.utterances, corpus, store, encoders, text_layers="all")
    log.info("demo: training one model for all seven subsets")
    parts = protocol.resolve(str(work / "corpus" / "split.csv"), prepared.utterances, corpus.classes)
    manifest = work / "manifest" / "manifest.jsonl"
    data = train.Data(prepared.utterances, parts, store, Media(store, corpus.root, corpus.root), str(manifest))
    changes = {"train.epochs": str(EPOCHS), "train.average": str(AVERAGE), "seed": str(seed)}
    setting = experiment.read_experiment("recommended", changes)
    with _one_thread():
        result = train.train(setting, data, out, device)
    example = next(row for row in data.part("test") if row.video is not None)
    predicted = {**asdict(_predict(out, work, Path(corpus.root), example, device)), "truth": example.emotion}
    bayes = world["bayes"]["speaker_independent"]
    summary = {
        "clips": world["clips"],
        "majority": world["majority"],
        "subsets": {
            name: {
                "accuracy": figures["accuracy"],
                "interval": figures["interval"]["accuracy"]["this_test_set"],
                "bayes": bayes[name],
            }
            for name, figures in result["subsets"].items()
        },
        "prediction": predicted,
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(work / "summary.json", summary)
    write_run_page([out], out / "report.html", demo=summary)
    return summary


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one core: on two, matrices as small as the `tiny` encoders' take 1.4 times as long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _make_room(out: Path, force: bool) -> None:
    from wavfusion.runs.folder import remove_run

    require_writable(out)
    if out.exists() and any(out.iterdir()):
        if not force:
            raise CorpusError(f"{out}: expected an empty or absent folder, found files; choose another or give --force")
        remove_run(out)
        shutil.rmtree(out / "work", ignore_errors=True)


def _predict(run_folder: Path, work: Path, root: Path, row: "Utterance", device: str) -> "Prediction":
    """Cut one test utterance out of its dialogue, as a user's own clip would come, and label it."""
    from PIL import Image

    from wavfusion import media
    from wavfusion.prediction.recognizer import EmotionRecognizer

    assert row.video is not None and row.audio is not None
    span = row.video
    frames = media.decode_frames(root / span.path, CLIP_RATE, CLIP_SIZE, span.start or 0.0, span.end, span.crop)
    audio = media.decode_audio(root / row.audio.path, row.audio.start or 0.0, row.audio.end, row.audio.channel)
    clip = work / "clip.mp4"
    Image.fromarray(frames.pixels[len(frames.pixels) // 2]).save(work / "clip.png")  # shown until it is played
    media.write_video(clip, frames.pixels, CLIP_RATE, audio.samples, media.SAMPLE_RATE)
    return EmotionRecognizer.from_pretrained(run_folder, device).predict(clip, transcript=row.text)[0]


def demo_to_text(summary: dict[str, Any]) -> str:
    """Lay the summary out for a terminal."""
    lines = [
        f"{summary['clips']['test']} generated test clips of new speakers, one model: accuracy [95 % interval]",
        f"{'majority class':>18}  {summary['majority']:.3f}",
    ]
    for name, figures in summary["subsets"].items():
        low, high = figures["interval"]
        accuracy = f"{figures['accuracy']:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(f"{name:>18}  {accuracy}   Bayes-optimal {figures['bayes']:.3f}")
    clip = summary["prediction"]
    lines.append(f"{clip['file']}: predicted {clip['emotion']} ({clip['probability']:.0%}), true {clip['truth']}")
    lines.append(f"{summary['seconds']:.0f} s; a generated corpus says nothing about the paper's tables")
    return "\n".join(lines)
