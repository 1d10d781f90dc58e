"""What a finished run leaves: outcomes that its scores follow from, and the record that names them.

The networks are not trained, since what is kept of a prediction does not depend on how good it is.
"""

import dataclasses

import numpy as np
import pytest
import torch
from tasks import TASKS, Toy

from benchmark.dataset import VOID
from benchmark.engine import execution, recording, training
from benchmark.engine.building import Machine, build, loader_of
from benchmark.engine.experiment import Experiment
from benchmark.engine.hooks import TrainingDiverged
from benchmark.engine.loading import Samples
from benchmark.engine.outputs import kept_logits
from benchmark.engine.protocol import Protocol
from benchmark.engine.recording import Trained, finish, keep_other
from benchmark.engine.subset_metrics import SegmentationMetric
from benchmark.errors import UserError
from benchmark.records import corruptions, metrics, store, verification
from benchmark.registry import METHODS, discover, lookup
from benchmark.report import writer

discover()
MACHINE = Machine('cpu')
SIZES = {'train': 12, 'val': 8, 'test': 10}
KINDS = {
    'two classes': TASKS['vectors'],
    'several classes': TASKS['mixed'],
    'faces': TASKS['faces'],
    'kinds of attack': dataclasses.replace(
        TASKS['vectors'], metric='ACER', classes=('print', 'live', 'mask')
    ),
    'rooms': TASKS['rooms'],
    'volumes': dataclasses.replace(
        TASKS['rooms'], metric='Dice', regions=(('whole', (1, 2)), ('core', (2,)))
    ),
}


class Gappy(Toy):
    """Some test samples lack the first modality; slices 2i and 2i + 1 are of one volume."""

    def split(self, name):
        made = super().split(name)
        made.available[::3, 0] = False
        if self.task.metric != 'Dice':
            return made
        volumes = np.array([f'{name}-{9 - i // 2}' for i in range(len(made))])
        return dataclasses.replace(made, groups=volumes)


def untrained(task, folder):
    data = Gappy(task, tuple(SIZES.values()))
    protocol = Protocol(epochs=1, batch_size=4, precision='float32')
    e = Experiment('modality_dropout', {}, data, protocol, 0, folder, 'modality_dropout', 'default')
    summary = {'epoch': 0, 'scores': {}, 'seconds': 0.0, 'peak_memory_mb': 0.0}
    return e, [Trained(build(e, 'cpu').eval(), summary)]


def place_in(results):
    """The folder of the run on vectors, where its record counts."""
    e, _ = untrained(TASKS['vectors'], results)
    return results / 'toy' / 'modality_dropout' / e.protocol_id / 'seed0'


def finished(task, folder):
    e, trained = untrained(task, folder)
    (network, summary), loader = trained[0], loader_of(e, MACHINE, 'val')
    found = training.test(network, loader, folder, 'cpu', None).scores
    summary['scores'] = {s: {'metrics': x.metrics, 'n': x.n} for s, x in found.items()}
    return e, finish(e, MACHINE, trained, {'seconds': 0.0, 'peak_memory_mb': 0.0})


