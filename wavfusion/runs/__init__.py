"""A RUN: the folder that a training leaves behind, in all its files.

Given a trained model, its encoders, its settings and its results, gives the folder, and reads it back; packs its results
into a bundle, and publishes it on a hub. No other room knows the names and formats of these files. May import
`features`, `encoders`, `experiments`, `corpora`, `metrics`, `fast`, `model` and the modules at the top of the package.
"""
