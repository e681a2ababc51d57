"""Batches: the same at every visit, every frame once an epoch, proper random numbers."""

import math

import pytest
import torch
from scipy import stats

from openmm_scoremd.diffusion.weighting import UniformTimes
from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.training.batches import BatchStream, RegionDraws
from openmm_scoremd.training.objective import Batch


def make_stream(frames=None, **changes):
    if frames is None:
        frames = torch.randn(103, 4, 3, generator=torch.Generator().manual_seed(1)).double()
    options = {
        "batch_size": 10,
        "times": UniformTimes(0.1, 0.6),
        "augmentation": "rotation",
        "seed": 5,
        **changes,
    }
    return BatchStream(frames, **options)


def arrays(batch):
    return (batch.x0, batch.t, batch.noise)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(arrays(one), arrays(other), strict=True))


def test_a_step_always_has_the_same_batch():
    stream, fresh = make_stream(), make_stream()
    in_order = [stream.batch(step) for step in range(25)]
    for step in (24, 0, 11, 10, 9, 24):
        assert same(fresh.batch(step), in_order[step])
        assert same(stream.batch(step), in_order[step])


def test_steps_and_seeds_differ_in_everything():
    reference = make_stream().batch(3)
    for other in (make_stream().batch(4), make_stream().batch(13), make_stream(seed=6).batch(3)):
        for a, b in zip(arrays(reference), arrays(other), strict=True):
            assert not torch.isclose(a, b).any(dim=-1).all()
            assert not torch.equal(a, b)


@pytest.mark.parametrize("seed", [0, 2**31, 2**32, 2**63 - 1])
def test_any_seed(seed):
    assert same(make_stream(seed=seed).batch(0), make_stream(seed=seed).batch(0))
    assert not same(make_stream(seed=seed).batch(0), make_stream(seed=seed ^ 1).batch(0))


def test_every_frame_once_an_epoch():
    # Frame i is the number i everywhere; 103 frames make 10 batches of 10, and three are left out.
    frames = torch.arange(103.0)[:, None, None].expand(103, 1, 2)
    stream = make_stream(frames, augmentation="none")
    assert stream.steps_per_epoch == 10
    epochs = []
    for epoch in range(3):
        steps = range(10 * epoch, 10 * epoch + 10)
        order = torch.cat([stream.batch(step).x0[:, 0, 0] for step in steps])
        assert len(order.unique()) == 100
        epochs.append(order)
    assert not torch.equal(epochs[0], epochs[1])
    # Who is left out changes: nobody is never seen.
    assert len(torch.cat(epochs).unique()) > 100


