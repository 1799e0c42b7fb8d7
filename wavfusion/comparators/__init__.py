"""What the fusion has to beat on the same stored features.

Given stored features and labels, gives probabilities in the form that evaluation uses. May import `features` and what
lies below it.
"""
