"""The rule of BraTS on small predictions of enhancing tumour, against whole volumes in NumPy."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from benchmark.dataset import Geometry, Split
from benchmark.engine import card
from benchmark.engine.evaluation import SubsetEvaluator
from benchmark.engine.robustness import Tally
from benchmark.method import Batch, Modality, Task

REGIONS = (('WT', (1, 2, 3)), ('TC', (1, 3)), ('ET', (3,)))
PLAIN = Task('tumour', 'segmentation', (Modality('t1', (1, 8, 8)),), ('b', 'n', 'o', 'e'), 'Dice',
             regions=REGIONS)  # fmt: skip
GROUPS = np.repeat(['p', 'q', 'r'], [4, 3, 5])


@pytest.fixture(scope='module')
def maps():
    """Labels and predictions of three volumes, with about 4, 20 and 40 voxels of class 3."""
    rng = np.random.default_rng(0)
    label, pred = rng.integers(4, size=(2, 12, 8, 8))
    pred = np.where(pred == 3, 2, pred)
    for name, count in (('p', 4), ('q', 20), ('r', 40)):
        rows = np.flatnonzero(name == GROUPS)
        where = rng.choice(len(rows) * 64, count, replace=False)
        pred[rows[where // 64], where // 8 % 8, where % 8] = 3
    label[GROUPS == 'p'] = np.where(label[GROUPS == 'p'] == 3, 1, label[GROUPS == 'p'])
    return label, pred


def evaluated(task, maps, geometry=None):
    label, pred = maps
    split = Split({}, label, np.ones((12, 1), bool), GROUPS, GROUPS, geometry=geometry)
    evaluator, tally = SubsetEvaluator(task, split=split), Tally(task, split, ['t1'])
    for number, part in enumerate(np.array_split(np.arange(12), 5)):
        logits = torch.eye(4)[torch.from_numpy(pred[part])].movedim(3, 1)
        batch = Batch({}, torch.ones(len(part), 1, dtype=bool), None,
                      torch.from_numpy(label[part]), torch.from_numpy(part))  # fmt: skip
        evaluator.process_subset(np.array([True]), logits, batch, number)
        tally.add(('clean', 0), np.array([True]), logits, batch, number)
    evaluator.evaluate(12)
    return evaluator, tally


def replaced(pred, fewest):
    """Predictions with class 1 for class 3 in the volumes that have fewer voxels of it."""
    found = pred.copy()
    for name in np.unique(GROUPS):
        there = (name == GROUPS)[:, None, None] & (pred == 3)
        if there.sum() < fewest:
            found[there] = 1
    return found


@pytest.mark.parametrize('fewest', [1, 4, 5, 20, 21, 1000])
def test_dice_is_that_of_volumes_in_which_it_was_replaced(fewest, maps):
    label, pred = maps
    task = dataclasses.replace(PLAIN, fewest=(3, fewest, 1))
    evaluator, tally = evaluated(task, maps)
    found, changed = evaluator.scores['t1'], replaced(pred, fewest)
    for name, classes in REGIONS:
        each = []
        for volume in ('p', 'q', 'r'):
            t, p = (np.isin(x[volume == GROUPS], classes).ravel() for x in (label, changed))
            each.append(f1_score(t, p) if t.any() or p.any() else 1.0)
        assert found.metrics[f'Dice_{name}'] == pytest.approx(np.mean(each))
    assert evaluator.outcomes['t1']['areas'].shape == (3, 3, 3)
    assert evaluator.outcomes['t1']['areas'][:, 1, 2].tolist() == [
        n if n >= fewest else 0 for n in (4, 20, 40)
    ]
    # The shares of the classes are those of the network; corruptions are scored by the same rule.
    assert found.predicted == pytest.approx(np.bincount(pred.ravel()) / pred.size)
    assert tally.cells(('clean', 0))['t1']['score'] == pytest.approx(found.metrics['Dice'])


def test_without_the_rule_nothing_changes(maps):
    label, pred = maps
    plain, rule = evaluated(PLAIN, maps)[0], dataclasses.replace(PLAIN, fewest=(3, 1, 1))
    before, after = plain.scores['t1'], evaluated(rule, maps)[0].scores['t1']
    assert after.metrics == before.metrics
    assert (plain.outcomes['t1']['areas'] >= 0).all()
    assert (
        before.metrics['Dice_WT']
        == evaluated(dataclasses.replace(PLAIN, fewest=(3, 1000, 1)), maps)[0]
        .scores['t1']
        .metrics['Dice_WT']
    )


def test_surfaces_are_those_of_the_replaced_volumes(maps):
    pytest.importorskip('monai')
    label, pred = maps
    geometry = Geometry(np.ones((12, 3)), np.full(12, 99.0))
    task = dataclasses.replace(PLAIN, fewest=(3, 21, 1))
    found = evaluated(task, maps, geometry)[0].outcomes['t1']['hd95']
    other = evaluated(PLAIN, (label, replaced(pred, 21)), geometry)[0].outcomes['t1']['hd95']
    assert (found == other).all()
    assert found[:, 2].tolist()[:2] == [0, 99]  # p has no label of it, q has


def test_a_card_of_an_older_version_has_no_rule():
    task = dataclasses.replace(PLAIN, fewest=(3, 500, 1))
    told = dataclasses.asdict(task)
    assert card._task(told) == task
    del told['fewest']
    assert card._task(told) == PLAIN
