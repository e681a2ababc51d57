"""``scoremd`` commands that reach beyond one run: weights of other codes, campaigns of many runs.

As in :mod:`openmm_scoremd.cli_commands`, the command line is made from the signatures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from openmm_scoremd.errors import CampaignError, InvalidInputError
from openmm_scoremd.progress import progress_bar


def import_weights(
    parameters: Annotated[list[str], "parameters (.npz); of a mixture, one file for each expert"],
    *,
    config: Annotated[str, "YAML file as for training: network, schedule, dataset"],
    output: Annotated[str, "weights to write (.safetensors)"],
) -> None:
    """Make a weights file from parameters that the public JAX code trained."""
    from openmm_scoremd.training.config_file import load_training_config
    from openmm_scoremd.training.import_weights import import_weights as convert

    if Path(output).suffix != ".safetensors":
        raise InvalidInputError(f"the output is {output}; its name must end in .safetensors")
    weights = convert(parameters, load_training_config(config), output)
    print(f"{weights}: {len(parameters)} network(s) imported")
    print(f"next: scoremd export {weights} MODEL.pt")


def campaign(
    campaign: Annotated[str, "YAML file: molecules, models, seeds, and the steps for each"],
    *,
    workers: Annotated[int | None, "processes; as many as there are cores if not given", 1] = None,
    scheduler: Annotated[str | None, "address of an existing Dask cluster instead"] = None,
    status: Annotated[bool, "only say how far it is"] = False,
) -> None:
    """Run many molecules, models and seeds; the same command again goes on where it stopped."""
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
