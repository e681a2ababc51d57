"""The graph transformer: its family, its network, and its folded and explicit forms."""

from openmm_scoremd._renamed import keep_old_names

keep_old_names(__name__)
