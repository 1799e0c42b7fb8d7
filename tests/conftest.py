import os

# Before torch and the hub's client are imported: a hub id then fails at once, and test workers share the cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
