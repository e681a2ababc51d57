"""Datasets of the toy chain, and models that were trained on one of them."""

import dataclasses

import numpy as np
import pytest

from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.data.dataset import CGDataset, save_dataset
from openmm_scoremd.model_file import ScoreModelFile


@pytest.fixture
def make_dataset(toy, chain, tmp_path):
    """Return a function that writes 40 frames of the toy chain; keywords change the topology."""

    def make(name="reference.npz", *, seed=0, temperature=300.0, frames=None, **changes):
        topology = dataclasses.replace(toy.metadata.topology, **changes)
        if frames is None:
            frames = chain(40, 4, seed=seed).astype(np.float32)
        save_dataset(CGDataset(frames, topology, temperature), tmp_path / name)
        return tmp_path / name, frames

    return make


@pytest.fixture
def trained_on(make_toy):
    """Return a function that makes a model that says it was trained on a dataset."""

    def make(path, training):
        toy = make_toy("trained.pt", dataset_sha256=sha256_of_file(path), training=training)
        return ScoreModelFile(toy.path)

    return make