def test_rotations_are_proper_and_differ():
    frames = torch.randn(64, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    plain = make_stream(frames, augmentation="none", batch_size=64).batch(0)
    turned = make_stream(frames, batch_size=64).batch(0)
    matrices = torch.linalg.lstsq(plain.x0, turned.x0).solution
    # They fit exactly, are orthogonal, and mirror nothing.
    torch.testing.assert_close(plain.x0 @ matrices, turned.x0, rtol=1e-10, atol=1e-10)
    identity = torch.eye(3).double().expand(64, 3, 3)
    torch.testing.assert_close(matrices @ matrices.mT, identity, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(64).double())
    angles = torch.acos((matrices.diagonal(dim1=1, dim2=2).sum(-1).clamp(-1, 3) - 1) / 2)
    assert float(angles.min()) < 1.2
    assert float(angles.max()) > 2.8
    again = make_stream(frames, batch_size=64).batch(1)
    assert not torch.isclose(again.x0, turned.x0).all()


def test_without_augmentation_frames_are_as_given():
    frames = torch.randn(20, 1, 2)
    batch = make_stream(frames, augmentation="none", batch_size=20).batch(7)
    assert torch.equal(batch.x0.sort(dim=0).values, frames.sort(dim=0).values)


def test_times_are_uniform_and_noise_is_normal():
    frames = torch.zeros(4000, 2, 3)
    batch = make_stream(frames, batch_size=4000).batch(0)
    assert batch.t.shape == (4000,)
    assert float(batch.t.min()) >= 0.1
    assert float(batch.t.max()) <= 0.6
    assert stats.kstest(batch.t.numpy(), stats.uniform(0.1, 0.5).cdf).pvalue > 1e-3
    noise = batch.noise.flatten().numpy()
    assert batch.noise.shape == (4000, 2, 3)
    assert stats.kstest(noise, stats.norm.cdf).pvalue > 1e-3
    correlation = stats.pearsonr(batch.noise[:, 0, 0].numpy(), batch.t.numpy())
    assert correlation.pvalue > 1e-3
    # Neighbouring steps are unrelated, too.
    other = make_stream(frames, batch_size=4000).batch(1).noise.flatten().numpy()
    assert abs(stats.pearsonr(noise, other).statistic) < 5.0 / math.sqrt(len(noise))


def test_times_come_from_the_function_given():
    stream = make_stream(times=lambda uniform: 100.0 + uniform)
    t = stream.batch(0).t
    assert ((t >= 100.0) & (t < 101.0)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_the_frames(dtype):
    batch = make_stream(torch.randn(20, 2, 3, dtype=dtype)).batch(0)
    assert {a.dtype for a in arrays(batch)} == {dtype}


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_ranks_share_a_batch(world_size):
    stream = make_stream()
    whole = stream.batch(0)
    parts = [stream.batch(0).part(rank, world_size) for rank in range(world_size)]
    for i, array in enumerate(arrays(whole)):
        pieces = [arrays(part)[i] for part in parts]
        assert {len(piece) for piece in pieces} == {10 // world_size}
        assert all(piece.is_contiguous() for piece in pieces)
        together = torch.cat(pieces).flatten(1) if array.dim() > 1 else torch.cat(pieces)[:, None]
        expected = array.flatten(1) if array.dim() > 1 else array[:, None]
        assert sorted(together.tolist()) == sorted(expected.tolist())
    # What belongs together stays together.
    part = Batch(*arrays(whole)).part(0, world_size)
    assert torch.equal(part.x0[1], whole.x0[world_size])
    assert torch.equal(part.t[1], whole.t[world_size])
    assert torch.equal(part.noise[1], whole.noise[world_size])


def test_too_few_frames():
    with pytest.raises(ConfigurationError, match="batch_size is 10 and there are 9"):
        make_stream(torch.zeros(9, 1, 3))


def test_rotations_need_three_dimensions():
    with pytest.raises(ConfigurationError, match=r"2 dimensions.*augmentation: none"):
        make_stream(torch.zeros(20, 1, 2))


# --- Probes and shared times -----------------------------------------------------------------


def test_probes_change_nothing_else():
    plain, probed = make_stream().batch(4), make_stream(n_probed=6).batch(4)
    assert same(plain, probed)
    assert plain.probes is None
    assert plain.arrays == arrays(plain)
    assert probed.arrays[3] is probed.probes
    assert probed.probes.shape == (2, 6, 4, 3)
    shared = make_stream(n_probed=6, n_shared_times=2).batch(4)
    assert torch.equal(shared.x0, plain.x0)
    assert torch.equal(shared.noise, plain.noise)
    assert torch.equal(shared.probes, probed.probes)


def test_probes_are_a_function_of_seed_and_step():
    one = make_stream(n_probed=6).batch(4).probes
    assert torch.equal(make_stream(n_probed=6).batch(4).probes, one)
    for other in (make_stream(n_probed=6).batch(5), make_stream(n_probed=6, seed=6).batch(4)):
        assert not torch.isclose(other.probes, one).any(dim=-1).all()


def test_probes_are_normal_and_independent():
    stream = make_stream(torch.zeros(4000, 2, 3), batch_size=4000, n_probed=3000)
    batch = stream.batch(0)
    first, second = batch.probes.flatten(1).numpy()
    noise = batch.noise[:3000].flatten().numpy()
    for values in (first, second):
        assert stats.kstest(values, stats.norm.cdf).pvalue > 1e-3
    for a, b in ((first, second), (first, noise), (second, noise)):
        assert abs(stats.pearsonr(a, b).statistic) < 5.0 / math.sqrt(len(a))


def test_probed_frames_share_times():
    whole = make_stream(batch_size=50, n_probed=24, n_shared_times=6).batch(2)
    own = make_stream(batch_size=50).batch(2)
    times = whole.t[:24].view(4, 6)
    assert torch.equal(times, times[:1].expand(4, 6))
    assert len(times[0].unique()) == 6
    # Those without probes have times of their own, as they would have anyway.
    assert torch.equal(whole.t[24:], own.t[24:])
    assert len(whole.t.unique()) == 6 + 26


def test_shared_times_are_uniform():
    frames = torch.zeros(9000, 1, 3)
    stream = make_stream(frames, batch_size=9000, n_probed=8000, n_shared_times=4000)
    shared = stream.batch(0).t[:4000].numpy()
    assert stats.kstest(shared, stats.uniform(0.1, 0.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_of_probes(dtype):
    frames = torch.randn(20, 2, 3, dtype=dtype)
    assert make_stream(frames, n_probed=4, n_shared_times=2).batch(0).probes.dtype == dtype


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_probes_and_keep_groups_together(world_size):
    whole = make_stream(batch_size=48, n_probed=24, n_shared_times=6).batch(1)
    parts = [whole.part(rank, world_size) for rank in range(world_size)]
    for rank, part in enumerate(parts):
        n, n_times = 24 // world_size, 6 // world_size
        assert part.probes.shape == (2, n, 4, 3)
        assert part.probes.is_contiguous()
        # Probes stay with their frames, which come first.
        assert torch.equal(part.probes, whole.probes[:, rank::world_size])
        assert torch.equal(part.x0[:n], whole.x0[:24][rank::world_size])
        times = part.t[:n].view(4, n_times)
        assert torch.equal(times, times[:1].expand(4, n_times))
        assert len(times[0].unique()) == n_times
    # Each time belongs to one rank, whole.
    together = torch.cat([part.t[: 6 // world_size] for part in parts])
    assert sorted(together.tolist()) == sorted(whole.t[:6].tolist())


def test_probed_frames_are_drawn_with_their_weights():
    # Frame i is the number i; the weights want the second half, in the ratio of 1 to 3.
    frames = torch.arange(4000.0)[:, None, None].expand(4000, 1, 2)
    weights = torch.zeros(4000)
    weights[2000:3000], weights[3000:] = 1.0, 3.0
    options = {"augmentation": "none", "batch_size": 1000, "n_probed": 600, "n_shared_times": 50}
    stream, plain = (
        make_stream(frames, probed_weights=weights, **options),
        make_stream(frames, **options),
    )
    drawn = torch.cat([stream.batch(step).x0[:600, 0, 0] for step in range(4)])
    assert float(drawn.min()) >= 2000.0
    # 2400 draws: five standard deviations of the share.
    assert float((drawn >= 3000.0).float().mean()) == pytest.approx(0.75, abs=0.045)
    # With replacement, and anew in every step.
    assert len(drawn[:600].unique()) < 600
    assert not torch.equal(drawn[:600], drawn[600:1200])
    # The others are those of the shuffled data.
    for step in range(4):
        assert torch.equal(stream.batch(step).x0[600:], plain.batch(step).x0[600:])
    assert torch.equal(stream.batch(2).x0, stream.batch(2).x0)


def test_region_draws():
    # Three regions of different size; the last is drawn twice as often.
    region = torch.tensor([2, 0, 1, 0, 2, 2, 0, 2])
    draws = RegionDraws(region, weights=torch.tensor([1.0, 1.0, 2.0]), size=3)
    generator = torch.Generator().manual_seed(3)
    chosen = draws.draw(40, 600, 10, generator)
    assert chosen.shape == (40, 600)
    # Of a step: 20 sets for each of 10 times, each of 3 frames in a row.
    regions = region[chosen].view(40, 20, 3, 10)
    assert (regions == regions[:, :, :1]).all()
    share = torch.bincount(regions.flatten()) / 24_000
    torch.testing.assert_close(share, torch.tensor([0.25, 0.25, 0.5]), rtol=0.0, atol=0.03)
    # Within a region all frames alike.
    counts = torch.bincount(chosen.flatten())[region == 0].double()
    assert float(counts.max() / counts.min()) < 1.2
    # Sets of a step, of times and of steps are drawn independently of each other.
    by_set = regions[:, :, 0].double()
    for one, other in (
        (by_set[:, 0], by_set[:, 1]),
        (by_set[..., 0], by_set[..., 1]),
        (by_set[0], by_set[1]),
    ):
        assert abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.3


def numbered_frames(n):
    """Frame i is the number i everywhere."""
    return torch.arange(float(n))[:, None, None].expand(n, 1, 2)


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_step_of_a_block_has_its_own_regions_and_times(world_size):
    # Regions are the hundreds of 1000 frames; 48 of 60 frames are probed, 12 of them at one of four
    # times, in sets of three.
    region = torch.arange(1000) // 100
    draws = RegionDraws(region, weights=torch.ones(10), size=3)
    options = {"augmentation": "none", "batch_size": 60, "n_probed": 48, "n_shared_times": 4}
    stream = make_stream(
        numbered_frames(1000),
        probed_regions=draws,
        probed_times=lambda uniform: 10.0 + uniform,
        **options,
    )
    plain = make_stream(numbered_frames(1000), **options)
    sets = []
    for step in (0, 1, 2, 63, 64):
        whole = stream.batch(step)
        # The other frames are those of the shuffled data, at their own kind of times.
        assert torch.equal(whole.x0[48:], plain.batch(step).x0[48:])
        assert float(whole.t[48:].max()) <= 0.6
        assert len(whole.t[48:].unique()) == 12
        for rank in range(world_size):
            part, n, n_times = whole.part(rank, world_size), 48 // world_size, 4 // world_size
            t = part.t[:n].view(12, n_times)
            assert torch.equal(t, t[:1].expand(12, n_times))
            assert len(t[0].unique()) == n_times
            assert ((t >= 10.0) & (t < 11.0)).all()
            of_times = region[part.x0[:n, 0, 0].long()].view(4, 3, n_times)
            assert torch.equal(of_times, of_times[:, :1].expand(4, 3, n_times))
            sets.append(of_times[:, 0].flatten())
    # Drawn anew for every set, and in every step.
    assert all(len(of_step.unique()) > 2 for of_step in sets)
    assert len({tuple(of_step.tolist()) for of_step in sets}) == len(sets)


def test_region_draws_are_a_function_of_seed_and_step():
    draws = RegionDraws(torch.arange(1000) // 100, weights=torch.ones(10), size=3)
    options = {"batch_size": 60, "n_probed": 48, "n_shared_times": 4, "probed_regions": draws}
    frames = torch.randn(1000, 2, 3, generator=torch.Generator().manual_seed(1))
    in_order = make_stream(frames, **options)
    expected = [in_order.batch(step) for step in range(70)]
    fresh = make_stream(frames, **options)
    for step in (69, 3, 64, 63):
        assert same(fresh.batch(step), expected[step])
