"""Faster equal forms of the model's modules and of the frozen encoders' parts.

Given a model, `network.accelerate` swaps its modules for ones of the same weights that compute the same faster or in
less memory; `encoders` does so for what Hugging Face loads. Only masks of dropout differ. May import `model`.
"""
