"""Verbs killed at random moments: no orphan, no torn file, nothing lost, the same result again (CONTRIBUTING.md)."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_20_killed_verbs_leave_whole_files_and_no_process_and_end_the_same_when_run_again(tmp_path: Path) -> None:
    program = [sys.executable, str(Path(__file__).with_name("kills.py")), "--count", "20", "--workers", "1"]
    found = subprocess.run([*program, "--failures", str(tmp_path)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr[-3000:]
