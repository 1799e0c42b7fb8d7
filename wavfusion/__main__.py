"""Run the command line as `python -m wavfusion`."""

import sys

from wavfusion.cli import main

sys.exit(main())
