"""Ctrl-C and SIGTERM: held back between steps, remembered where C++ makes other errors of them."""

import contextlib
import signal
import threading

import openmm
import pytest

from openmm_scoremd.cli.signals import interrupts_remembered, signals_held_back


@pytest.fixture(autouse=True)
def interruptible():
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
class TestSignals:
    def test_they_are_held_back_until_the_block_looks(self, number):
        with signals_held_back() as received:
            assert not received()
            signal.raise_signal(number)
            assert received()

    def test_a_second_one_is_not(self, number):
        with (
            pytest.raises(KeyboardInterrupt),
            signals_held_back(),
        ):
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("went on")

    def test_all_is_as_before_afterwards(self, number):
        before = signal.getsignal(number)
        with signals_held_back():
            assert signal.getsignal(number) != before
        assert signal.getsignal(number) == before


class TestRemembered:
    def test_ctrl_c_stops_the_block_as_usual(self):
        with interrupts_remembered() as interrupted:
            assert not interrupted()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            assert interrupted()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_ctrl_c_in_a_function_that_openmm_calls(self):
        def compute(_state):
            signal.raise_signal(signal.SIGINT)

        system = openmm.System()
        system.addParticle(1.0)
        system.addForce(openmm.PythonForce(compute))
        context = openmm.Context(
            system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
        )
        context.setPositions([[0.0, 0.0, 0.0]])
        with interrupts_remembered() as interrupted:
            with pytest.raises(openmm.OpenMMException):
                context.getState(getEnergy=True)
            assert interrupted()

    def test_other_handlers_stay(self):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with interrupts_remembered() as interrupted:
            signal.raise_signal(signal.SIGINT)
            assert not interrupted()

    def test_threads_have_no_handlers(self):
        entered = []

        def enter():
            with interrupts_remembered(), contextlib.suppress(ValueError):
                entered.append(True)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert entered
