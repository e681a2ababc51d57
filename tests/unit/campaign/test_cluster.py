"""Ctrl-C while a cluster is being made; its jobs are tested in tests/integration."""

import signal

import pytest

from openmm_scoremd.campaign.cluster import _interrupts_wait


def test_ctrl_c_waits_until_there_is_a_cluster_to_close():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    done = []
    try:
        with pytest.raises(KeyboardInterrupt), _interrupts_wait():
            signal.raise_signal(signal.SIGINT)
            done.append("made")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["made"]
