"""Work in several processes, of this machine (`pool`) or of a Ray cluster (`ray`), and its time.

Given a function and items, gives every result once. May import `errors` only.
"""
