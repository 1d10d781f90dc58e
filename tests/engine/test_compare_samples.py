"""Predictions of other code against the labels of a data set: scores, and what is refused."""

import numpy as np
import pytest
from made_data import REGIONS, Made, predictions
from PIL import Image
from scipy import special
from sklearn import metrics as reference

from benchmark.engine import comparing
from benchmark.errors import UserError
from benchmark.missing import subset_ids
from benchmark.records import metrics, prediction_files, store

SUBSETS = ['rgb', 'ir', 'rgb+ir']
RNG = np.random.default_rng(0)
KINDS = RNG.integers(0, 3, 40)
KINDS[:3] = 0, 1, 2
FACES = np.arange(40) % 2
MAPS = RNG.integers(0, 3, (6, 4, 5))
MAPS[:, 0, 0] = 255
SLICES = RNG.integers(0, 3, (6, 4, 5))
VOLUMES = np.array(['v1', 'v1', 'v0', 'v0', 'v0', 'v2'])


def stated(count, classes, seed=0):
    """Probabilities (N, K)."""
    return special.softmax(np.random.default_rng(seed).normal(size=(count, classes)), axis=1)


def scored(found, data, folder):
    """The scores on each subset of a record that was read again, and its outcomes."""
    (folder / 'x.npz').write_bytes(b'file')
    made = comparing.record(found, data, folder / 'results')
    record = store.read(made.file)
    assert not store.unproven(made.file, record)
    outcomes = store.read_outcomes(made.file.with_name(store.OUTCOMES), record)
    return record, outcomes


def at(folder, ids, subsets, **changes):
    return predictions(ids, subsets, file=folder / 'x.npz', **changes)


def refused(data, ids, subsets, **changes):
    """The one line that refuses what a file says."""
    with pytest.raises(UserError) as error:
        comparing.outcomes_of(predictions(ids, subsets, **changes), data)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_shuffled_probabilities_score_as_scikit_learn_says(tmp_path):
    data, order = Made('accuracy', KINDS), np.random.default_rng(1).permutation(40)
    found = {s: stated(40, 3, k) for k, s in enumerate(SUBSETS)}
    subsets = {s: {'prob': p[order]} for s, p in found.items()}
    target = np.array(data.task.classes)[KINDS]
    record, _ = scored(at(tmp_path, data.ids[order], subsets, target=target[order]), data, tmp_path)
    for subset, p in found.items():
        scores, guess = record['scores']['test'][subset], p.argmax(1)
        assert scores['accuracy'] == pytest.approx(reference.accuracy_score(KINDS, guess))
        assert scores['UAR'] == pytest.approx(reference.balanced_accuracy_score(KINDS, guess))
        assert scores['F1'] == pytest.approx(reference.f1_score(KINDS, guess, average='macro'))


@pytest.mark.parametrize('form', ['prob', 'logit'])
def test_the_area_under_the_curve_is_that_of_the_probabilities(form, tmp_path):
    data, p = Made('ACER', FACES), stated(40, 2)
    given = p if form == 'prob' else np.log(p) + 3
    record, outcomes = scored(at(tmp_path, data.ids, {'ir': {form: given}}), data, tmp_path)
    auc = record['scores']['test']['ir']['AUC']
    assert auc == pytest.approx(reference.roc_auc_score(FACES, p[:, 1]))
    np.testing.assert_allclose(special.expit(outcomes['logit/ir']), p[:, 1], rtol=1e-5)


def test_classes_alone_give_no_score_that_needs_probabilities(tmp_path):
    data = Made('ACER', FACES)
    names = np.array(['attack', 'live'])[1 - FACES]
    record, outcomes = scored(at(tmp_path, data.ids, {'rgb': {'pred': names}}), data, tmp_path)
    assert record['scores']['test'] == {
        'rgb': {'accuracy': 0.0, 'APCER': 1.0, 'BPCER': 1.0, 'ACER': 1.0}
    }
    assert not any(key.startswith('logit') for key in outcomes)


def test_a_given_class_counts_before_the_largest_probability(tmp_path):
    data, p, order = Made('ACER', FACES), stated(40, 2), np.random.default_rng(2).permutation(40)
    subsets = {'rgb': {'prob': p[order], 'pred': FACES[order]}}
    record, _ = scored(at(tmp_path, data.ids[order], subsets), data, tmp_path)
    assert record['scores']['test']['rgb']['ACER'] == 0
    assert record['scores']['test']['rgb']['AUC'] == pytest.approx(
        reference.roc_auc_score(FACES, p[:, 1])
    )


