"""A model's samples and trajectories against a dataset and each other."""

from openmm_scoremd._renamed import keep_old_names
from openmm_scoremd.evaluation.evaluate import evaluate

__all__ = ["evaluate"]

keep_old_names(__name__)
