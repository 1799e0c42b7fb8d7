"""Figures of a trained model on a part of a corpus, and what the parts of the model do.

Given a RUN and stored features, gives probabilities, `metrics.json`, `predictions.csv`, contributions, gate values, and
findings about the corpus itself (validity and leakage). May import `runs`, `features` and what lies below.
"""
