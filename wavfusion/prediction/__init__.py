"""A trained model on the user's own recordings.

Given a RUN and recordings, gives an emotion for each utterance, in every written format, or vectors, or the model as an
ONNX file. May import `evaluation`, `features`, `speech` and what lies below.
"""
