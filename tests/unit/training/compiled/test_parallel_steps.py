"""Dividing steps among threads, or into calls."""

import pytest
import torch

from openmm_scoremd.training.compiled.parallel_steps import Division, divide_steps, threads_of


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_small_networks_do_several_steps_in_a_call():
    found = divide_steps(n_weights=8833, batch_size=128, n_probed=0, n_shared_times=None)
    assert found == Division(parts=1, steps_per_call=10)
    # The residual makes it a larger step.
    found = divide_steps(n_weights=8833, batch_size=128, n_probed=128, n_shared_times=None)
    assert found == Division(parts=4)


@pytest.mark.parametrize(
    ("batch_size", "n_probed", "n_shared_times", "parts"),
    [
        (256, 0, None, 4),
        (256, 256, None, 4),
        (255, 0, None, 3),
        (253, 0, None, 1),  # no part at all: threads share operations
        (256, 96, 24, 4),
        (256, 96, 6, 1),
        (256, 50, None, 1),
        (250, 0, None, 1),  # two parts for four threads
        (256, 96, 3, 1),
    ],
)
def test_large_networks_have_parts_that_keep_groups_together(
    batch_size, n_probed, n_shared_times, parts
):
    found = divide_steps(
        n_weights=10**6, batch_size=batch_size, n_probed=n_probed, n_shared_times=n_shared_times
    )
    assert found.steps_per_call == 1
    assert found.parts == parts


def test_every_part_computes_with_one_thread():
    with threads_of(Division(parts=3)) as pool:
        assert torch.get_num_threads() == 1
        assert list(pool.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
    assert torch.get_num_threads() == 4
    with threads_of(Division(steps_per_call=2)):
        assert torch.get_num_threads() == 1
    with threads_of(Division()):
        assert torch.get_num_threads() == 4


def test_threads_come_back_after_an_error():
    with pytest.raises(ZeroDivisionError), threads_of(Division(parts=2)):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 4
