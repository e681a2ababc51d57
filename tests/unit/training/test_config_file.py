"""Configurations from YAML and command lines: what is read, what wins, what is refused and how."""

import dataclasses
import itertools
from pathlib import Path

import jsonargparse
import pytest

from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.models.mlp import MLPConfig
from openmm_scoremd.training.config import (
    ExpertConfig,
    FokkerPlanckConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
    config_record,
    serving_experts,
)
from openmm_scoremd.training.config_file import (
    add_training_arguments,
    load_training_config,
    parse_training_arguments,
)

ROOT = Path(__file__).parents[3]
YAML = """
title: "Chain [5 beads]: test"
data:
  path: beads.npz
  held_out_fraction: 0.25
  scale: null
network:
  family: mlp
  hidden_dims: [8, 4]
  noise_floor: 0.01
optimizer:
  learning_rate: 1e-4
epochs: 7
"""


@pytest.fixture
def yaml(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(YAML)
    return path


@pytest.fixture
def parse():
    """Return a function from a command line to configuration and the other options."""

    def parse(*arguments):
        parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
        parser.add_argument("--output")
        add_training_arguments(parser, arguments)
        return parse_training_arguments(parser, arguments)

    return parse


class TestReading:
    def test_entries_and_defaults(self, yaml):
        config = load_training_config(yaml)
        assert config.title == "Chain [5 beads]: test"
        assert config.data.path == "beads.npz"
        assert config.data.held_out_fraction == 0.25
        assert config.data.scale is None
        assert config.network.hidden_dims == (8, 4)
        assert config.network.noise_floor == 0.01
        # 1e-4 without a point is text in YAML 1.1.
        assert config.optimizer.learning_rate == 1e-4
        assert config.epochs == 7
        assert config.batch_size == TrainingConfig(config.data).batch_size
        assert config.loss == TrainingConfig(config.data).loss

    def test_overrides(self, yaml):
        overrides = ["epochs=9", "network.hidden_dims=[3]", "data.scale=0.5", "title=a = b"]
        config = load_training_config(str(yaml), overrides=overrides)
        assert (config.epochs, config.network.hidden_dims, config.data.scale) == (9, (3,), 0.5)
        assert config.title == "a = b"
        unchanged = dataclasses.replace(config.data, scale=None)
        assert unchanged == load_training_config(yaml).data

    @pytest.mark.parametrize(
        "name", ["batch_size", "seed", "network.hidden_dims", "schedule.beta_min"]
    )
    def test_null_is_refused_where_nothing_may_be_missing(self, yaml, name):
        with pytest.raises(ConfigurationError, match=rf"{name} is None; it must be"):
            load_training_config(yaml, overrides=[f"{name}=null"])

    def test_null_overrides_a_number(self, yaml):
        config = load_training_config(yaml, overrides=["network.noise_floor=null"])
        assert config.network.noise_floor is None

    @pytest.mark.parametrize("path", sorted((ROOT / "examples/methods").glob("*.yaml")), ids=str)
    def test_shipped_configurations(self, path):
        config = load_training_config(path)
        molecule = next(m for m in ("alanine_dipeptide", "mueller_brown") if m in path.stem)
        assert molecule in config.data.path
        # The network that the force comes from has an energy.
        first = min(serving_experts(config), key=lambda e: e.t_min, default=config)
        assert first.network.output == "conservative"

    def test_a_record_read_back_is_the_same(self, yaml, tmp_path):
        config = load_training_config(yaml)
        # JSON is YAML: run.json of a run can be trained from again.
        again = tmp_path / "again.yaml"
        again.write_text(repr(config_record(config)).replace("None", "null"))
        assert load_training_config(again) == config

    def test_regulariser(self, yaml):
        yaml.write_text(YAML + "fokker_planck: {alpha: 5e-4}\n")
        found = load_training_config(yaml, overrides=["fokker_planck.fraction=0.5"]).fokker_planck
        assert found == FokkerPlanckConfig(alpha=5e-4, fraction=0.5)


EXPERTS = """
title: Mixture
data: {path: beads.npz}
batch_size: 32
optimizer: {learning_rate: 3e-3}
experts:
  - name: high
    t_min: 0.6
    t_max: 1
    network: {family: mlp, output: direct, hidden_dims: [8], t_min: 0.6}
    loss: {t_min: 0.6, weight_start: 0.6, weight_midpoint: 0.8}
    epochs: 3
  - name: low
    t_min: 1e-5
    t_max: 0.6
    network:
      noise_floor: 0.01
    fokker_planck: {alpha: 1e-3, estimator: centred}
    optimizer: {ema_decay: 0.9}
    start_from: high
"""


class TestExperts:
    @pytest.fixture
    def yaml(self, tmp_path):
        path = tmp_path / "experts.yaml"
        path.write_text(EXPERTS)
        return path

    def test_entries_and_defaults(self, yaml):
        high, low = load_training_config(yaml).experts
        assert high == ExpertConfig(
            "high",
            0.6,
            1.0,
            network=MLPConfig(output="direct", hidden_dims=(8,), t_min=0.6),
            loss=LossConfig(t_min=0.6, weight_start=0.6, weight_midpoint=0.8),
            epochs=3,
        )
        # Sections that are given in part, or not at all.
        assert low == ExpertConfig(
            "low",
            1e-5,
            0.6,
            network=GraphTransformerConfig(noise_floor=0.01),
            fokker_planck=FokkerPlanckConfig(alpha=1e-3, estimator="centred"),
            optimizer=OptimizerConfig(ema_decay=0.9),
            start_from="high",
        )

    def test_overrides_of_what_they_share(self, yaml):
        config = load_training_config(
            yaml, overrides=["batch_size=64", "optimizer.learning_rate=1e-3"]
        )
        assert (config.batch_size, config.optimizer.learning_rate) == (64, 1e-3)
        assert config.experts == load_training_config(yaml).experts

    def test_a_record_read_back_is_the_same(self, yaml, tmp_path):
        config = load_training_config(yaml)
        again = tmp_path / "again.yaml"
        again.write_text(repr(config_record(config)).replace("None", "null"))
        assert load_training_config(again) == config

    def test_no_experts(self, yaml):
        yaml.write_text("data: {path: beads.npz}\nexperts: []\n")
        assert load_training_config(yaml).experts == ()

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (
                "epochs: 3",
                "epoch: 3",
                r"unknown entry experts\.epoch .did you mean experts\.epochs",
            ),
            (
                "hidden_dims: [8]",
                "hidden_dmis: [8]",
                r"unknown entry experts\.network\.hidden_dmis .did you mean",
            ),
            ("ema_decay", "ema_dekay", r"unknown entry experts\.optimizer\.ema_dekay .did you"),
            ("epochs: 3", "epochs: 2.5", r"experts\.epochs is 2\.5; it must be a whole number"),
            (
                "hidden_dims: [8]",
                "hidden_dims: 8",
                r"experts\.network\.hidden_dims is 8; it must be a list of",
            ),
            (
                "family: mlp",
                "family: gnn",
                r"network\.family is 'gnn'; it must be one of graph-transformer, .*mlp",
            ),
            (
                "{ema_decay: 0.9}",
                "{ema_decay: x}",
                r"experts\.optimizer\.ema_decay is x; .* number",
            ),
            ("{ema_decay: 0.9}", "4", r"experts\.optimizer is 4; it must be entries"),
            ("start_from: high", "start_from: [1]", r"experts\.start_from is .* text or null"),
            ("  - name: high\n    t_min", "  - t_min", "experts: every one of them needs name"),
            ("    t_max: 1\n", "", "experts: every one of them needs t_max"),
            # These the parser lets pass.
            ("network:\n      noise_floor: 0.01", "network: 4", r"experts\.network is 4; it must"),
            ("network:\n      noise_floor: 0.01", "network:", r"experts\.network is None; it must"),
            ("{alpha: 1e-3, estimator: centred}", "null", r"experts\.fokker_planck is None"),
            # And these are not for the parser to know.
            ("t_max: 0.6", "t_max: 0.5", r"experts: the intervals .* leave a gap"),
            ("epochs: 3", "epochs: 0", "expert high: epochs is 0"),
            ("weight_midpoint: 0.8", "weight_midpoint: 0.5", r"loss\.weight_start"),
            ("title: Mixture", "network: {hidden_dim: 8}", "network is given beside experts"),
        ],
    )
    def test_bad_entries(self, yaml, old, new, message):
        assert old in EXPERTS
        yaml.write_text(EXPERTS.replace(old, new, 1))
        with pytest.raises(ConfigurationError, match=message) as error:
            load_training_config(yaml)
        assert str(error.value).startswith(f"{yaml}: ")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("value", ["3", "null", "text", "[4]", "[null]", "{name: high}"])
    def test_no_list_of_experts(self, yaml, value):
        yaml.write_text(f"data: {{path: beads.npz}}\nexperts: {value}\n")
        with pytest.raises(ConfigurationError, match=r"experts is .* a list whose items hold"):
            load_training_config(yaml)


