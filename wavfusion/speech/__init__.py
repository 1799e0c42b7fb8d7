"""Speech in a recording: utterances, speakers, text, language and audio quality.

Given the audio of a recording, gives its segments with their speakers and text, and warnings about its quality. May
import `features` (for the length of a window), `media`, `transcripts` and `errors`.
"""
