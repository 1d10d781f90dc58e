"""What numbers in label maps mean: `ignore_label`, `reduce_zero_label`, more than 255 classes."""

import json
import shutil

import numpy as np
import pytest
import torch
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from benchmark import predict, run
from benchmark.dataset import Intake, label_maps
from benchmark.engine.kept import Predicted
from benchmark.engine.loading import Samples
from benchmark.engine.plan import open_datasets
from benchmark.engine.resident import Resident
from benchmark.engine.subset_metrics import SegmentationMetric
from benchmark.errors import UserError
from benchmark.method import IGNORE, Batch, Modality, Task
from benchmark.records import archive
from benchmark.registry import discover
from datasets.common.meaning import Meaning
from methods.modality_dropout import ModalityDropout

discover()
RNG = np.random.default_rng(0)
SIDE = 16


def arrays(root, maps, **options):
    root.mkdir(exist_ok=True)
    file = root / 'mine.npz'
    n = len(maps)
    inputs = {f'inputs/{m}': RNG.random((n, 1, *maps.shape[1:]), np.float32) for m in ('a', 'b')}
    np.savez(file, **inputs, target=maps, split=np.arange(n) % 3)
    return open_datasets(['arrays'], [file], {'width': '4', **options})[0]


def folders(root, maps, **options):
    for k, labels in enumerate(maps):
        name = f'{("train", "val", "test")[k % 3]}/{k}.png'
        for m in ('a', 'b', 'labels'):
            (root / m / name).parent.mkdir(parents=True, exist_ok=True)
            pixels = labels if m == 'labels' else RNG.integers(0, 255, labels.shape)
            kind = np.uint16 if pixels.max() > 255 else np.uint8
            Image.fromarray(pixels.astype(kind)).save(root / m / name)
    return open_datasets(['folders'], [root], {'width': '4', **options})[0]


BOTH = pytest.mark.parametrize('kind', [arrays, folders])


def read(data, name='train'):
    """The label maps of a split as batches have them."""
    split = data.split(name)
    return Samples(split, data.task, split.available).__getitems__([0, 1]).target.numpy()


def by_hand(maps, rule):
    """The label maps of the first two training samples by a rule for one number."""
    return np.array([[[rule(int(v)) for v in row] for row in maps[k]] for k in (0, 3)])


@BOTH
def test_the_number_that_is_named_is_left_out_and_the_others_keep_theirs(kind, tmp_path):
    maps = RNG.integers(0, 4, (9, SIDE, SIDE))
    data = kind(tmp_path, maps, ignore_label='0')
    assert data.task.classes == ('0', '1', '2', '3')
    np.testing.assert_array_equal(read(data), by_hand(maps, lambda v: v or IGNORE))
    assert 'no training sample is of class 0' in data.notes


@BOTH
def test_zero_is_left_out_and_the_others_count_from_it(kind, tmp_path):
    maps = RNG.choice([0, 1, 2, 3, 255], (9, SIDE, SIDE))
    data = kind(tmp_path, maps, reduce_zero_label='true')
    assert data.task.classes == ('0', '1', '2')
    rule = by_hand(maps, lambda v: IGNORE if v in (0, 255) else v - 1)
    np.testing.assert_array_equal(read(data), rule)


@pytest.mark.filterwarnings('ignore:`reduce_zero_label` will be deprecated')
def test_reducing_is_that_of_mmsegmentation(tmp_path):
    raw = np.arange(256, dtype=np.uint8).reshape(16, 16)
    file = str(tmp_path / 'raw.png')
    Image.fromarray(raw).save(file)
    found = LoadAnnotations(reduce_zero_label=True, imdecode_backend='pillow').transform(
        {'seg_map_path': file, 'reduce_zero_label': True, 'seg_fields': []}
    )['gt_seg_map']
    ours = Meaning(reduced=True).classes(raw)
    np.testing.assert_array_equal(np.where(ours == IGNORE, 255, ours), found)


