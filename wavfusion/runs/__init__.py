"""RUN folders: every file of one is written and read here.

Given a trained model and what it was trained on, writes the folder; given a folder, a results bundle or a hub id, gives
its contents. May import `features`, `encoders`, `experiments`, `corpora`, `metrics` and what lies below.
"""
