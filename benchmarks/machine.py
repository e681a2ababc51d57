"""What every benchmark says about the machine it ran on, and how its record begins."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

import torch

from openmm_scoremd._files.run_record import package_versions


def hardware() -> dict[str, Any]:
    """Describe the machine, and how busy it is before the run."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = information.read_text(encoding="utf-8").splitlines()
        model = next((v.split(":")[1].strip() for v in lines if v.startswith("model name")), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": os.getloadavg()[0],
    }


def new_record(benchmark: str, *, threads: int) -> dict[str, Any]:
    """Begin a record; to be called before the run, because that makes the machine busy.

    Parameters
    ----------
    benchmark : str
        Its name.
    threads : int
        Threads that it uses.
    """
    return {
        "benchmark": benchmark,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": package_versions(),
        "threads": threads,
    }