def test_probabilities_of_0_and_1_are_finite_logits(tmp_path):
    data = Made('accuracy', KINDS)
    record, outcomes = scored(
        at(tmp_path, data.ids, {'rgb': {'prob': np.eye(3)[KINDS]}}), data, tmp_path
    )
    assert record['scores']['test']['rgb']['accuracy'] == 1
    assert np.isfinite(outcomes['logit/rgb']).all()


def test_only_samples_that_have_a_subset_count(tmp_path):
    available = np.ones((40, 2), bool)
    available[:10, 1] = False
    data, p = Made('accuracy', KINDS, available), stated(40, 3)
    subsets = {'ir+rgb': {'prob': p}, 'rgb': {'prob': p}}
    (tmp_path / 'x.npz').write_bytes(b'file')
    made = comparing.record(at(tmp_path, data.ids, subsets), data, tmp_path)
    assert made.record['n']['test'] == {'rgb': 40, 'rgb+ir': 30}
    assert made.record['scores']['test']['rgb+ir']['accuracy'] == pytest.approx(
        reference.accuracy_score(KINDS[10:], p[10:].argmax(1))
    )
    (note,) = made.notes
    assert '10 predictions on rgb+ir are of samples that lack it' in note
    p[:10] = np.nan
    subsets = {'rgb+ir': {'prob': p}}
    assert comparing.outcomes_of(at(tmp_path, data.ids, subsets), data)[1] == []


CLASS = [
    ({'classes': ('dog', 'cat', 'hen')}, 'classes: expected cat, dog, hen in this order'),
    ({'fingerprint': 'x\nz'}, 'fingerprint: expected abc of made as it is opened here, found x z'),
    ({'target': np.where(np.arange(40) == 7, (KINDS + 1) % 3, KINDS)}, "target of 's7': expected"),
    (
        {'target': KINDS + 1},
        'target: expected classes from 0 to 2, or -1 for no',
    ),
    ({'target': np.array(['cta'] * 40)}, "target: unknown class 'cta'; did you mean 'cat'?"),
    ({'ids': [f's{k}' for k in range(39)] + ['s4o']}, "unknown sample 's4o'"),
    ({'ids': [f's{k}' for k in range(39)]}, "id: expected all 40 test samples, found 39; 's39'"),
]


@pytest.mark.parametrize(('changes', 'told'), CLASS)
def test_a_file_of_other_data_is_refused(changes, told):
    ids = changes.pop('ids', [f's{k}' for k in range(40)])
    subsets = {'rgb': {'prob': stated(len(ids), 3)}}
    assert told in refused(Made('accuracy', KINDS), ids, subsets, **changes)


def spoilt(row, values):
    p = stated(40, 3)
    p[row] = values
    return {'rgb': {'prob': p}}


P = stated(40, 3)
SUBSET = [
    ({'rbg': {'prob': P}}, "modality in subset 'rbg': 'rbg'; did you mean 'rgb'?"),
    ({'rgb+rgb': {'prob': P}}, "subset 'rgb+rgb': expected every modality once"),
    ({'rgb+ir': {'prob': P}, 'ir+rgb': {'prob': P}}, 'subsets: expected rgb+ir once, found ir+rgb'),
    ({'rgb': {'prob': P[:, :2]}}, 'prob/rgb: expected fractions (40, 3)'),
    (
        spoilt(5, [0.1, np.nan, 0.9]),
        "prob/rgb of 's5': expected finite numbers, found 0.1, nan",
    ),
    (spoilt(5, [0.1, 0.1, 0.9]), "prob/rgb of 's5': expected probabilities with the sum 1, found"),
    (spoilt(5, [-0.2, 0.3, 0.9]), "prob/rgb of 's5': expected probabilities with the sum 1, found"),
    (spoilt(5, np.nan), 'subset rgb: expected a prediction of every test sample that has it'),
    ({'rgb': {'pred': KINDS, 'prob': P, 'logit': P}}, 'subset rgb: expected either prob or logit'),
    ({'rgb': {'areas': P}}, 'subset rgb: expected one of prob, logit, pred for this task'),
    ({'rgb': {'pred': KINDS + 1}}, 'pred/rgb: expected classes from 0 to 2, or -1'),
    ({'rgb': {'pred': np.where(KINDS == 1, -1, KINDS)}}, 'a prediction of every test sample'),
    ({'rgb': {'pred': P}}, 'pred/rgb: expected a number or name of a class per sample'),
]


@pytest.mark.parametrize(('subsets', 'told'), SUBSET)
def test_what_is_no_prediction_of_the_samples_is_refused(subsets, told):
    data = Made('accuracy', KINDS)
    assert told in refused(data, data.ids, subsets)


