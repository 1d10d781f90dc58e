"""Patches of volumes in training, whole volumes in the test, and the way to a table of Dice."""

import json
import re
import shutil

import numpy as np
import pytest

from benchmark import export, predict, run, show
from benchmark.dataset import VOID, Split
from benchmark.deploy import load
from benchmark.engine.loading import Samples
from benchmark.errors import UserError
from benchmark.missing import Sampler
from benchmark.records import store
from benchmark.registry import discover
from datasets import prepare
from datasets.common.augment.volumes import Mirror
from datasets.common.families.volume_patches import cut_of
from datasets.volumes import OwnVolumes

discover()
PATCH = (16, 16, 24)
THREE = {'network': 'unet3d', 'patch': '16x16x24', 'width': 4}
COUNT = 10


def case(number):
    """Two sequences (S, H, W) whose values tell the voxel, and a lesion of 24 voxels."""
    shape = (18 + number % 2, 20, 30)
    rng = np.random.default_rng(number)
    labels = np.zeros(shape, np.uint8)
    labels[4:6, 3:6, 20:24] = 1
    return {m: rng.normal(5, 1, shape) + labels for m in ('flair', 't1')}, labels


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('patches')
    for k in range(COUNT):
        values, labels = case(k)
        (folder / 'in' / f'p{k}').mkdir(parents=True)
        for name, x in {**values, 'seg': labels}.items():
            if (k, name) != (3, 't1'):
                np.save(folder / 'in' / f'p{k}' / f'{name}.npy', x)
    assert prepare.main(['volumes', str(folder / 'in'), str(folder / 'root')]) == 0
    return folder / 'root'


def found_at(whole, patch):
    """Where a patch lies in a volume, found by its first voxel."""
    places = np.argwhere(whole == patch[0, 0, 0])
    for z, y, x in places:
        there = whole[z : z + PATCH[0], y : y + PATCH[1], x : x + PATCH[2]]
        if there.shape == patch.shape and (there == patch).all():
            return z, y, x
    raise AssertionError('the patch is none of the volume')


def test_patches_of_all_modalities_and_labels_lie_in_one_place(root):
    data = OwnVolumes(root=str(root), patches=3, foreground=0.5, **THREE)
    train = data.split('train').drawn(5)
    assert len(train) == 3 * len(data.splits['train'])
    assert train.inputs['flair'].shape == (len(train), 1, *PATCH)
    places = []
    for row in range(len(train)):
        at, name = np.array([row]), train.groups[row]
        flair = np.load(root / name / 'flair.npy').astype(np.float32)
        z, y, x = found_at(flair, train.inputs['flair'][at][0, 0])
        inside = np.s_[z : z + PATCH[0], y : y + PATCH[1], x : x + PATCH[2]]
        places.append((z, y, x))
        np.testing.assert_array_equal(train.target[at][0], np.load(root / name / 'seg.npy')[inside])
        if train.available[row, 1]:
            t1 = np.load(root / name / 't1.npy')[inside].astype(np.float32)
            np.testing.assert_array_equal(train.inputs['t1'][at][0, 0], t1)
    assert len(set(places)) > 3


def test_an_epoch_draws_anew_and_a_seed_draws_the_same(root):
    data = OwnVolumes(root=str(root), **THREE)
    split = data.split('train')

    def epoch(seed, number):
        samples = Samples(
            split, data.task, split.available, Sampler('complete', ('flair', 't1')), seed
        )
        samples.set_epoch(number)
        return samples.__getitems__([0, 1, 2]).inputs['flair'].numpy()

    np.testing.assert_array_equal(epoch(1, 4), epoch(1, 4))
    assert (epoch(1, 4) != epoch(1, 5)).any()
    assert (epoch(1, 4) != epoch(2, 4)).any()