class TestCommandLine:
    @pytest.mark.parametrize("position", [0, 1, 2])
    @pytest.mark.parametrize("form", ["two words", "one word"])
    def test_options_win_wherever_the_file_stands(self, parse, yaml, position, form):
        options = [["--epochs", "9"], ["--data.path=mine.npz"]]
        file = ["--config", str(yaml)] if form == "two words" else [f"--config={yaml}"]
        options.insert(position, file)
        config, _ = parse(*itertools.chain(*options))
        assert (config.epochs, config.data.path) == (9, "mine.npz")
        assert config.network.hidden_dims == (8, 4)

    def test_later_files_win_over_earlier_ones(self, parse, yaml, tmp_path):
        (tmp_path / "other.yaml").write_text("epochs: 11\n")
        config, _ = parse("--config", str(yaml), "--config", str(tmp_path / "other.yaml"))
        assert (config.epochs, config.network.hidden_dims) == (11, (8, 4))

    def test_other_options_are_returned_apart(self, parse, yaml):
        config, others = parse("--output", "run", "--config", str(yaml))
        assert others == {"output": "run"}
        assert config == load_training_config(yaml)


OLD = """
data: {path: beads.npz, held_back_fraction: 0.25}
experts:
  - name: high
    t_min: 0.6
    t_max: 1
    network: {kind: mlp, output: direct, width: 96, widths: [8], t_min: 0.6}
    loss: {t_min: 0.6, weight_start: 0.6, weight_midpoint: 0.8}
  - name: low
    t_min: 1e-5
    t_max: 0.6
    network: {kind: graph-transformer, width: 8, heads: 2, head_width: 4, widths: [7]}
"""


