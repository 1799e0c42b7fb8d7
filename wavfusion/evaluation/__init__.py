"""Evaluation of a trained model on a part of a corpus, explanation of its parts, and checks of the corpus for leakage.

Given a RUN and stored features, gives predictions, metrics, contributions, gate values, and findings about the corpus
itself. The results are written by `runs`. May import `runs`, `features` and what lies below.
"""
