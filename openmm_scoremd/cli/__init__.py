"""The command ``scoremd``: one file per group of commands; nothing else imports it."""

from openmm_scoremd.cli.main import main

__all__ = ["main"]
