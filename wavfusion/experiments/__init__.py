"""Experiments: strict, typed YAML files, and the ones that ship with the package.

Given a file or a shipped name, gives the settings of one training. The tables of the paper lie here too. May import
`model` (for its settings) and the top-level modules.
"""
