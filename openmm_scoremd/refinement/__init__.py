"""An energy corrected by what its simulation shows."""

from openmm_scoremd._renamed import keep_old_names
from openmm_scoremd.refinement.refine import refine

__all__ = ["refine"]

keep_old_names(__name__)
