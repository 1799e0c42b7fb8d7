"""How a program begins: see `memory.restart_without_cache`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wavfusion.processes import memory
from wavfusion.version import __version__

PROGRAM = """
import json, os, sys
print("began", file=sys.stderr)
from wavfusion.processes.memory import restart_without_cache
restart_without_cache()
print(json.dumps([sys.argv[1:], os.environ.get("GLIBC_TUNABLES"), sys.stdin.read(), sys.flags.utf8_mode]))
sys.exit(3)
"""
glibc = pytest.mark.skipif(
    not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc's"
)


def began(tmp_path, *arguments, tunables=None, program=PROGRAM):
    """Run a program; returns what it saw, and how often it began."""
    (tmp_path / "program.py").write_text(program)
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"PYTHONPATH": str(Path(memory.__file__).parents[2])}
    environment |= {} if tunables is None else {"GLIBC_TUNABLES": tunables}
    line = [sys.executable, "-X", "utf8", str(tmp_path / "program.py"), *arguments]
    done = subprocess.run(line, env=environment, input="words", capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    return json.loads(done.stdout), done.stderr.count("began")


@glibc
def test_a_program_begins_anew_once_with_its_arguments_input_and_exit_status(tmp_path):
    arguments = ["two words", "--x", "", "é'\"$"]
    assert began(tmp_path, *arguments) == ([arguments, f"{memory.CACHE}=0", "words", 1], 2)


@glibc
def test_what_the_user_says_of_the_allocator_stays(tmp_path):
    other, own = "glibc.malloc.arena_max=2", f"{memory.CACHE}=5"
    assert began(tmp_path, tunables=other) == ([[], f"{other}:{memory.CACHE}=0", "words", 1], 2)
    assert began(tmp_path, tunables=own) == ([[], own, "words", 1], 1)


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_with_another_c_library_nothing_happens(monkeypatch, error):
    def confstr(name):
        raise error

    monkeypatch.setattr(os, "confstr", confstr, raising=False)
    monkeypatch.setattr(os, "execv", lambda *given: pytest.fail("began anew"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    memory.restart_without_cache()
    assert "GLIBC_TUNABLES" not in os.environ


@glibc
def test_where_a_program_cannot_begin_anew_it_goes_on(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    monkeypatch.setenv(memory.BEGUN, "")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    memory.restart_without_cache()


@glibc
def test_a_privileged_program_whose_settings_glibc_drops_begins_anew_but_once(tmp_path):
    """It began again without end."""
    dropped = PROGRAM.replace("from wavfusion", 'os.environ.pop("GLIBC_TUNABLES", None)\nfrom wavfusion', 1)
    assert began(tmp_path, program=dropped) == ([[], None, "words", 1], 2)


def test_a_program_that_runs_the_command_line_itself_goes_on_after_it():
    """Read from standard input, it ended in silence: its text was used up when it began anew."""
    program = "import sys\nfrom wavfusion.__main__ import run\nsys.argv = ['wavfusion', '--version']\n"
    program += "try:\n    run()\nexcept SystemExit:\n    pass\nprint('after')\n"
    environment = {name: value for name, value in os.environ.items() if name not in ("GLIBC_TUNABLES", memory.BEGUN)}
    done = subprocess.run([sys.executable], env=environment, input=program, capture_output=True, text=True)
    assert done.stdout.split() == [__version__, "after"], done.stderr


@glibc
@pytest.mark.parametrize("command", [["-m", "wavfusion"], [str(Path(sys.executable).with_name("wavfusion"))]])
def test_commands_run_without_the_cache(command):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    line = [sys.executable, "-X", "importtime", *command, "--version"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [__version__] and done.stderr.count("wavfusion.processes.memory") == 2
