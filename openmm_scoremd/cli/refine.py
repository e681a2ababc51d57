"""``scoremd refine``: an energy corrected by what its simulation shows."""

from __future__ import annotations

from typing import Annotated, Literal

from openmm_scoremd.cli.progress import progress_bar


def refine(
    weights: Annotated[str, "weights of a training run (.safetensors)"],
    data: Annotated[str, "the dataset (.npz) of that run"],
    output: Annotated[str, "folder of the refinement; after a stop the same command goes on"],
    *,
    rounds: Annotated[int, "simulations, each followed by a fit", 1] = 4,
    replicas: Annotated[int, "copies of the molecule", 1] = 100,
    steps: Annotated[int, "time steps of every copy in a round", 1] = 15_000,
    interval: Annotated[int, "time steps between frames", 1] = 50,
    timestep: Annotated[float, "in ps"] = 0.002,
    friction: Annotated[float, "in 1/ps"] = 1.0,
    iterations: Annotated[int, "optimiser steps of a fit", 1] = 150,
    learning_rate: Annotated[float, "largest learning rate"] = 1e-4,
    backend: Annotated[
        Literal["auto", "torchforce", "pythonforce", "kernel"], "how OpenMM evaluates the model"
    ] = "auto",
    seed: Annotated[int, "seed of all random numbers", 0] = 0,
) -> None:
    """Correct an energy by what its simulation shows.

    Only the network that serves the time of the force is changed.
    """
    from openmm_scoremd.refinement.energy_fit import FitSettings
    from openmm_scoremd.refinement.refine import refine as refine_weights
    from openmm_scoremd.refinement.settings import RefinementSettings
    from openmm_scoremd.training.compiled.memory import keep_freed_memory

    keep_freed_memory()
    settings = RefinementSettings(
        rounds=rounds,
        replicas=replicas,
        steps=steps,
        interval=interval,
        timestep=timestep,
        friction=friction,
        backend=backend,
        seed=seed,
        fit=FitSettings(iterations=iterations, learning_rate=learning_rate),
    )
    with progress_bar("refinement") as advance:
        refined = refine_weights(
            weights,
            data,
            output,
            settings=settings,
            progress=lambda done, total, text: advance(round(50 * done), 50 * total, text),
        )
    print(f"{refined}: refined in {rounds} round(s)")
    print(f"next: scoremd export {refined} MODEL.pt")
