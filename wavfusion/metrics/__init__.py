"""Figures, intervals and paired tests, from labels and probabilities alone.

Given true and predicted emotions, gives accuracy, F1, UAR, calibration, intervals over clusters, comparisons and
verdicts. May import `errors` only.
"""

from wavfusion.metrics.scores import score

__all__ = ["score"]
