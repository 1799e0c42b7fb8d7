"""Speed and memory of this package against a baseline, measured in one run.

Given a preset and a suite, times our path and the same work done with Hugging Face's classes and PyAV, each in a
process of its own, and gives ratios with their range; or measures ours alone over more and more data. May import every
room but `cli`, `serve` and `report`.
"""
