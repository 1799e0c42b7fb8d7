"""Baselines that the fusion is compared with on the same stored features and the same test part.

Given stored features and labels, gives probabilities in the form that evaluation uses. May import `evaluation`,
`features` and what lies below them.
"""
