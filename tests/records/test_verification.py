"""Recorded scores are computed again from outcomes, which must be those of the record."""

import numpy as np
import pytest
from made_records import NAMES, SUBSETS, make_outcomes, make_record
from sklearn.metrics import roc_auc_score

from benchmark.records import metrics, store, verification

OUTCOMES = make_outcomes(dict.fromkeys(SUBSETS, 20))


def ranked(kind):
    """Outcomes with a rank of each sample: log-odds, or shares as older versions kept them."""
    rng = np.random.default_rng(0)
    sign = {s: 2 * OUTCOMES[f'pred/{s}'] - 1 for s in SUBSETS}
    odds = {s: (x * rng.exponential(size=400)).astype(np.float32) for s, x in sign.items()}
    kept = odds if kind == 'logit' else {s: 1 / (1 + np.exp(-x)) for s, x in odds.items()}
    return {**OUTCOMES, **{f'{kind}/{s}': x for s, x in kept.items()}}, odds


@pytest.mark.parametrize('kind', ['logit', 'score'])
def test_what_an_older_record_lacks_is_filled_in(kind):
    outcomes, odds = ranked(kind)
    record = make_record('m', 0, outcomes)
    verification.check_fit(record, outcomes)
    full = verification.verified(record, outcomes)['scores']['test']
    for subset in SUBSETS:
        expected = roc_auc_score(OUTCOMES['target'], odds[subset])
        assert full[subset]['AUC'] == pytest.approx(expected)
        assert full[subset].keys() == {'ACER', 'APCER', 'BPCER', 'EER', 'AUC', 'accuracy'}
        assert full[subset]['ACER'] == record['scores']['test'][subset]['ACER']


@pytest.mark.parametrize('metric', ['ACER', 'APCER', 'BPCER', 'AUC', 'EER', 'accuracy'])
@pytest.mark.parametrize('wrong', [0.9, None])
def test_each_recorded_metric_is_verified(metric, wrong):
    outcomes, _ = ranked('logit')
    record = verification.verified(make_record('m', 0, outcomes), outcomes)
    verification.verified(record, outcomes)
    record['scores']['test']['rgb+ir'][metric] = wrong
    told = f'^{metric} of rgb\\+ir is {"nan" if wrong is None else "0.9"}'
    with pytest.raises(store.RecordError, match=told):
        verification.verified(record, outcomes)


def segmented(metric, **changes):
    """A record and outcomes of 5 images or volumes of 3 classes or 2 regions."""
    rng = np.random.default_rng(1)
    areas = np.sort(rng.integers(1, 50, size=(5, 3, 3 if metric == 'mIoU' else 2)), axis=1)
    outcomes = {f'areas/{s}': areas for s in SUBSETS}
    data = {'kind': 'segmentation', 'classes': list('abc'), 'metric': metric,
            'higher_is_better': True, **changes}  # fmt: skip
    if metric == 'Dice':
        data['regions'] = ['WT', 'ET']
    made = make_record('m', 0, OUTCOMES, dataset=data)
    made['n']['test'] = dict.fromkeys(SUBSETS, 5)
    made['predicted'] = dict.fromkeys(SUBSETS, [1.0, 0.0, 0.0])
    made['scores']['test'] = {s: metrics.recomputed(outcomes, s, made['dataset']) for s in SUBSETS}
    return store.validate(made), outcomes


def validated(folder, damage=lambda outcomes: outcomes):
    """A record with validation scores of ranked outcomes, whose file may hold others."""
    outcomes, _ = ranked('logit')
    made = make_record('m', 0, outcomes)
    whole = verification.verified(made, outcomes)
    for field in ('scores', 'n'):
        made[field]['val'] = whole[field]['test']
    made['outcomes'] = {
        store.VALIDATION: store.write_outcomes(folder / store.VALIDATION, damage(outcomes)),
        store.OUTCOMES: store.write_outcomes(folder / store.OUTCOMES, outcomes),
    }
    return made


