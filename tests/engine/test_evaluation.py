"""Scores of every subset, against scikit-learn and loops that go sample by sample."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from scipy.optimize import brentq
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)
from tasks import TASKS, Toy, batch_of

from benchmark.dataset import Split
from benchmark.engine import loading, training
from benchmark.engine.evaluation import SubsetEvaluator, subset_logits
from benchmark.engine.kept import Predicted
from benchmark.engine.loading import Samples, train_loader
from benchmark.engine.outputs import confusion, decisions, finite
from benchmark.engine.protocol import Protocol
from benchmark.engine.subset_metrics import ClassificationMetric, DiceMetric, SegmentationMetric
from benchmark.method import IGNORE, Batch, Modality, Task
from benchmark.missing import Sampler, subset_ids, subset_masks
from benchmark.records import metrics
from methods.modality_dropout import ModalityDropout


def faces(live):
    names = ('attack', 'live') if live else ('live', 'attack')
    return Task('toy', 'classification', (Modality('rgb', (3,)),), names, 'ACER', live=live)


def handed(metric, logits, target, ids):
    """Hands logits to a metric as one batch of samples that all have the subset."""
    batch = Batch({}, None, None, torch.as_tensor(target), torch.as_tensor(ids))
    metric.process(batch, Predicted(logits, torch.ones(len(ids), dtype=torch.bool)))


def chosen(pred, classes):
    """Logits of predictions (B, ...), on axis 1."""
    return torch.from_numpy(np.moveaxis(np.eye(classes, dtype=np.float32)[pred], -1, 1).copy())


def classified(task, target, pred):
    metric = ClassificationMetric(task)
    logits = chosen(np.array(pred), len(task.classes))
    handed(metric, logits, np.array(target), np.arange(len(target)))
    return metric, metric.evaluate(len(target))


@pytest.mark.parametrize('live', [0, 1])
def test_acer_of_the_authors_published_counts(live):
    # Live: 17242 right, 216 wrong; spoof: 39681 right, 571 wrong; published in per cent.
    spoof = 1 - live
    target = [live] * (17242 + 216) + [spoof] * (39681 + 571)
    pred = [live] * 17242 + [spoof] * 216 + [spoof] * 39681 + [live] * 571
    _, found = classified(faces(live), target, pred)
    published = {'APCER': 1.4186, 'BPCER': 1.2373, 'ACER': 1.3279, 'accuracy': 98.6363}
    assert {k: 100 * found[k] for k in published} == pytest.approx(published, abs=6e-5)


@pytest.mark.parametrize('live', [0, 1])
def test_error_rates_are_complements_of_recalls(live):
    rng = np.random.default_rng(live)
    target = (rng.random(500) < 0.2).astype(int)
    pred = np.where(rng.random(500) < 0.3, 1 - target, target)
    metric, found = classified(faces(live), target, pred)
    assert found['APCER'] == pytest.approx(1 - recall_score(target, pred, pos_label=1 - live))
    assert found['BPCER'] == pytest.approx(1 - recall_score(target, pred, pos_label=live))
    assert found['ACER'] == pytest.approx(1 - balanced_accuracy_score(target, pred))
    assert metric.predicted == pytest.approx([(pred == k).mean() for k in (0, 1)])


def test_a_rate_of_a_class_that_does_not_occur_is_undefined():
    _, found = classified(faces(1), [0, 0, 0], [0, 1, 0])
    assert found['APCER'] == pytest.approx(1 / 3)
    assert np.isnan([found['BPCER'], found['ACER']]).all()


@pytest.mark.parametrize(('classes', 'guessed'), [(4, 4), (3, 4), (3, 3)])
def test_other_tasks_have_recall_and_f1_beside_accuracy(classes, guessed):
    rng = np.random.default_rng(0)
    target, pred = rng.integers(classes, size=300), rng.integers(guessed, size=300)
    metric, found = classified(TASKS['mixed'], target, pred)
    # A class that is predicted and never there has no recall, and an F1 of 0; a class that is
    # neither there nor predicted has no F1 either.
    known = list(range(classes))
    assert found == {
        'accuracy': pytest.approx(accuracy_score(target, pred)),
        'UAR': pytest.approx(recall_score(target, pred, labels=known, average='macro')),
        'F1': pytest.approx(f1_score(target, pred, average='macro', zero_division=0)),
    }
    assert sum(metric.predicted) == pytest.approx(1)


@pytest.mark.parametrize('levels', [3, 20, 10**6])
def test_eer_and_auc_with_and_without_equal_scores(levels):
    rng = np.random.default_rng(levels)
    positive = rng.random(400) < 0.3
    score = np.round((rng.normal(size=400) + positive) * levels) / levels
    eer, auc = metrics.eer_auc(positive, score)
    assert auc == pytest.approx(roc_auc_score(positive, score))
    false, true, _ = roc_curve(positive, score, drop_intermediate=False)
    crossing = brentq(lambda x: 1 - x - np.interp(x, false, true), 0, 1)
    assert eer == pytest.approx(crossing, abs=1e-9)
    assert metrics.eer_auc(positive, positive * 1.0) == (0, 1)
    assert metrics.eer_auc(positive, -1.0 * positive) == (1, 0)
    assert np.isnan(metrics.eer_auc(np.ones(3, bool), np.arange(3.0))).all()


def test_eer_is_of_the_live_class():
    task = faces(0)
    metric = ClassificationMetric(task)
    live, logits = torch.tensor([0.9, 0.4, 0.3, 0.6]), torch.zeros(4, 2)
    logits[:, 0] = live - 0.35
    handed(metric, logits, [0, 0, 1, 1], [0, 1, 2, 3])
    found = metric.evaluate(4)
    assert found['AUC'] == pytest.approx(roc_auc_score([1, 1, 0, 0], [0.9, 0.4, 0.3, 0.6]))
    assert found['EER'] == pytest.approx(0.5)


REGIONS = (('WT', (1, 2)), ('ET', (2,)))
TUMOUR = Task('toy', 'segmentation', (Modality('t1', (1, 6, 6)),), tuple('abc'), 'Dice', 4)
TUMOUR = dataclasses.replace(TUMOUR, regions=REGIONS)


def test_dice_is_pooled_over_the_slices_of_a_volume_and_1_where_nothing_is_there():
    rng = np.random.default_rng(0)
    groups = np.array(['p2', 'p1', 'p2', 'p1', 'p3', 'p3'])
    target, pred = rng.integers(3, size=(2, 6, 6, 6))
    target[rng.random(target.shape) < 0.2] = IGNORE
    target[4:] = np.where(target[4:] == IGNORE, IGNORE, 0)  # p3 has nothing, and nothing is found
    pred[4:] = 0
    metric = DiceMetric(TUMOUR, groups)
    for i in (3, 0, 5, 1, 4, 2):
        handed(metric, chosen(pred[[i]], 3), target[[i]], [i])
    found = metric.evaluate(6)
    expected = {}
    for name, classes in REGIONS:
        each = []
        for volume in ('p1', 'p2', 'p3'):
            t, p = target[groups == volume], pred[groups == volume]
            t, p = t[t != IGNORE], p[t != IGNORE]
            there = np.isin(t, classes).any() or np.isin(p, classes).any()
            score = f1_score(np.isin(t, classes), np.isin(p, classes)) if there else 1.0
            each.append(score)
        expected[f'Dice_{name}'] = np.mean(each)
    expected['Dice'] = (expected['Dice_WT'] + expected['Dice_ET']) / 2
    assert found == pytest.approx(expected)
    assert metric.outcomes['ids'].tolist() == [0, 1, 2]
    assert metric.outcomes['areas'].shape == (3, 3, 2)
    share = np.bincount(pred[target != IGNORE], minlength=3)
    assert metric.predicted == pytest.approx(share / share.sum())
    # What is kept per volume gives the same score, and untested volumes count for nothing.
    areas = np.full((4, 3, 2), -1)
    areas[:3] = metric.outcomes['areas']
    counts = metrics.contributions({'areas/t1': areas}, 't1', 'Dice')
    assert metrics.score(counts.sum(0), 'Dice') == pytest.approx(found['Dice'])


@pytest.mark.parametrize(('high', 'wide'), [(6, 6), (8, 6), (11, 9)])
def test_dice_counts_what_is_labelled_outside_the_network_s_window(high, wide):
    rng = np.random.default_rng(1)
    pred, target = rng.integers(3, size=(2, 6, 6)), rng.integers(3, size=(2, high, wide))
    logits = torch.from_numpy(np.eye(3, dtype=np.float32)[pred].transpose(0, 3, 1, 2))
    batch = Batch({}, torch.ones(2, 1, dtype=bool), None, torch.from_numpy(target), torch.arange(2))
    volumes = np.array(['p', 'p'])
    split = Split({}, target, np.ones((2, 1), bool), volumes, volumes)
    evaluator = SubsetEvaluator(TUMOUR, split=split)
    evaluator.process_subset(np.array([True]), logits, batch)
    evaluator.evaluate(2)
    whole, top, left = np.zeros_like(target), (high - 6) // 2, (wide - 6) // 2
    whole[:, top : top + 6, left : left + 6] = pred
    for name, classes in REGIONS:
        expected = f1_score(np.isin(target, classes).ravel(), np.isin(whole, classes).ravel())
        assert evaluator.scores['t1'].metrics[f'Dice_{name}'] == pytest.approx(expected)


def test_logits_are_resized_to_labels_of_another_size():
    task = TASKS['rooms']
    batch, _ = gappy('rooms')
    logits = np.random.default_rng(0).standard_normal((12, 3, 32, 32)).astype(np.float32)
    # scipy's zoom in grid mode lays pixels over one another by their areas. Labels that are its
    # own predictions make every pixel that another rule would move a wrong one.
    target = zoom(logits, (1, 1, 2, 2), order=1, mode='nearest', grid_mode=True).argmax(1)
    batch = batch._replace(
        target=torch.from_numpy(target), available=torch.ones(12, 2, dtype=torch.bool)
    )
    evaluator = SubsetEvaluator(task, only=['rgb+depth'])
    evaluator.process_subset(np.array([True, True]), torch.from_numpy(logits), batch)
    assert evaluator.evaluate(12)['rgb+depth/pixel_accuracy'] == pytest.approx(1, abs=1e-4)


def naive_segmentation(target, pred, classes):
    """mIoU, pixel accuracy and class accuracy of the labelled pixels, from scikit-learn."""
    t, p = target[target != IGNORE], pred[target != IGNORE]
    table = confusion_matrix(t, p, labels=range(classes))
    occurs = np.flatnonzero(table.sum(0) + table.sum(1))
    return {
        'mIoU': jaccard_score(t, p, labels=occurs, average='macro'),
        'pixel_accuracy': accuracy_score(t, p),
        'class_accuracy': recall_score(t, p, labels=np.unique(t), average='macro'),
    }


def test_miou_leaves_out_ignored_pixels_and_absent_classes():
    classes = tuple('abcdef')
    task = Task('toy', 'segmentation', (Modality('rgb', (3, 8, 8)),), classes, 'mIoU')
    rng = np.random.default_rng(0)
    # Class 4 is predicted but never there; class 5 does not occur at all.
    target, pred = rng.integers(4, size=(7, 8, 8)), rng.integers(5, size=(7, 8, 8))
    target[rng.random(target.shape) < 0.3] = IGNORE
    metric = SegmentationMetric(task)
    for part in (slice(4), slice(4, 7)):
        handed(metric, chosen(pred[part], 6), target[part], np.arange(10, 17)[part])
    assert metric.evaluate(7) == pytest.approx(naive_segmentation(target, pred, 6))
    tables = [
        confusion_matrix(a[a != IGNORE], b[a != IGNORE], labels=range(6))
        for a, b in zip(target, pred, strict=True)
    ]
    areas = [[np.diag(table), table.sum(0), table.sum(1)] for table in tables]
    assert (metric.outcomes['areas'] == areas).all()
    assert metric.outcomes['ids'].tolist() == list(range(10, 17))
    shares = np.sum(tables, (0, 1))
    assert metric.predicted == pytest.approx(shares / shares.sum())


def gappy(kind, seed=0, count=12):
    """A batch some of whose samples lack modalities, and random logits for every subset."""
    task, rng = TASKS[kind], np.random.default_rng(seed)
    batch = batch_of(task, count, seed)
    batch = batch._replace(available=batch.mask, ids=torch.from_numpy(rng.permutation(count)))
    shape = (count, len(task.classes), *batch.target.shape[1:])
    return batch, [torch.from_numpy(rng.standard_normal(shape)) for _ in subset_ids(task.names)]


@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_a_sample_counts_for_the_subsets_that_it_has(kind):
    task = TASKS[kind]
    evaluator = SubsetEvaluator(task)
    for seed in (1, 2):  # the second pass has nothing of the first one left
        batch, logits = gappy(kind, seed)
        for mask, y in zip(subset_masks(len(task.names)), logits, strict=True):
            evaluator.process_subset(mask, y, batch)
        flat = evaluator.evaluate(12)
        assert min(score.n for score in evaluator.scores.values()) < 12
        for subset, y in zip(subset_ids(task.names), logits, strict=True):
            columns = [task.names.index(name) for name in subset.split('+')]
            rows = [i for i in range(12) if all(batch.available[i, c] for c in columns)]
            score, found = evaluator.scores[subset], evaluator.outcomes[subset]
            assert 0 < score.n == len(rows)
            assert found['ids'].tolist() == batch.ids[rows].tolist()
            target, pred = batch.target[rows].numpy(), y[rows].argmax(1).numpy()
            if kind == 'rooms':
                assert score.metrics == pytest.approx(naive_segmentation(target, pred, 3))
            else:
                assert flat[f'{subset}/accuracy'] == accuracy_score(target, pred)
                assert found['pred'].tolist() == pred.tolist()
                shares = torch.exp(y[rows])
                expected = torch.log(shares[:, task.live] / shares[:, 1 - task.live])
                assert found['logit'].dtype == np.float32
                assert found['logit'] == pytest.approx(expected.numpy(), abs=1e-5)


def test_of_equal_logits_the_first_class_is_the_decision():
    logits = torch.randint(3, (40, 5, 3, 3)).float()
    assert decisions(logits).equal(torch.from_numpy(logits.numpy().argmax(1)))


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_sample_with_one_logit_that_is_not_finite_is_found(bad, layout):
    logits = torch.randn(4, 3, 2, 2).contiguous(memory_format=layout)
    logits[2, 1, 0, 1] = bad
    assert finite(logits).tolist() == [True, True, False, True]


def test_a_subset_that_no_sample_has_gets_no_score():
    evaluator = SubsetEvaluator(TASKS['faces'])
    for there in (True, False):  # nor keeps that of the pass before
        batch, logits = gappy('faces')
        batch.available[:, 1] = there
        for mask, y in zip(subset_masks(3), logits, strict=True):
            evaluator.process_subset(mask, y, batch)
        evaluator.evaluate(12)
        assert ('depth' in evaluator.scores) == there
    assert set(evaluator.scores) == set(evaluator.outcomes) == {'rgb', 'ir', 'rgb+ir'}


def test_only_restricts_what_is_measured():
    evaluator = SubsetEvaluator(TASKS['faces'], only=['ir', 'rgb+ir'])
    assert [m.astype(int).tolist() for m in evaluator.masks.values()] == [[0, 0, 1], [1, 0, 1]]


class Mixing(ModalityDropout):
    """Says that its encoders mix modalities."""

    def predict(self, inputs, mask):
        return self.decode(self.encode(inputs), mask)


@pytest.mark.parametrize('kind', ['faces', 'mixed', 'rooms'])
@pytest.mark.parametrize(('cls', 'once'), [(ModalityDropout, True), (Mixing, False)])
def test_encoders_run_once_per_batch_unless_they_mix(cls, once, kind):
    torch.manual_seed(0)
    method, (batch, _) = cls(TASKS[kind]).eval(), gappy(kind)
    masks = list(subset_masks(len(TASKS[kind].names)))
    calls = []
    for name, encoder in method.encoders.items():
        encoder.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        pairs = list(subset_logits(method, batch, masks))
        assert sorted(calls) == sorted(TASKS[kind].names * (1 if once else len(masks)))
        for (mask, logits), expected in zip(pairs, masks, strict=True):
            assert (mask == expected).all()
            allowed = torch.from_numpy(expected) & batch.available
            separate = method.decode(method.encode(batch.inputs), allowed)
            torch.testing.assert_close(logits, separate, rtol=0, atol=1e-5)


def holes(split, rate=0.3):
    gone = np.random.default_rng(9).random(split.available.shape) < rate
    gone[0] = False
    return split.available & ~gone


def scores_one_by_one(method, task, split, available):
    """Every subset's metric from single samples that are decoded under that subset alone."""
    scores = {}
    for subset in subset_ids(task.names):
        mask = torch.tensor([[n in subset.split('+') for n in task.names]])
        rows = np.flatnonzero(available[:, mask[0].numpy()].all(1))
        pred = []
        for i in rows:
            inputs = {
                name: torch.from_numpy(split.inputs[name][[i]]) * float(available[i, k])
                for k, name in enumerate(task.names)
            }
            pred.append(method.predict(inputs, mask).argmax(1)[0].numpy())
        if task.kind == 'segmentation':
            found = naive_segmentation(split.target[rows], np.array(pred), len(task.classes))
        else:
            found = {'accuracy': accuracy_score(split.target[rows], pred)}
        scores[subset] = (found[task.metric], len(rows))
    return scores


