"""Augmentation against NumPy slices, explicit resampling, torchvision's rule and colorsys.

Images carry the coordinates of their pixels as channels, so that a result tells which transform
made it, whatever the code draws or in which order.
"""

import colorsys
import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from benchmark.errors import UserError
from benchmark.method import IGNORE, Batch, Preprocessor
from datasets.common.augment.colour import hsv_to_rgb, rgb_to_hsv
from datasets.common.augment.transforms import (
    ColourJitter,
    Compose,
    Geometric,
    Intensity,
    ResizedCrop,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILL = 100.0  # added to coordinates, so that no pixel inside is 0


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def batch_of(count=6, source=(20, 26), dense=True):
    """Noise in rgb; in depth, x and y of every pixel; labels all different, modulo 251."""
    rng = np.random.default_rng(0)
    height, width = source
    y, x = np.mgrid[:height, :width].astype(np.float32) + FILL
    labels = rng.permutation(height * width).reshape(source) % 251
    mask = torch.ones(count, 2, dtype=torch.bool)
    return Batch(
        inputs={
            'rgb': torch.from_numpy(rng.random((count, 3, *source), np.float32)),
            'depth': torch.from_numpy(np.stack([x, y])).repeat(count, 1, 1, 1),
        },
        available=mask,
        mask=mask,
        target=torch.from_numpy(labels).repeat(count, 1, 1) if dense else torch.arange(count),
        ids=torch.arange(count),
    )


def corners(out):
    """(B, 2) x and y in the source of the upper left pixel, for crops at whole pixels."""
    return out.inputs['depth'][:, :, 0, 0].numpy() - FILL


def map_of(depth):
    """The affine map (2, 3) from (x, y, 1) of a result's pixels to the source's, by least squares.

    Interpolated linear ramps stay linear, away from the border.
    """
    depth = depth.double().numpy()
    y, x = np.nonzero(ndimage.binary_erosion(depth[0] > 0, np.ones((5, 5)), border_value=0))
    points = np.stack([x, y, np.ones_like(x)], 1)
    solution, *_ = np.linalg.lstsq(points, depth[:, y, x].T - FILL, rcond=None)
    np.testing.assert_allclose(points @ solution, depth[:, y, x].T - FILL, atol=1e-3)
    return solution.T


def same(a, b):
    """Whether two batches are equal bit by bit, their modalities in the same order."""
    pairs = zip(a[1:5], b[1:5], strict=True)
    inputs = [torch.equal(a.inputs[m], b.inputs[m]) for m in a.inputs]
    return list(a.inputs) == list(b.inputs) and all(inputs + [torch.equal(x, y) for x, y in pairs])


STEPS = {
    'flip': Geometric((20, 26)),
    'crop': Geometric((8, 12), flip=0.5, vertical_flip=0.5),
    'affine': Geometric((16, 18), rotate=30, scale=(0.7, 1.4), canvas=0.8, nearest=('depth',)),
    'box': ResizedCrop((8, 12), modalities=('rgb',)),
    'colour': ColourJitter('rgb', MEAN, STD),
    'intensity': Intensity(),
    'all': Compose(
        Geometric((16, 18), scale=(1, 1.4)), ColourJitter('rgb', MEAN, STD), Intensity(('depth',))
    ),
}


def batch_for(name, **options):
    return batch_of(dense=name != 'box', **options)


@pytest.mark.parametrize('name', STEPS)
def test_a_seed_reproduces_and_another_differs(name):
    batch, results = batch_for(name), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(STEPS[name](batch))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


@pytest.mark.parametrize('name', STEPS)
def test_the_given_batch_is_left_as_it_is(name):
    batch = batch_for(name)
    copy = batch._replace(inputs={m: x.clone() for m, x in batch.inputs.items()})
    copy = copy._replace(target=batch.target.clone())
    out = STEPS[name](batch)
    assert same(batch, copy)
    assert out.ids is batch.ids
    assert out.mask is batch.mask
    assert out.available is batch.available


@pytest.mark.parametrize('name', STEPS)
def test_nothing_waits_for_the_device(name):
    # Meta tensors have no values: whatever asks for one fails.
    batch = batch_for(name)
    there = {m: x.to('meta') for m, x in batch.inputs.items()}
    out = STEPS[name](Batch(there, *(x.to('meta') for x in batch[1:5])))
    here = STEPS[name](batch)
    assert all(x.is_meta for x in (*out.inputs.values(), out.target))
    assert all(out.inputs[m].shape == x.shape for m, x in here.inputs.items())


@pytest.mark.parametrize('name', STEPS)
def test_autocast_changes_nothing(name):
    batch, results = batch_for(name), []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            results.append(STEPS[name](batch))
    assert same(*results)


@pytest.mark.parametrize('name', [name for name in STEPS if name != 'all'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_only_values_take_the_precision_of_the_input(name, dtype):
    batch = batch_for(name, source=(20, 26))
    batch = batch._replace(inputs={m: x.to(dtype) for m, x in batch.inputs.items()})
    torch.manual_seed(0)
    out = STEPS[name](batch)
    torch.manual_seed(0)
    exact = STEPS[name](batch._replace(inputs={m: x.float() for m, x in batch.inputs.items()}))
    for m, x in exact.inputs.items():
        assert out.inputs[m].dtype == dtype
        close = 4 * max(torch.finfo(dtype).eps, 1e-6)
        torch.testing.assert_close(out.inputs[m].float(), x, rtol=close, atol=close)
    assert torch.equal(out.target, exact.target)


@pytest.mark.parametrize('name', STEPS)
def test_no_graph_is_recorded(name):
    batch = batch_for(name)
    batch = batch._replace(inputs={m: x.requires_grad_() for m, x in batch.inputs.items()})
    changed = [x for m, x in STEPS[name](batch).inputs.items() if x is not batch.inputs[m]]
    assert changed
    assert not any(x.requires_grad for x in changed)


IDENTITIES = {
    'none': Compose(),
    'geometric': Geometric((20, 26), flip=0),
    'interpolated': Geometric((20, 26), rotate=1e-9, flip=0),
    'box': ResizedCrop((20, 26), (1, 1), (1.3, 1.3), flip=0),
    'colour': ColourJitter('rgb', MEAN, STD, 0, 0, 0),
    'intensity': Intensity(scale=0, shift=0),
}


@pytest.mark.parametrize('name', IDENTITIES)
def test_identity_settings_change_nothing(name):
    batch = batch_of(dense=name != 'box')
    out = IDENTITIES[name](batch)
    assert torch.equal(out.target, batch.target)
    for m, x in batch.inputs.items():
        torch.testing.assert_close(out.inputs[m], x, rtol=0, atol=1e-5 if m == 'rgb' else 1e-4)


def test_crops_are_slices_at_every_position_equally_often():
    batch = batch_of(count=900, source=(10, 11))
    out = Geometric((8, 7), flip=0)(batch)
    x0, y0 = corners(out).astype(int).T
    for b, (x, y) in enumerate(zip(x0, y0, strict=True)):
        window = (b, ..., slice(y, y + 8), slice(x, x + 7))
        for m in batch.inputs:
            assert torch.equal(out.inputs[m][b], batch.inputs[m][window])
        assert torch.equal(out.target[b], batch.target[window])
    seen = np.zeros((3, 5))
    np.add.at(seen, (y0, x0), 1)
    assert stats.chisquare(seen.ravel()).pvalue > 1e-3


def test_an_image_smaller_than_the_crop_lies_anywhere_in_it():
    batch = batch_of(count=300, source=(5, 6))
    out = Geometric((7, 8), flip=0)(batch)
    seen = set()
    for b in range(300):
        inside = out.target[b] != IGNORE
        (y, x), shape = inside.nonzero().min(0).values.tolist(), batch.target[b].shape
        window = (slice(y, y + 5), slice(x, x + 6))
        assert inside.sum() == shape.numel()
        assert torch.equal(out.target[b][window], batch.target[b])
        for m, v in batch.inputs.items():
            expected = np.zeros((v.shape[1], 7, 8), np.float32)
            expected[(..., *window)] = v[b]
            np.testing.assert_array_equal(out.inputs[m][b], expected)
        seen.add((y, x))
    assert seen == {(y, x) for y in range(3) for x in range(3)}


def test_each_side_is_cropped_or_padded_on_its_own():
    out = Geometric((7, 4), flip=0)(batch_of(source=(5, 6)))
    inside = out.target != IGNORE
    assert (inside.all(2).sum(1) == 5).all()
    assert (inside.any(2).sum(1) == 5).all()


@pytest.mark.parametrize('chances', [(0.3, 0.0), (0.0, 0.8), (0.3, 0.8)])
def test_flips_are_as_frequent_as_asked_and_independent(chances):
    count = 2000
    batch = batch_of(count, (4, 5))
    out = Geometric((4, 5), flip=chances[0], vertical_flip=chances[1])(batch)
    x, y = (corners(out) > 0).T  # the first pixel is the last of its axis
    expected = {
        (left, up): (chances[0] if left else 1 - chances[0])
        * (chances[1] if up else 1 - chances[1])
        for left in (0, 1)
        for up in (0, 1)
    }
    for (left, up), share in expected.items():
        found = ((x == left) & (y == up)).mean()
        assert abs(found - share) <= 4 * math.sqrt(share * (1 - share) / count)
    for b in range(20):
        axes = [-1] * int(x[b]) + [-2] * int(y[b])
        assert torch.equal(out.inputs['rgb'][b], batch.inputs['rgb'][b].flip(axes))
        assert torch.equal(out.target[b], batch.target[b].flip(axes))


def resample(image, matrix, size, order):
    """Bilinear (order 1) or nearest (0) samples with the border repeated, by SciPy, in (y, x)."""
    swapped = matrix[::-1][:, [1, 0, 2]]
    options = {'offset': swapped[:, 2], 'output_shape': size, 'order': order, 'mode': 'nearest'}
    return ndimage.affine_transform(image, swapped[:, :2], **options)


def outside(matrix, source, size):
    """How far, in pixels of the source, a result's pixels lie beyond its edges; < 0 is inside."""
    y, x = np.mgrid[: size[0], : size[1]]
    x, y = np.einsum('ij,jhw->ihw', matrix, np.stack([x, y, np.ones_like(x)]).astype(float))
    return np.maximum(
        np.abs(x - (source[1] - 1) / 2) - source[1] / 2,
        np.abs(y - (source[0] - 1) / 2) - source[0] / 2,
    )


AFFINE = Geometric((21, 24), rotate=40, scale=(0.8, 1.6), flip=0.5, vertical_flip=0.5)


def test_all_modalities_and_labels_follow_one_affine_map_per_sample():
    batch = batch_of(count=12, source=(26, 33))
    batch.inputs['holes'] = batch.inputs['rgb'][:, :1] + 1
    out = Geometric(**{**vars(AFFINE), 'nearest': ('holes',)})(batch)
    maps = [map_of(depth) for depth in out.inputs['depth']]
    assert len({m.tobytes() for m in maps}) == 12
    for b, matrix in enumerate(maps):
        beyond = outside(matrix, (26, 33), (21, 24))
        sure, inside = np.abs(beyond) > 1e-3, beyond < 0
        assert sure.mean() > 0.99
        np.testing.assert_array_equal((out.target[b] != IGNORE)[sure], inside[sure])
        for m in ('rgb', 'holes'):
            for channel, image in zip(out.inputs[m][b], batch.inputs[m][b], strict=True):
                expected = resample(image.double().numpy(), matrix, (21, 24), int(m == 'rgb'))
                expected = np.where(inside, expected, 0)
                close = np.abs(channel.numpy() - expected)[sure] < 1e-3
                assert close.all() if m == 'rgb' else close.mean() > 0.99  # ties in rounding
        expected = np.where(inside, resample(batch.target[b].numpy(), matrix, (21, 24), 0), IGNORE)
        assert (out.target[b].numpy() == expected)[sure].mean() > 0.99


def test_what_is_not_interpolated_keeps_its_values():
    batch = batch_of(count=12)
    out = Geometric((21, 24), rotate=40, scale=(0.8, 1.6), nearest=('depth',))(batch)
    values = set(batch.inputs['depth'].unique().tolist()) | {0.0}
    assert set(out.inputs['depth'].unique().tolist()) <= values
    assert set(out.target.unique().tolist()) <= set(batch.target.unique().tolist()) | {IGNORE}
    # Depth is where its label is: both say which pixel they were.
    x, y = (out.inputs['depth'] - FILL).long().unbind(1)
    there = out.target != IGNORE
    assert torch.equal(batch.target[0][y[there], x[there]], out.target[there])


def test_inputs_are_zero_exactly_where_labels_are_ignored_and_never_darkened():
    batch = batch_of(count=40)
    batch.inputs['rgb'] = torch.ones_like(batch.inputs['rgb'])
    out = Geometric((20, 26), rotate=40, scale=(0.6, 1.6))(batch)
    there = (out.target != IGNORE).float()
    assert 0 < there.mean() < 1
    torch.testing.assert_close(out.inputs['rgb'], there[:, None].expand(-1, 3, -1, -1))


def drawn(step, count=600, source=(30, 40)):
    """Zoom (B,), angle in degrees (B,), and maps (B, 2, 3) of a step without flips."""
    maps = np.stack([map_of(d) for d in step(batch_of(count, source)).inputs['depth']])
    linear = maps[:, :, :2]
    zoom = np.linalg.det(linear) ** -0.5
    rotation = linear * zoom[:, None, None]
    unit = np.broadcast_to(np.eye(2), rotation.shape)
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), unit, atol=1e-3)
    return zoom, np.degrees(np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])), maps


