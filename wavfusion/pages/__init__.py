"""Static HTML pages and the templates that they fill; nothing in them asks a network.

Given a template's name and its values, gives the page. May import `files` and `errors` only.
"""
