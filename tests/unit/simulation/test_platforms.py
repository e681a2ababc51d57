import itertools
import logging

import pytest

from openmm_scoremd.simulation.platforms import choose_platform

GPUS = ["CUDA", "HIP", "OpenCL"]


@pytest.mark.parametrize("available", [True, False])
@pytest.mark.parametrize("present", [*itertools.combinations(GPUS, 1), GPUS, []])
def test_default_platform(monkeypatch, caplog, present, available):
    monkeypatch.setattr(
        "openmm_scoremd.simulation.platforms._platform_names",
        lambda: ["Reference", "CPU", *present],
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: available)
    monkeypatch.setattr("openmm.Platform.getPlatformByName", lambda name: name)
    with caplog.at_level(logging.INFO):
        chosen = choose_platform(None)
    assert chosen == (present[0] if present and available else "Reference")
    assert f"platform {chosen}" in caplog.text