def test_zoom_and_angle_are_uniform_and_independent():
    zoom, angle, _ = drawn(Geometric((20, 24), rotate=25, scale=(1.0, 1.6), flip=0))
    assert stats.kstest(zoom, stats.uniform(1.0, 0.6).cdf).pvalue > 1e-3
    assert stats.kstest(angle, stats.uniform(-25, 50).cdf).pvalue > 1e-3
    assert stats.spearmanr(zoom, angle).pvalue > 1e-3


def shift_from_centre(zoom, angle, maps, source, size):
    """(B, 2) from the centre of the zoomed, rotated image to the crop's, along the crop's axes."""
    height, width = size
    middle = maps @ [(width - 1) / 2, (height - 1) / 2, 1]
    x, y = (middle - [(source[1] - 1) / 2, (source[0] - 1) / 2]).T * zoom
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.stack([x * cos + y * sin, y * cos - x * sin], 1)


@pytest.mark.parametrize('canvas', [None, 0.9])
def test_crops_fill_the_canvas_and_stay_in_it(canvas):
    source, size = (30, 40), (16, 18)
    zoom, angle, maps = drawn(
        Geometric(size, rotate=30, scale=(1.0, 1.3), flip=0, canvas=canvas), source=source
    )
    height, width = np.array(source)[:, None] * zoom
    if canvas:
        cos, sin = np.cos(np.radians(angle)), np.abs(np.sin(np.radians(angle)))
        height, width = height * cos + width * sin, width * cos + height * sin
    slack = (np.stack([width, height], 1) * (canvas or 1) - size[::-1]) / 2
    share = shift_from_centre(zoom, angle, maps, source, size) / slack
    assert np.abs(share).max() <= 1.001
    assert stats.kstest(share[:, 0], stats.uniform(-1, 2).cdf).statistic < 0.1
    assert stats.kstest(share[:, 1], stats.uniform(-1, 2).cdf).statistic < 0.1
    assert abs(np.corrcoef(share.T)[0, 1]) < 0.15


