"""What the Fokker-Planck residual costs: time per training step with it and without, interleaved.

python benchmarks/regulariser_cost.py

For every network of the both-fast configurations that has a regulariser: the same network, batch
size and optimiser with and without it. The number of steps per epoch is the same, so this is also
the ratio of the times of an epoch. Writes benchmarks/results/regulariser_cost.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch
from machine import new_record
from torch.optim.swa_utils import AveragedModel

from openmm_scoremd import save_dataset
from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.data.dataset import load_dataset
from openmm_scoremd.data.toy import sample_mueller_brown
from openmm_scoremd.training.compiled.steps import CompiledSteps
from openmm_scoremd.training.config import TrainingConfig, expert_config
from openmm_scoremd.training.config_file import load_training_config
from openmm_scoremd.training.ema import exponential_average
from openmm_scoremd.training.sections import FokkerPlanckConfig
from openmm_scoremd.training.setup import (
    batch_stream,
    division_of_steps,
    initial_model,
    training_objective,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/regulariser_cost.json"
METHODS = (
    "mueller_brown_both_fast",
    "alanine_dipeptide_both_fast",
    "alanine_dipeptide_regional",
)


class Run:
    """Steps of one configuration, without files."""

    def __init__(self, config: TrainingConfig, *, backend: str) -> None:
        dataset = load_dataset(config.data.path)
        torch.manual_seed(0)
        model = initial_model(dataclasses.replace(config, start_from=None), dataset)
        scale = config.data.scale or dataset.scale
        self.stream = batch_stream(config, dataset, scale=scale, device=torch.device("cpu"))
        objective = training_objective(config, model)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
        self.objective, self.compiled = objective, None
        if backend == "compiled":
            decay = config.optimizer.ema_decay
            average = AveragedModel(model, multi_avg_fn=exponential_average(decay))
            clip = config.optimizer.gradient_clip
            self.compiled = CompiledSteps(
                objective,
                self.optimizer,
                average,
                gradient_clip=clip,
                ema_decay=decay,
                division=division_of_steps(model, self.stream),
            )
        self.step = 0

    def seconds_per_step(self, steps: int) -> float:
        """Return the time of a step, mean of some."""
        began = time.perf_counter()
        batches = (self.stream.batch(self.step + i) for i in range(steps))
        if self.compiled is not None:
            self.compiled.run(batches, [1e-6] * steps)
        else:
            for batch in batches:
                self.optimizer.zero_grad()
                self.objective(*batch.arrays).backward()
                self.optimizer.step()
        self.step += steps
        return (time.perf_counter() - began) / steps


def main() -> None:
    """Time all pairs and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=["compiled", "eager"], default="compiled")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="steps per round")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    record = new_record("regulariser cost", threads=torch.get_num_threads())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "mueller_brown.npz"
        save_dataset(sample_mueller_brown(20_000, seed=0), data)
        for name, config in _configurations(data):
            rows.append({"network": name, **_compare(config, options)})
            print(
                "{network}: {without_ms:.2f} ms without, {with_ms:.2f} ms with the regulariser, "
                "ratio {ratio:.2f}".format(**rows[-1]),
                flush=True,
            )
    record |= {
        "backend": options.backend,
        "rounds": options.rounds,
        "steps": options.steps,
        "rows": rows,
    }
    write_json(options.output, record)


def _configurations(mueller_brown: Path) -> list[tuple[str, TrainingConfig]]:
    found = []
    for method in METHODS:
        config = load_training_config(ROOT / "examples/methods" / f"{method}.yaml")
        path = mueller_brown if method.startswith("mueller") else ROOT / config.data.path
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(path)))
        runs = [(e.name, expert_config(config, e)) for e in config.experts] or [("", config)]
        found += [
            (f"{method} {name}".strip(), run) for name, run in runs if run.fokker_planck.alpha > 0
        ]
    return found


def _compare(config: TrainingConfig, options: argparse.Namespace) -> dict[str, float]:
    plain = dataclasses.replace(config, fokker_planck=FokkerPlanckConfig())
    runs = [Run(c, backend=options.backend) for c in (plain, config)]
    for run in runs:
        run.seconds_per_step(3)  # compilation
    times = [[run.seconds_per_step(options.steps) for run in runs] for _ in range(options.rounds)]
    without, with_ = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    return {"without_ms": 1e3 * without, "with_ms": 1e3 * with_, "ratio": ratio}


if __name__ == "__main__":
    main()
