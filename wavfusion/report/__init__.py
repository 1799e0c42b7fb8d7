"""Report pages: of one RUN or several side by side, of a corpus, of a study's tables.

Given RUN folders, manifests or a study's results, gives one static HTML file. May import every room but `cli` and
`serve`.
"""
