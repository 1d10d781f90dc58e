"""`modalities=a+b` uses some modalities of any data set, in the order in which they are named."""

import dataclasses

import numpy as np
import pytest
import torch
from tasks import Toy, batch_of, images

from benchmark.dataset import Intake
from benchmark.engine.plan import open_datasets
from benchmark.errors import UserError
from benchmark.method import Batch, Task
from benchmark.narrowed import Narrowed, open_data
from benchmark.records import store
from benchmark.registry import discover
from datasets.common.augment.chosen import unchanged
from datasets.common.augment.transforms import ColourJitter, Compose, Geometric, Intensity

discover()

FACES = {'train': '24', 'val': '8', 'test': '16', 'size': '24', 'width': '4'}


def faces(**options):
    (data,) = open_datasets(['synth_faces'], [], {**FACES, **options})
    return data


def test_a_split_holds_the_modalities_that_were_named_in_their_order():
    whole, some = faces(), faces(modalities='ir+rgb')
    assert some.task.names == ('ir', 'rgb')
    for name in ('train', 'val', 'test'):
        ours, theirs = some.split(name), whole.split(name)
        assert list(ours.inputs) == ['ir', 'rgb']
        for m in ours.inputs:
            np.testing.assert_array_equal(ours.inputs[m], theirs.inputs[m])
        np.testing.assert_array_equal(ours.target, theirs.target)
        assert ours.available.shape == (len(ours), 2)


def test_what_a_sample_lacks_goes_along_with_the_modality():
    class Gaps(Toy):
        def split(self, name):
            found = super().split(name)
            return dataclasses.replace(found, available=np.tile([True, False, True], (40, 1)))

    task = Task('toy', 'classification', images(16, 3, 1, 1), ('a', 'b'), 'accuracy', 4)
    found = open_data(Gaps, {'task': task, 'modalities': 'ir+depth'}).split('train')
    assert found.available.tolist() == [[True, False]] * 40


def test_the_choice_is_part_of_the_identity_and_its_absence_is_not():
    plain, every, some, other = (
        faces(**({'modalities': given} if given else {}))
        for given in ('', 'rgb+depth+ir', 'rgb+ir', 'ir+rgb')
    )
    assert 'modalities' not in plain.options
    assert every.options == plain.options
    assert every.fingerprint == plain.fingerprint
    assert some.options == {**plain.options, 'modalities': 'rgb+ir'}
    assert len({plain.fingerprint, some.fingerprint, other.fingerprint}) == 3
    parts = {'method': dict.fromkeys(('name', 'options', 'version')), 'protocol': {}, 'seed': 0}
    found = {
        store.identity(
            {**parts, 'dataset': {'name': 'x', 'options': d.options, 'fingerprint': d.fingerprint}}
        )
        for d in (plain, every, some, other)
    }
    assert len(found) == 3


def test_ceilings_are_those_of_the_subsets_that_are_left():
    whole, some = faces(), faces(modalities='ir+rgb')
    of_whole, chance = whole.bounds
    assert some.bounds == (
        {'ir': of_whole['ir'], 'rgb': of_whole['rgb'], 'ir+rgb': of_whole['rgb+ir']},
        chance,
    )
    assert len(some.bounds[0]) == 3


@pytest.mark.parametrize(
    ('given', 'told'),
    [
        ('rgb+dept', "unknown modality of synth_faces 'dept'; did you mean 'depth'?"),
        ('rgb+', "modalities: expected different names joined by +, found 'rgb+'"),
        ('ir+ir', "modalities: expected different names joined by +, found 'ir+ir'"),
    ],
)
def test_a_wrong_choice_is_told_in_one_line(given, told):
    with pytest.raises(UserError) as error:
        faces(modalities=given)
    assert str(error.value).startswith(told)
    assert '\n' not in str(error.value)


def test_arrays_take_the_same_choice(tmp_path):
    file = tmp_path / 'mine.npz'
    rng = np.random.default_rng(0)
    inputs = {f'inputs/{m}': rng.random((12, 3), np.float32) for m in ('a', 'b', 'c')}
    np.savez(file, **inputs, target=np.arange(12) % 2, split=np.arange(12) // 2 % 3)
    (some,) = open_datasets(['arrays:modalities=c+a'], [file], {})
    assert some.task.names == ('c', 'a')
    assert not isinstance(some, Narrowed)
    assert some.options['modalities'] == 'c+a'
    with pytest.raises(UserError, match='expected different names joined by'):
        open_datasets(['arrays:modalities=c++a'], [file], {})


def rgbd_batch():
    return batch_of(Task('toy', 'segmentation', images(32, 3, 1), ('a', 'b'), 'mIoU', 4))


def test_augmentation_of_one_modality_changes_it_as_that_of_all_does():
    batch = rgbd_batch()
    every = Compose(
        Geometric((16, 16), scale=(1, 1.4), nearest=('depth',)),
        ColourJitter('rgb', (0.5,) * 3, (0.2,) * 3),
    )
    for name in ('rgb', 'depth'):
        alone = batch._replace(inputs={name: batch.inputs[name]})
        with torch.random.fork_rng():
            torch.manual_seed(3)
            expected = every(batch)
            torch.manual_seed(3)
            found = every.among((name,))(alone)
        assert isinstance(found, Batch)
        torch.testing.assert_close(found.inputs, {name: expected.inputs[name]})
        torch.testing.assert_close(found.target, expected.target)


def test_an_augmentation_of_other_modalities_does_nothing():
    assert Intensity(('depth',)).among(('rgb',)) is unchanged
    assert ColourJitter('rgb', (0.5,) * 3, (0.2,) * 3).among(('depth',)) is unchanged
    assert Intensity(('depth', 'rgb')).among(('rgb',)).modalities == ('rgb',)


def test_new_samples_are_opened_with_the_modalities_of_the_training():
    some = faces(modalities='ir+rgb')
    intake = Intake(some.task, some.options, {})
    found = type(some.whole).unseen(None, intake, True, 'val').split
    assert list(found.inputs) == ['ir', 'rgb']
    np.testing.assert_array_equal(found.inputs['ir'], some.split('val').inputs['ir'])
    whole = Intake(some.task, {k: v for k, v in some.options.items() if k != 'modalities'}, {})
    with pytest.raises(UserError, match='expected the modalities and classes of the training'):
        type(some.whole).unseen(None, whole, True, 'val')
