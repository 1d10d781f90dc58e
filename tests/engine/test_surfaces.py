"""HD95 of volumes, from slices to tables, against distance transforms of SciPy."""

import json

import numpy as np
import pytest
import torch
from scipy import ndimage

from benchmark.dataset import Dataset, Geometry, Split
from benchmark.engine import surfaces
from benchmark.engine.evaluation import SubsetEvaluator
from benchmark.engine.parallel import processes
from benchmark.engine.surfaces import hd95
from benchmark.errors import UserError
from benchmark.method import IGNORE, Batch, Modality, Task
from benchmark.records import checks, distances
from benchmark.records.schema import RecordError

pytest.importorskip('monai')

REGIONS = (('WT', (1, 2)), ('ET', (2,)))
TUMOUR = Task(
    'tumour', 'segmentation', (Modality('t1', (1, 8, 8)),), ('b', 'n', 'e'), 'Dice', regions=REGIONS
)


def reference(pred, label, spacing):
    """Surfaces are what shifts by one voxel take away, distances those of a distance transform."""

    def surface(mask):
        inside = np.pad(mask, 1)
        kept = inside.copy()
        for axis in range(3):
            kept &= np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
        return (inside & ~kept)[1:-1, 1:-1, 1:-1]

    a, b = surface(pred), surface(label)
    to_label, to_pred = (ndimage.distance_transform_edt(~x, sampling=spacing) for x in (b, a))
    return max(np.percentile(to_label[a], 95), np.percentile(to_pred[b], 95))


def blob(seed, shape=(9, 14, 12)):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return noise > np.quantile(noise, 0.8)


@pytest.mark.parametrize('spacing', [(1, 1, 1), (3, 0.7, 1.2)])
@pytest.mark.parametrize('seed', range(3))
def test_it_is_that_of_distance_transforms(seed, spacing):
    pred, label = blob(seed), blob(seed + 50)
    assert hd95(pred, label, spacing, 99) == pytest.approx(
        reference(pred, label, spacing), rel=1e-5
    )
    assert hd95(label, label, spacing, 99) == 0


def test_it_is_in_millimetres_and_leaves_out_the_last_twentieth():
    pred, label = np.zeros((5, 60, 9), bool), np.zeros((5, 60, 9), bool)
    pred[1, 4, 4] = label[4, 4, 8] = True
    assert hd95(pred, label, (2.5, 1, 0.5), 99) == pytest.approx(np.hypot(3 * 2.5, 4 * 0.5))
    # Of a line of 50 voxels, two lie apart from the label: fewer than 5 of 100.
    line, outliers = np.zeros_like(pred), np.zeros_like(pred)
    line[2, :50, 4] = outliers[2, :50, 4] = True
    outliers[4, 40:42, 8] = True
    assert hd95(outliers, line, (1, 1, 1), 99) == 0
    outliers[4, 30:42, 8] = True
    assert hd95(outliers, line, (1, 1, 1), 99) == pytest.approx(np.hypot(2, 4))


def test_empty_regions_have_the_diagonal_of_the_volume_or_0():
    diagonal = np.sqrt(240**2 + 240**2 + 155**2)
    assert diagonal == pytest.approx(373.13, abs=5e-3)  # what BraTS gives such a case
    there, none = blob(0), np.zeros((9, 14, 12), bool)
    assert hd95(there, none, (1, 1, 1), diagonal) == diagonal
    assert hd95(none, there, (1, 1, 1), diagonal) == diagonal
    assert hd95(none, none, (1, 1, 1), diagonal) == 0


