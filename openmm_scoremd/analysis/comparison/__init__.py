"""Sets of samples compared with each other: metrics, regions, basins, verdicts."""

from openmm_scoremd._renamed import keep_old_names
from openmm_scoremd.analysis.statistics.uncertainty import Resampling

__all__ = ["Resampling"]

keep_old_names(__name__)