def test_a_batch_tells_where_its_patches_lie_also_mirrored(root):
    data = OwnVolumes(root=str(root), patches=8, **THREE)
    train = data.split('train')
    samples = Samples(train, data.task, train.available, Sampler('complete', ('flair', 't1')), 1)
    samples.set_epoch(3)
    batch = samples.__getitems__(list(range(len(samples))))
    assert batch.places[..., 1].eq(1).all()
    kinds = set()
    for seen in (batch, Mirror(('flair', 't1'))(batch)):
        for row, place in zip(seen.ids.tolist(), seen.places.tolist(), strict=True):
            kinds.add(tuple(step for _, step in place))
            folder = root / train.groups[row]
            lines = [[b + s * k for k in range(n)] for (b, s), n in zip(place, PATCH, strict=True)]
            at = seen.ids.tolist().index(row)
            there = np.load(folder / 'flair.npy')[np.ix_(*lines)].astype(np.float32)
            np.testing.assert_array_equal(seen.inputs['flair'][at, 0], there)
            labels = np.load(folder / 'seg.npy')[np.ix_(*lines)]
            np.testing.assert_array_equal(seen.target[at], labels)
    assert len(kinds) == 8  # every combination of mirrored axes
    val = data.split('val')
    whole = Samples(val, data.task, val.available).__getitems__([0, 1])
    assert whole.places.tolist() == [[[0, 1]] * 3] * 2
    slices = OwnVolumes(root=str(root))
    rows = slices.split('train')
    assert Samples(rows, slices.task, rows.available).__getitems__([0]).places is None


def test_the_extents_hold_training_volumes_and_a_patch_and_knows_no_other_split(root, tmp_path):
    shutil.copytree(root, tmp_path / 'root')
    for name, numbers in (('train', '0 2 4'), ('val', '6'), ('test', '8 1')):
        lines = ''.join(f'p{k}\n' for k in numbers.split())
        (tmp_path / 'root' / f'{name}1.txt').write_text(lines)
    options = {'root': str(tmp_path / 'root'), 'network': 'unet3d'}
    assert OwnVolumes(**options, patch='16x16x24').task.extents == (18, 20, 30)  # p1 has 19 slices
    assert OwnVolumes(**options, patch='24x16x16').task.extents == (24, 20, 30)
    assert OwnVolumes(root=options['root']).task.extents == ()


@pytest.mark.parametrize('share', [0.0, 0.5, 1.0])
def test_a_share_of_the_patches_has_a_lesion_in_its_centre(root, share):
    """The others lie anywhere: from 4 of 5 rows and 7 of 15 columns on they show it, too."""
    options = {**THREE, 'patch': '16x16x16', 'patches': 40}
    train = OwnVolumes(root=str(root), foreground=share, **options).split('train')
    whole = [(train.target[np.array([k])] == 1).sum() == 24 for k in range(len(train))]
    expected = share + (1 - share) * 4 / 5 * 7 / 15
    error = np.sqrt(expected * (1 - expected) / len(whole))
    assert abs(np.mean(whole) - expected) <= 4 * error


def test_the_test_has_whole_volumes_with_ignored_padding(root):
    data = OwnVolumes(root=str(root), **THREE)
    for name in ('val', 'test'):
        split = data.split(name)
        assert split.ids.tolist() == data.splits[name]
        largest = max(data.cases[c].shape for c in data.splits[name])
        for row, name_of in enumerate(split.ids):
            values, labels = case(int(name_of[1:]))
            target = split.target[np.array([row])][0]
            assert target.shape == largest
            np.testing.assert_array_equal(target[: len(labels)], labels)
            assert (target[len(labels) :] == VOID).all()
            assert not split.inputs['flair'][np.array([row])][0, 0, len(labels) :].any()


def test_short_volumes_are_padded_in_training(root):
    data = OwnVolumes(root=str(root), network='unet3d', patch='32x16x16')
    train = data.split('train')
    length = data.cases[train.groups[0]].shape[0]
    assert (train.target[np.array([0])][0, length:] == VOID).all()
    assert (train.target[np.array([0])][0, :length] != VOID).all()


def test_options_that_do_not_fit_are_told():
    for options, told in (
        (
            ('pyramid', '192x192', '64x64x64', 1, 1 / 3),
            'patch=64x64x64: has no effect with network',
        ),
        (('pyramid', '192x192', '80x80x80', 1, 0.5), 'foreground=0.5: has no effect'),
        (
            ('unet3d', '64x64', '80x80x80', 1, 1 / 3),
            'size=64x64: has no effect with network=unet3d',
        ),
        (('unet3d', '192x192', '80x80', 1, 1 / 3), "multiples of 8 from 16 on, found '80x80'"),
        (('unet3d', '192x192', '8x80x80', 1, 1 / 3), "found '8x80x80'"),
        (('unet3d', '192x192', '80x80x80', 0, 1 / 3), 'patches: expected 1 or more, found 0'),
        (('unet3d', '192x192', '80x80x80', 1, 2.0), 'foreground: expected a share from 0 to 1'),
    ):
        with pytest.raises(UserError, match=re.escape(told)):
            cut_of('volumes', *options)
    assert cut_of('volumes', 'pyramid', '192x192', '80x80x80', 1, 1 / 3) is None