class TestFormerNames:
    def test_files(self, tmp_path):
        path = tmp_path / "old.yaml"
        path.write_text(OLD)
        with pytest.warns(FutureWarning) as warned:
            config = load_training_config(path)
        assert config.data.held_out_fraction == 0.25
        assert [expert.network for expert in config.experts] == [
            MLPConfig(output="direct", hidden_dims=(8,), t_min=0.6),
            GraphTransformerConfig(hidden_dim=8, heads=2, head_dim=4),
        ]
        said = {str(warning.message) for warning in warned}
        assert "network.width is now called network.hidden_dim; the old name goes" in " ".join(said)
        names = ["data.held_back_fraction", *(f"network.{n}" for n in ("kind", "width", "widths"))]
        assert {text.split()[0] for text in said} == {*names, "network.head_width"}

    def test_options(self, yaml):
        old = ["network.kind=mlp", "network.widths=[5]", "data.held_back_fraction=0.5"]
        with pytest.warns(FutureWarning) as warned:
            config = load_training_config(yaml, overrides=old)
        assert len(warned) == 3
        assert config.network == MLPConfig(hidden_dims=(5,), noise_floor=0.01)
        assert config.data.held_out_fraction == 0.5

    def test_both_names(self, yaml):
        yaml.write_text(YAML + "  # nothing\n".join(["", ""]))
        yaml.write_text("data: {path: x}\nnetwork: {width: 8, hidden_dim: 9}\n")
        with pytest.raises(ConfigurationError, match=r"network\.hidden_dim is given twice"):
            load_training_config(yaml)


