"""Two processes on the CPU against one with the double batch; run as a program, this file is one of the two."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from wavfusion.errors import ConfigError
from wavfusion.features.batches import LengthBatches, add_absent_modalities, collate, model_inputs
from wavfusion.features.dataset import Sample, SampleOrigin
from wavfusion.model import WavFusion, WavFusionConfig
from wavfusion.model.config import MODALITIES
from wavfusion.model.sequence import MaskedBatchNorm
from wavfusion.training import train
from wavfusion.training.distributed import synchronise

pytest_plugins = ("corpus_fixture",)

SIZES = {
    "classes": ["happy", "sad", "neutral"],
    "hidden_size": 32,
    "num_heads": 4,
    "intermediate_size": 48,
    "num_layers": 4,
    "fusion_layers": 2,
    "trainable_layers": 2,
    "margin_audio_layer": 2,
    "text_size": 24,
    "video_size": 12,
    "video_width": 8,
    "dropout": 0.0,
}
CASES: dict[str, dict[str, Any]] = {
    "paper": {},
    "mean per anchor, class weights": {"margin": {"reduction": "anchor"}, "task_loss": "balanced"},
    "soft labels, weighted text": {"task_loss": "soft", "text_layers": "weighted", "num_text_layers": 2},
    "concat, LVC of means": {"fusion": "concat", "lvc_pool": "mean"},
    "mult": {"fusion": "mult"},
    "video": {"modalities": ["video"]},
}
# The second process has every second sample: no video in them, and one fewer.
LENGTHS = {"audio": [40, 17, 33, 5, 36, 8, 0], "text": [6, 3, 1, 9, 0, 2, 4], "video": [4, 0, 1, 0, 7, 0, 2]}
NOTHING = SampleOrigin("", None, None, None, 0.0)


def build(case: str) -> tuple[WavFusion, list[Sample]]:
    """A model and its samples, the same in every process."""
    config = WavFusionConfig.from_json({**SIZES, **CASES[case]})
    random = torch.Generator().manual_seed(1)
    samples = []
    for i in range(len(LENGTHS["audio"])):
        drawn = {
            name: torch.randn(config.feature_shape(name, LENGTHS[name][i]), generator=random) for name in MODALITIES
        }
        there = {name: x if x.shape[-2] and name in config.modalities else None for name, x in drawn.items()}
        shares = torch.rand(3, generator=random).softmax(0).tolist()
        samples.append(Sample(NOTHING, **there, label=shares if config.task_loss == "soft" else i % 3))
    torch.manual_seed(0)
    model = WavFusion(config).train()
    model.class_weights.copy_(torch.tensor([0.5, 2.0, 0.5]))
    return model, [each for each in samples if any(getattr(each, name) is not None for name in config.modalities)]


def learned(case: str, rank: int | None = None) -> dict[str, Any]:
    """Losses, gradients and moments of one step: of all samples, or of a process's share of them."""
    model, samples = build(case)
    network: Any = model
    if rank is not None:
        none = [0.0] * 3 if model.config.task_loss == "soft" else 0
        samples += [Sample(NOTHING, label=none)] * (len(samples) % 2)
        samples = samples[rank::2]
        network = DistributedDataParallel(synchronise(model), find_unused_parameters=True)
    inputs = model_inputs(collate(samples), model.config.modalities, "cpu")
    output = network(
        **(inputs if rank is None else add_absent_modalities(inputs, model.config.modalities, model.config))
    )
    output.loss.backward()
    gradients = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
    return {
        "losses": {**output.losses, "all": output.loss},
        "gradients": gradients,
        "buffers": dict(model.named_buffers()),
    }


def normalised(some: list[int], rank: int | None = None) -> Any:
    """Moments and the gradient of what comes out of a norm over rows of some lengths."""
    x = torch.randn(len(some), 5, 3, generator=torch.Generator().manual_seed(2))
    mask = torch.arange(5) < torch.tensor(some)[:, None]
    pull = torch.linspace(0, 1, x.numel()).view(x.shape).square() * mask[..., None]
    rows = slice(rank, None, None if rank is None else 2)
    x = x[rows].requires_grad_()
    norm = synchronise(MaskedBatchNorm(3)).train()
    (norm(x, mask[rows]) * pull[rows]).sum().backward()
    return norm.running_mean, norm.running_var, x.grad


