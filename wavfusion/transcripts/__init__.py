"""Who says what and when in a recording, as other programs write it.

Given a file of subtitles, annotations, speaker turns or a recogniser's output, gives its segments in order of time. May
import `errors` and `files` only. A new format is one function from the file's text to rows (in `subtitles`,
`annotations` or `tables`), and one entry in `reading.READERS`.
"""

from wavfusion.transcripts.reading import read
from wavfusion.transcripts.segment import Segment

__all__ = ["Segment", "read"]
