"""Corruptions of single samples against other ways to compute them."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy import stats
from scipy.ndimage import gaussian_filter
from tasks import TASKS

from benchmark.engine import corruptions
from benchmark.engine.corruptions import LEVELS, Sensor, corrupt, kinds_of, measured
from benchmark.method import Modality
from benchmark.records.kinds import KINDS

IMAGE = Modality('depth', (2, 40, 48))
SEQUENCE = Modality('gait', (20, 3))
PADDED = Modality('words', (40, 4), padded=True)
VECTOR = Modality('scan', (40,))
MODALITIES = (IMAGE, SEQUENCE, PADDED, VECTOR)

CASES = [(m, kind) for m in MODALITIES for kind in kinds_of(m)]
NAMES = [f'{m.name}-{kind}' for m, kind in CASES]


def sample(modality, seed=0, smooth=0):
    """A sample with a mean above 0; the last six frames of a padded one are padding."""
    x = np.random.default_rng(seed).standard_normal(modality.shape)
    x = (gaussian_filter(x, smooth) + 1).astype(np.float32)
    if modality.padded:
        x[:, -1] = np.arange(len(x)) < len(x) - 6
        x[-6:, :-1] = 0
    return x


@functools.cache
def sensor(modality):
    return measured(modality, np.stack([sample(modality, k) for k in range(30)]), np.ones(30, bool))


def one(modality, kind, severity, name='a', seed=0):
    return corrupt(
        kind, severity, sample(modality, seed), sensor(modality), name, sample(modality, 99)
    )


def test_every_kind_has_five_levels_and_a_modality():
    assert {kind for _, kind in CASES} == {*KINDS} == {*LEVELS}
    assert {len(levels) for levels in LEVELS.values()} == {5}


def test_holes_are_for_depth_alone():
    assert 'holes' in kinds_of(Modality('left_Depth', (1, 8, 8)))
    assert 'holes' in kinds_of(Modality('disparity', (1, 8, 8)))
    assert 'holes' not in kinds_of(Modality('rgb', (3, 8, 8)))


@pytest.mark.parametrize(('modality', 'kind'), CASES, ids=NAMES)
def test_severity_0_is_the_very_input(modality, kind):
    x = sample(modality)
    assert corrupt(kind, 0, x, sensor(modality), 'a', sample(modality, 99)) is x


@pytest.mark.parametrize(('modality', 'kind'), CASES, ids=NAMES)
def test_each_severity_is_further_from_the_input_and_leaves_that_alone(modality, kind):
    found, smooth = [], 5 if kind in ('shift', 'delay') else 0
    for severity in range(6):
        # Of one sample a coin decides some corruptions; twenty are enough for the mean.
        distances = []
        for k in range(20):
            # Of white noise any shift is as far away as any other.
            x, before = sample(modality, k, smooth), sample(modality, k, smooth)
            y = corrupt(kind, severity, x, sensor(modality), str(k), sample(modality, 99))
            np.testing.assert_array_equal(x, before)
            assert y.shape == x.shape
            assert y.dtype == np.float32
            distances.append(np.abs(y.astype(float) - x).mean())
        found.append(np.mean(distances))
    assert found[0] == 0
    assert (np.diff(found) > 0).all(), found


@pytest.mark.parametrize(('modality', 'kind'), CASES, ids=NAMES)
def test_random_numbers_follow_from_the_names_of_sample_modality_and_kind(modality, kind):
    np.testing.assert_array_equal(one(modality, kind, 3), one(modality, kind, 3))
    if kind in ('blur', 'contrast', 'frozen'):
        np.testing.assert_array_equal(one(modality, kind, 3, 'a'), one(modality, kind, 3, 'b'))
        return
    others = [one(modality, kind, 3, name) for name in 'bcdefgh']
    assert any((y != one(modality, kind, 3)).any() for y in others)
    twin = dataclasses.replace(modality, name=f'{modality.name}2')
    found = [
        corrupt(kind, 3, sample(twin), sensor(twin), name) != one(modality, kind, 3, name)
        for name in 'abcdefgh'
    ]
    assert np.any(found)


@pytest.mark.parametrize('kind', ['patches', 'holes'])
def test_what_is_lost_at_a_severity_is_lost_at_higher_ones_and_has_its_share(kind):
    lost = np.zeros(IMAGE.shape[1:], bool)
    for severity in range(1, 6):
        now = (one(IMAGE, kind, severity) == 0).all(0)
        assert now[lost].all()
        assert now.mean() == pytest.approx(LEVELS[kind][severity - 1], abs=0.01)
        lost = now
        kept = one(IMAGE, kind, severity)[:, ~now]
        np.testing.assert_array_equal(kept, sample(IMAGE)[:, ~now])


def test_patches_are_whole_cells_of_a_grid():
    lost = (one(IMAGE, 'patches', 3) == 0).all(0)
    cells = lost.reshape(8, 5, 8, 6).mean((1, 3))
    assert set(np.unique(cells)) == {0, 1}
    small = Modality('rgb', (1, 3, 5))
    lost = corrupt('patches', 5, sample(small) + 9, sensor(small), 'a')[0] == 0
    assert lost.sum() == round(0.6 * 15)


def test_gaussian_noise_is_normal_in_deviations_of_the_validation_split():
    wide = Modality('rgb', (2, 60, 60))
    rng = np.random.default_rng(0)
    rows = rng.normal([[[[1]], [[-2]]]], [[[[3]], [[0.5]]]], (20, 2, 60, 60))
    found = measured(wide, rows, np.ones(20, bool))
    x = rows[0].astype(np.float32)
    noise = corrupt('gaussian', 4, x, found, 'a') - x
    for channel, std in enumerate((3, 0.5)):
        test = stats.kstest(noise[channel].ravel() / (1.15 * std), 'norm')
        assert test.pvalue > 0.001
    low = corrupt('gaussian', 1, x, found, 'a') - x
    np.testing.assert_allclose(noise / 1.15, low / 0.35, atol=1e-4)


def test_levels_of_gaussian_noise_are_those_of_imagenet_c_in_deviations():
    # Standard deviations of the channels of ImageNet, as torchvision normalises by them.
    std = np.mean([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        LEVELS['gaussian'], np.array([8, 12, 18, 26, 38]) / 100 / std, atol=0.006
    )


@pytest.mark.parametrize('severity', [1, 3, 5])
def test_shot_noise_is_poisson_between_the_ends_of_the_range(severity):
    photons = LEVELS['shot'][severity - 1]
    grey = Modality('ir', (1, 200, 200))
    found = Sensor(grey, *(np.full((1, 1, 1), v) for v in (1, -2, 6)))
    light = 0.4
    x = np.full(grey.shape, -2 + 8 * light, np.float32)
    counts = (corrupt('shot', severity, x, found, 'a') + 2) / 8 * photons
    np.testing.assert_allclose(counts, counts.round(), atol=1e-3)
    values = counts.round().astype(int).ravel()
    assert values.mean() == pytest.approx(photons * light, rel=0.02)
    assert values.var() == pytest.approx(photons * light, rel=0.05)
    expected = stats.poisson.pmf(np.arange(8), photons * light) * values.size
    np.testing.assert_allclose(np.bincount(values, minlength=8)[:8], expected, atol=5 * 200)
    dark = corrupt('shot', severity, np.full(grey.shape, -3, np.float32), found, 'a')
    np.testing.assert_array_equal(dark, -3)


@pytest.mark.parametrize('severity', [3, 5])
def test_blur_is_a_gaussian_filter_whose_width_follows_the_side(severity):
    big = Modality('rgb', (1, 112, 130))
    x = sample(big)
    sigma = (1, 2, 3, 4, 6)[severity - 1] * 112 / 224
    reach = int(4 * sigma + 0.5)
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    plane = torch.from_numpy(np.outer(kernel, kernel) / kernel.sum() ** 2).float()[None, None]
    padded = F.pad(torch.from_numpy(x)[None], (reach,) * 4, mode='replicate')
    expected = F.conv2d(padded, plane)[0].numpy()
    np.testing.assert_allclose(corrupt('blur', severity, x, sensor(big), 'a'), expected, atol=1e-5)


@pytest.mark.parametrize(('severity', 'left'), [(1, 0.4), (2, 0.3), (3, 0.2), (4, 0.1), (5, 0.05)])
def test_contrast_keeps_the_mean_and_scales_the_deviation(severity, left):
    x, y = sample(IMAGE), one(IMAGE, 'contrast', severity)
    np.testing.assert_allclose(y.mean((1, 2)), x.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(y.std((1, 2)), left * x.std((1, 2)), rtol=1e-4)


def test_misalignment_moves_the_picture_as_roll_does_and_repeats_the_border():
    moves = set()
    for name in 'abcdefghijkl':
        x, y = sample(IMAGE), one(IMAGE, 'shift', 5, name)
        reach = round(0.16 * 40)
        fits = [
            (a, b)
            for a in range(-reach, reach + 1)
            for b in range(-reach, reach + 1)
            if (np.roll(x, (a, b), (1, 2))[:, 7:-7, 7:-7] == y[:, 7:-7, 7:-7]).all()
        ]
        ((a, b),) = fits
        assert np.hypot(a, b) == pytest.approx(reach, abs=0.75)
        edge = y[:, 0] if a > 0 else y[:, -1]
        if a:
            next_one = y[:, abs(a)] if a > 0 else y[:, -1 - abs(a)]
            np.testing.assert_array_equal(edge, next_one)
        moves.add((a, b))
    assert len(moves) > 6
    tiny = Modality('rgb', (1, 4, 4))
    assert (corrupt('shift', 1, sample(tiny), sensor(tiny), 'a') != sample(tiny)).any()


def test_a_lost_segment_is_one_piece_within_those_of_higher_severities():
    before = set()
    for severity, share in enumerate(LEVELS['segments'], 1):
        lost = np.flatnonzero((one(SEQUENCE, 'segments', severity) == 0).all(1))
        assert len(lost) == round(share * 20)
        assert (np.diff(lost) == 1).all()
        assert before <= set(lost)
        before = set(lost)


def test_a_shift_in_time_moves_frames_and_leaves_zeros():
    seen = set()
    for name in 'abcdefgh':
        x, y = sample(SEQUENCE), one(SEQUENCE, 'delay', 5, name)
        late = (y[0] == 0).all()
        moved, empty = (y[8:], y[:8]) if late else (y[:-8], y[-8:])
        np.testing.assert_array_equal(moved, x[:-8] if late else x[8:])
        assert not empty.any()
        seen.add(bool(late))
    assert seen == {False, True}


def test_lost_features_are_zeros_and_drift_is_a_gain():
    x = sample(VECTOR)
    lost = set()
    for severity, share in enumerate(LEVELS['features'], 1):
        y = one(VECTOR, 'features', severity)
        now = set(np.flatnonzero(y == 0))
        assert len(now) == round(share * 40)
        assert lost <= now
        np.testing.assert_array_equal(np.delete(y, [*now]), np.delete(x, [*now]))
        lost = now
    gains = {float(np.median(one(VECTOR, 'drift', 5, name) / x)) for name in 'abcdefgh'}
    assert sorted(gains) == pytest.approx([1 / 3, 3])


@pytest.mark.parametrize('modality', [IMAGE, SEQUENCE, VECTOR], ids=lambda m: m.name)
def test_a_stuck_sensor_shows_another_sample_in_part_and_then_wholly(modality):
    x, other = sample(modality), sample(modality, 99)
    np.testing.assert_array_equal(one(modality, 'frozen', 5), other)
    axis = 1 if modality is IMAGE else 0
    stale = round(0.4 * x.shape[axis])
    first, rest = np.split(one(modality, 'frozen', 2), [stale], axis)
    np.testing.assert_array_equal(first, np.split(other, [stale], axis)[0])
    np.testing.assert_array_equal(rest, np.split(x, [stale], axis)[1])


@pytest.mark.parametrize('kind', kinds_of(PADDED))
def test_padding_and_its_mark_stay_and_real_frames_are_those_of_a_shorter_sequence(kind):
    x, y = sample(PADDED), one(PADDED, kind, 3)
    np.testing.assert_array_equal(y[:, -1], x[:, -1])
    np.testing.assert_array_equal(y[-6:], x[-6:])
    plain = Modality('words', (34, 3))
    units = dataclasses.replace(sensor(PADDED), modality=plain)
    expected = corrupt(kind, 3, x[:34, :3], units, 'a', sample(PADDED, 99)[:34, :3])
    np.testing.assert_array_equal(y[:34, :3], expected)


def test_a_padded_sequence_without_any_frame_stays_as_it_is():
    x = np.zeros(PADDED.shape, np.float32)
    for kind in kinds_of(PADDED):
        np.testing.assert_array_equal(corrupt(kind, 5, x, sensor(PADDED), 'a', x), x)


@pytest.mark.parametrize(
    'modality', [m for t in TASKS.values() for m in t.modalities], ids=lambda m: m.name
)
def test_units_are_the_deviations_of_available_samples(modality):
    rng = np.random.default_rng(0)
    rows = rng.normal(2, 3, (40, *modality.shape))
    if modality.padded:
        rows[..., -1] = rng.random((40, modality.shape[0])) < 0.7
        rows[rows[..., -1] == 0, :-1] = 1e6
    available = rng.random(40) < 0.5
    rows[~available] = np.nan
    found = measured(modality, rows, available)
    axis = 1 if len(modality.shape) == 3 else -1
    x = np.moveaxis(rows[available], axis, 0)
    if modality.padded:
        x = x[:-1, rows[available][..., -1] > 0]
    x = x.reshape(len(x), -1)
    np.testing.assert_allclose(found.std.ravel(), x.std(1))
    np.testing.assert_allclose(found.low.ravel(), np.quantile(x, 0.005, axis=1))
    np.testing.assert_allclose(found.high.ravel(), np.quantile(x, 0.995, axis=1))
    assert found.std.ndim == len(modality.shape)


def test_units_of_a_modality_that_no_sample_has_are_0():
    for modality in MODALITIES:
        found = measured(modality, np.ones((3, *modality.shape)), np.zeros(3, bool))
        assert not found.std.any()


def test_at_most_some_samples_are_read(monkeypatch):
    monkeypatch.setattr(corruptions, 'MEASURED', 10)
    read = []

    class Rows:
        shape = (1000, 4)

        def __getitem__(self, index):
            read.extend(index.tolist())
            return np.zeros((len(index), 4))

    available = np.arange(1000) % 2 == 0
    measured(Modality('scan', (4,)), Rows(), available)
    assert len(set(read)) == 10
    assert available[read].all()
    assert np.ptp(read) > 900