def test_a_canvas_without_rotation_keeps_to_whole_pixels_in_its_middle():
    # 0.8 of 144 leaves 14.4 pixels at either side: crops of 112 start at 15, 16 or 17.
    batch = batch_of(60, (144, 144), dense=False)
    out = Geometric((112, 112), flip=0, canvas=0.8)(batch)
    assert set(corners(out).ravel().tolist()) == {15, 16, 17}


def test_rotation_alone_turns_about_the_centre():
    source = (30, 40)
    zoom, angle, maps = drawn(Geometric(source, rotate=20, flip=0), count=20, source=source)
    np.testing.assert_allclose(maps @ [19.5, 14.5, 1], np.tile([19.5, 14.5], (20, 1)), atol=1e-3)
    np.testing.assert_allclose(zoom, 1, atol=1e-4)
    assert np.ptp(angle) > 20


def torchvision_box(rng, height, width, scale, ratio):
    """One box (x, y, w, h) by the rule that torchvision documents, sample by sample."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(width - w + 1), rng.integers(height - h + 1), w, h
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return (width - w) // 2, (height - h) // 2, w, h


def boxes(step, count, source):
    """(B, 4) x, y, w, h of the boxes that a ResizedCrop without flips cut."""
    out = step(batch_of(count, source, dense=False))
    maps = np.stack([map_of(d) for d in out.inputs['depth']])
    assert np.abs(maps[:, [0, 1], [1, 0]]).max() < 1e-4
    scale = maps[:, [0, 1], [0, 1]]
    sides = scale * np.array(step.size[::-1])
    return np.concatenate([maps[:, :, 2] + 0.5 - scale / 2, sides], 1)


@pytest.mark.parametrize(('source', 'ratio'), [((40, 40), (1 / 3, 3)), ((30, 50), (3 / 4, 4 / 3))])
def test_boxes_are_distributed_as_torchvision_s(source, ratio):
    found = boxes(ResizedCrop((24, 20), ratio=ratio, flip=0), 700, source)
    assert np.abs(found - found.round()).max() < 0.05
    rng = np.random.default_rng(0)
    expected = [torchvision_box(rng, *source, (0.08, 1), ratio) for _ in range(700)]
    x, y, w, h = found.round().T
    ex, ey, ew, eh = np.array(expected).T
    for a, b in ((x, ex), (y, ey), (w, ew), (h, eh), (w * h, ew * eh), (w / h, ew / eh)):
        assert stats.ks_2samp(a, b).pvalue > 1e-3


@pytest.mark.parametrize('source', [(60, 12), (12, 60), (20, 25)])
def test_a_box_that_never_fits_falls_back_to_the_centre(source):
    # Boxes of more than the whole area never fit.
    step = ResizedCrop((24, 20), scale=(2, 3), flip=0)
    expected = torchvision_box(np.random.default_rng(0), *source, (2, 3), (3 / 4, 4 / 3))
    np.testing.assert_allclose(boxes(step, 3, source), [expected] * 3, atol=0.02)


def test_a_box_is_resized_as_interpolate_does_and_mirrored():
    batch = batch_of(60, (40, 40), dense=False)
    out = ResizedCrop((24, 20), flip=0.4)(batch)
    flips = 0
    for b in range(60):
        matrix = map_of(out.inputs['depth'][b])
        result = {m: v[b] for m, v in out.inputs.items()}
        if matrix[0, 0] < 0:
            flips += 1
            result = {m: v.flip(-1) for m, v in result.items()}
            matrix = map_of(result['depth'])
        sides = matrix[[0, 1], [0, 1]] * [20, 24]
        (x, y), (w, h) = (
            v.round().astype(int) for v in (matrix[:, 2] + 0.5 - matrix[[0, 1], [0, 1]] / 2, sides)
        )
        box = batch.inputs['rgb'][b : b + 1, :, y : y + h, x : x + w]
        expected = torch.nn.functional.interpolate(box, (24, 20), mode='bilinear')[0]
        # At its edge the box's neighbours count here, the edge itself in interpolate.
        edge = slice(3, -3)
        torch.testing.assert_close(
            result['rgb'][:, edge, edge], expected[:, edge, edge], rtol=0, atol=1e-3
        )
    assert 0.2 < flips / 60 < 0.6


def pixels(count=4):
    """(count, 3, 5, 16) of colours, with greys, black, white, primaries and ties among them."""
    rgb = np.random.default_rng(0).random((count, 3, 5, 16))
    rgb[0, :, 0, :8] = [[i >> k & 1 for i in range(8)] for k in range(3)]
    rgb[1, :, 0] = rgb[1, :1, 0]
    rgb[2, 1, 1] = rgb[2, 0, 1]
    rgb[2, 2, 2] = rgb[2, 1, 2]
    return rgb


def by_pixel(function, images):
    flat = np.moveaxis(images, 1, -1)
    out = np.array([function(*p) for p in flat.reshape(-1, 3).tolist()])
    return np.moveaxis(out.reshape(flat.shape), -1, 1)


def test_hsv_is_colorsys_s():
    rgb = pixels()
    hsv = by_pixel(colorsys.rgb_to_hsv, rgb)
    found = rgb_to_hsv(torch.from_numpy(rgb)).numpy()
    np.testing.assert_allclose(found, hsv, atol=1e-9)
    np.testing.assert_allclose(hsv_to_rgb(torch.from_numpy(hsv)), rgb, atol=1e-9)
    free = np.random.default_rng(1).random(rgb.shape)
    free[0, 0] = 1.0  # a whole turn
    expected = by_pixel(colorsys.hsv_to_rgb, free)
    np.testing.assert_allclose(hsv_to_rgb(torch.from_numpy(free)), expected, atol=1e-9)


def jittered(rgb, **ranges):
    """HSV before and after the jitter of normalised pixels, (B, 3, H W)."""
    mean, std = (np.array(v)[:, None, None] for v in (MEAN, STD))
    batch = batch_of(len(rgb), dense=False)
    batch.inputs['rgb'] = torch.from_numpy(((rgb - mean) / std).astype(np.float32))
    ranges = {'hue': 0, 'saturation': 0, 'value': 0, **ranges}
    out = ColourJitter('rgb', MEAN, STD, **ranges)(batch)
    assert out.inputs['depth'] is batch.inputs['depth']
    assert out.target is batch.target
    after = out.inputs['rgb'].double().numpy() * std + mean
    assert after.min() > -1e-6
    assert after.max() < 1 + 1e-6
    hsv = (by_pixel(colorsys.rgb_to_hsv, x.clip(0, 1)) for x in (rgb, after))
    return [x.reshape(len(rgb), 3, -1) for x in hsv]


@pytest.mark.parametrize('channel', [0, 1, 2])
def test_jitter_changes_one_of_hue_saturation_and_value_by_one_number_a_sample(channel):
    count, most = 300, (0.1, 0.2, 25 / 255)[channel]
    hsv = np.random.default_rng(0).uniform(0.25, 0.75, (count, 3, 2, 3))
    rgb = by_pixel(colorsys.hsv_to_rgb, hsv)
    before, after = jittered(rgb, **{('hue', 'saturation', 'value')[channel]: most})
    if channel == 2:
        change = after[:, 2] - before[:, 2]
    else:
        change = after[:, channel] / before[:, channel] - 1
    assert np.ptp(change, 1).max() < 1e-4
    assert stats.kstest(change[:, 0], stats.uniform(-most, 2 * most).cdf).pvalue > 1e-3
    others = [c for c in range(3) if c != channel]
    np.testing.assert_allclose(after[:, others], before[:, others], atol=1e-4)


def test_jitter_changes_all_three_independently_and_clips():
    hsv = np.random.default_rng(0).uniform(0.3, 0.7, (300, 3, 1, 1))
    before, after = jittered(by_pixel(colorsys.hsv_to_rgb, hsv), hue=0.1, saturation=0.1, value=0.1)
    changes = np.stack([*(after / before - 1)[:, :2, 0].T, (after - before)[:, 2, 0]])
    assert (changes.std(1) > 0.04).all()
    assert np.abs(np.corrcoef(changes) - np.eye(3)).max() < 0.2
    ends = np.broadcast_to(np.array([0.95, 0.95, 0.95])[:, None, None], (300, 3, 1, 1))
    before, after = jittered(by_pixel(colorsys.hsv_to_rgb, ends), saturation=0.3, value=0.3)
    for channel in (1, 2):
        assert (after[:, channel] > 1 - 1e-6).mean() > 0.2


def test_hue_is_clipped_not_wrapped():
    # Beyond one turn lies red, 0 as well as 1, not orange.
    rgb = by_pixel(
        colorsys.hsv_to_rgb,
        np.broadcast_to(np.array([0.95, 0.8, 0.8])[:, None, None], (100, 3, 1, 1)),
    )
    _, after = jittered(rgb, hue=0.3)
    hue = after[:, 0, 0]
    red = np.minimum(hue, 1 - hue) < 1e-5
    assert 0.2 < red.mean() < 0.8
    assert hue[~red].min() > 0.6


def test_intensity_is_one_line_per_sample_channel_and_modality():
    batch = batch_of(200, (4, 5))
    out = Intensity(scale=0.2, shift=0.3)(batch)
    assert torch.equal(out.target, batch.target)
    lines = []
    for m, x in batch.inputs.items():
        x, y = (v.double().numpy().reshape(*v.shape[:2], -1) for v in (x, out.inputs[m]))
        factor = np.ptp(y, 2) / np.ptp(x, 2)
        shift = y.mean(2) - factor * x.mean(2)
        np.testing.assert_allclose(factor[..., None] * x + shift[..., None], y, atol=1e-4)
        lines += [*factor.T, *shift.T]
        assert stats.kstest(factor.ravel(), stats.uniform(0.8, 0.4).cdf).pvalue > 1e-3
        assert stats.kstest(shift.ravel(), stats.uniform(-0.3, 0.6).cdf).pvalue > 1e-3
    # Not exact for depth, whose shift is read off 100 units away, but far from a common draw.
    assert np.abs(np.corrcoef(lines) - np.eye(10)).max() < 0.3


@pytest.mark.parametrize(
    'step',
    [
        Geometric((8, 9), rotate=20, modalities=('rgb',)),
        ResizedCrop((8, 9), modalities=('rgb',)),
        Intensity(('rgb',)),
    ],
)
def test_modalities_not_named_are_not_touched(step):
    batch = batch_of(dense=False)
    out = step(batch)
    assert out.inputs['depth'] is batch.inputs['depth']
    assert out.target is batch.target
    assert not torch.equal(out.inputs['rgb'], batch.inputs['rgb'])


def test_steps_are_applied_in_order():
    batch = batch_of()
    torch.manual_seed(1)
    out = Compose(Geometric((8, 9)), Intensity())(batch)
    torch.manual_seed(1)
    assert same(out, Intensity()(Geometric((8, 9))(batch)))


def test_what_is_missing_stays_zero_through_the_preprocessor_and_alone_in_it():
    batch = batch_of()
    available = batch.available.clone()
    available[::2, 0] = available[1, 1] = False
    for column, x in enumerate(batch.inputs.values()):
        x[~available[:, column]] = 0
    batch = batch._replace(available=available, mask=available)
    preprocessor = Preprocessor()
    preprocessor.augment = STEPS['all']
    out = preprocessor(batch, training=True)
    for column, (m, x) in enumerate(out.inputs.items()):
        assert m == list(batch.inputs)[column]
        assert not x[~available[:, column]].any()
        assert x[available[:, column]].flatten(1).any(1).all()
    # Whatever stands in for what is missing reaches no other sample.
    batch.inputs['rgb'][~available[:, 0]] = torch.nan
    for step in (STEPS['affine'], STEPS['colour'], STEPS['intensity']):
        bad = step(batch).inputs['rgb'].isnan().flatten(1).any(1)
        assert torch.equal(bad, ~available[:, 0])


MISTAKES = {
    "modality in augmentation 'rbg'; did you mean 'rgb'": lambda b: Intensity(('rbg',))(b),
    "modality in nearest 'deph'; did you mean 'depth'": lambda b: Geometric(
        (4, 4), nearest=('deph',)
    )(b),
    "expected names of modalities, found 'rgb'": lambda b: Geometric((4, 4), modalities='rgb')(b),
    'expected names of modalities, found ()': lambda b: Geometric((4, 4), modalities=())(b),
    "unknown modality in augmentation 'ir'": lambda b: ColourJitter('ir', MEAN, STD)(b),
    "of 'depth': expected 3 channels, found 2": lambda b: ColourJitter('depth', MEAN, STD)(b),
    'expected target (B,), found dense labels': lambda b: ResizedCrop((4, 4))(b),
    "of 'sound': expected shape (C, H, W), found (7,)": lambda b: Geometric((4, 4))(
        b._replace(inputs={**b.inputs, 'sound': torch.zeros(6, 7)})
    ),
    'rgb (20, 26), depth (20, 26), ir (20, 25), target (20, 26)': lambda b: Geometric((4, 4))(
        b._replace(inputs={**b.inputs, 'ir': torch.zeros(6, 1, 20, 25)})
    ),
    'rgb (20, 26), target (40, 52)': lambda b: Geometric((4, 4), modalities=('rgb',))(
        b._replace(target=torch.zeros(6, 40, 52, dtype=torch.int64))
    ),
    'scale: expected 0 < least <= greatest, found (1.4, 1)': lambda b: Geometric(
        (4, 4), scale=(1.4, 1)
    ),
    'ratio: expected 0 < least <= greatest, found (0, 1)': lambda b: ResizedCrop(
        (4, 4), ratio=(0, 1)
    ),
}


@pytest.mark.parametrize('message', MISTAKES)
def test_mistakes_are_told_in_one_line(message):
    with pytest.raises(UserError) as error:
        MISTAKES[message](batch_of())
    assert message in str(error.value)
    assert '\n' not in str(error.value)