def test_rows_that_are_no_parts_stay():
    rows = np.zeros((2, 3))
    split = Split({'a': rows}, np.zeros(2), np.ones((2, 1), bool), np.array(['x', 'y']))
    assert split.drawn(3) is split


def command(root, results, *methods):
    words = ['--methods', *methods, '--datasets', 'volumes:name=mine', '--data-root', str(root)]
    words += ['--results', str(results), '--device', 'cpu', '--workers', '0', '--cfg-options']
    return [*words, 'network=unet3d', 'patch=16x16x16', 'width=4', 'epochs=1', 'batch_size=4']


def test_the_whole_way_to_a_table_and_to_predictions(root, tmp_path, capsys):
    assert run.main(command(root, tmp_path, 'modality_dropout')) == 0
    out = capsys.readouterr().out
    assert 'network=unet3d' in out
    file = next(tmp_path.rglob('record.json'))
    record = store.read(file)
    assert record['n']['test']['flair+t1'] == 2
    assert record['dataset']['options']['patch'] == '16x16x16'
    outcomes = store.read_outcomes(file.with_name('outcomes.npz'))
    assert outcomes['areas/flair'].shape == (2, 3, 1)
    # Every labelled voxel of both volumes counts once, and none of the padding.
    assert outcomes['areas/flair'][:, 2].ravel().tolist() == [24, 24]
    new = root.parent / 'in'
    assert predict.main([str(file.parent), str(new), '--out', str(tmp_path / 'out')]) == 0
    for k in range(COUNT):
        labels = np.load(tmp_path / 'out' / 'masks' / f'p{k}.npy')
        assert labels.shape == case(k)[1].shape
    prepared = [str(file.parent), str(root), '--out', str(tmp_path / 'more')]
    assert predict.main([*prepared, '--evaluate']) == 0
    scores = capsys.readouterr().out
    assert f'{100 * record["scores"]["test"]["flair+t1"]["Dice"]:.2f}' in scores
    capsys.readouterr()
    assert predict.main([*prepared, '--split', 'train']) == 2
    assert 'expected val or test with network=unet3d' in capsys.readouterr().err
    assert (
        show.main([str(file.parent), '--data', str(root), '--out', str(tmp_path / 's.html')]) == 2
    )
    assert 'found volumes (network=unet3d)' in capsys.readouterr().err


def test_substitutes_of_whole_volumes_go_the_whole_way(root, tmp_path, capsys):
    """m3ae: pretraining and fine-tuning, the test, the file that describes the network."""
    words = [w.replace('epochs=1', 'epochs=2') for w in command(root, tmp_path, 'm3ae')]
    assert run.main(words) == 0
    file = next(tmp_path.rglob('record.json'))
    assert store.read(file)['n']['test']['flair'] == 2
    network = load(file.parent).networks['']
    data = OwnVolumes(root=str(root), network='unet3d', patch='16x16x16')
    assert tuple(network.learned['t1'].shape) == (1, *data.task.extents)
    capsys.readouterr()
    assert export.main([str(file.parent), '--formats', 'pt2']) == 2
    assert 'depends on where the window lies' in capsys.readouterr().err
    assert not [*tmp_path.rglob('*.pt2')]


def test_methods_and_corruptions_without_a_form_for_volumes_are_refused(root, tmp_path, capsys):
    assert run.main(command(root, tmp_path, 'gmd')) == 2
    assert 'has no form for volumes (network=unet3d)' in capsys.readouterr().err
    words = command(root, tmp_path, 'modality_dropout')
    assert run.main([*words[:-6], '--corruptions', *words[-6:]]) == 2
    assert '--corruptions on mine: expected no volumes' in capsys.readouterr().err
    assert not [*tmp_path.rglob('record.json')]


def test_records_of_slices_keep_their_options_and_fingerprint(root):
    """The options of patches are younger than the first records."""
    data = OwnVolumes(root=str(root))
    assert set(data.younger) >= {'network', 'patch', 'patches', 'foreground'}
    assert data.task.network == 'pyramid'
    assert data.recipe == OwnVolumes.recipe
    others = [OwnVolumes(root=str(root), **THREE, patches=n).fingerprint for n in (1, 2)]
    assert len({data.fingerprint, *others}) == 3
    assert json.dumps(data.recipe)
