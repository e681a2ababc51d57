"""What a molecule is measured by: internal coordinates, basins, free energies."""

from openmm_scoremd._renamed import keep_old_names

keep_old_names(__name__)
