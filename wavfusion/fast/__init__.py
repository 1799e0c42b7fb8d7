"""Faster equal forms of the model's modules and of the frozen encoders' parts.

Given a model or an encoder, swaps its modules for ones of the same weights that compute the same faster or in less
memory: `network.accelerate` (and back, `restore`) for a WavFusion, `encoders` for what Hugging Face loads. Only the
random masks of dropout are drawn otherwise. May import `model`.
"""
