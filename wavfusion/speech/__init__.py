"""What is in a recording of speech: who speaks when, which words, which language, how well it can be heard.

Given the audio of a recording, gives its segments, speakers, words and warnings. May import `media` and `transcripts`.
"""
