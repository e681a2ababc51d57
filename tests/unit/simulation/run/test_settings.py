import dataclasses
import json

import numpy as np
import pytest

from openmm_scoremd.errors import CheckpointError, InvalidInputError
from openmm_scoremd.simulation.run.settings import (
    RunSettings,
    derived_seed,
    parse_time,
    steps_of_time,
)


@pytest.mark.parametrize(
    ("text", "picoseconds"),
    [("10ns", 1e4), ("0.5 us", 5e5), ("2µs", 2e6), ("40fs", 0.04), ("3", 3.0), ("1e-3ns", 1.0)],
)
def test_times(text, picoseconds):
    assert parse_time(text) == pytest.approx(picoseconds)
    assert steps_of_time(text, 0.002) == round(picoseconds / 0.002)


@pytest.mark.parametrize("text", ["", "ns", "10 hours", "-3ps", "0ps", "1.2.3ns", "1e400", "nan"])
def test_no_times(text):
    with pytest.raises(InvalidInputError, match="is no time"):
        parse_time(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicas": 0}, "replicas is 0; it must be at least 1"),
        ({"interval": 0}, "interval is 0"),
        ({"equilibration": -1}, "equilibration is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"jump_interval": -5}, "jump_interval is -5"),
        ({"interval": 20_000}, "there would be no frame"),
        ({"steps": 2**31}, "count to 2147483647"),
        ({"format": "pdb"}, "format is 'pdb'; it must be one of dcd, xtc"),
        ({"files": "both"}, "files is 'both'"),
        ({"on_failure": "ignore"}, "on_failure is 'ignore'"),
        ({"recentring": "perhaps"}, "recentring is 'perhaps'"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"margin": "wide"}, "margin is 'wide'"),
        ({"friction": -1}, "friction is -1/ps; it must be positive"),
        ({"friction": float("inf")}, "friction is inf/ps"),
        ({"timestep": -1}, "timestep is -1 ps; it must be positive"),
        ({"timestep": "2fs"}, "timestep is 2fs ps"),
        ({"temperature": -5}, "temperature is -5 K; it must be positive"),
        ({"backend": "nonsense"}, "backend is 'nonsense'; it must be one of auto"),
        ({"replicas": 2.5}, "replicas is 2.5; it must be a whole number"),
        ({"steps": "10"}, "steps is '10'; it must be a whole number"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds is -1.0"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        RunSettings(**changes)


def test_numbers_of_numpy_are_numbers():
    settings = RunSettings(replicas=np.int64(3), seed=np.uint8(2), timestep=np.float32(0.5))
    assert json.loads(json.dumps(settings.to_dict()))["replicas"] == 3
    assert (type(settings.seed), type(settings.timestep)) == (int, float)


def test_round_trip():
    settings = RunSettings(margin=float("inf"), temperature=310.0, format="xtc")
    assert RunSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    for content in ({}, {**settings.to_dict(), "extra": 1}, {**settings.to_dict(), "seed": -1}):
        with pytest.raises(CheckpointError, match="cannot be read"):
            RunSettings.from_dict(content)


def test_what_may_change_and_what_not():
    settings = RunSettings()
    may = {"steps": 99_999, "on_failure": "freeze", "checkpoint_seconds": 1.0}
    settings.check_given({**may, "platform": "CPU", "margin": None})
    assert dataclasses.asdict(settings.changed(**may)) == dataclasses.asdict(settings) | may
    assert settings.changed() == settings
    for field in dataclasses.fields(settings):
        if field.name not in {*may, "platform"}:
            with pytest.raises(CheckpointError, match=f"{field.name} is other and was"):
                settings.check_given({field.name: "other"})


def test_seeds_are_all_different():
    keys = [
        (seed, purpose, step) for seed in range(5) for purpose in range(4) for step in range(50)
    ]
    seeds = {derived_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(1 <= seed < 2**31 for seed in seeds)
    assert derived_seed(1, 2, 3) == derived_seed(1, 2, 3)