@pytest.mark.parametrize('metric', ['ACER', 'APCER', 'BPCER', 'AUC', 'EER', 'accuracy'])
def test_each_validation_score_is_verified(metric, tmp_path):
    record = validated(tmp_path)
    store.read_outcomes(tmp_path / store.OUTCOMES, record)
    record['scores']['val']['rgb+ir'][metric] += 0.01
    with pytest.raises(store.RecordError, match=rf'validation\.npz: {metric} of rgb\+ir is'):
        store.read_outcomes(tmp_path / store.OUTCOMES, record)


@pytest.mark.parametrize(
    ('damage', 'told'),
    [
        (lambda o: {k: v for k, v in o.items() if k != 'pred/rgb'}, 'pred/rgb: missing'),
        (lambda o: {**o, 'pred/rgb': o['pred/rgb'][::-1].copy()}, 'pred/rgb: expected the class'),
        (lambda o: {**o, 'target': 1 - o['target']}, 'ACER of rgb is|accuracy of rgb is'),
    ],
)
def test_validation_outcomes_of_another_run_are_named(damage, told, tmp_path):
    record = validated(tmp_path, damage)
    with pytest.raises(store.RecordError, match=rf'validation\.npz: ({told})'):
        store.read_outcomes(tmp_path / store.OUTCOMES, record)


@pytest.mark.parametrize('metric', ['ACER', 'accuracy'])
@pytest.mark.parametrize('classes', [2, 3])
def test_predictions_are_those_of_the_largest_logits(classes, metric):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, classes)).astype(np.float16)
    logits[0] = 1  # equal logits: either class may be predicted
    predicted = logits.argmax(1).astype(np.int16)
    predicted[1] = -1  # not tested
    live = 0  # not the class of the log-odds elsewhere
    odds = logits[:, live if metric == 'ACER' else 1] * 2 - logits[:, :2].sum(1)
    kept = odds if classes == 2 else logits
    outcomes = {'target': (np.arange(400) % classes), 'pred/rgb': predicted, 'logit/rgb': kept}
    data = {'classes': list('abc')[:classes], 'metric': metric, 'live': live}
    record = make_record('m', 0, make_outcomes({}), dataset=data)
    record['n']['test'] = {'rgb': 399}
    verification.check_fit(record, outcomes)
    wrong = int(np.flatnonzero(predicted >= 0)[7])
    outcomes['pred/rgb'] = predicted.copy()
    outcomes['pred/rgb'][wrong] = (predicted[wrong] + 1) % classes
    with pytest.raises(store.RecordError, match='largest logit, found another one for 1 of 399'):
        verification.check_fit(record, outcomes)
    record['method']['source'] = 'external'  # other code may decide by a threshold of its own
    verification.check_fit(record, outcomes)


@pytest.mark.parametrize('metric', ['mIoU', 'Dice'])
def test_scores_of_segmentation_are_verified(metric):
    record, outcomes = segmented(metric)
    verification.check_fit(record, outcomes)
    verification.verified(record, outcomes)
    for name in record['scores']['test']['rgb']:
        changed, _ = segmented(metric)
        changed['scores']['test']['rgb'][name] += 0.01
        with pytest.raises(store.RecordError, match=f'^{name} of rgb is'):
            verification.verified(changed, outcomes)


def test_areas_give_the_scores_of_their_definition():
    record, outcomes = segmented('mIoU')
    right, found, labelled = outcomes['areas/rgb'].sum(0).astype(float)
    assert record['scores']['test']['rgb'] == {
        'mIoU': pytest.approx(np.mean(right / (found + labelled - right))),
        'pixel_accuracy': pytest.approx(right.sum() / labelled.sum()),
        'class_accuracy': pytest.approx(np.mean(right / labelled)),
    }
    record, outcomes = segmented('Dice')
    right, found, labelled = np.moveaxis(outcomes['areas/rgb'], 1, 0)
    each = (2 * right / (found + labelled)).mean(0)
    assert record['scores']['test']['rgb'] == {
        'Dice': pytest.approx(each.mean()), 'Dice_WT': pytest.approx(each[0]),
        'Dice_ET': pytest.approx(each[1]),
    }  # fmt: skip


