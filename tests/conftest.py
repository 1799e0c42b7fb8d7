import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import BROWSER, Page
from hypothesis import settings

# Before torch and the hub's client are imported: a hub id then fails at once, and test workers share the cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shared or slow machine is no failure: no test is timed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    """A tab for a module's pages; its tests are skipped where there is no browser."""
    if BROWSER is None:
        pytest.skip("chromium is not installed: `make test-slow` as root installs it, else apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile, Page(Path(profile)) as page:
        yield page
