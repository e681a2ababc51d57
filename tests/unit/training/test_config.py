"""Configurations refuse what makes no sense, by name, and know what a resumed run may change."""

import dataclasses
import json
import math

import pytest

from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.factory import NetworkConfig
from openmm_scoremd.training.config import (
    DataConfig,
    HardwareConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
    changed_keys,
    config_record,
)

CONFIG = TrainingConfig(DataConfig("/home/somebody/data.npz"))


@pytest.mark.parametrize(
    ("section", "entries"),
    [
        (DataConfig, {"held_back_fraction": 1.0}),
        (DataConfig, {"held_back_fraction": -0.1}),
        (DataConfig, {"held_back_fraction": math.nan}),
        (DataConfig, {"augmentation": "reflection"}),
        (DataConfig, {"scale": 0.0}),
        (DataConfig, {"scale": math.inf}),
        (LossConfig, {"t_min": 0.0}),
        (LossConfig, {"t_min": 0.5, "t_max": 0.5}),
        (LossConfig, {"t_max": 1.1}),
        (LossConfig, {"time_distribution": "normal"}),
        (LossConfig, {"weight_midpoint": 0.0}),
        (LossConfig, {"weight_end": 1.5}),
        (OptimizerConfig, {"learning_rate": 1e-6}),
        (OptimizerConfig, {"learning_rate": math.inf}),
        (OptimizerConfig, {"learning_rate": math.nan}),
        (OptimizerConfig, {"final_learning_rate": -1e-6}),
        (OptimizerConfig, {"weight_decay": -1.0}),
        (OptimizerConfig, {"gradient_clip": 0.0}),
        (OptimizerConfig, {"ema_decay": 1.0}),
        (OptimizerConfig, {"ema_decay": -0.5}),
        (HardwareConfig, {"devices": 0}),
        (HardwareConfig, {"accelerator": "tpu"}),
        (HardwareConfig, {"precision": "16-true"}),
        (HardwareConfig, {"backend": "jit"}),
        (TrainingConfig, {"epochs": 0}),
        (TrainingConfig, {"batch_size": 0}),
        (TrainingConfig, {"log_steps": 0}),
        (TrainingConfig, {"seed": -1}),
        (TrainingConfig, {"seed": 2**63}),
        (TrainingConfig, {"checkpoint_seconds": -1.0}),
    ],
)
def test_bad_values_are_refused_by_name_and_value(section, entries):
    required = {DataConfig: {"path": "x.npz"}, TrainingConfig: {"data": CONFIG.data}}
    with pytest.raises(ConfigurationError) as caught:
        section(**required.get(section, {}), **entries)
    name, value = next(iter(entries.items()))
    assert name in str(caught.value)
    assert str(value) in str(caught.value)
    assert "must be" in str(caught.value)


@pytest.mark.parametrize(
    "entries",
    [
        {"network": NetworkConfig(t_min=0.1, t_max=0.6)},
        {"network": NetworkConfig(t_max=0.5)},
        {"network": NetworkConfig(vocabularies=(3,))},
        {"loss": LossConfig(time_distribution="balanced")},
        {"batch_size": 10, "hardware": HardwareConfig(devices=3)},
    ],
)
def test_parts_that_do_not_fit_each_other(entries):
    with pytest.raises(ConfigurationError, match="must be"):
        dataclasses.replace(CONFIG, **entries)


def test_parts_that_fit():
    network = NetworkConfig(t_min=0.1, t_max=0.6, noise_floor=0.1)
    loss = LossConfig(
        t_min=0.1, t_max=0.6, time_distribution="balanced", weight_start=0.1, weight_end=0.6
    )
    changes = {"batch_size": 12, "hardware": HardwareConfig(devices=3)}
    config = dataclasses.replace(CONFIG, network=network, loss=loss, **changes)
    assert config.network.noise_floor == 0.1


def test_record_is_plain_json_without_folders():
    record = config_record(CONFIG)
    assert record == json.loads(json.dumps(record))
    assert record["data"]["path"] == "data.npz"
    assert record["network"]["widths"] == [92, 92, 92]
    assert "somebody" not in json.dumps(record)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({}, []),
        ({"epochs": 7}, ["epochs"]),
        ({"seed": 1, "batch_size": 8}, ["batch_size", "seed"]),
        ({"loss": LossConfig(t_min=1e-4)}, ["loss.t_min"]),
        ({"network": NetworkConfig(width=8, heads=2)}, ["network.heads", "network.width"]),
        # These do not change what is computed.
        ({"title": "other", "log_steps": 3, "checkpoint_seconds": 1.0}, []),
        ({"data": DataConfig("elsewhere/copy.npz")}, []),
        ({"hardware": HardwareConfig(accelerator="cpu", devices=2, backend="eager")}, []),
    ],
)
def test_changed_keys(entries, expected):
    other = config_record(dataclasses.replace(CONFIG, **entries))
    assert changed_keys(config_record(CONFIG), other) == expected
    assert changed_keys(other, config_record(CONFIG)) == expected


def test_entries_that_an_older_version_did_not_know_have_their_defaults():
    old = config_record(CONFIG)
    del old["loss"]["t_max"], old["network"], old["seed"]
    assert changed_keys(old, config_record(CONFIG)) == []
    other = dataclasses.replace(CONFIG, seed=1, network=NetworkConfig(heads=2))
    assert changed_keys(old, config_record(other)) == ["network.heads", "seed"]


def test_entries_that_this_version_does_not_know_are_changes():
    old = config_record(CONFIG)
    old["dropout"] = 0.1
    old["loss"]["order"] = 2
    assert changed_keys(old, config_record(CONFIG)) == ["dropout", "loss.order"]
    assert changed_keys({**old, "network": 3}, config_record(CONFIG))[1:] == [
        "loss.order",
        "network",
    ]