@pytest.mark.parametrize('kind', KINDS)
def test_every_score_follows_from_the_outcomes(kind, tmp_path):
    task = KINDS[kind]
    e, _ = finished(task, tmp_path)
    record = store.read(tmp_path / store.RECORD)
    outcomes = store.read_outcomes(tmp_path / store.OUTCOMES, record)  # also checks that they fit
    for subset, scores in record['scores']['test'].items():
        again = metrics.recomputed(outcomes, subset, record['dataset'])
        assert again.keys() == scores.keys() <= metrics.determined(record['dataset'])
        for metric, value in scores.items():
            assert again[metric] == value or (value is None and np.isnan(again[metric]))
    assert verification.verified(record, outcomes) == record
    slices = 2 if task.metric == 'Dice' else 1
    assert record['samples'] == {name: n // slices for name, n in SIZES.items()}
    assert e.recorded() == record


@pytest.mark.parametrize('kind', KINDS)
def test_outcomes_of_both_splits_hold_names_and_logits(kind, tmp_path):
    task = KINDS[kind]
    e, trained = untrained(task, tmp_path)
    finish(e, MACHINE, trained, {'seconds': 0.0, 'peak_memory_mb': 0.0})
    full = '+'.join(task.names)
    for name, file in (('val', store.VALIDATION), ('test', store.OUTCOMES)):
        outcomes, split = store.read_outcomes(tmp_path / file), e.data.split(name)
        if task.metric == 'Dice':
            assert outcomes['name'].tolist() == sorted(set(split.groups))
        else:
            assert outcomes['name'].tolist() == split.ids.tolist()
        if task.kind == 'segmentation':
            assert outcomes[f'areas/{full}'].dtype == np.int64
            continue
        inputs = {m: torch.from_numpy(x) for m, x in split.inputs.items()}
        with torch.no_grad():
            logits = trained[0].method.predict(inputs, torch.from_numpy(split.available)).numpy()
        tested, kept = split.available.all(1), outcomes[f'logit/{full}']
        if len(task.classes) == 2:
            logits = logits[:, 1] - logits[:, 0]
        assert kept[tested] == pytest.approx(logits[tested], abs=2e-3)
        assert kept.dtype == (np.float16 if kind == 'several classes' else np.float32)
        assert np.isnan(kept[~tested]).all()
        assert (~tested).any()


class Persons(Gappy):
    """Every two samples are of one person."""

    def split(self, name):
        made = super().split(name)
        return dataclasses.replace(made, clusters=np.arange(len(made)) // 2)


def test_clusters_are_kept_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(f'{__name__}.Gappy', Persons)
    _, record = finished(TASKS['vectors'], tmp_path)
    assert record['samples'] == {name: n // 2 for name, n in SIZES.items()}
    cluster = store.read_outcomes(tmp_path / store.OUTCOMES, record)['cluster']
    assert cluster.tolist() == ['0', '0', '1', '1', '2', '2', '3', '3', '4', '4']


@pytest.mark.parametrize('name', [store.OUTCOMES, store.VALIDATION])
@pytest.mark.parametrize('harm', ['gone', 'torn', 'flipped'])
def test_a_run_without_its_outcomes_is_unfinished_and_in_no_table(name, harm, tmp_path):
    folder = place_in(tmp_path)
    e, _ = finished(TASKS['vectors'], folder)
    e = dataclasses.replace(e)
    assert e.recorded() is not None
    assert store.scan(tmp_path).complete
    file = folder / name
    whole = file.read_bytes()
    half = len(whole) // 2
    file.write_bytes(whole[:half] + (b'' if harm == 'torn' else bytes([whole[half] ^ 1])
                                     + whole[half + 1 :]))  # fmt: skip
    if harm == 'gone':
        file.unlink()
    assert e.recorded() is None
    found = store.scan(tmp_path)
    assert not found.complete
    (problem,) = found.problems
    assert str(folder / store.RECORD) in problem


def without_a_prediction(record, outcomes):
    outcomes.pop('pred/a')


def with_another_prediction(record, outcomes):
    outcomes['pred/a'] = 1 - outcomes['pred/a']


def with_another_number(record, outcomes):
    record['n']['test']['a'] -= 1


def with_more_samples(record, outcomes):
    record['samples']['test'] += 1


def with_another_validation_score(record, outcomes):
    record['scores']['val']['a']['accuracy'] += 0.01


def with_another_validation_number(record, outcomes):
    record['n']['val']['a'] -= 1


def with_a_prediction_of_other_logits(record, outcomes):
    outcomes['logit/a'] = -outcomes['logit/a']


@pytest.mark.parametrize(
    'change',
    [
        without_a_prediction, with_another_prediction, with_another_number, with_more_samples,
        with_another_validation_score, with_another_validation_number,
        with_a_prediction_of_other_logits,
    ],
)  # fmt: skip
def test_a_run_whose_outcomes_do_not_prove_it_is_unfinished(change, tmp_path):
    # All hashes agree: record and outcomes were edited together.
    folder = place_in(tmp_path)
    e, record = finished(TASKS['vectors'], folder)
    e = dataclasses.replace(e)
    assert e.recorded() is not None
    outcomes = store.read_outcomes(folder / store.OUTCOMES)
    change(record, outcomes)
    record['outcomes'][store.OUTCOMES] = store.write_outcomes(folder / store.OUTCOMES, outcomes)
    store.write(folder / store.RECORD, record)
    assert e.recorded() is None
    table = writer.write_tables(tmp_path, 'toy', tmp_path)
    assert not table.blocks
    assert (
        '--methods modality_dropout --datasets DATASET --data-root PATH --seeds 0'
        in table.problems[0]
    )


def test_the_record_of_another_version_is_put_aside_with_its_outcomes(tmp_path, monkeypatch):
    e, record = finished(TASKS['vectors'], tmp_path)
    (tmp_path / corruptions.FILE).write_text('{}')
    before = {file.name: file.read_bytes() for file in tmp_path.glob('*.[jn]*')}
    keep_other(e)
    assert (tmp_path / store.RECORD).is_file()
    cls = lookup(METHODS, e.name)
    monkeypatch.setattr(cls, 'version', cls.version + 1)
    later, _ = finished(TASKS['vectors'], tmp_path)
    assert later.identity != record['identity']
    assert not (tmp_path / corruptions.FILE).exists()
    for name in (store.RECORD, store.OUTCOMES, store.VALIDATION, corruptions.FILE):
        stem, suffix = name.split('.')
        aside = tmp_path / f'{stem}-{record["identity"]}.{suffix}'
        assert aside.read_bytes() == before[name]
        assert (tmp_path / name).is_file() or name == corruptions.FILE
    assert later.recorded() is not None


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('kind', ['several classes', 'rooms'])
def test_a_prediction_that_is_not_finite_names_subset_batch_and_samples(kind, bad, tmp_path):
    e, ((method, _),) = untrained(KINDS[kind], tmp_path)
    real, last = method.decode, KINDS[kind].names[-1]

    def decode(features, mask):
        logits = real(features, mask)
        # The last two samples of a batch, where the last modality stands alone.
        alone = mask[:, -1] & (mask.sum(1) == 1)
        return torch.where((alone & (torch.arange(len(mask)) >= 6)).reshape(
            -1, *[1] * (logits.ndim - 1)), bad, logits)  # fmt: skip

    method.decode = decode
    told = f'prediction is not finite: subset {last}, batch 0, samples test-6, test-7$'
    with pytest.raises(TrainingDiverged, match=told) as error:
        training.test(method, loader_of(e, MACHINE, 'test'), tmp_path, 'cpu', None)
    assert execution.describe(e, error.value) == (str(error.value), None)


def test_what_a_sample_lacks_may_give_any_prediction(tmp_path):
    e, ((method, _),) = untrained(TASKS['vectors'], tmp_path)
    real = method.decode
    method.decode = lambda f, mask: real(f, mask).where(mask.any(1, keepdim=True), torch.nan)
    tested = training.test(method, loader_of(e, MACHINE, 'test'), tmp_path, 'cpu', None)
    assert tested.scores['a'].n == 6


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
@pytest.mark.parametrize(('kind', 'label'), [('two classes', 2), ('two classes', VOID),
                                             ('rooms', 3), ('rooms', -1)])  # fmt: skip
def test_a_label_that_is_no_class_stops_every_split(kind, label, split):
    data = Toy(KINDS[kind])
    made = data.split(split)
    made.target[5] = label
    if kind == 'rooms':
        made.target[3] = VOID
    samples = Samples(made, data.task, made.available)
    assert samples.__getitems__([3, 4]).target.dtype == torch.int64
    with pytest.raises(UserError, match=f'label of sample {split}-5: expected 0 to .*{label}$'):
        samples.__getitems__([4, 5])


def test_confident_predictions_do_not_tie():
    logits = torch.tensor([[0.0, 20.0 + k] for k in range(60)])
    log_odds = kept_logits(TASKS['faces'], logits).numpy()
    assert len(set(logits.softmax(1)[:, 1].tolist())) == 1
    assert log_odds.tolist() == [20.0 + k for k in range(60)]
    attack = np.arange(60) < 30
    assert metrics.eer_auc(~attack, log_odds) == (0, 1)
    assert metrics.log_odds(np.array([[1.0, 3.0, 1.0]]), 1) == pytest.approx(2 - np.log(2))
    assert np.isfinite(kept_logits(TASKS['mixed'], torch.full((1, 4), 1e30)).numpy()).all()


def test_pixels_beyond_what_float32_counts_are_counted_one_by_one():
    many = 2**24
    metric = SegmentationMetric(TASKS['rooms'])
    image = np.array([[many, 1, 0], [many, 1, 0], [many + 1, 1, 0]])
    found = metric.measure({'ids': np.arange(3), 'areas': np.stack([image] * 3)})
    assert found['pixel_accuracy'] == (many + 1) / (many + 2) < 1
    assert found['class_accuracy'] == (many / (many + 1) + 1) / 2 < 1
    assert metric.outcomes['areas'].sum(0)[2, 0] == 3 * many + 3


def test_an_error_is_recorded_in_one_line(tmp_path):
    e, _ = untrained(TASKS['vectors'], tmp_path)
    execution.failure(e, UserError('two\nlines \x1b[31m'), MACHINE)
    assert store.read(tmp_path / store.RECORD)['error'] == 'two lines \ufffd[31m'
    assert '\\u001b' not in (tmp_path / store.RECORD).read_text()


def test_more_classes_than_int16_holds_have_wider_labels():
    task = dataclasses.replace(TASKS['vectors'], classes=tuple(map(str, range(40_000))))
    split = Toy(TASKS['vectors']).split('val')
    split.target[0] = 39_999
    assert recording.outcomes(task, split, {})['target'][0] == 39_999
    assert recording.outcomes(TASKS['vectors'], split, {})['target'].dtype == np.int16


@pytest.mark.parametrize('kind', ['several classes', 'rooms'])
@pytest.mark.parametrize('classes', [slice(-1), slice(1), [0, 0, *range(9)]])
def test_logits_of_another_shape_are_refused_in_one_line(kind, classes, tmp_path):
    e, ((method, _),) = untrained(KINDS[kind], tmp_path)
    real, count = method.decode, len(KINDS[kind].classes)
    chosen = classes if isinstance(classes, slice) else classes[: count + 1]
    method.decode = lambda features, mask: real(features, mask)[:, chosen]
    with pytest.raises(UserError, match='prediction: expected logits .*, found'):
        training.test(method, loader_of(e, MACHINE, 'test'), tmp_path, 'cpu', None)


def test_log_odds_of_far_apart_logits_stay_finite():
    far = torch.tensor([[-3e38, 3e38], [3e38, -3e38]])
    odds = kept_logits(TASKS['vectors'], far).numpy()
    assert np.isfinite(odds).all()
    assert odds[0] > 0 > odds[1]
