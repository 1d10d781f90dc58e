"""Reference rows that scikit-learn fits, against its own pipelines on the same samples."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tasks import TASKS, Toy, batch_of

from benchmark.engine import execution, fitting, grid
from benchmark.engine.building import Machine
from benchmark.engine.experiment import CannotTrain, Experiment
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.method import IGNORE, Batch
from benchmark.missing import subset_id, subset_masks
from benchmark.options import Spec
from benchmark.records import store
from benchmark.registry import METHODS, discover
from methods.common.fitted import FLOOR, STRENGTHS, logistic_regression

discover()
MACHINE = Machine('cpu')


def made(task, count, seed, gaps=0.0):
    """A batch whose inputs depend on the class, with another scale per feature and some gaps."""
    batch = batch_of(task, count, seed)
    rng = np.random.default_rng(seed)
    available = torch.from_numpy(rng.random(batch.mask.shape) >= gaps)
    available[~available.any(1), 0] = True
    inputs = {}
    for k, (name, x) in enumerate(batch.inputs.items()):
        shift = batch.target.reshape(count, -1)[:, 0].reshape(count, *[1] * (x.ndim - 1))
        x = (x + 0.7 * shift) * torch.linspace(1, 5, x.shape[-1]) + 3
        there = available[:, k].reshape(count, *[1] * (x.ndim - 1))
        inputs[name] = torch.where(there, x, 0.0)
    return batch._replace(inputs=inputs, available=available, mask=available)


def fitted(name, task, train, val):
    torch.manual_seed(0)
    method = METHODS.module_dict[name](task).eval()
    method.fit(train, val)
    return method


def table(batch):
    """The features of all modalities, flattened and joined, NaN where one is missing."""
    columns = []
    for k, x in enumerate(batch.inputs.values()):
        flat = x.flatten(1).double().numpy().copy()
        flat[~batch.available[:, k].numpy()] = np.nan
        columns.append(flat)
    return np.concatenate(columns, 1)


def best(steps, train, val, labels):
    """The pipeline of scikit-learn whose C has the least cross-entropy on the validation split."""
    found = []
    for strength in STRENGTHS:
        model = make_pipeline(*steps(), LogisticRegression(C=strength, max_iter=5000, tol=1e-7))
        model.fit(train, labels[0])
        found.append((log_loss(labels[1], model.predict_proba(val), labels=model.classes_), model))
    return min(found, key=lambda pair: pair[0])[1]


@torch.no_grad()
def shares(method, batch, mask):
    allowed = batch.available & torch.from_numpy(mask)
    return method.predict(batch.inputs, allowed).softmax(1).double().numpy()


@pytest.mark.parametrize('kind', ['vectors', 'faces'])
def test_logistic_is_scikit_learn_s_regression_of_every_subset(kind):
    task = TASKS[kind]
    train, val, test = (made(task, n, s) for n, s in ((60, 1), (30, 2), (20, 3)))
    method = fitted('logistic', task, train, val)
    sizes = [int(np.prod(m.shape)) for m in task.modalities]
    for mask in subset_masks(len(sizes)):
        columns = np.repeat(mask, sizes)
        x, v, t = (table(b)[:, columns] for b in (train, val, test))
        labels = train.target.numpy(), val.target.numpy()
        model = best(lambda: [StandardScaler()], x, v, labels)
        expected = model.predict_proba(t)
        np.testing.assert_allclose(shares(method, test, mask), expected, atol=2e-3)


def test_logistic_of_a_subset_sees_only_the_samples_that_have_it():
    task = TASKS['vectors']
    train, val, test = (made(task, n, s, gaps=0.3) for n, s in ((80, 1), (40, 2), (20, 3)))
    method = fitted('logistic', task, train, val)
    x, v, t = table(train)[:, :6], table(val)[:, :6], table(test)[:, :6]
    here, there, asked = (~np.isnan(a).any(1) for a in (x, v, t))
    assert 0 < here.sum() < len(here)
    labels = train.target.numpy()[here], val.target.numpy()[there]
    model = best(lambda: [StandardScaler()], x[here], v[there], labels)
    got = shares(method, test, np.array([True, False]))[asked]
    np.testing.assert_allclose(got, model.predict_proba(t[asked]), atol=2e-3)


def imputers(name):
    if name == 'mean_imputation':
        return [SimpleImputer(), StandardScaler()]
    return [StandardScaler(), KNNImputer(n_neighbors=5), StandardScaler()]


@pytest.mark.parametrize('gaps', [0.0, 0.3])
@pytest.mark.parametrize('name', ['mean_imputation', 'knn_imputation'])
def test_imputations_are_pipelines_of_scikit_learn(name, gaps):
    task = TASKS['vectors']
    train, val, test = (made(task, n, s, gaps) for n, s in ((80, 1), (40, 2), (20, 3)))
    method = fitted(name, task, train, val)
    labels = train.target.numpy(), val.target.numpy()
    model = best(lambda: imputers(name), table(train), table(val), labels)
    for mask in subset_masks(2):
        asked = test._replace(available=test.available & torch.from_numpy(mask))
        expected = model.predict_proba(table(asked))
        np.testing.assert_allclose(shares(method, test, mask), expected, atol=2e-3)


def test_majority_is_scikit_learn_s_dummy_classifier():
    task = TASKS['mixed']
    train, val, test = (made(task, n, s) for n, s in ((60, 1), (30, 2), (20, 3)))
    method = fitted('majority', task, train, val)
    dummy = DummyClassifier(strategy='prior').fit(np.zeros((60, 1)), train.target.numpy())
    expected = dummy.predict_proba(np.zeros((20, 1)))
    for mask in subset_masks(3):
        np.testing.assert_allclose(shares(method, test, mask), expected, atol=1e-6)


def test_label_maps_are_fitted_pixel_by_pixel_without_ignored_ones():
    task = TASKS['rooms']
    train, val, test = (made(task, n, s) for n, s in ((3, 1), (2, 2), (2, 3)))
    depth = [b.inputs['depth'][:, 0].reshape(-1, 1).double().numpy() for b in (train, val, test)]
    rng = np.random.default_rng(0)
    for batch in (train, val):
        batch.target[:] = (batch.inputs['depth'][:, 0] > 4).long()
        batch.target[torch.from_numpy(rng.random(batch.target.shape) < 0.3)] = IGNORE
    labels = [b.target.reshape(-1).numpy() for b in (train, val)]
    known = [y != IGNORE for y in labels]
    pairs = [y[k] for y, k in zip(labels, known, strict=True)]
    steps = [d[k] for d, k in zip(depth, known, strict=False)]
    model = best(lambda: [StandardScaler()], steps[0], steps[1], pairs)
    method = fitted('logistic', task, train, val)
    got = shares(method, test, np.array([False, True]))
    assert got.shape == (2, 3, 32, 32)
    expected = model.predict_proba(depth[2]).reshape(2, 32, 32, 2)
    np.testing.assert_allclose(got[:, :2], np.moveaxis(expected, -1, 1), atol=2e-3)


def test_sequences_are_the_means_of_their_real_frames():
    task = TASKS['sequences']
    method = METHODS.module_dict['logistic'](task)
    x = torch.randn(2, 5, 4)
    x[..., -1] = torch.tensor([[1.0, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    found = method.encode({'words': x, 'gait': torch.randn(2, 3, 2)})
    expected = np.stack([x[0, :3, :3].numpy().mean(0), x[1, 0, :3].numpy()])
    np.testing.assert_allclose(found['words'].numpy(), expected, rtol=1e-5)
    assert found['gait'].shape == (2, 2)


def test_a_class_that_was_never_seen_is_never_predicted():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), rng.choice([0, 2], 40)
    x[:, 0] += 3 * y
    w, b = logistic_regression((x, y), (x[:9], np.r_[y[:8], 1]), np.ones(4))
    probability = torch.from_numpy(x @ w.T + b).softmax(1).numpy()
    reference = LogisticRegression(max_iter=5000).fit(x, y)
    assert probability[:, [1, 3]].max() < 2 * FLOOR
    assert (probability.argmax(1) == reference.predict(x)).mean() > 0.95


def test_one_class_alone_is_predicted_whatever_the_input():
    x, y = np.random.default_rng(0).standard_normal((10, 3)), np.full(10, 1)
    w, b = logistic_regression((x, y), (x, y), np.ones(3))
    assert not w.any()
    assert b.argmax() == 1


def test_weights_of_classes_count_as_repeated_samples():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=60)
    x = rng.standard_normal((60, 2)) + y[:, None]
    w, b = logistic_regression((x, y), (x[:0], y[:0]), np.array([1.0, 3.0]))
    scaled = StandardScaler().fit(x)
    z, repeats = scaled.transform(x), np.where(y, 3, 1)
    model = LogisticRegression(tol=1e-8).fit(np.repeat(z, repeats, 0), np.repeat(y, repeats))
    expected = model.decision_function(z)
    np.testing.assert_allclose((x @ w.T + b) @ [-1, 1], expected, atol=2e-3)


def test_neighbours_are_sought_among_vectors_alone():
    with pytest.raises(UserError, match='expected vectors, found image rgb'):
        METHODS.module_dict['knn_imputation'](TASKS['faces'])
    with pytest.raises(UserError, match='neighbours: expected 1 or more, found 0'):
        METHODS.module_dict['knn_imputation'](TASKS['vectors'], neighbours=0)


class Gappy(Toy):
    """Data whose missing values, and whose test split, must not be read by a fit."""

    def split(self, name):
        made = super().split(name)
        if name != 'test':
            made.available[::4, 0] = False
            made.inputs['a'][::4] = np.nan
        return made


def experiment(method, results, **fields):
    data = Gappy(TASKS['vectors'])
    protocol = Protocol.build(data.recipe, fields, 'cpu')
    return experiment_of(Spec(method, ()), data, protocol, 0, results)


@pytest.mark.parametrize('name', ['majority', 'logistic', 'mean_imputation', 'knn_imputation'])
def test_a_fit_leaves_a_record_like_any_run(name, tmp_path, monkeypatch):
    e = experiment(name, tmp_path, rates='b=0.25')
    execution.run(e, MACHINE, lambda *_: None)
    record = e.recorded()
    ids = [subset_id(('a', 'b'), m) for m in subset_masks(2)]
    assert set(record['scores']['test']) == set(ids)
    assert record['gaps']['rates']['b'] == 0.25
    assert e.data.opened.index('test') == len(e.data.opened) - 1
    assert store.read_outcomes(e.folder / store.OUTCOMES, record)
    if name == 'majority':
        assert record['collapsed'] == ids
    else:
        assert min(v['accuracy'] for v in record['scores']['test'].values()) > 0.6
    # What was fitted is kept: the record is made again from it.
    (e.folder / store.RECORD).unlink()
    monkeypatch.setattr(fitting, 'fit', None)
    again = execution.run(experiment(name, tmp_path, rates='b=0.25'), MACHINE, lambda *_: None)
    assert again['scores'] == record['scores']


def test_no_epochs_are_counted_for_a_fit(tmp_path):
    assert grid._epochs_to_train([experiment('logistic', tmp_path)], False) == {}
    assert grid._epochs_to_train([experiment('complete', tmp_path)], False) == {'toy': 4}


def test_a_split_too_large_to_be_read_at_once_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, 'LARGEST', 300)
    e = experiment('logistic', tmp_path)
    with pytest.raises(CannotTrain, match='expected at most 0 million numbers') as caught:
        execution.run(e, MACHINE, lambda *_: None)
    execution.failure(e, caught.value, MACHINE)
    assert json.loads((e.folder / store.RECORD).read_text())['status'] == 'refused'


def test_rows_that_training_crops_are_refused(tmp_path):
    task = TASKS['faces']
    modalities = (dataclasses.replace(task.modalities[0], shape=(3, 12, 12)), *task.modalities[1:])
    data = Toy(task)
    data.task = dataclasses.replace(task, modalities=modalities)
    data.split = lambda name: Toy(task).split(name)
    e = Experiment('logistic', {}, data, Protocol(), 0, tmp_path, 'logistic', 'default')
    with pytest.raises(CannotTrain, match=r'expected rgb \(3, 12, 12\), found \(3, 16, 16\)'):
        fitting.check_size(e)


def test_a_batch_without_anything_gets_the_classes_shares():
    task = TASKS['vectors']
    train, val = made(task, 60, 1), made(task, 30, 2)
    method = fitted('logistic', task, train, val)
    nothing = torch.zeros(4, 2, dtype=torch.bool)
    batch = Batch({k: x[:4] for k, x in val.inputs.items()}, nothing, nothing, *val[3:])
    with torch.no_grad():
        found = method.predict(batch.inputs, batch.mask).softmax(1).numpy()
    np.testing.assert_allclose(found[:, 1], train.target.double().mean().item(), atol=1e-5)
