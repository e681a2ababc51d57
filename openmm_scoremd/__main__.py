"""``python -m openmm_scoremd`` is the command ``scoremd``."""

import sys


def main() -> int:
    """Run the command line of this process; return its exit code."""
    try:
        from openmm_scoremd.cli import main as run

        return run()
    except KeyboardInterrupt:  # the command is not yet there to say so
        sys.stderr.write("error: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