def changed(name, change):
    return lambda outcomes: {**outcomes, name: change(outcomes[name])}


def labelled(value):
    def change(labels):
        labels = labels.copy()
        labels[7] = value
        return labels

    return change


@pytest.mark.parametrize(
    ('spoil', 'told'),
    [
        (lambda o: {**o, 'pred/sonar': o['target']}, "found 'pred/sonar'"),
        (lambda o: {**o, 'areas/rgb': o['target']}, "found 'areas/rgb'"),
        (lambda o: {k: v for k, v in o.items() if k != 'pred/rgb'}, 'pred/rgb: missing'),
        (lambda o: {k: v for k, v in o.items() if k != 'target'}, 'target: missing'),
        (changed('pred/rgb', lambda x: x[:-1]), 'pred/rgb: expected 400 samples'),
        (changed('pred/rgb', labelled(-1)), 'pred/rgb: expected 400 samples tested, found 399'),
        (changed('pred/rgb', labelled(2)), 'pred/rgb: expected classes below 2, found 2'),
        (changed('target', labelled(2)), 'target: expected classes below 2, found 2'),
        (changed('target', labelled(-1)), 'target: expected classes'),
        (changed('target', lambda x: x.astype(float)), r'target: expected classes \(N,\)'),
        (changed('logit/rgb', labelled(np.nan)), 'logit/rgb: expected finite'),
        (changed('logit/rgb', labelled(np.inf)), 'logit/rgb: expected finite'),
        (changed('logit/rgb', lambda x: x[:, None]), 'logit/rgb: expected fractions'),
        (lambda o: {**o, 'name': np.full(400, 'a')}, 'name: expected .* different names'),
        (lambda o: {**o, 'name': np.arange(400)}, 'name: expected'),
    ],
)
def test_outcomes_that_are_not_those_of_the_record_are_refused(spoil, told):
    outcomes, _ = ranked('logit')
    record = make_record('m', 0, outcomes)
    with pytest.raises(store.RecordError, match=told):
        verification.check_fit(record, spoil(outcomes))


@pytest.mark.parametrize(
    ('spoil', 'told'),
    [
        (lambda x: x.astype(np.float32), 'as integers'),
        (lambda x: x[:, :2], r'expected areas \(N, 3'),
        (lambda x: x[:, :, :1], r'expected areas \(N, 3'),
        (lambda x: -x, 'expected'),
        (lambda x: x[:, ::-1], 'intersections within'),
        (lambda x: x[:4], 'samples'),
    ],
)
@pytest.mark.parametrize('metric', ['mIoU', 'Dice'])
def test_areas_that_cannot_be_are_refused(metric, spoil, told):
    record, outcomes = segmented(metric)
    with pytest.raises(store.RecordError, match=told):
        verification.check_fit(record, changed('areas/rgb', spoil)(outcomes))


def test_file_and_record_are_named(tmp_path):
    record = make_record('m', 0, OUTCOMES)
    store.write_outcomes(tmp_path / store.OUTCOMES, {**OUTCOMES, 'odd': OUTCOMES['target']})
    with pytest.raises(store.RecordError, match=r"outcomes\.npz: expected the arrays .*'odd'"):
        store.read_outcomes(tmp_path / store.OUTCOMES, record)


def test_a_class_that_is_none_is_never_counted_as_another():
    for target, predicted in (([0, 2], [0, 1]), ([0, 1], [0, 2]), ([-1, 1], [0, 1])):
        with pytest.raises(ValueError, match='expected classes 0 to 1'):
            metrics.confusion(np.array(target), np.array(predicted), 2)
    assert metrics.determined(make_record('m', 0, OUTCOMES)['dataset']) >= {'AUC', 'EER'}
    assert len(NAMES) == 3
