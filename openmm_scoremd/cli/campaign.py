"""``scoremd campaign``: many molecules, models and seeds on a Dask cluster."""

from __future__ import annotations

from typing import Annotated

from openmm_scoremd.cli.progress import progress_bar
from openmm_scoremd.errors import CampaignError


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
