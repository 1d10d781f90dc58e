"""Tasks with several labels or values: from a user's arrays to losses, records, tables, files."""

import csv
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from scipy import special
from tasks import batch_of

from benchmark import export, predict, run, show, tables
from benchmark.engine import compiling, exporting
from benchmark.engine.experiment import experiment
from benchmark.engine.loading import Samples
from benchmark.engine.outputs import answers
from benchmark.engine.plan import open_datasets
from benchmark.engine.protocol import Protocol
from benchmark.engine.resident import Resident
from benchmark.errors import UserError
from benchmark.method import IGNORE, KINDS, Modality, Task
from benchmark.options import Spec
from benchmark.records import archive, store, verification
from benchmark.registry import METHODS, discover
from benchmark.report.page import command as report
from methods.common.losses import labels_of

discover()
RNG = np.random.default_rng(0)
MODALITIES = (Modality('a', (6,)), Modality('b', (3,)))
TASKS = {
    'multilabel': Task('toy', 'multilabel', MODALITIES, ('x', 'y', 'z'), 'F1', 4),
    'regression': Task(
        'toy', 'regression', MODALITIES, ('u', 'v'), 'MAE', 4, scale=((1.0, 2.0), (50.0, 9.0))
    ),
}
BOTH = pytest.mark.parametrize('kind', list(TASKS))


def targets(kind, n):
    if kind == 'multilabel':
        return RNG.integers(0, 2, (n, 3))
    return RNG.standard_normal((n, 2)) * [2, 9] + [1, 50]


def batch(kind, n=6):
    task = TASKS[kind]
    made = batch_of(
        dataclasses.replace(task, kind='classification', metric='accuracy', scale=()), n
    )
    found = torch.from_numpy(targets(kind, n))
    return made._replace(target=found if kind == 'multilabel' else found.float())


def arrays(root, kind, n=60, **keys):
    file = root / f'{kind}.npz'
    target = targets(kind, n)
    inputs = {'inputs/a': RNG.standard_normal((n, 6)), 'inputs/b': RNG.standard_normal((n, 3))}
    inputs['inputs/a'][:, : target.shape[1]] += target / (1 + target.std(0))
    content = {**inputs, 'target': target, 'split': np.arange(n) % 3, **keys}
    np.savez(file, **content)
    return file, content


def method(name, kind, **options):
    return METHODS.module_dict[name](TASKS[kind], **options)