def confusions(truth, guess):
    """(N, K, K), with labels in rows; what is not labelled does not count."""
    return np.array([
        reference.confusion_matrix(t[t < 255], g[t < 255], labels=[0, 1, 2])
        for t, g in zip(truth, guess, strict=True)
    ])  # fmt: skip


GUESS = np.where(np.random.default_rng(3).random(MAPS.shape) < 0.6, np.minimum(MAPS, 2), 1)


def miou(truth, guess):
    known = truth < 255
    return reference.jaccard_score(truth[known], guess[known], average='macro')


def test_confusion_matrices_areas_and_label_maps_give_the_same_miou(tmp_path):
    data, order = Made('mIoU', MAPS), np.array([3, 1, 0, 5, 2, 4])
    tables = confusions(MAPS, GUESS)
    areas = np.stack([np.diagonal(tables, 0, 1, 2), tables.sum(1), tables.sum(2)], 1)
    for k, guess in enumerate(GUESS):
        Image.fromarray(guess.astype(np.uint8)).save(tmp_path / f'{k}.png')
    files = np.array([f'{k}.png' for k in order], dtype=object)
    given = {
        'rgb': {'confusion': tables[order]},
        'ir': {'areas': areas[order]},
        'rgb+ir': {'mask': files},
    }
    record, outcomes = scored(at(tmp_path, data.ids[order], given), data, tmp_path)
    for subset in SUBSETS:
        assert record['scores']['test'][subset]['mIoU'] == pytest.approx(miou(MAPS, GUESS))
        np.testing.assert_array_equal(outcomes[f'areas/{subset}'], areas)


def test_a_table_names_the_files_of_label_maps(tmp_path):
    data = Made('mIoU', MAPS)
    lines = ['method,dataset,seed,id,modalities,file']
    (tmp_path / 'maps').mkdir()
    for k in (4, 2, 0, 1, 5, 3):
        Image.fromarray(GUESS[k].astype(np.uint8)).save(tmp_path / 'maps' / f'{k}.png')
        lines.append(f'net,made,0,s{k},ir+rgb,maps/{k}.png')
    (tmp_path / 'x.csv').write_text('\n'.join(lines))
    (found,) = prediction_files.read(tmp_path / 'x.csv')
    outcomes, _ = comparing.outcomes_of(found, data)
    scores = metrics.of_areas(outcomes['areas/rgb+ir'])
    assert scores['mIoU'] == pytest.approx(miou(MAPS, GUESS))
    (tmp_path / 'x.csv').write_text('\n'.join(lines[:-1]))
    (found,) = prediction_files.read(tmp_path / 'x.csv')
    with pytest.raises(UserError, match="id: expected all 6 test samples, found 5; 's3' is missi"):
        comparing.outcomes_of(found, data)


def test_slices_are_pooled_to_volumes(tmp_path):
    data = Made('Dice', SLICES, groups=VOLUMES)
    guess = np.random.default_rng(4).integers(0, 3, SLICES.shape)
    for k, labels in enumerate(guess):
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path / f'{k}.png')
    files = np.array([f'{k}.png' for k in range(6)], dtype=object)
    record, outcomes = scored(at(tmp_path, data.ids, {'ir': {'mask': files}}), data, tmp_path)
    for name, classes in REGIONS:
        each = [
            reference.f1_score(
                np.isin(SLICES[v == VOLUMES], classes).ravel(),
                np.isin(guess[v == VOLUMES], classes).ravel(),
            )
            for v in np.unique(VOLUMES)
        ]
        assert record['scores']['test']['ir'][f'Dice_{name}'] == pytest.approx(np.mean(each))
    assert outcomes['name'].tolist() == ['v0', 'v1', 'v2']
    again = {'ir': {'areas': outcomes['areas/ir'][::-1]}}
    found, _ = comparing.outcomes_of(predictions(['v2', 'v1', 'v0'], again), data)
    np.testing.assert_array_equal(found['areas/ir'], outcomes['areas/ir'])


def changed(kind, values):
    """Confusion matrices or areas of which one image is changed."""
    tables = confusions(MAPS, GUESS)
    if kind == 'areas':
        tables = np.stack([np.diagonal(tables, 0, 1, 2), tables.sum(1), tables.sum(2)], 1)
    tables[2] = values(tables[2])
    return {'rgb': {kind: tables}}


