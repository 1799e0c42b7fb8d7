"""Mutated inputs of every kind: no trace, no hang, bounded memory, nothing written outside (CONTRIBUTING.md)."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import TRANSCRIPTS, mutate_transcript

from wavfusion import transcripts
from wavfusion.errors import CorpusError


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_300_mutated_inputs_end_in_a_result_or_in_one_clear_line(tmp_path: Path) -> None:
    program = [sys.executable, str(Path(__file__).with_name("hostile.py")), "--count", "300", "--workers", "1"]
    found = subprocess.run([*program, "--failures", str(tmp_path)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr[-3000:]


@settings(max_examples=200)
@given(ending=st.sampled_from(sorted(TRANSCRIPTS)), drawn=st.randoms(use_true_random=False))
def test_a_mutated_transcript_is_read_in_order_of_time_or_refused(
    ending: str, drawn: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"mutated.{ending}"
    path.write_bytes(mutate_transcript(drawn, ending))
    try:
        segments = transcripts.read(path)
    except CorpusError as error:
        assert "\n" not in str(error)
        return
    times = [(each.start, each.end) for each in segments]
    assert times == sorted(times) and all(0 <= start < end for start, end in times)
