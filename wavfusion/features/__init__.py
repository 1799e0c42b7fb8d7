"""Frozen features: planned, encoded once, stored, and served as padded batches.

Given a manifest, media and encoders, fills a store; given a manifest and a store, gives samples and batches. May import
`encoders`, `media`, `model` and what lies below.
"""