@BOTH
def test_more_than_255_classes_are_told_apart(kind, tmp_path):
    maps = RNG.integers(0, 300, (9, 40, 40))
    maps[:, :2] = 999
    data = kind(tmp_path, maps, ignore_label='999')
    assert len(data.task.classes) == 300
    found = read(data)
    np.testing.assert_array_equal(found, by_hand(maps, lambda v: IGNORE if v == 999 else v))
    assert {254, 255, 256, 299} <= {*np.unique(found)}
    with pytest.raises(UserError, match='255 classes, because label 255 is ignored.*ignore_label'):
        kind(tmp_path / 'other', np.minimum(maps, 299))


@BOTH
def test_none_says_that_nothing_is_left_out(kind, tmp_path):
    maps = np.arange(9 * SIDE * SIDE).reshape(9, SIDE, SIDE) % 256
    data = kind(tmp_path, maps, ignore_label='none')
    assert len(data.task.classes) == 256
    assert read(data).min() == 0
    assert read(data).max() == 255


@BOTH
@pytest.mark.parametrize(
    ('options', 'told'),
    [
        (
            {'ignore_label': '0', 'reduce_zero_label': 'true'},
            'expected one of binary, reduce_zero_label and ignore_label, each of which says what '
            'is ignored, found reduce_zero_label=true and ignore_label=0',
        ),
        ({'ignore_label': 'zero'}, "expected a whole number, found 'zero'"),
        ({'ignore_label': '1'}, 'expected training labels of 2 classes or more, found 0, 1 alone'),
    ],
)
def test_options_that_do_not_fit_are_told_in_one_line(kind, options, told, tmp_path):
    with pytest.raises(UserError) as error:
        kind(tmp_path, RNG.integers(0, 2, (9, SIDE, SIDE)), **options)
    assert str(error.value).endswith(told)


@BOTH
@pytest.mark.parametrize('option', ['binary=true', 'ignore_label=7', 'reduce_zero_label=true'])
@pytest.mark.parametrize('target', ['', 'regression', 'multilabel'])
def test_without_label_maps_what_tells_of_them_is_named(kind, option, target, tmp_path):
    if kind is arrays:
        file = tmp_path / 'mine.npz'
        labels = np.arange(9) % 2
        shaped = np.stack([labels, labels], 1) if target == 'multilabel' else labels
        np.savez(file, **{'inputs/a': np.eye(9)}, target=shaped, split=np.arange(9) % 3)
    else:
        folders(tmp_path, RNG.integers(0, 2, (9, SIDE, SIDE)))
        names = sorted(f.relative_to(tmp_path / 'a').as_posix() for f in tmp_path.glob('a/*/*'))
        shutil.rmtree(tmp_path / 'labels')
        rows = [f'{name},{k % 2}' for k, name in enumerate(names)]
        (tmp_path / 'labels.csv').write_text('\n'.join(['sample,label', *rows]))
        file = tmp_path
    key, _, value = option.partition('=')
    given = {key: value, **({'target': target} if target else {})}
    with pytest.raises(UserError, match=f'expected label maps with {option}, found ') as error:
        open_datasets(['arrays' if kind is arrays else 'folders'], [file], given)
    assert str(error.value).endswith(f'target={target}') == bool(target)


@BOTH
def test_the_options_are_part_of_the_identity_and_their_defaults_are_not(kind, tmp_path):
    maps = RNG.integers(0, 4, (9, SIDE, SIDE))
    plain = kind(tmp_path, maps)
    other = open_datasets([plain.spec], [tmp_path / 'mine.npz' if kind is arrays else tmp_path],
                          {'width': '4', 'ignore_label': '0'})[0]  # fmt: skip
    assert not {'ignore_label', 'reduce_zero_label'} & plain.options.keys()
    assert other.options['ignore_label'] == 0
    assert other.fingerprint != plain.fingerprint


