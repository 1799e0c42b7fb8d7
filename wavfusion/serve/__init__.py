"""A web page and an HTTP API that label recordings.

Given a RUN and uploads, gives the answers that `prediction` gives, one recording after the other. May import
`prediction`, `pages` and what lies below.
"""
