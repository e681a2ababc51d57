"""The simulation benchmark runs and compares two forms of one function; no timing is tested."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from openmm_scoremd.models.families import build_model
from openmm_scoremd.models.graph_transformer.folded import FoldedGraphTransformer
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.units import thermal_energy

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/simulation.py"


@pytest.fixture
def benchmark(import_benchmark):
    return import_benchmark("simulation")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Output of a smoke run, and its record."""
    output = tmp_path_factory.mktemp("benchmark") / "new" / "simulation.json"
    command = [sys.executable, str(SCRIPT), "--smoke", "--threads", "1", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=output.parents[1])
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(output.read_text())


@pytest.mark.slow
def test_record_says_where_and_with_what_it_was_made(smoke):
    _, record = smoke
    assert record["benchmark"] == "simulation"
    assert record["threads"] == 1
    assert record["date"].endswith("+00:00")
    assert {"processor", "cores", "load_before"} <= set(record["hardware"])
    assert {"torch", "openmm", "openmmtorch", "python"} <= set(record["versions"])


@pytest.mark.slow
def test_every_variant_is_timed_for_every_network(smoke, benchmark):
    _, record = smoke
    shapes = [(n["n_beads"], n["architecture"]["width"]) for n in record["networks"]]
    assert shapes[:2] == [(5, 96), (10, 128)]
    expected = [(r, v.name) for r in benchmark.SMOKE.replicas for v in benchmark.VARIANTS]
    for network in record["networks"]:
        rows = network["results"]
        assert [(row["replicas"], row["variant"]) for row in rows] == expected
        assert network["matrix_product_gflop_per_s"] > 0.0


@pytest.mark.slow
def test_columns_are_consistent(smoke, benchmark):
    _, record = smoke
    for network in record["networks"]:
        plain = network["results"][0]
        for row in network["results"]:
            seconds = 1e-6 * row["us_per_step"]
            assert row["steps_per_s"] == pytest.approx(1.0 / seconds)
            assert row["replica_steps_per_s"] == pytest.approx(row["replicas"] / seconds)
            # 2 fs are 2e-6 ns.
            assert row["ns_per_day"] == pytest.approx(86400.0 / seconds * 2e-6)
            assert row["ratio_to_plain"] == pytest.approx(plain["us_per_step"] / row["us_per_step"])
            assert len(row["samples_us"]) == benchmark.SMOKE.min_rounds


@pytest.mark.slow
def test_plain_and_folded_networks_agree(smoke):
    _, record = smoke
    for network in record["networks"]:
        difference = network["difference_from_plain"]
        assert 0.0 <= difference["energy"] <= 1e-5
        assert 0.0 <= difference["force"] <= 1e-4


def test_disagreement_stops_the_benchmark(benchmark, tmp_path):
    plain_network = sys.modules["plain_network"]
    config = GraphTransformerConfig(hidden_dim=8, heads=2, head_dim=4)
    path = plain_network.export_random_network(3, config, tmp_path / "ours.pt")
    case = plain_network.make_case("small", path, tmp_path)
    assert benchmark.differences(case)["energy"] < 1e-5
    energy = case.files["plain"].potential_energy
    case.files["plain"].potential_energy = lambda frames: 1.001 * energy(frames)
    with pytest.raises(SystemExit, match="Nothing was timed"):
        benchmark.differences(case)


@pytest.mark.slow
def test_table_fits_a_terminal(smoke):
    text, record = smoke
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in text
    for network in record["networks"]:
        assert any(network["name"] in line for line in lines)


def product(_, left, right, **__):
    """Operations of a product of matrices of these shapes, added to something."""
    return 2 * math.prod(left) * right[-1]


@pytest.mark.parametrize(
    ("n_beads", "config"),
    [
        (5, GraphTransformerConfig()),
        (10, GraphTransformerConfig(hidden_dim=128, layers=3)),
        (4, GraphTransformerConfig(layers=1)),
    ],
)
def test_floating_point_operations_are_those_that_torch_counts(benchmark, n_beads, config):
    model = build_model(config, n_beads=n_beads, n_dims=3)
    folded = FoldedGraphTransformer(model.network, model.decoder, t=1e-5)
    # Many: products of constants, which a frozen module does once, are counted as well.
    replicas = 100
    x = torch.randn(replicas, n_beads, 3, generator=torch.Generator().manual_seed(0))
    # Torch does not look at products that change a tensor in place.
    in_place = {torch.ops.aten.addmm_: product, torch.ops.aten.baddbmm_: product}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        folded.energy_and_gradient(x)
    # Torch also counts products with vectors (gates, decoder) that the formula leaves out.
    counted = counter.get_total_flops() / replicas
    assert benchmark.flop_per_evaluation(n_beads, config) == pytest.approx(counted, rel=0.03)


def test_picture_of_the_stored_record(benchmark, tmp_path):
    record = json.loads(benchmark.OUTPUT.read_text(encoding="utf-8"))
    benchmark.plot_speed(record["networks"], tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_compiled_network_computes_the_energies_of_the_file(benchmark, tmp_path, monkeypatch):
    config = GraphTransformerConfig(hidden_dim=12, layers=2, heads=2, head_dim=4)
    path = benchmark.export_random_network(5, config, tmp_path / "random.pt")
    case = benchmark.make_case("small", path, tmp_path)
    found = []

    def uncompiled(function, **_):
        return lambda block: found.append(function(block)[0])

    monkeypatch.setattr(torch, "compile", uncompiled)
    step = benchmark.simulation_compile.evaluation_stepper(case, 11)
    step(2)
    assert sum(len(energies) for energies in found) == 22
    frames = case.files["ours"].metadata.self_test.positions
    expected = case.files["ours"].potential_energy(frames)[0]
    assert float(found[0][0]) * thermal_energy(300.0) == pytest.approx(expected, rel=1e-5)
