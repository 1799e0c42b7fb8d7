"""Tables of trainings: planned, trained, compared, with a verdict on each claim.

Given a table (of the paper, or the user's), a manifest and a store, gives its figures, intervals and tests. May import
`training`, `evaluation`, `runs` and what lies below.
"""