DENSE = [
    (changed('confusion', lambda x: x * 2), "confusion/rgb of 's2': expected"),
    (changed('confusion', lambda x: x * 0), 'subset rgb: expected a prediction of every test'),
    (changed('confusion', lambda x: -x), 'subset rgb: expected a prediction of every test'),
    (
        changed('areas', lambda x: x * [[0], [2], [1]]),
        'expected a predicted class of each',
    ),
    (changed('areas', lambda x: x[[1, 1, 2]] + [[1], [0], [0]]), 'intersections within both'),
    ({'rgb': {'confusion': np.ones((6, 3, 2), int)}}, 'confusion/rgb: expected integers (6, 3, 3)'),
    ({'rgb': {'prob': P}}, 'expected one of areas, confusion, mask for this task, found prob'),
]


@pytest.mark.parametrize(('subsets', 'told'), DENSE)
def test_areas_that_contradict_the_labels_are_refused(subsets, told):
    data = Made('mIoU', MAPS)
    assert told in refused(data, data.ids, subsets)


BROKEN = [
    (np.zeros((4, 4), np.uint8), 'expected numbers of classes (4, 5) as the labels of'),
    (np.zeros((4, 5, 3), np.uint8), 'found uint8 (4, 5, 3)'),
    (np.full((4, 5), 7, np.uint8), 'expected classes from 0 to 2, found 7'),
    (None, 'cannot be read as a label map'),
]


@pytest.mark.parametrize(('labels', 'told'), BROKEN)
def test_a_file_that_is_no_label_map_is_refused(labels, told, tmp_path):
    data = Made('mIoU', MAPS)
    if labels is not None:
        Image.fromarray(labels).save(tmp_path / 'x.png')
    files = {'rgb': {'mask': np.array(['x.png'] * 6, dtype=object)}}
    assert told in refused(data, data.ids, files, file=tmp_path / 'x.csv')


def test_other_predictions_of_the_same_training_replace_the_record_and_say_so(tmp_path):
    data = Made('accuracy', KINDS)
    (tmp_path / 'x.npz').write_bytes(b'file')
    first, same, other = (
        comparing.record(at(tmp_path, data.ids, {'rgb': {'pred': guess}}), data, tmp_path)
        for guess in (KINDS, KINDS, 2 - KINDS)
    )
    assert first.record['identity'] == same.record['identity'] != other.record['identity']
    assert first.notes == same.notes == []
    assert 'replaces other predictions of net (external) seed 0' in other.notes[0]
    assert store.read(other.file)['identity'] == other.record['identity']


def exported(metric, folder):
    """A run's data set, record and outcomes, of every kind of task."""
    rng = np.random.default_rng(5)
    available = rng.random((40 if metric in ('ACER', 'accuracy') else 6, 2)) < 0.8
    available[:3] = True
    target = {'ACER': FACES, 'accuracy': KINDS, 'mIoU': MAPS, 'Dice': SLICES}[metric]
    data = Made(metric, target, available, VOLUMES if metric == 'Dice' else None)
    found = {}
    for subset in subset_ids(data.task.names):
        has = available[:, np.isin(data.task.names, subset.split('+'))].all(1)
        if target.ndim == 1:
            logits = rng.normal(size=(40, len(data.task.classes))) * 30
            logits[~has] = np.nan
            found[subset] = {'logit': logits}
            continue
        folder.mkdir(exist_ok=True)
        names = [f'{subset}-{k}.png' if has[k] else '' for k in range(6)]
        for name in filter(None, names):
            image = rng.integers(0, 3, MAPS.shape[1:]).astype(np.uint8)
            Image.fromarray(image).save(folder / name)
        found[subset] = {'mask': np.array(names, dtype=object)}
    return data, *scored(at(folder, data.ids, found), data, folder)


@pytest.mark.parametrize('metric', ['ACER', 'accuracy', 'mIoU', 'Dice'])
def test_what_was_exported_gives_the_same_outcomes_and_scores(metric, tmp_path):
    folder = tmp_path / 'first'
    folder.mkdir()
    data, record, outcomes = exported(metric, folder)
    prediction_files.write(tmp_path / 'out.npz', record, outcomes)
    (found,) = prediction_files.read(tmp_path / 'out.npz')
    for subset, kinds in found.subsets.items():
        if 'logit' in kinds:
            none = found.subsets[subset]['pred'] < 0
            np.testing.assert_array_equal(np.isnan(kinds['logit']).all(1), none)
    again = comparing.record(found, data, tmp_path / 'second')
    assert again.record['scores'] == record['scores']
    assert again.record['n'] == record['n']
    assert again.notes == []
    read = store.read_outcomes(again.file.with_name(store.OUTCOMES), again.record)
    assert read.keys() == outcomes.keys()
    for key, array in outcomes.items():
        assert read[key].dtype == array.dtype, key
        np.testing.assert_array_equal(read[key], array)
    assert metrics.determined(record['dataset']) == set(record['scores']['test']['rgb'])
