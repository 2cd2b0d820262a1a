"""``python launch.py ...`` is ``python -m fleet.launch ...``."""

import sys

from fleet.launch.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
