"""What the fusion is compared with on the same test part: baselines on the same stored features, and acoustic ones.

Given stored features, or the media, with labels, gives probabilities in the form that evaluation uses. May import
`evaluation`, `features` and what lies below them.
"""
