"""Speed and memory of this package against a baseline, measured in one run.

Given a preset and the suites to run, `suites` times our path and the same work done with Hugging Face's classes and
PyAV (`baseline`), and returns ratios with their range. May import every room but `cli`, `serve` and `report`.
"""
