import os

from hypothesis import settings

# Before torch and the hub's client are imported: a hub id then fails at once, and test workers share the cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shared or slow machine is no failure: no test is timed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
