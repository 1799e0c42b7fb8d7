"""Experiments: strict, typed YAML files, of which `paper`, `recommended` and `small` are shipped.

Given a file or a shipped name, gives the settings of one training. The tables of the paper, which `study` reads,
lie here. May import `model` (for its settings) and the modules at the top of the package.
"""