def test_volumes_are_put_together_from_slices_and_measured_when_whole():
    rng = np.random.default_rng(0)
    groups = np.repeat(['q', 'p', 'r'], [5, 4, 3])
    label = np.stack([blob(k, (12, 11, 10)) for k in (1, 2)]).sum(0)
    pred = np.stack([blob(k, (12, 8, 8)) for k in (1, 4)]).sum(0)
    spacing = np.repeat([[3, 1, 1], [1, 2, 0.5], [1, 1, 1.0]], [5, 4, 3], axis=0)
    geometry = Geometry(spacing, np.full(12, 50.0))
    split = Split({}, label, np.ones((12, 1), bool), groups, groups, geometry=geometry)
    has = np.ones((12, 1), bool)
    has[9:] = False  # the last volume lacks the modality
    for plain in (True, False):
        given = split if not plain else Split({}, label, has, groups, groups)
        evaluator = SubsetEvaluator(TUMOUR, split=given)
        for _ in range(2):  # a second pass forgets the first one
            for part in np.array_split(rng.permutation(12), 4):
                logits = torch.eye(3)[torch.from_numpy(pred[part])].movedim(3, 1)
                batch = Batch({}, torch.from_numpy(has[part]), None,
                              torch.from_numpy(label[part]), torch.from_numpy(part))  # fmt: skip
                evaluator.process_subset(np.array([True]), logits, batch)
            evaluator.evaluate(12)
        found = evaluator.scores['t1'].metrics
        if plain:
            before = found
    assert {k: found[k] for k in before} == before
    assert set(found) - set(before) == {'HD95', 'HD95_WT', 'HD95_ET'}
    whole = np.zeros_like(label)
    whole[:, 1:9, 1:9] = pred
    kept = evaluator.outcomes['t1']
    assert kept['ids'].tolist() == [0, 1]  # p, q: in the order of the names
    for row, name in enumerate('pq'):
        at = groups == name
        for column, (_, classes) in enumerate(REGIONS):
            expected = reference(
                np.isin(whole[at], classes), np.isin(label[at], classes), spacing[at][0]
            )
            assert kept['hd95'][row, column] == pytest.approx(expected, rel=1e-5)
    assert found['HD95_ET'] == pytest.approx(kept['hd95'][:, 1].mean())
    assert found['HD95'] == pytest.approx((found['HD95_WT'] + found['HD95_ET']) / 2)


def test_whole_volumes_give_what_their_slices_give():
    label, pred = blob(1, (6, 9, 8)).astype(int), 2 * blob(2, (6, 9, 8)).astype(int)
    geometry = Geometry(np.array([[2, 1, 1.5]]), np.array([50.0]))
    slices = surfaces.Surfaces(
        TUMOUR, np.repeat('p', 6), Geometry(*(np.repeat(x, 6, 0) for x in geometry))
    )
    there = torch.ones(6, dtype=torch.bool)
    slices.add(torch.from_numpy(pred), torch.from_numpy(label), torch.arange(6), there)
    # Behind its end a volume is filled up with labels that are ignored, whatever is predicted.
    longer = [np.pad(x, [(0, 2), (0, 3), (0, 0)], constant_values=k) for x, k in
              ((pred, 1), (label, IGNORE))]  # fmt: skip
    whole = surfaces.Surfaces(TUMOUR, np.array(['p']), geometry)
    given = (torch.from_numpy(x)[None] for x in longer)
    whole.add(*given, torch.arange(1), there[:1])
    found = whole.taken(np.array([0]))
    assert (found == slices.taken(np.array([0]))).all()
    assert found[0, 0] == pytest.approx(reference(pred > 0, label > 0, (2, 1, 1.5)), rel=1e-5)


def test_what_it_needs_is_told_before_a_training(monkeypatch):
    asked, plain = Dataset(), Dataset()
    asked.surfaces = True
    surfaces.check(asked)
    # As while a command plans, which each process that torchrun has started does for itself.
    monkeypatch.setattr('benchmark.engine.parallel.processes.count', lambda: 2)
    assert processes.world() == 1
    surfaces.check(plain)
    with pytest.raises(UserError, match='hd95=true: expected one process, found 2'):
        surfaces.check(asked)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(UserError, match="expected the package monai, found none; pip install '"):
        surfaces.check(asked)


def test_a_distance_is_no_fraction():
    assert distances.is_distance('HD95_WT')
    assert not distances.is_distance('HD95x')
    record = {
        'scores': {'test': {'t1': {'Dice': 0.5, 'HD95': 12.5}}},
        'n': {'test': {'t1': 2}},
        'dataset': {'metric': 'Dice', 'modalities': ['t1']},
    }
    checks._check_scores(record, 'test')
    for value in (-1, True, '3'):
        record['scores']['test']['t1']['HD95'] = value
        with pytest.raises(RecordError, match='HD95: expected a distance, found'):
            checks._check_scores(json.loads(json.dumps(record)), 'test')
    there = np.array([True, False])
    right = np.array([[1.0, 2.0], [np.nan, np.nan]], np.float32)
    assert not distances.wrong(right, there, 2)
    for other in (right[:1], -right, right[::-1], np.zeros((2, 2), int), np.abs(right) + np.inf):
        assert distances.wrong(other, there, 2)
