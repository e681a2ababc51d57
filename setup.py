"""Everything is declared in ``pyproject.toml``; tools that look for this file find it."""

from setuptools import setup

setup()
