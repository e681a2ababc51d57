"""``scoremd`` commands around weights: of other codes, refined, examined; campaigns of many runs.

As in :mod:`openmm_scoremd.cli.commands`, the command line is made from the signatures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from openmm_scoremd._files.run_record import result_folder
from openmm_scoremd.cli.progress import progress_bar
from openmm_scoremd.errors import CampaignError, InvalidInputError


def import_weights(
    parameters: Annotated[list[str], "parameters (.npz); of a mixture, one file for each expert"],
    *,
    config: Annotated[str, "YAML file as for training: network, schedule, dataset"],
    output: Annotated[str, "weights to write (.safetensors)"],
) -> None:
    """Make a weights file from parameters of the public JAX code."""
    from openmm_scoremd.training.config_file import load_training_config
    from openmm_scoremd.training.import_weights import import_weights as convert

    if Path(output).suffix != ".safetensors":
        raise InvalidInputError(f"the output is {output}; its name must end in .safetensors")
    weights = convert(parameters, load_training_config(config), output)
    print(f"{weights}: {len(parameters)} network(s) imported")
    print(f"next: scoremd export {weights} MODEL.pt")


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
        Literal["auto", "torchforce", "pythonforce", "compiled"], "how OpenMM evaluates the model"
    ] = "auto",
    seed: Annotated[int, "seed of all random numbers", 0] = 0,
) -> None:
    """Correct an energy by what its simulation shows.

    Only the network that serves the time of the force is changed.
    """
    from openmm_scoremd.refinement.energy_fit import FitSettings
    from openmm_scoremd.refinement.refine import RefinementSettings
    from openmm_scoremd.refinement.refine import refine as refine_weights

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


def fokker_planck(
    weights: Annotated[list[str], "weights of training runs (.safetensors), of one molecule"],
    *,
    data: Annotated[str, "CG dataset (.npz) of that molecule"],
    output: Annotated[str, "new folder for a picture, numbers (.json, .npz) and run.json"],
    frames: Annotated[int, "frames at each diffusion time, and judged one by one", 2] = 256,
    times: Annotated[int, "number of diffusion times, evenly spaced in the logarithm", 2] = 20,
    time: Annotated[float, "diffusion time at which single frames are judged"] = 1e-3,
    seed: Annotated[int, "seed of all random numbers", 0, 2**63 - 1] = 0,
) -> None:
    """Measure how far networks are from the Fokker-Planck equation.

    Where the centred error is large, over time or for a frame, a model is not to be trusted.
    """
    from openmm_scoremd.cli.steps import write_fokker_planck_errors

    with result_folder(output) as folder:
        table = write_fokker_planck_errors(
            weights, data, folder, frames=frames, times=times, t=time, seed=seed
        )
    print(table)
    print(f"picture and numbers: {folder}")


def campaign(
    campaign: Annotated[str, "YAML file: molecules, models, seeds, and the steps for each"],
    *,
    workers: Annotated[int | None, "processes; as many as there are cores if not given", 1] = None,
    scheduler: Annotated[str | None, "address of an existing Dask cluster instead"] = None,
    status: Annotated[bool, "only say how far it is"] = False,
) -> None:
    """Run many molecules, models and seeds; once more to go on."""
    from openmm_scoremd.campaign.plan import load_campaign
    from openmm_scoremd.campaign.record import status_table

    jobs = load_campaign(campaign)
    if status:
        print(status_table(jobs))
        return
    from openmm_scoremd.campaign.cluster import run_jobs
    from openmm_scoremd.campaign.work import JobOutcome

    with progress_bar("jobs") as advance:

        def report(outcome: JobOutcome, done: int, total: int) -> None:
            said = f"failed: {outcome.error}" if outcome.error else "finished"
            print(f"{outcome.name}: {said}", flush=True)
            advance(done, total)

        outcomes = run_jobs(jobs, workers=workers, scheduler=scheduler, report=report)
    failed = [outcome.name for outcome in outcomes if outcome.error]
    if failed:
        raise CampaignError(
            f"{len(failed)} of {len(jobs)} jobs failed ({', '.join(failed[:5])}"
            f"{', ...' if len(failed) > 5 else ''}); the same command tries them again"
        )
    print(f"{len(jobs)} jobs finished; {sum(o.kept for o in outcomes)} steps were finished before")
