"""The package on systems other than Linux: what Windows lacks is hidden here, and names of files are given as there."""

import ast
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest

import wavfusion
from wavfusion.corpora.reading import list_files, path_below
from wavfusion.features.store import Store

PACKAGE = Path(wavfusion.__file__).parent
MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty")  # of Unix alone
NAMES = {  # attributes that Windows lacks
    "os": (
        "O_DIRECTORY O_NOFOLLOW O_NONBLOCK WNOHANG chown confstr fork getloadavg geteuid getpgid getuid killpg "
        "mkfifo nice posix_fadvise sched_getaffinity sched_setaffinity setsid sysconf waitid"
    ).split(),
    "signal": "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 alarm pthread_sigmask setitimer".split(),
}
IMPORT_ALL = f"""
import importlib, os, pkgutil, signal, sys
import wavfusion

def import_all():
    modules = pkgutil.walk_packages(wavfusion.__path__, "wavfusion.")
    return [importlib.import_module(each.name).__name__ for each in modules]

names = import_all()  # with all that other packages need on this system
for name in [name for name in sys.modules if name.partition(".")[0] == "wavfusion"]:
    del sys.modules[name]
sys.modules.update(dict.fromkeys({MODULES}))
for module, attributes in {NAMES}.items():
    for name in attributes:
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
import wavfusion
assert import_all() == names
print(len(names) > 80)
"""


def test_every_module_is_imported_where_the_parts_of_unix_are_missing():
    """`import fcntl` at the head of three modules kept Windows from importing the package."""
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "True\n", done.stderr


def test_names_that_windows_lacks_are_used_behind_a_question_for_the_system():
    unguarded = []
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text("utf-8")
        guarded = {
            line
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and any(word in ast.unparse(node) for word in ("hasattr(", "sys.platform", "os.name"))
            for line in range(node.lineno, node.end_lineno + 1)
        }
        unguarded += [
            f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno} {ast.unparse(node)}"
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.attr in NAMES.get(node.value.id, ())
            and node.lineno not in guarded
        ]
    assert unguarded == []


def test_the_lock_of_a_store_excludes_a_second_writer(tmp_path):
    store = Store(tmp_path / "store", create=True)
    second = (
        "import sys\nfrom filelock import Timeout\nfrom wavfusion.features.store import Store\n"
        "try:\n    Store(sys.argv[1]).lock().acquire(timeout=0.2)\nexcept Timeout:\n    print('excluded')\n"
        "else:\n    print('entered')\n"
    )
    call = [sys.executable, "-c", second, str(store.folder)]
    with store.lock():
        held = subprocess.run(call, capture_output=True, text=True, timeout=120, check=True).stdout
    free = subprocess.run(call, capture_output=True, text=True, timeout=120, check=True).stdout
    assert (held, free) == ("excluded\n", "entered\n")


@pytest.mark.parametrize("name", [r"clips\a.wav", "clips/a.wav", r"C:\corpus\clips\a.wav", "C:/corpus/clips/a.wav"])
def test_paths_of_windows_stand_in_the_manifest_with_forward_slashes(name):
    """A drive's letter was taken for a folder's name, and the manifest held a path outside the corpus."""
    assert path_below(name, PureWindowsPath(r"C:\corpus")) == "clips/a.wav"


@pytest.mark.parametrize("name", [r"D:\other\a.wav", r"\a.wav", r"..\a.wav", r"C:a.wav", "a\0.wav"])
def test_paths_of_windows_outside_the_corpus_are_refused(name):
    with pytest.raises(ValueError, match="expected a path inside"):
        path_below(name, PureWindowsPath(r"C:\corpus"))


def test_files_are_listed_with_forward_slashes(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.wav").touch()
    assert list_files(tmp_path) == ["a/b/c.wav"]
