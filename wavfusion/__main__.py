"""Run the command line, as `wavfusion` or `python -m wavfusion`."""

import sys

from wavfusion.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