MASKS = [[5, 3, 1, 4], [1, 1, 0, 0], [0, 2, 0, 5], [1, 0, 0, 0], [0, 0, 0, 0]]


def data_of(manifest: Path, store: Path) -> train.Data:
    """17 training utterances, half without video and a third without text: steps of 4, 4, 4, 4 and 1."""
    data = train.read_data(manifest, store)
    chosen = data.protocol.ids("train")[:17]
    rows = [
        replace(row, video=None if i % 2 else row.video, text=None if i % 3 == 1 else row.text)
        for i, row in enumerate(data.utterances)
    ]
    return replace(data, utterances=rows, protocol=data.protocol.restricted({*chosen, *data.protocol.ids("valid")}))


def experiment_of(batch_size: int, **more: Any) -> Any:
    """Rates so low that a weight whose gradient is rounding alone, which Adam scales up to a step, stays in bounds."""
    from corpus_fixture import setting  # pytest wants to import it first

    rates = {"train__new_rate": 1e-5, "train__pretrained_rate": 1e-5}
    return setting(train__batch_size=batch_size, train__epochs=2, model__dropout=0, **rates, **more)


def cut_short(run: Path, into: Path) -> None:
    """Copy a RUN as a kill while its last checkpoint is written leaves it."""
    shutil.copytree(run, into)
    (into / "model.safetensors").unlink()
    (into / "checkpoints" / "checkpoint-10" / "complete").unlink()


