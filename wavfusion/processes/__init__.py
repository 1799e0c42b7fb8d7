"""Work spread over processes, of this machine or of a Ray cluster, and the memory of this one.

Given a function and items, gives every result once. May import `errors` only.
"""
