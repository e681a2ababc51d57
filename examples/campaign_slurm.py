# %% [markdown]
# # A campaign on a SLURM cluster
# `pip install 'openmm-scoremd[campaign]' dask-jobqueue`, then, on a login node:
# `python examples/campaign_slurm.py examples/campaign.yaml`
#
# Each SLURM job is one Dask worker, which does one run after another. When a job's time is over,
# its run goes on in the next one; finished steps are never repeated.

# %%
import subprocess
import sys

from dask_jobqueue import SLURMCluster

WORKERS = 20


# %%
def main(campaign: str) -> int:
    """Start workers through SLURM and run the campaign on them."""
    cluster = SLURMCluster(
        queue="gpu",  # partition
        cores=1,  # threads of a worker: one run at a time
        processes=1,
        memory="16GB",
        walltime="08:00:00",
        job_extra_directives=["--gres=gpu:1", "--cpus-per-task=4"],
        # Ends the worker shortly before SLURM would, so that Dask moves its run at once.
        worker_extra_args=["--lifetime", "7h50m", "--lifetime-stagger", "5m"],
    )
    with cluster:
        cluster.adapt(minimum=0, maximum=WORKERS)
        command = [sys.executable, "-m", "openmm_scoremd", "campaign", campaign]
        return subprocess.run([*command, "--scheduler", cluster.scheduler_address]).returncode


# %%
if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