def work(folder: Path, rank: int) -> None:
    """Do what one of the two processes does, and write what came out."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(
        {"steps": {case: learned(case, rank) for case in CASES}, "norms": [normalised(some, rank) for some in MASKS]},
        folder / f"{rank}.pt",
    )
    data = data_of(*map(Path, json.loads((folder / "data.json").read_text())))
    setting = experiment_of(2, train__mode="live", model__modalities="[audio]", model__time_mask=0.2)
    told = [train.train(experiment_of(2), data, folder / "two"), train.train(setting, data, folder / "random")]
    if rank == 0:
        cut_short(folder / "random", folder / "again")
    distributed.barrier()
    told.append(train.train(setting, data, folder / "again", resume=True))
    (folder / f"{rank}.json").write_text(json.dumps([list(each) for each in told]))


def launch(command: list[str], **environment: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env={**os.environ, **environment}, text=True, **pipes)


@pytest.fixture(scope="module")
def two(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What two processes wrote, and what one with the double batch does."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "data.json").write_text(json.dumps([str(made.manifest), str(made.store)]))
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    running = [
        launch([sys.executable, __file__, str(folder), str(rank)], RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank in range(2)
    ]
    data = data_of(made.manifest, made.store)
    train.train(experiment_of(4), data, folder / "one")
    said = [process.communicate(timeout=500) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
    told = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return SimpleNamespace(folder=folder, data=data, found=found, told=told, said=said)


# ------------------------------------------------------------------ one step


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_each_of_two_processes_has_the_losses_of_the_double_batch(two: Any, case: str, rank: int) -> None:
    assert_close(two.found[rank]["steps"][case]["losses"], learned(case)["losses"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_each_of_two_processes_has_the_gradients_of_the_double_batch(two: Any, case: str, rank: int) -> None:
    """The moments of each process's own frames gave other gradients, and so did triplets within each process."""
    assert_close(two.found[rank]["steps"][case]["gradients"], learned(case)["gradients"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_moments_of_the_double_batch(two: Any, case: str) -> None:
    assert_close(two.found[1]["steps"][case]["buffers"], learned(case)["buffers"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("number", range(len(MASKS)), ids=map(str, MASKS))
def test_a_norm_over_two_processes_is_the_norm_of_all_their_frames(two: Any, number: int) -> None:
    (mean, variance, first), (_, _, second) = (found["norms"][number] for found in two.found)
    gradient = torch.stack([first, second], dim=1).flatten(0, 1)
    assert_close((mean, variance, gradient), normalised(MASKS[number]), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------ batches


def epoch(lengths: list[float], batch_size: int, processes: int) -> list[int | None]:
    sampler = LengthBatches(lengths, batch_size, 0, processes)
    sampler.set_epoch(3)
    order = list(sampler)
    assert len(order) == len(sampler)
    return order


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 15), min_size=1, max_size=99), st.integers(1, 5), st.integers(2, 4))
def test_processes_share_the_steps_of_one(lengths: list[float], batch_size: int, processes: int) -> None:
    size = batch_size * processes
    whole, shared = epoch(lengths, size, 1), epoch(lengths, batch_size, processes)
    steps = [{*shared[i : i + size]} - {None} for i in range(0, len(shared), size)]
    assert steps == [{*whole[i : i + size]} for i in range(0, len(whole), size)] and len(shared) % size == 0


def test_the_samples_of_a_short_step_are_spread_over_the_processes() -> None:
    last = epoch([1.0] * 11, 4, 2)[8:]
    assert [sum(number is not None for number in share) for share in (last[:4], last[4:])] == [2, 1]


# ------------------------------------------------------------------ a training


def history(run: Path) -> dict[str, torch.Tensor]:
    rows = list(csv.DictReader(io.StringIO((run / "history.csv").read_text())))
    return {name: torch.tensor([float(row[name]) for row in rows], dtype=torch.float64) for name in rows[0]}


def test_two_processes_log_what_one_with_the_double_batch_does(two: Any) -> None:
    one, both = (history(two.folder / name) for name in ("one", "two"))
    # Of the last step's single utterance alone, whose norms have few frames.
    steep = [name for name in one if name.startswith("grad")]
    assert_close({name: both.pop(name) for name in steep}, {name: one.pop(name) for name in steep}, rtol=1e-3, atol=0)
    assert_close(both, one, rtol=1e-5, atol=0)


def test_two_processes_learn_the_weights_of_one_with_the_double_batch(two: Any) -> None:
    one, both = (load_file(two.folder / name / "model.safetensors") for name in ("one", "two"))
    moments = [name for name in one if name.endswith(("running_mean", "running_var"))]
    # No weights, but moments of what 64 of them make together: on an AMD EPYC a variance is 1.6e-5 apart.
    assert_close(
        {name: both.pop(name) for name in moments}, {name: one.pop(name) for name in moments}, rtol=0, atol=5e-5
    )
    assert_close(both, one, rtol=0, atol=1e-5)


def test_two_processes_score_as_one_does(two: Any) -> None:
    one, both = (json.loads((two.folder / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert (both["accuracy"], both["confusion"]) == (one["accuracy"], one["confusion"])


def test_only_the_first_process_tells_the_figures(two: Any) -> None:
    assert [[len(each) > 0 for each in told] for told in two.told] == [[True] * 3, [False] * 3]


def test_two_processes_resume_to_the_same_bytes(two: Any) -> None:
    """Each has random numbers of its own, which time masks take, and one has nothing to hear in the last step."""
    names = ("model.safetensors", "metrics.json", "predictions.csv", "history.csv")
    assert [(two.folder / "again" / name).read_bytes() for name in names] == [
        (two.folder / "random" / name).read_bytes() for name in names
    ]


def test_the_random_numbers_of_the_processes_differ(two: Any) -> None:
    folder = two.folder / "random" / "checkpoints" / "checkpoint-5"
    states = [torch.load(folder / f"rng_state_{rank}.pth", weights_only=False)["cpu"] for rank in range(2)]
    assert not torch.equal(*states)


def test_a_training_is_not_resumed_by_another_number_of_processes(two: Any, tmp_path: Path) -> None:
    """Their batches would have another size."""
    cut_short(two.folder / "two", tmp_path / "run")
    with pytest.raises(ConfigError, match="expected the 2 processes that it was started with, found 1"):
        train.train(experiment_of(2), two.data, tmp_path / "run", resume=True)


@pytest.mark.slow
def test_the_command_line_trains_by_two_processes(made: Any, tmp_path: Path) -> None:
    said = {}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, start in (("one", [sys.executable]), ("two", [sys.executable, *launcher])):
        size = {"one": "4", "two": "2"}[name]
        flags = {"config": "paper", "manifest": made.manifest, "store": made.store, "out": tmp_path / name}
        flags |= {"train.batch_size": size, "train.epochs": 2, "model.dropout": 0}
        flags |= {"train.new_rate": 1e-5, "train.pretrained_rate": 1e-5}
        words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        process = launch([*start, "-m", "wavfusion", "train", *words])
        said[name], errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert_close(two, one, rtol=0, atol=1e-5)
    assert said["two"].replace("two", "one") == said["one"]


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]))
