"""Model files: what they say about themselves, and how they are loaded."""

from openmm_scoremd._renamed import keep_old_names

keep_old_names(__name__)
