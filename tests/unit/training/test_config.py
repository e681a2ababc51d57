"""Configurations refuse what makes no sense, by name, and know what a resumed run may change."""

import dataclasses
import json
import math

import pytest

from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.models.mlp import MLPConfig
from openmm_scoremd.training.config import (
    DataConfig,
    ExpertConfig,
    FokkerPlanckConfig,
    HardwareConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
    changed_keys,
    config_record,
    expert_config,
    serving_experts,
)

CONFIG = TrainingConfig(DataConfig("/home/somebody/data.npz"))


@pytest.mark.parametrize(
    ("section", "entries"),
    [
        (DataConfig, {"held_out_fraction": 1.0}),
        (DataConfig, {"held_out_fraction": -0.1}),
        (DataConfig, {"held_out_fraction": math.nan}),
        (DataConfig, {"augmentation": "reflection"}),
        (DataConfig, {"split": "random"}),
        (DataConfig, {"scale": 0.0}),
        (DataConfig, {"scale": math.inf}),
        (LossConfig, {"t_min": 0.0}),
        (LossConfig, {"t_min": 0.5, "t_max": 0.5}),
        (LossConfig, {"t_max": 1.1}),
        (LossConfig, {"time_distribution": "normal"}),
        (LossConfig, {"weight_midpoint": 0.0}),
        (LossConfig, {"weight_end": 1.5}),
        (FokkerPlanckConfig, {"alpha": -1e-3}),
        (FokkerPlanckConfig, {"alpha": math.inf}),
        (FokkerPlanckConfig, {"alpha": math.nan}),
        (FokkerPlanckConfig, {"frames": "all"}),
        (FokkerPlanckConfig, {"times": "all"}),
        (FokkerPlanckConfig, {"region_alpha": 1.0}),
        (FokkerPlanckConfig, {"region_alpha": -1.0, "frames": "regions"}),
        (FokkerPlanckConfig, {"region_alpha": math.inf, "frames": "regions"}),
        (FokkerPlanckConfig, {"region_size": 1, "frames": "regions", "group_size": 8}),
        (FokkerPlanckConfig, {"region_size": 6, "frames": "regions", "group_size": 6}),
        (FokkerPlanckConfig, {"region_size": 6, "frames": "regions", "group_size": 16}),
        (FokkerPlanckConfig, {"estimator": "exact"}),
        (FokkerPlanckConfig, {"fraction": 0.0}),
        (FokkerPlanckConfig, {"fraction": 1.1}),
        (FokkerPlanckConfig, {"group_size": 1}),
        (FokkerPlanckConfig, {"probe_sigma": 0.0}),
        (FokkerPlanckConfig, {"probe_sigma": 1.0}),
        (FokkerPlanckConfig, {"frames": "everywhere"}),
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
        (HardwareConfig, {"threads": 0}),
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
        {"network": GraphTransformerConfig(t_min=0.1, t_max=0.6)},
        {"network": GraphTransformerConfig(t_max=0.5)},
        {"network": GraphTransformerConfig(vocabularies=(3,))},
        {"loss": LossConfig(time_distribution="balanced")},
        {"batch_size": 10, "hardware": HardwareConfig(devices=3)},
    ],
)
def test_parts_that_do_not_fit_each_other(entries):
    with pytest.raises(ConfigurationError, match="must be"):
        dataclasses.replace(CONFIG, **entries)


def test_parts_that_fit():
    network = GraphTransformerConfig(t_min=0.1, t_max=0.6, noise_floor=0.1)
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
    assert record["network"]["family"] == "graph-transformer"
    assert "somebody" not in json.dumps(record)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({}, []),
        ({"seed": 1, "batch_size": 8}, ["batch_size", "seed"]),
        ({"loss": LossConfig(t_min=1e-4)}, ["loss.t_min"]),
        (
            {"network": GraphTransformerConfig(hidden_dim=8, heads=2)},
            ["network.heads", "network.hidden_dim"],
        ),
        # A run may be made longer, and its weights chosen again.
        ({"epochs": 7}, []),
        ({"epochs": None, "steps": 7, "weights": "best"}, []),
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
    other = dataclasses.replace(CONFIG, seed=1, network=GraphTransformerConfig(heads=2))
    assert changed_keys(old, config_record(other)) == ["network.heads", "seed"]