def test_the_loss_of_labels_is_the_mean_cross_entropy_of_those_that_count():
    net = method('modality_dropout', 'multilabel')
    logits, target = torch.randn(5, 3), torch.from_numpy(targets('multilabel', 5))
    target[1, 2] = IGNORE
    p, known = logits.double().sigmoid(), target >= 0
    expected = -torch.where(target > 0, p, 1 - p).log()[known].mean()
    assert net.task_loss(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)
    weighted = dataclasses.replace(TASKS['multilabel'], class_weights=(2.0, 1.0, 5.0))
    net = METHODS.module_dict['modality_dropout'](weighted)
    w = torch.where(target > 0, torch.tensor([2.0, 1.0, 5.0]), 1.0)
    expected = -(w * torch.where(target > 0, p, 1 - p).log())[known].mean()
    assert net.task_loss(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize('loss', ['', 'mse', 'l1'])
def test_the_loss_of_values_is_that_of_standardised_ones(loss):
    task = dataclasses.replace(TASKS['regression'], loss=loss)
    net = METHODS.module_dict['modality_dropout'](task)
    found, target = torch.randn(5, 2), torch.from_numpy(targets('regression', 5)).float()
    z = (target - torch.tensor([1.0, 50.0])) / torch.tensor([2.0, 9.0])
    expected = (F.l1_loss if loss == 'l1' else F.mse_loss)(found, z)
    assert net.task_loss(found, target).item() == pytest.approx(expected.item(), rel=1e-5)
    some = labels_of(target, torch.tensor([True, True, False, False, False]))
    expected = (F.l1_loss if loss == 'l1' else F.mse_loss)(found[:2], z[:2])
    assert net.task_loss(found, some).item() == pytest.approx(expected.item(), rel=1e-5)
    nothing = labels_of(target, torch.zeros(5, dtype=torch.bool))
    assert net.task_loss(found, nothing).item() == 0


def able():
    return sorted(n for n, cls in METHODS.module_dict.items() if set(KINDS) <= set(cls.task_kinds))


def test_the_methods_that_are_able_are_these():
    assert {'modality_dropout', 'complete', 'customized', 'fusion', 'mmin', 'redcore'} <= {*able()}
    assert {'late_fusion', 'majority'} <= {*able()}
    assert not {'mmanet', 'dmrnet', 'distilled', 'ogm_ge', 'logistic'} & {*able()}


@BOTH
@pytest.mark.parametrize('name', able())
def test_every_able_method_trains_on_columns(name, kind):
    torch.manual_seed(0)
    net, given = method(name, kind), batch(kind)
    net.epoch, net.epochs = 3, 4
    if net.teacher:
        net.set_teacher(METHODS.module_dict[net.teacher](TASKS[kind]))
    total, _ = net.parse_losses(net.loss(given))
    assert torch.isfinite(total)
    total.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    net.eval()
    logits = net.predict(given.inputs, given.mask)
    assert logits.shape == given.target.shape
    hidden = {
        m: x.where(given.mask[:, k : k + 1], torch.nan)
        for k, (m, x) in enumerate(given.inputs.items())
    }
    torch.testing.assert_close(net.predict(hidden, given.mask), logits)


@BOTH
def test_other_methods_are_refused_in_one_line(kind, tmp_path):
    file, _ = arrays(tmp_path, kind)
    (data,) = open_datasets([f'arrays:target={kind}'], [file], {})
    protocol = Protocol.build({}, {}, 'cpu', kind)
    e = experiment(Spec('mmanet'), data, protocol, 0, tmp_path)
    with pytest.raises(UserError) as error:
        e.check()
    # By its registered name, which is what is typed.
    assert str(error.value) == (
        f'mmanet on {data.name}: expected a task of classification or segmentation, '
        f'on which its formulas are defined, found {kind}'
    )


@pytest.fixture(scope='module', params=list(TASKS))
def finished(request, tmp_path_factory):
    """A run of one epoch with three seeds, its arrays, and the folder of results."""
    root = tmp_path_factory.mktemp(request.param)
    file, content = arrays(root, request.param)
    words = ['--methods', 'modality_dropout', 'hemis', '--datasets', 'arrays', '--device', 'cpu',
             '--seeds', '0', '1', '2', '--data-root', str(file), '--results', str(root / 'out'),
             '--cfg-options', f'target={request.param}', 'epochs=1', 'width=4']  # fmt: skip
    assert run.main(words) == 0
    return request.param, file, content, root / 'out'


def test_records_outcomes_and_tables_tell_the_same(finished):
    kind, _, content, results = finished
    found = store.scan(results / 'runs')
    assert len(found.complete) == 6
    assert not found.problems
    path, record = next(iter(found.complete.items()))
    outcomes = archive.read(path.with_name('outcomes.npz'))
    target = content['target'][content['split'] == 2]
    np.testing.assert_allclose(outcomes['target'], target, rtol=1e-6)
    if kind == 'regression':
        mae = np.abs(outcomes['value/a'] - target).mean()
        assert record['scores']['test']['a']['MAE'] == pytest.approx(mae, rel=1e-5)
        # Predictions are in the units of the targets.
        assert abs(outcomes['value/a'][:, 1].mean() - 50) < 15
        assert record['protocol']['loss'] == 'mse'
    else:
        assert set(record['scores']['test']['a']) == {'F1', 'micro_F1', 'mAP'}
        assert 'loss' not in record['protocol']
    verification.check_fit(record, outcomes)
    verification.verified(record, outcomes)
    verification.check_validation(path.with_name('validation.npz'), record)
    (table,) = (results / 'tables').glob('*.md')
    text = table.read_text()
    assert ('MAE ↓' if kind == 'regression' else 'F1 ↑ (%)') in text
    report.main([str(results)])
    page = (results / 'index.html').read_text()
    assert kind in page


def test_every_output_prints_a_metric_in_its_own_unit(finished):
    """Errors as they are recorded, with three decimals; fractions in percent, with two."""
    kind, _, _, results = finished
    metric, factor, digits = ('MAE', 1, 3) if kind == 'regression' else ('F1', 100, 2)
    each = {}
    for record in store.scan(results / 'runs').complete.values():
        scores = {s: factor * v[metric] for s, v in record['scores']['test'].items()}
        each.setdefault(record['method']['label'], []).append(scores)
    told = {
        (label, s): np.array([seed[s] for seed in seeds]) for label, seeds in each.items()
        for s in seeds[0]
    }  # fmt: skip
    folder = results / 'tables'
    (stem,) = {f.with_suffix('') for f in folder.glob('*.md')}
    (text, tex), rows = (
        [stem.with_suffix(end).read_text() for end in ('.md', '.tex')],
        {row['method']: row for row in csv.DictReader(stem.with_suffix('.csv').open())},
    )
    for (label, subset), seeds in told.items():
        assert float(rows[label][subset]) == pytest.approx(seeds.mean(), rel=1e-4)
        mean, std = f'{seeds.mean():.{digits}f}', f'{seeds.std(ddof=1):.{digits}f}'
        assert f'{mean} ± {std}' in text
        assert mean in tex
    several = 'as the mean over the 2 values of the target, of which each is in units of its own'
    assert (f'{metric} {several}; lower is better' in text) == (kind == 'regression')
    if kind == 'regression':  # F1 needs more samples to be tested
        assert tables.main([str(results), '--baseline', 'hemis']) == 0
        less = told['modality_dropout', 'a'].mean() - told['hemis', 'a'].mean()
        (file,) = folder.glob('*-baseline.csv')
        row = next(row for row in csv.DictReader(file.open()) if row['column'] == 'a')
        assert float(row['difference']) == pytest.approx(less, rel=1e-4)
        text += file.with_suffix('.md').read_text()
        assert f'{less:+.3f}' in text
        assert 'seeds, 0.01' in text
    page = (results / 'index.html').read_text()
    assert f'{told["hemis", "a"].mean():.{digits}f}' in page
    assert '(times 100)' not in page + text + tex


def test_outcomes_that_do_not_fit_are_named(finished):
    kind, _, _, results = finished
    path, record = next(iter(store.scan(results / 'runs').complete.items()))
    outcomes = archive.read(path.with_name('outcomes.npz'))
    name = 'logit/a' if kind == 'multilabel' else 'value/a'
    for key, value in ((name, outcomes[name][:, :1]), (name, np.full_like(outcomes[name], np.nan)),
                       ('target', outcomes['target'] + np.nan)):  # fmt: skip
        with pytest.raises(store.RecordError, match=f'^{key}: expected'):
            verification.check_fit(record, {**outcomes, key: value})
    with pytest.raises(store.RecordError, match='in the record'):
        verification.verified(record, {**outcomes, name: outcomes[name][::-1].copy()})


def test_new_samples_are_predicted_and_scored(finished, tmp_path, capsys):
    kind, file, content, results = finished
    path, record = next(iter(store.scan(results / 'runs').complete.items()))
    assert predict.main([str(path.parent), str(file), '--out', str(tmp_path)]) == 0
    with (tmp_path / 'predictions.csv').open() as stream:
        rows = list(csv.DictReader(stream))
    outcomes = archive.read(path.with_name('outcomes.npz'))
    if kind == 'regression':
        found = [[float(row[k]) for k in '01'] for row in rows]
        np.testing.assert_allclose(found, outcomes['value/a+b'], rtol=1e-4)
    else:
        told = outcomes['logit/a+b'] > 0
        expected = ['|'.join(k for k, x in zip('012', row, strict=True) if x) for row in told]
        assert [row['prediction'] for row in rows] == expected
    capsys.readouterr()
    assert predict.main([str(path.parent), str(file), '--evaluate']) == 0
    score = record['scores']['test']['a+b'][record['dataset']['metric']]
    shown = f'{score:.3f}' if kind == 'regression' else f'{100 * score:.2f}'
    assert shown in capsys.readouterr().out


def test_an_export_tells_what_was_compared(finished, monkeypatch, tmp_path, capsys):
    kind, _, _, results = finished
    path, _ = next(iter(store.scan(results / 'runs').complete.items()))
    made = exporting.Exported(tmp_path / 'model.pt2', 2e-6, 3, False)
    made.file.touch()
    monkeypatch.setattr(exporting, 'export', lambda *given: iter([made]))
    assert export.main([str(path.parent), '--formats', 'pt2']) == 0
    told = 'values' if kind == 'regression' else 'probabilities'
    assert f'MB; {told} differ by at most 2e-06 on 3 subsets' in capsys.readouterr().out


def test_what_cannot_be_done_with_them_is_told_in_one_line(finished, tmp_path, capsys):
    kind, file, _, results = finished
    path, _ = next(iter(store.scan(results / 'runs').complete.items()))
    words = [str(path.parent), '--data', str(file), '--out', str(tmp_path / 'x.html')]
    assert show.main(words) == 2
    assert f'found {kind}' in capsys.readouterr().err


@BOTH
@pytest.mark.parametrize('name', ['modality_dropout', 'simmlm', 'redcore', 'mmpareto'])
def test_the_parts_that_would_be_compiled_are_found(name, kind):
    assert 'encoders' in ''.join(compiling.called(method(name, kind)))


@BOTH
def test_resident_data_are_the_same(kind, tmp_path):
    file, _ = arrays(tmp_path, kind)
    (data,) = open_datasets([f'arrays:target={kind}'], [file], {})
    split = data.split('train')
    expected = Samples(split, data.task, split.available).__getitems__([0, 3])
    rows = np.array([0, 3])
    there = split.available[rows]
    found = Resident(split, data.task, 'cpu').batch(rows, there, there)
    assert found.target.dtype == expected.target.dtype
    torch.testing.assert_close(found.target, expected.target)


@pytest.mark.parametrize(
    ('kind', 'keys', 'told'),
    [
        ('multilabel', {'target': np.full((60, 3), 2)}, 'target: expected 0 and 1, found [2 2 2]'),
        ('multilabel', {'target': np.zeros(60, int)}, 'target: expected 0 and 1 (60, K)'),
        ('multilabel', {'target': np.zeros((60, 3))}, 'target: expected 0 and 1 (60, K)'),
        ('regression', {'target': np.full(60, np.nan)}, 'target: expected finite numbers'),
        ('regression', {'target': np.array(['a'] * 60)}, 'target: expected numbers (60,) or'),
        ('regression', {'classes': np.array(['a'])}, 'classes: expected 2 names, one for each'),
    ],
)
def test_wrong_targets_are_told_in_one_line(kind, keys, told, tmp_path):
    file, _ = arrays(tmp_path, kind, **keys)
    with pytest.raises(UserError) as error:
        open_datasets([f'arrays:target={kind}'], [file], {})
    assert told in str(error.value)
    assert '\n' not in str(error.value)


def test_labels_are_balanced_by_negative_over_positive(tmp_path):
    file, content = arrays(tmp_path, 'multilabel')
    (data,) = open_datasets(['arrays:target=multilabel,class_weights=balanced'], [file], {})
    train = content['target'][content['split'] == 0]
    assert data.task.class_weights == pytest.approx((train == 0).sum(0) / (train == 1).sum(0))
    file, _ = arrays(tmp_path, 'regression')
    with pytest.raises(UserError, match='class_weights: expected none for a regression'):
        open_datasets(['arrays:target=regression,class_weights=balanced'], [file], {})


def test_labels_that_say_nothing_in_training_are_told(tmp_path):
    target = np.tile([[1, 0, 1, 0]], (60, 1))
    target[1::3, 1], target[:30, 3] = 1, 1
    names = np.array(['day', 'rare', 'sun', 'fog'])
    file, _ = arrays(tmp_path, 'multilabel', target=target, classes=names, split=np.arange(60) % 3)
    (data,) = open_datasets(['arrays:target=multilabel'], [file], {})
    assert data.notes[1:3] == (
        'no training sample has label rare',
        'all training samples have label day, sun',
    )


@BOTH
def test_image_folders_have_them_too(kind, tmp_path):
    column = ['u|v', 'v', '-', 'u'] if kind == 'multilabel' else ['1.5', '-2', '0', '4']
    rows = []
    for k in range(12):
        sample = f'{("train", "val", "test")[k // 4]}/{k}'
        for m in ('a', 'b'):
            (tmp_path / m / sample).parent.mkdir(parents=True, exist_ok=True)
            pixels = RNG.integers(0, 255, (8, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / m / f'{sample}.png')
        rows.append(f'{sample},{column[k % 4]}\n')
    (tmp_path / 'labels.csv').write_text('sample,label\n' + ''.join(rows))
    (data,) = open_datasets([f'folders:target={kind}'], [tmp_path], {})
    found = np.asarray(data.split('train').target)
    if kind == 'multilabel':
        assert data.task.classes == ('u', 'v')
        assert found.tolist() == [[1, 1], [0, 1], [0, 0], [1, 0]]
        (tmp_path / 'classes.txt').write_text('u\nv\nw\n')
        (data,) = open_datasets([f'folders:target={kind}'], [tmp_path], {})
        assert 'no training sample has label w' in data.notes
    else:
        assert found.tolist() == [[1.5], [-2.0], [0.0], [4.0]]
        assert data.task.scale[0] == pytest.approx((0.875, np.std([1.5, -2, 0, 4])))
    (tmp_path / 'labels.csv').write_text('sample,label\n' + ''.join(rows).replace(',4\n', ',x\n'))
    if kind == 'regression':
        with pytest.raises(UserError, match="label of 'train/3': expected a number, found 'x'"):
            open_datasets([f'folders:target={kind}'], [tmp_path], {})


def test_answers_are_probabilities_of_labels_or_values_in_their_units():
    logits = torch.tensor([[0.3, -2.0, 5.0], [1.0, 1.0, -1.0]])
    labels = TASKS['multilabel']
    np.testing.assert_allclose(answers(labels, logits), special.expit(logits.numpy()), rtol=1e-5)
    scale = ((1.0, 10.0), (0.0, 2.0), (-5.0, 1.0))
    values = dataclasses.replace(labels, kind='regression', metric='MAE', scale=scale)
    mean, std = np.array(scale).T
    np.testing.assert_allclose(answers(values, logits), logits.numpy() * std + mean, rtol=1e-5)
    classes = dataclasses.replace(labels, kind='classification', metric='accuracy')
    expected = special.softmax(logits.numpy(), 1)
    np.testing.assert_allclose(answers(classes, logits), expected, rtol=1e-5)


@torch.no_grad()
@BOTH
@pytest.mark.parametrize('combine', ['mean', 'product', 'learned'])
def test_decisions_of_columns_are_combined_by_the_rule(combine, kind):
    if (combine, kind) == ('product', 'regression'):
        with pytest.raises(UserError, match='toy: expected mean or learned in a regression, found'):
            method('late_fusion', kind, combine=combine)
        return
    torch.manual_seed(0)
    net, given = method('late_fusion', kind, combine=combine).eval(), batch(kind)
    if combine == 'learned':
        net.weights.copy_(torch.tensor([0.7, -0.4]))
    logits = net.encode(given.inputs)
    found = net.decode(logits, given.mask).double().numpy()
    each = np.stack([x.double().numpy() for x in logits.values()], 1)
    for row, mask in enumerate(given.mask.numpy()):
        z = each[row][mask]
        w = np.exp([0.7, -0.4])[mask] if combine == 'learned' else np.ones(len(z))
        w = (w / w.sum())[:, None]
        if kind == 'multilabel':
            p = special.expit(z)
            if combine == 'mean':
                yes, no = p.mean(0), (1 - p).mean(0)
            else:
                yes, no = (p**w).prod(0), ((1 - p) ** w).prod(0)
            expected = special.logit(yes / (yes + no))
        else:
            expected = (w * z).sum(0)
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_majority_predicts_the_shares_of_labels_and_the_means_of_values():
    given = batch('multilabel', 40)
    given.target[:20, 0] = 1
    given.target[3, 1] = IGNORE
    given.target[:, 2] = 0
    task = dataclasses.replace(TASKS['multilabel'], class_weights=(3.0, 1.0, 1.0))
    net = METHODS.module_dict['majority'](task)
    net.fit(given, given)
    y = given.target.numpy()
    have, lack = (y[:, :2] == 1).sum(0) * [3, 1], (y[:, :2] == 0).sum(0)
    found = net.predict(given.inputs, given.mask).double().numpy()
    assert found.shape == (40, 3)
    np.testing.assert_allclose(special.expit(found[:, :2]), [have / (have + lack)] * 40, rtol=1e-5)
    assert np.all(found[:, 2] < -10)
    assert np.isfinite(found).all()
    given = batch('regression', 40)
    given.target[5] = torch.nan
    mean = np.delete(given.target.double().numpy(), 5, 0).mean(0)
    net = method('majority', 'regression')
    net.fit(given, given)
    values = answers(TASKS['regression'], net.predict(given.inputs, given.mask)).numpy()
    np.testing.assert_allclose(values, [mean] * 40, rtol=1e-4)
    plain = dataclasses.replace(TASKS['regression'], scale=())
    net = METHODS.module_dict['majority'](plain)
    net.fit(given, given)
    np.testing.assert_allclose(net.predict(given.inputs, given.mask).numpy()[0], mean, rtol=1e-4)
