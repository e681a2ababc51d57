"""Sets of samples compared with each other: metrics, regions, basins, verdicts."""

from openmm_scoremd.analysis.statistics.uncertainty import Resampling

__all__ = ["Resampling"]
