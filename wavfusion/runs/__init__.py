"""RUN folders: every file of one is written and read here.

Given a trained model and what it was trained on, writes the folder; given a folder, a results bundle or a hub id, gives
what it holds. May import `features`, `encoders`, `corpora`, `metrics` and what lies below.
"""
