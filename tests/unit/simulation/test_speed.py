"""The plan times what is there; no timing is tested."""

import json

import openmm
import pytest

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.forces.create import available_backends
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.speed import (
    Plan,
    Timing,
    measure_speeds,
    usable_platforms,
    write_plan,
)

PLAN = Plan(
    (
        Timing("pythonforce", "Reference", 1, 1e-3),
        Timing("torchforce", "CPU", 1, 5e-4),
        Timing("pythonforce", "Reference", 100, 2e-2),
        Timing("torchforce", "CPU", 100, 4e-2),
    ),
    threads=2,
)


def test_units():
    timing = Timing("pythonforce", "Reference", 100, 0.02)
    assert timing.replica_steps_per_second == pytest.approx(5000.0)
    # 50 steps of 2 fs in a second: 100 fs/s, 86400 s in a day.
    assert timing.ns_per_day() == pytest.approx(8.64)
    assert timing.ns_per_day(0.001) == pytest.approx(4.32)


def test_the_best_is_the_fastest_of_its_number_of_replicas():
    assert PLAN.best(1) == PLAN.timings[1]
    assert PLAN.best(100) == PLAN.timings[2]
    with pytest.raises(InvalidInputError, match=r"7 replicas were not measured, only \[1, 100\]"):
        PLAN.best(7)


def test_table():
    lines = PLAN.table().splitlines()
    assert [line.endswith("best") for line in lines[1:5]] == [False, True, True, False]
    assert lines[2].split() == ["1", "torchforce", "CPU", "500", "2,000", "346", "best"]
    assert max(map(len, lines)) <= 80
    assert "2 fs; threads: 2" in lines[-1]


def test_every_backend_and_platform_is_timed(toy):
    model = ScoreModelFile(toy.path)
    plan = measure_speeds(model, replicas=[1, 3], platforms=["Reference"], sample_time=0.0)
    backends = available_backends(model)
    assert [(t.replicas, t.platform, t.backend) for t in plan.timings] == [
        (n, "Reference", backend) for n in (1, 3) for backend in backends
    ]
    assert all(timing.seconds > 0.0 for timing in plan.timings)
    assert "pythonforce" in backends
    assert "kernel" not in backends  # the toy is no graph transformer


def test_threads_of_the_process_stay_as_they_are(toy):
    cpu = openmm.Platform.getPlatformByName("CPU")
    before = cpu.getPropertyDefaultValue("Threads")
    assert before != "7"
    cpu.setPropertyDefaultValue("Threads", "7")
    try:
        model = ScoreModelFile(toy.path)
        measure_speeds(model, replicas=[1], platforms=["CPU"], sample_time=0.0)
        assert cpu.getPropertyDefaultValue("Threads") == "7"
    finally:
        cpu.setPropertyDefaultValue("Threads", before)


def test_platforms():
    assert {"Reference", "CPU"} <= set(usable_platforms())


def test_numbers_are_written(toy, tmp_path):
    model, output = ScoreModelFile(toy.path), tmp_path / "plan.json"
    table = write_plan(model, output, replicas=[2], platform="Reference")
    record = json.loads(output.read_text())
    assert record["sha256"] == model.sha256
    assert [timing["replicas"] for timing in record["timings"]] == [2] * len(record["timings"])
    assert sum(timing["best"] for timing in record["timings"]) == 1
    assert {"torch", "openmm"} <= set(record["versions"])
    assert len(table.splitlines()) == 2 + len(record["timings"])


@pytest.mark.parametrize("replicas", [[], [0], [1, -1], [1.5]])
def test_wrong_numbers_of_replicas(toy, replicas):
    with pytest.raises(InvalidInputError, match="replicas"):
        measure_speeds(ScoreModelFile(toy.path), replicas=replicas)


def test_wrong_output_is_found_before_anything_is_timed(toy, tmp_path):
    with pytest.raises(InvalidInputError, match=r"must end in \.json"):
        write_plan(ScoreModelFile(toy.path), tmp_path / "plan.txt")