@pytest.mark.parametrize('kind', ['vectors', 'rooms'])
def test_training_validates_and_tests_like_a_loop_over_single_samples(kind, tmp_path):
    torch.manual_seed(0)
    task = TASKS[kind]
    data, method = Toy(task, (16, 10, 10)), ModalityDropout(task)
    train, held_out = data.split('train'), data.split('test')
    available = holes(held_out)
    loader = loading.test_loader(Samples(held_out, task, available), 4, 0, False)
    samples = Samples(train, task, train.available, Sampler('uniform', task.names))
    protocol = Protocol(epochs=2, batch_size=8, lr=1e-2, precision='float32')
    job = training.Job(tmp_path, 'identity', 0, 'cpu')
    trained = training.train(
        method, (train_loader(samples, 8, 0, False), loader), protocol, job, lambda *_: None
    )
    graphs = []
    method.decoder.register_forward_hook(lambda *_: graphs.append(torch.is_grad_enabled()))
    tested = training.test(method, loader, tmp_path, 'cpu', None).scores
    assert not any(graphs)
    with torch.no_grad():
        expected = scores_one_by_one(method.eval(), task, held_out, available)
    assert {s: (v.metrics[task.metric], v.n) for s, v in tested.items()} == {
        s: (pytest.approx(value), n) for s, (value, n) in expected.items()
    }
    validated = {s: (v['metrics'][task.metric], v['n']) for s, v in trained['scores'].items()}
    assert validated == {s: (v.metrics[task.metric], v.n) for s, v in tested.items()}


def test_labels_of_8_bits_and_maps_of_labels_are_counted_as_others():
    rng = np.random.default_rng(0)
    target = rng.integers(-1, 100, (3, 8, 8))
    pred = rng.integers(100, size=target.shape)
    expected = np.zeros((3, 100, 100), int)
    for b, t, p in zip(np.indices(target.shape)[0].flat, target.flat, pred.flat, strict=True):
        expected[b, t, p] += t >= 0
    narrow = torch.from_numpy(pred.astype(np.uint8)), torch.from_numpy(target.astype(np.int8))
    assert (confusion(*narrow, 100).numpy() == expected).all()
    own = confusion(torch.from_numpy(target), torch.from_numpy(target), 100).numpy()
    assert own.sum() == np.trace(own.sum(0)) == (target >= 0).sum()
