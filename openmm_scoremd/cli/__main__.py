"""``python -m openmm_scoremd.cli`` is the command ``scoremd``, as it was when this was one file."""

import sys

from openmm_scoremd.cli import main

if __name__ == "__main__":
    sys.exit(main())