def test_runs_of_earlier_versions_held_single_frames_out():
    old = config_record(CONFIG)
    del old["data"]["split"]
    assert changed_keys(old, config_record(CONFIG)) == ["data.split"]
    same = dataclasses.replace(CONFIG, data=DataConfig("data.npz", split="frames"))
    assert changed_keys(old, config_record(same)) == []


def test_runs_of_earlier_versions_go_on():
    # Their records have all entries of all families, under former names.
    network = {
        "kind": "mlp", "output": "conservative", "t_min": 0.0, "t_max": 1.0, "noise_floor": None,
        "width": 96, "layers": 2, "heads": 8, "head_width": 64, "vocabularies": [],
        "feature_width": 16, "widths": [8, 8],
    }  # fmt: skip
    config = dataclasses.replace(CONFIG, network=MLPConfig(hidden_dims=(8, 8)))
    new = config_record(config)
    old = {**new, "network": network, "data": {**new["data"], "held_back_fraction": 0.2}}
    del old["data"]["held_out_fraction"]
    assert changed_keys(old, new) == []
    assert changed_keys({**old, "network": {**network, "widths": [8]}}, new) == [
        "network.hidden_dims"
    ]


def test_entries_that_this_version_does_not_know_are_changes():
    old = config_record(CONFIG)
    old["dropout"] = 0.1
    old["loss"]["order"] = 2
    assert changed_keys(old, config_record(CONFIG)) == ["dropout", "loss.order"]
    assert changed_keys({**old, "network": 3}, config_record(CONFIG))[1:] == [
        "loss.order",
        "network",
    ]


# --- The regulariser -------------------------------------------------------------------------

FLOOR = GraphTransformerConfig(noise_floor=0.01)


def regularised(*, network=FLOOR, batch_size=32, devices=1, **entries):
    return dataclasses.replace(
        CONFIG,
        network=network,
        fokker_planck=FokkerPlanckConfig(**{"alpha": 1e-3, **entries}),
        batch_size=batch_size,
        hardware=HardwareConfig(devices=devices),
    )


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        (
            {"network": GraphTransformerConfig(output="direct")},
            r"fokker_planck\.alpha is 0\.001; .* output: direct, which has no density",
        ),
        (
            {"network": GraphTransformerConfig(), "estimator": "centred"},
            r"fokker_planck\.estimator is 'centred'; .* unless network\.noise_floor is set",
        ),
        (
            {"estimator": "centred", "fraction": 0.5, "group_size": 5},
            r"fokker_planck\.fraction is 0\.5; .* multiple of 5 \(group_size x devices\), not 16",
        ),
        ({"estimator": "centred", "fraction": 0.1, "group_size": 8}, "multiple of 8 .*, not 3"),
        (
            {"estimator": "centred", "fraction": 0.75, "group_size": 8, "devices": 2},
            "multiple of 16 .*, not 24",
        ),
        # No frame at all, or none for one of the processes.
        ({"fraction": 0.01}, r"fokker_planck\.fraction is 0\.01; .* multiple of 1 .*, not 0"),
        ({"fraction": 0.03, "devices": 2}, r"multiple of 2 \(devices\), not 1"),
        ({"fraction": 0.1, "devices": 2}, "multiple of 2 .*, not 3"),
        (
            {"frames": "spread", "fraction": 0.5},
            r"fokker_planck\.frames is 'spread'; .* unless fokker_planck\.estimator is 'centred'",
        ),
        # Nothing would be left to learn from.
        (
            {"frames": "spread", "estimator": "centred"},
            r"fokker_planck\.fraction is 1\.0; .* below 1 with frames: spread",
        ),
    ],
)
def test_regularisers_that_do_not_fit(entries, match):
    with pytest.raises(ConfigurationError, match=match):
        regularised(**entries)


