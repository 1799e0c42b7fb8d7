"""Training from stored features; a RUN folder comes out.

Given an experiment, a manifest and a store, trains by transformers' Trainer, with checkpoints to resume from. May
import `evaluation`, `runs`, `features`, `experiments` and what lies below.
"""
