"""Conversations as tensors: turns padded to batches, who may look at whom, layers over turns, and WavFusion's context.

Given one vector an utterance and modality, gives batches of whole dialogues, and the blocks of models that see more
than one turn. Knows no file and no setting. May import `manifest`, `model` and what lies below them.
"""