@pytest.mark.parametrize(
    ("entries", "n_frames"),
    [
        ({}, 32),
        ({"network": GraphTransformerConfig()}, 32),
        ({"fraction": 0.1}, 3),
        ({"fraction": 0.25, "devices": 4}, 8),
        ({"estimator": "centred"}, 32),
        ({"estimator": "centred", "fraction": 0.5, "group_size": 4, "devices": 2}, 16),
        # 0.28 x 200 is 56.00000000000001.
        ({"estimator": "centred", "fraction": 0.28, "batch_size": 200}, 56),
        ({"estimator": "centred", "frames": "spread", "fraction": 0.5}, 16),
        # Without weight nothing of it matters.
        (
            {
                "alpha": 0.0,
                "network": GraphTransformerConfig(output="direct"),
                "estimator": "centred",
            },
            0,
        ),
        ({"alpha": 0.0, "fraction": 0.001}, 0),
    ],
)
def test_regularisers_that_fit(entries, n_frames):
    config = regularised(**entries)
    assert config.fokker_planck.n_frames(config.batch_size) == n_frames


# --- Experts ---------------------------------------------------------------------------------


def high(**entries):
    loss = LossConfig(0.5, 1.0, weight_start=0.5, weight_midpoint=0.8)
    given = {"name": "high", "t_min": 0.6, "t_max": 1.0, "loss": loss}
    return ExpertConfig(**{**given, **entries})


def low(**entries):
    return ExpertConfig(**{"name": "low", "t_min": 1e-5, "t_max": 0.6, **entries})


def mixture(*experts, **entries):
    return dataclasses.replace(CONFIG, experts=experts, **entries)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: mixture(high(), low(t_max=0.5)), r"experts: .*\[1e-05, 0.5\].* leave a gap"),
        (lambda: mixture(high(), low(t_max=0.7)), r"experts: .*\[1e-05, 0.7\].* overlap"),
        (lambda: mixture(high(t_max=0.9), low()), "experts is .* such that the last ends at 1"),
        (lambda: mixture(low()), "experts is .* such that the last ends at 1"),
        (lambda: mixture(high(), low(name="high")), r"experts\.name is 'high'; .* used once"),
        (
            lambda: mixture(high(start_from="low"), low()),
            r"start_from of expert high is 'low'; .* an expert listed before it \(none\)",
        ),
        (
            lambda: mixture(high(), low(start_from="low")),
            r"start_from of expert low is 'low'; .* before it \(high\)",
        ),
        (lambda: mixture(high(), low(start_from="hihg")), "start_from of expert low is 'hihg'"),
        (lambda: high(name=""), r"experts\.name is ''; .* it names a folder"),
        (lambda: high(name="../up"), r"experts\.name is '../up'"),
        (lambda: high(name="a/b"), r"experts\.name is 'a/b'"),
        (lambda: high(name=".hidden"), r"experts\.name is '.hidden'"),
        (lambda: high(t_min=0.4), r"interval of expert high is \(0.4, 1.0\); .* \(0.5, 1.0\)"),
        (lambda: mixture(high(t_min=1.0), low()), "experts is .* such that the last ends at 1"),
        (lambda: mixture(high(t_min=1.0)), r"experts is \[\]; .* one of them serves some times"),
        (lambda: high(t_max=math.nan), "interval of expert high"),
        # What would not do for a run of its own.
        (lambda: mixture(high(epochs=0), low()), "expert high: epochs is 0"),
        (
            lambda: mixture(high(), low(network=GraphTransformerConfig(t_min=0.1))),
            r"expert low: loss\.t_min, loss\.t_max is",
        ),
        (
            lambda: mixture(
                high(
                    network=GraphTransformerConfig(output="direct"),
                    fokker_planck=FokkerPlanckConfig(alpha=1e-3),
                ),
                low(),
            ),
            r"expert high: fokker_planck\.alpha is 0\.001",
        ),
        (
            lambda: mixture(
                high(), low(fokker_planck=FokkerPlanckConfig(alpha=1e-3, estimator="centred"))
            ),
            r"expert low: fokker_planck\.estimator is 'centred'",
        ),
        (
            lambda: mixture(high(), low(loss=LossConfig(time_distribution="balanced"))),
            r"expert low: loss\.time_distribution",
        ),
    ],
)
def test_experts_that_do_not_fit(make, match):
    with pytest.raises(ConfigurationError, match=match):
        make()


