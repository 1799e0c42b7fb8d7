"""Frozen features: planned, encoded once, stored, and served as padded batches.

Given a manifest, media and encoders, it fills a store; given a manifest and a store, it gives samples and batches. It
may import `encoders`, `media`, `model`, `processes` and what lies below.
"""
