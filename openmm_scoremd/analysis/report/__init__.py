"""Pages and pictures of a comparison."""

from openmm_scoremd._renamed import keep_old_names

keep_old_names(__name__)