@BOTH
@pytest.mark.parametrize(
    ('options', 'numbers'),
    [
        ({}, (0, 1, 2)),
        ({'ignore_label': '7'}, (0, 1, 2)),
        ({'reduce_zero_label': 'true'}, (1, 2, 3)),
        ({'binary': 'true'}, (0, 255)),
    ],
)
def test_predicted_classes_are_saved_as_the_numbers_of_the_files(kind, options, numbers, tmp_path):
    maps = RNG.choice(numbers, (9, SIDE, SIDE))
    data = kind(tmp_path, maps, **options)
    root = tmp_path / 'mine.npz' if kind is arrays else tmp_path
    intake = Intake(data.task, dict(data.options), data.preparation(data.split('val')))
    unseen = type(data).unseen(root, intake, True, 'test')
    right = Samples(unseen.split, data.task, unseen.split.available).__getitems__([0]).target[0]
    file = unseen.save(tmp_path / 'out', str(unseen.split.ids[0]), right.numpy().astype(np.uint8))
    np.testing.assert_array_equal(np.asarray(Image.open(file)), maps[2])


def test_losses_and_metrics_leave_out_what_is_ignored_beyond_255_classes():
    classes = tuple(map(str, range(300)))
    task = Task('toy', 'segmentation', (Modality('a', (1, 32, 32)),), classes, 'mIoU', 4, loss='ce')
    target = torch.from_numpy(RNG.integers(0, 300, (2, 32, 32)))
    target[:, :9] = IGNORE
    logits = torch.from_numpy(RNG.standard_normal((2, 300, 32, 32)).astype(np.float32))
    known = target >= 0
    log_p = logits.double().log_softmax(1).movedim(1, -1)[known]
    expected = -log_p.gather(1, target[known][:, None]).mean()
    found = ModalityDropout(task).task_loss(logits, target)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    ones = torch.ones(2, 1, dtype=torch.bool)
    metric = SegmentationMetric(task)
    batch = Batch({}, ones, ones, target, torch.arange(2))
    metric.process(batch, Predicted(logits, ones[:, 0]))
    metric.evaluate(2)
    truth, pred = target[known].numpy(), logits.argmax(1)[known].numpy()
    for row, values in enumerate((truth[truth == pred], pred, truth)):
        expected = np.bincount(values, minlength=300)
        np.testing.assert_array_equal(metric.outcomes['areas'].sum(0)[row], expected)


def test_on_a_device_labels_are_the_same(tmp_path):
    maps = RNG.choice([0, 1, 255], (9, SIDE, SIDE))
    data = arrays(tmp_path, maps.astype(np.uint8))
    split = data.split('train')
    every = np.arange(3)
    batch = Resident(split, data.task, 'cpu').batch(every, split.available, split.available)
    np.testing.assert_array_equal(batch.target.numpy(), label_maps(split.target, data.task))
    assert batch.target.min() == IGNORE


def test_predictions_are_written_in_the_numbers_of_the_label_maps(tmp_path):
    maps = RNG.integers(0, 3, (9, 32, 32))
    data = folders(tmp_path / 'maps', maps, reduce_zero_label='true')
    words = ['--methods', 'modality_dropout', '--datasets', 'folders', '--device', 'cpu',
             '--data-root', str(data.root), '--results', str(tmp_path / 'results'),
             '--cfg-options', 'reduce_zero_label=true', 'width=4', 'epochs=1',
             'batch_size=3']  # fmt: skip
    assert run.main(words) == 0
    (card,) = (tmp_path / 'results').rglob('model.json')
    assert json.loads(card.read_text())['options']['reduce_zero_label'] is True
    out = tmp_path / 'out'
    assert predict.main([str(card.parent), str(data.root), '--out', str(out)]) == 0
    found = [np.asarray(Image.open(f)) for f in out.rglob('*.png')]
    assert len(found) == 3
    assert {*np.unique(found)} <= {1, 2}
    assert predict.main([str(card.parent), str(data.root), '--evaluate']) == 0
    outcomes = archive.read(card.parent / 'outcomes.npz')
    test = maps[2::3]
    labelled = [[(m == k).sum() for k in (1, 2)] for m in test]
    np.testing.assert_array_equal(outcomes['areas/a'][:, 2], labelled)
