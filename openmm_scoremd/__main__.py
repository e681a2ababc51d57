"""``python -m openmm_scoremd`` is the command ``scoremd``."""

import sys

from openmm_scoremd.cli import main

if __name__ == "__main__":
    sys.exit(main())