class TestFamilies:
    @pytest.mark.parametrize("arguments", [["--network.family=mlp"], ["--network.family", "mlp"]])
    def test_options_are_those_of_the_family(self, parse, yaml, arguments, capsys):
        with pytest.raises(SystemExit):
            parse(*arguments, "--help")
        shown = capsys.readouterr().out
        assert "--network.hidden_dims" in shown
        assert "--network.heads" not in shown
        assert "Network of the family mlp" in shown
        # Lines end at hyphens, too.
        assert "theentriesofanother:graph-transformer,invariant,mlp." in "".join(shown.split())

    def test_a_printed_configuration_is_one(self, parse, yaml, tmp_path, capsys):
        yaml.write_text(EXPERTS)
        with pytest.raises(SystemExit):
            parse("--config", str(yaml), "--batch_size=64", "--print_config")
        printed = tmp_path / "printed.yaml"
        printed.write_text(capsys.readouterr().out)
        found, _ = parse("--config", str(printed))
        assert found == load_training_config(yaml, overrides=["batch_size=64"])

    def test_an_option_wins_over_a_file(self, parse, tmp_path):
        path = tmp_path / "config.yaml"
        path.write_text("data: {path: x}\nnetwork: {family: mlp, t_max: 1.0}\n")
        config, _ = parse("--config", str(path), "--network.family=graph-transformer")
        assert config.network == GraphTransformerConfig()
        with pytest.raises(ConfigurationError, match=r"unknown option --network\.heads"):
            parse("--config", str(path), "--network.heads=2")

    def test_later_files_win(self, parse, yaml, tmp_path):
        (tmp_path / "other.yaml").write_text("network: {family: mlp, hidden_dims: [3]}\n")
        (tmp_path / "first.yaml").write_text("data: {path: x}\nnetwork: {t_max: 1.0}\n")
        files = ["--config", str(tmp_path / "first.yaml"), "--config", str(tmp_path / "other.yaml")]
        assert parse(*files)[0].network == MLPConfig(hidden_dims=(3,))


class TestRefused:
    @pytest.mark.parametrize(
        ("entry", "nearest"),
        [
            ("titel: x", "unknown entry titel (did you mean title?)"),
            ("network: {layrs: 3}", "unknown entry network.layrs (did you mean network.layers?)"),
            ("network: {hidden: 3}", "unknown entry network.hidden"),
            ("learning_rate: 0.1", "did you mean optimizer.learning_rate?"),
            ("layer: 3", "did you mean network.layers?"),
            ("optimiser: {ema_decay: 0.9}", "did you mean optimizer.ema_decay?"),
        ],
    )
    def test_unknown_entries_are_named_with_the_nearest(self, yaml, entry, nearest):
        yaml.write_text(f"data: {{path: beads.npz}}\n{entry}\n")
        with pytest.raises(ConfigurationError) as error:
            load_training_config(yaml)
        assert str(error.value).startswith(f"{yaml}: unknown entry")
        assert nearest in str(error.value)

    def test_no_hint_where_nothing_is_near(self, yaml):
        yaml.write_text("data: {path: beads.npz}\nxyzzy: 3\n")
        with pytest.raises(ConfigurationError, match=r"unknown entry xyzzy$"):
            load_training_config(yaml)

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            (
                "network.hidden_dim=3",
                "unknown option --network.hidden_dim .did you mean --network.hidden_dims",
            ),
            # Abbreviations would change their meaning when an option is added.
            ("epoch=3", "unknown option --epoch .did you mean --epochs"),
            ("epochs=2.5", "epochs is 2.5; it must be a whole number"),
            ("epochs=many", "epochs is many; it must be a whole number"),
            ("optimizer.ema_decay=x", "optimizer.ema_decay is x; it must be a number"),
            ("data.scale=x", "data.scale is x; it must be a number or null"),
            ("network.hidden_dims=[4,x]", r"network.hidden_dims is x; .* a list of whole numbers"),
            (
                "network.family=gnn",
                "network.family is 'gnn'; it must be one of graph-transformer, .*mlp",
            ),
            ("epochs=0", "epochs is 0; it must be at least 1"),
            ("data.held_out_fraction=2", "held_out_fraction is 2.0; it must be at least 0"),
            ("seed=-1", "seed is -1; it must be between"),
            ("epochs", "override 'epochs' has no value; write it as name=value"),
            ("help", "override 'help' has no value"),
        ],
    )
    def test_bad_overrides(self, yaml, override, message):
        with pytest.raises(ConfigurationError, match=message):
            load_training_config(yaml, overrides=[override])

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"data: [path\n", "Problems parsing"),
            (b"just text\n", "Unexpected config"),
            (b"title: x\n", "data.path"),
            (b"\xff\xfe\x00", "not UTF-8 text"),
            (b"data: {path: x}\noptimizer: 5\n", "optimizer is 5; it must hold entries"),
            (b"data: {path: x}\nnetwork: {layers: two}\n", "network.layers is two; .* whole"),
        ],
    )
    def test_bad_files(self, yaml, content, message):
        yaml.write_bytes(content)
        with pytest.raises(ConfigurationError, match=message) as error:
            load_training_config(yaml)
        assert str(error.value).startswith(f"{yaml}: ")
        assert "\n" not in str(error.value)

    def test_missing_file(self, tmp_path):
        with pytest.raises(ConfigurationError, match=r"none\.yaml: File does not exist"):
            load_training_config(tmp_path / "none.yaml")

    def test_every_entry_of_the_tree_can_be_overridden(self, yaml):
        record = config_record(load_training_config(yaml))
        sections = {name: value for name, value in record.items() if isinstance(value, dict)}
        assert set(sections) == {
            "data",
            "network",
            "schedule",
            "loss",
            "fokker_planck",
            "optimizer",
            "hardware",
        }
        overrides = [
            f"{section}.{name}={'null' if value is None else value}"
            for section, entries in sections.items()
            for name, value in entries.items()
        ]
        assert config_record(load_training_config(yaml, overrides=overrides)) == record


