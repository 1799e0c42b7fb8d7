import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from wavfusion.bench import suites
from wavfusion.bench.baseline import BaselineEncoders, decode_video_frames, decode_waveform
from wavfusion.bench.data import Measurement, encoders_of
from wavfusion.bench.suites import measured_side, run_suites
from wavfusion.cli.app import main
from wavfusion.encoders.whisper import WhisperEncoder
from wavfusion.errors import ConfigError, CorpusError
from wavfusion.features.extract import shipped_layers
from wavfusion.media import decode_audio, decode_frames, write_video


def test_bench_compares_all_suites_and_its_parts_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--preset", "tiny", "--batch", "2", "--repeats", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hardware"]["matmul_gflops"] > 0 and found["hardware"]["fit"] == (found["hardware"]["load"] <= 0.3)
    for name in suites.UNITS:
        each = found[name]
        assert each["ratio"]["low"] <= each["ratio"]["median"] <= each["ratio"]["high"]
        assert min(each[key] for key in ("ours", "baseline", "peak_memory_mb", "useful_seconds_per_s")) > 0
        assert 0 < each["fraction_of_peak"] < 1
    seconds = [found[name]["useful_seconds_per_s"] / found[name]["ours"] for name in ("train", "train_without_video")]
    assert seconds[0] == pytest.approx(seconds[1])  # the same recordings


@pytest.mark.slow
def test_growth_measures_every_size_and_says_what_a_second_of_audio_costs() -> None:
    found = run_suites("train", "tiny", batch=2, repeats=1, times=(1, 2))
    for name in suites.SUITES["train"]:
        small, large = found["growth"][name]
        assert (small["times"], large["times"]) == (1, 2) and large["units"] == 2 * small["units"]
        assert min(each[key] for each in (small, large) for key in ("seconds", "useful_seconds", "peak_memory_mb")) > 0
    assert found["growth"]["extract"] is None
    text = suites.measurements_to_text(found)
    assert text.count("ms a second of audio") == 4 and "2 x: 12 utterances" in text


def test_an_unfit_machine_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    about = {"device": "x", "cores": 2, "threads": 2, "torch": "2", "matmul_gflops": 100.0, "precision": "fp32"}
    found = {"preset": "tiny", "batch": 2, "repeats": 1, **dict.fromkeys(suites.UNITS)}
    lines = {
        fit: suites.measurements_to_text({"hardware": {**about, "load": 1.5, "fit": fit}, **found})
        for fit in (True, False)
    }
    assert "UNFIT" in lines[False] and "UNFIT" not in lines[True]


def test_the_baseline_computes_the_same_features() -> None:
    """Alone in its batch: in a padded one Hugging Face's group norm would see the padding."""
    rng = np.random.default_rng(0)
    samples, frames = rng.normal(0, 0.1, 20_000).astype(np.float32), rng.integers(0, 256, (3, 112, 112, 3), np.uint8)
    ours, text = encoders_of("tiny"), "Look at the clock!"
    assert ours.audio is not None and ours.text is not None and ours.video is not None
    audio, video = ours.audio.encode([samples], [9])[0][9], ours.video.encode(frames)
    baseline = BaselineEncoders(encoders_of("tiny"), 9, "cpu")
    torch.testing.assert_close(baseline.encode_audio([samples])[0], audio, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(baseline.encode_text([text])[0], ours.text.encode([text])[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(baseline.encode_video(frames), video, atol=1e-4, rtol=1e-4)


def test_the_baseline_of_whisper_computes_the_same_features_of_30_s(tmp_path: Path) -> None:
    """Its class pads every clip to 30 s; ours to half a second more than the clip."""
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "vocab_size": 60}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 4, "pad_token_id": 0, "decoder_start_token_id": 3}
    WhisperEncoder(transformers.WhisperModel(transformers.WhisperConfig(**sizes, **decoder)), {}, "x").save(tmp_path)
    preset = tmp_path / "mine.yaml"
    preset.write_text(f"{{audio: {tmp_path}, text: tiny, video: tiny}}")
    samples, ours = np.random.default_rng(0).normal(0, 0.1, 472_000).astype(np.float32), encoders_of(str(preset))
    assert ours.audio is not None and shipped_layers(ours) == [2]
    expected = ours.audio.encode([samples], [2])[0][2]
    baseline = BaselineEncoders(encoders_of(str(preset)), 2, "cpu")
    torch.testing.assert_close(baseline.encode_audio([samples])[0], expected, atol=1e-4, rtol=1e-4)
    assert len(baseline.encode_audio([samples[:6401]])[0]) == len(ours.audio.encode([samples[:6401]], [2])[0][2]) == 21


@pytest.mark.slow
def test_bench_takes_whisper_s_sizes() -> None:
    found = run_suites("extract", "whisper", batch=1, repeats=1)
    assert found["preset"] == "whisper" and min(found[name]["ratio"]["median"] for name in suites.SUITES["extract"]) > 1
    assert 0 < found["extract"]["fraction_of_peak"] < 1 and found["extract_audio"]["fraction_of_peak"] == 0
    assert suites.measurements_to_text(found).count("of the rate of matrix multiplications") == 1


def test_a_preset_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(ConfigError, match="did you mean 'whisper'"):
        run_suites("extract", "wisper")


@pytest.mark.parametrize(("preset", "text"), [("whisper", 768), ("light", 384)])
def test_random_encoders_of_a_shipped_preset_have_its_sizes(preset: str, text: int) -> None:
    found = encoders_of(preset)
    assert found.audio is not None and found.text is not None and found.video is not None
    assert (found.audio.width, found.audio.num_layers, found.text.width, found.video.width) == (512, 6, text, 1280)
    assert shipped_layers(found) == [4]


def test_the_baseline_decodes_the_same_length_and_nearly_the_same_frames(tmp_path: Path) -> None:
    path, times = tmp_path / "clip.mp4", np.arange(32_000) / 16_000
    slope = np.linspace(0, 255, 320).astype(np.uint8)
    images = [np.tile(np.roll(slope, 4 * i)[None, :, None], (180, 1, 3)) for i in range(50)]
    write_video(path, images, 25, (0.3 * np.sin(1000 * times)).astype(np.float32), 16_000)
    samples, frames = decode_audio(path).samples, decode_frames(path, 5.0, (112, 112)).pixels
    other_samples, other_frames = decode_waveform(path), decode_video_frames(path, 5.0, (112, 112))
    assert abs(len(samples) - len(other_samples)) < 1600 and frames.shape == other_frames.shape
    assert np.abs(frames.astype(int) - other_frames.astype(int)).mean() < 6


def test_random_encoders_of_base_have_its_sizes_and_tell_something() -> None:
    video = encoders_of("base").video
    assert video is not None and video.width == 1280
    assert float(video.encode(np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), np.uint8)).std()) > 0.01


def test_what_a_side_raises_is_raised_here(tmp_path: Path) -> None:
    job = Measurement("tiny", 2, "cpu", folder=tmp_path)
    with pytest.raises(CorpusError, match=r"expected a feature store"), measured_side("ours", "train", job):
        pass
