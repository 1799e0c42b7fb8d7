"""The command line: arguments in, an exit status out.

One file for a verb or a few; a verb imports what it needs when it is called, so that `--help` never imports torch. May
import every other room; no room imports this one.
"""
