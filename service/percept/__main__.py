"""`python -m percept`: the command `percept`."""

import sys

from percept.server.cli import main

if __name__ == "__main__":
    sys.exit(main())