class TestOptionsOfExperts:
    @pytest.fixture
    def mixture(self, tmp_path):
        path = tmp_path / "mixture.yaml"
        path.write_text(EXPERTS)
        return ["--config", str(path)]

    def test_every_entry_of_one_expert(self, parse, mixture):
        before, _ = parse(*mixture)
        options = ["--experts.high.loss.weight_end=0.95", "--experts.high.steps", "7"]
        config, _ = parse(*options, *mixture)
        high, *others = config.experts
        assert (high.loss.weight_end, high.steps, high.epochs) == (0.95, 7, None)
        assert high.network == before.experts[0].network
        assert tuple(others) == before.experts[1:]
        new, _ = parse(*mixture, "--experts.high.optimizer.ema_decay=0.5")
        assert new.experts[0].optimizer == OptimizerConfig(ema_decay=0.5)

    def test_shown_by_print_config(self, parse, mixture, capsys):
        with pytest.raises(SystemExit):
            parse(*mixture, "--experts.high.epochs", "77", "--print_config")
        assert "epochs: 77" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--experts.hihg.epochs=7"], r"names no expert and entry; there are the experts high"),
            (["--experts.high=7"], r"names no expert and entry"),
            (["--experts.high.epochs"], r"--experts\.high\.epochs has no value"),
            (["--experts.high.epoch=7"], r"unknown entry experts\.epoch .did you mean"),
            (["--experts.high.epochs=0"], r"expert high: epochs is 0"),
        ],
    )
    def test_refused(self, parse, mixture, options, message):
        with pytest.raises(ConfigurationError, match=message):
            parse(*mixture, *options)

    def test_names_with_dots(self, parse, tmp_path):
        path = tmp_path / "dots.yaml"
        path.write_text(EXPERTS.replace(": high", ": high.v2"))
        config, _ = parse("--config", str(path), "--experts.high.v2.epochs=9")
        assert config.experts[0].epochs == 9


def test_steps_given_replace_the_epochs_of_a_file(parse, yaml):
    config, _ = parse("--config", str(yaml), "--steps", "12")
    assert (config.steps, config.epochs) == (12, None)
    yaml.write_text(YAML.replace("epochs: 7", "steps: 12"))
    config, _ = parse("--config", str(yaml), "--epochs=3")
    assert (config.steps, config.epochs) == (None, 3)
    with pytest.raises(ConfigurationError, match="one of them alone"):
        parse("--config", str(yaml), "--epochs=3", "--steps=4")
