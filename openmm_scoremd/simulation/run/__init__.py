"""Runs of replicas in a folder, which can be stopped and resumed."""

from openmm_scoremd._renamed import keep_old_names

keep_old_names(__name__)