def test_a_stage_serves_no_times():
    config = mixture(low(t_max=1.0), low(name="stage", t_min=0.3, t_max=0.3, start_from="low"))
    assert [expert.name for expert in serving_experts(config)] == ["low"]


@pytest.mark.parametrize(
    "entries",
    [
        {"network": GraphTransformerConfig(hidden_dim=8)},
        {"loss": LossConfig(t_min=1e-4)},
        {"fokker_planck": FokkerPlanckConfig(alpha=1e-3)},
        {"epochs": 7},
        {"epochs": None, "steps": 7},
        {"start_from": "weights.safetensors"},
    ],
)
def test_what_belongs_to_each_expert_is_refused_beside_them(entries):
    name = next(iter(entries))
    with pytest.raises(ConfigurationError, match=f"^{name} is given beside experts; .* for each"):
        mixture(high(), low(), **entries)


def test_what_all_experts_share():
    config = mixture(
        high(epochs=4, optimizer=OptimizerConfig(weight_decay=0.0)),
        low(start_from="high", network=GraphTransformerConfig(hidden_dim=8)),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        seed=4,
        batch_size=32,
        title="Toy",
    )
    first, second = (expert_config(config, expert) for expert in config.experts)
    assert (first.title, second.title) == ("Toy (high)", "Toy (low)")
    assert (first.epochs, second.epochs) == (4, 100)
    assert first.optimizer == OptimizerConfig(weight_decay=0.0)
    assert second.optimizer == OptimizerConfig(learning_rate=3e-3)
    assert (first.loss.t_min, second.loss.t_min) == (0.5, 1e-5)
    assert (first.network.hidden_dim, second.network.hidden_dim) == (96, 8)
    for single in (first, second):
        assert (single.seed, single.batch_size, single.data) == (4, 32, config.data)
        assert single.experts == ()


def test_records_of_experts():
    config = mixture(high(), low(start_from="high"))
    record = config_record(config)
    assert record == json.loads(json.dumps(record))
    assert [expert["name"] for expert in record["experts"]] == ["high", "low"]
    assert changed_keys(record, config_record(config)) == []
    other = config_record(mixture(high(epochs=3), low(start_from="high")))
    assert changed_keys(record, other) == ["experts"]
    old = config_record(CONFIG)
    del old["experts"], old["fokker_planck"], old["start_from"]
    assert changed_keys(old, config_record(CONFIG)) == []
    new = dataclasses.replace(CONFIG, fokker_planck=FokkerPlanckConfig(alpha=1e-3))
    assert changed_keys(old, config_record(new)) == ["fokker_planck.alpha"]


def test_the_file_a_run_started_from_is_named_without_folders():
    config = dataclasses.replace(CONFIG, start_from="/home/somebody/weights.safetensors")
    assert config_record(config)["start_from"] == "weights.safetensors"
    # The weights of a run that goes on are in its checkpoint.
    assert changed_keys(config_record(CONFIG), config_record(config)) == []


@pytest.mark.parametrize("make", [lambda **given: TrainingConfig(DataConfig("x"), **given), low])
def test_length_in_epochs_or_in_steps(make):
    assert (make().epochs, make().steps) == (100, None)
    assert (make(steps=5).epochs, make(steps=5).steps) == (None, 5)
    assert (make(epochs=5).epochs, make(epochs=5).steps) == (5, None)
    for given in ({"epochs": 3, "steps": 5}, {"steps": 0}):
        with pytest.raises(ConfigurationError, match=r"steps is"):
            make(**given)


def test_best_weights_need_held_out_frames():
    with pytest.raises(ConfigurationError, match="weights is 'best'; it must be 'last' unless"):
        TrainingConfig(DataConfig("x", held_out_fraction=0.0), weights="best")
    with pytest.raises(ConfigurationError, match="weights is first"):
        TrainingConfig(DataConfig("x"), weights="first")
