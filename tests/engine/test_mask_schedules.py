"""Schedules of the training masks: what is drawn, from what it is learned, and that runs go on."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from repetitions import scientific
from scipy.special import softmax
from tasks import TASKS, Toy

from benchmark.engine import building, execution, hooks
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.loading import Samples
from benchmark.engine.mask_schedules import MaskSchedule, check, tilt_of
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.method import Modality, Task
from benchmark.missing import Sampler, generator
from benchmark.options import Spec
from benchmark.records import curves, store
from benchmark.registry import discover
from benchmark.report import settings
from benchmark.subsets import subset_id, subset_ids, subset_masks

discover()
NAMES = ('rgb', 'depth', 'ir')
COUNT = 20_000
PLAIN = Machine('cpu')


def drawn(schedule, sampler, epoch, available=None):
    available = np.ones((COUNT, 3), bool) if available is None else available
    return schedule.draw(Sampler(sampler, NAMES), available, generator(0, 'mask', epoch), epoch)


@pytest.mark.parametrize(
    ('sampler', 'rates'),
    # Of the 7 subsets, 3 lack a modality; of 2 modalities kept with 0.8 and 0.5, 0.9 have one.
    [('uniform', [3 / 7] * 3), ('bernoulli:depth=0.2,ir=0.5', [0, 0.2, 0.5])],
)
def test_a_curriculum_withholds_modalities_at_rates_that_grow_linearly(sampler, rates):
    schedule = MaskSchedule('curriculum:0.5', 8)
    for epoch, share in enumerate([0, 0.25, 0.5, 0.75, 1, 1]):
        absent = 1 - drawn(schedule, sampler, epoch).mean(0)
        assert absent == pytest.approx(share * np.array(rates), abs=4 * 0.5 / COUNT**0.5)
    plain = Sampler(sampler, NAMES).draw(np.ones((COUNT, 3), bool), generator(0, 'mask', 5))
    assert (drawn(schedule, sampler, 5) == plain).all()


def test_a_curriculum_keeps_to_what_samples_have_and_to_those_that_can_train():
    available = np.random.default_rng(0).random((500, 3)) < 0.6
    for epoch in range(3):
        mask = drawn(MaskSchedule('curriculum:1', 4), 'only:rgb+ir', epoch, available)
        assert (mask <= available).all()
        assert (mask.any(1) == available[:, [0, 2]].all(1)).all()
    split = Toy(TASKS['faces']).split('train')
    lacking = split.available.copy()
    lacking[:5, 0] = False
    found = [
        Samples(split, TASKS['faces'], lacking, Sampler('only:rgb', NAMES), 0, None, schedule)
        for schedule in (None, MaskSchedule('curriculum:1', 4))
    ]
    assert len(found[0]) == len(found[1]) == 35


SCORES = dict(zip(subset_ids(NAMES), [0.5, 0.6, 0.65, 0.8, 0.8, 0.85, 0.9], strict=True))


@pytest.mark.parametrize('metric', ['accuracy', 'ACER'])
@pytest.mark.parametrize('sampler', ['uniform', 'bernoulli:0.3,rgb=0.1'])
def test_learned_rates_are_the_softmax_of_the_deficits(metric, sampler):
    """Against SciPy, also where samples lack a modality."""
    scores = {k: v if metric == 'accuracy' else 1 - v for k, v in SCORES.items()}
    schedule = MaskSchedule('learned:0.2', 4)
    schedule.learn({'validation': {k: [0.1, v] for k, v in scores.items()}}, metric, NAMES)
    deficit = 0.9 - np.array(list(SCORES.values()))
    p = Sampler(sampler, NAMES).probabilities()
    expected = softmax(np.log(p) + deficit / 0.2)
    masks = subset_masks(3)
    found = drawn(schedule, sampler, 1)
    for mask, share in zip(masks, expected, strict=True):
        assert (found == mask).all(1).mean() == pytest.approx(share, abs=4 * 0.5 / COUNT**0.5)
    lacking = np.tile([True, False, True], (COUNT, 1))
    fits = ~masks[:, 1]
    restricted = np.where(fits, expected, 0) / expected[fits].sum()
    found = drawn(schedule, sampler, 1, lacking)
    for mask, share in zip(masks, restricted, strict=True):
        assert (found == mask).all(1).mean() == pytest.approx(share, abs=4 * 0.5 / COUNT**0.5)


def test_a_subset_without_a_score_has_the_mean_deficit():
    known = {'rgb': 0.4, 'depth': None, 'rgb+depth+ir': 0.8}
    found = dict(zip(subset_ids(NAMES), tilt_of(known, 'mIoU', NAMES, 0.5), strict=True))
    assert found.pop('rgb') == pytest.approx(0.8)
    assert found.pop('rgb+depth+ir') == 0
    assert list(found.values()) == pytest.approx([0.4] * 5)
    assert tilt_of({'rgb': None}, 'mIoU', NAMES, 0.5) is None


def experiment(results, method='modality_dropout', **fields):
    data = Toy(TASKS['vectors'])
    given = {'epochs': 3, 'batch_size': 8, 'mask_schedule': 'learned:0.1', **fields}
    protocol = Protocol.build(data.recipe, given, 'cpu')
    return experiment_of(Spec(method), data, protocol, 0, results)


def ran(e, monkeypatch):
    """Runs an experiment; returns its record, its curves and the masks of each epoch."""
    masks, real = {}, Samples.set_epoch

    def set_epoch(self, epoch):
        real(self, epoch)
        if self.sampler is not None:
            masks.setdefault(epoch, self.mask.copy())

    with monkeypatch.context() as patch:
        patch.setattr(Samples, 'set_epoch', set_epoch)
        execution.run(e, PLAIN, lambda *_: None)
    record = store.read(e.folder / store.RECORD)
    return record, curves.read(e.folder / curves.CURVES, record)[''], masks


def test_each_epoch_draws_by_the_validation_before_it(tmp_path, monkeypatch):
    record, curve, masks = ran(experiment(tmp_path), monkeypatch)
    assert curve['validated'] == [0, 1, 2]  # without --curves
    ids = ('a', 'b', 'a+b')
    rates = np.array([curve['mask_rates'][s] for s in ids])
    scores = np.array([curve['validation'][s] for s in ids])
    assert rates[:, 0] == pytest.approx([1 / 3] * 3, rel=1e-5)
    for epoch in (1, 2):
        before = scores[:, epoch - 1]
        assert rates[:, epoch] == pytest.approx(softmax((before.max() - before) / 0.1), rel=1e-4)
        table = np.array([[True, False], [False, True], [True, True]])
        noise = generator(0, 'mask', epoch).gumbel(size=(40, 3))
        assert (masks[epoch] == table[(np.log(rates[:, epoch]) + noise).argmax(1)]).all()
    assert rates.std(1).min() > 0
    assert record['protocol']['mask_schedule'] == 'learned:0.1'
    assert [subset_id(('a', 'b'), m) for m in subset_masks(2)] == list(ids)


def test_a_stopped_training_goes_on_with_the_same_masks(tmp_path, monkeypatch):
    whole = ran(experiment(tmp_path / 'whole'), monkeypatch)
    e, real = experiment(tmp_path / 'stopped'), hooks.Checkpoint._save

    def save(self, runner):
        real(self, runner)
        if runner.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hooks.Checkpoint, '_save', save)
        with pytest.raises(KeyboardInterrupt):
            execution.run(e, PLAIN, lambda *_: None)
    again = ran(e, monkeypatch)
    assert (again[2][2] == whole[2][2]).all()
    assert again[1] == whole[1]
    assert scientific(again[0]) == scientific(whole[0])


def test_the_training_opens_no_test_split_and_reads_no_test_score(tmp_path):
    e = experiment(tmp_path)
    execution.train(e, PLAIN, lambda *_: None)
    assert set(e.data.opened) == {'train', 'val'}


def test_constant_masks_are_those_of_older_versions(tmp_path, monkeypatch):
    e = experiment(tmp_path / 'plain', mask_schedule='constant', epochs=1)
    assert 'mask_schedule' not in e.header['protocol']
    data = Toy(TASKS['vectors'])
    older = Protocol.build(data.recipe, {'epochs': 1, 'batch_size': 8}, 'cpu')
    assert experiment_of(Spec('modality_dropout'), data, older, 0, tmp_path).identity == e.identity
    record, curve, masks = ran(e, monkeypatch)
    plain = Sampler('uniform', ('a', 'b')).draw(np.ones((40, 2), bool), generator(0, 'mask', 0))
    assert (masks[0] == plain).all()
    assert 'mask_rates' not in curve
    # The first epoch of a curriculum is complete.
    other = experiment(tmp_path / 'other', mask_schedule='curriculum', epochs=1)
    assert other.protocol.mask_schedule == 'curriculum:0.5'
    assert other.identity != e.identity
    assert ran(other, monkeypatch)[2][0].all()


def test_a_network_for_one_subset_has_no_schedule(tmp_path):
    e = experiment(tmp_path, 'customized', mask_schedule='curriculum:1')
    for part in e.parts:
        samples = building.loaders(e, part, PLAIN)[0].dataset
        assert samples.schedule is None
        assert len(np.unique(samples.mask, axis=0)) == 1


@pytest.mark.parametrize(
    ('spec', 'told'),
    [
        ('curiculum:0.5', "mask_schedule 'curiculum:0.5'"),
        ('curriculum:0', 'above 0 and at most 1, found'),
        ('curriculum:1.5', 'above 0 and at most 1, found'),
        ('learned:inf', 'above 0, found'),
        ('learned:', 'above 0, found'),
        ('constant:1', 'mask_schedule'),
    ],
)
def test_a_wrong_schedule_is_told_in_one_line(spec, told):
    with pytest.raises(UserError, match=told) as error:
        Protocol.build({}, {'mask_schedule': spec}, 'cpu')
    assert '\n' not in str(error.value)


def test_learned_masks_need_a_score_of_every_subset():
    modalities = tuple(Modality(f'm{k}', (2,)) for k in range(9))
    many = Task('many', 'classification', modalities, ('no', 'yes'), 'accuracy')
    few = dataclasses.replace(many, modalities=modalities[:8])
    check('curriculum:0.5', Sampler('uniform', many.names), many)
    check('learned:1', Sampler('uniform', few.names), few)
    with pytest.raises(UserError, match='expected at most 8 modalities.*found 9'):
        check('learned:1', Sampler('uniform', many.names), many)
    mask = MaskSchedule('curriculum:0.5', 4).draw(
        Sampler('uniform', many.names), np.ones((COUNT, 9), bool), generator(0, 'mask', 1), 1
    )
    # Of 511 subsets 255 lack a modality.
    assert 1 - mask.mean(0) == pytest.approx([0.5 * 255 / 511] * 9, abs=4 * 0.5 / COUNT**0.5)


def test_learned_masks_need_scores_that_are_fractions():
    task = Task('moods', 'regression', TASKS['vectors'].modalities, ('mood',), 'MAE')
    sampler = Sampler('uniform', task.names)
    check('curriculum:0.5', sampler, task)
    told = 'mask_schedule=learned:1 on moods: expected a task whose scores are fractions, found re'
    with pytest.raises(UserError, match=told):
        check('learned:1', sampler, task)


SAMPLERS = ('uniform', 'by_size', 'bernoulli:0.3', 'bernoulli:ir=0.5', 'bernoulli:ir=1',
            'bernoulli:0', 'complete', 'only:rgb', 'only:rgb+depth+ir')  # fmt: skip


@pytest.mark.parametrize('sampler', SAMPLERS)
@pytest.mark.parametrize('spec', ['curriculum:0.5', 'learned:1'])
def test_a_schedule_that_changes_no_mask_is_refused(spec, sampler):
    """What changes is seen in masks that are drawn with and without the schedule."""
    known = Sampler(sampler, NAMES)
    every, schedule = np.ones((200, 3), bool), MaskSchedule(spec, 4)
    schedule.tilt = np.linspace(0, 3, 7)
    plain, other = (
        maker(every, generator(0, 'mask', 1))
        for maker in (known.draw, lambda *given: schedule.draw(known, *given, 1))
    )
    if (plain == other).all():
        with pytest.raises(UserError, match=re.escape(f'found sampler={sampler}, which draws ')):
            check(spec, known, TASKS['faces'])
    else:
        check(spec, known, TASKS['faces'])


def test_an_experiment_with_such_a_schedule_is_refused(tmp_path):
    with pytest.raises(UserError, match='mask_schedule=learned:0.1: expected a sampler of several'):
        experiment(tmp_path, mask_schedule='learned', sampler='complete').check()


def test_captions_tell_the_schedule():
    for spec, words in (('curriculum:0.5', 'by a curriculum'), ('learned:1', 'low validation')):
        protocol = Protocol(mask_schedule=spec).recorded()
        assert words in settings.words(protocol)
    assert 'curriculum' not in settings.words(Protocol().recorded())


def test_weights_follow_the_masks(tmp_path):
    """The schedules lead to other networks than constant masks, from the same initial weights."""
    found = []
    for spec in ('constant', 'curriculum:1', 'learned:0.1'):
        e = experiment(tmp_path / spec[:4], mask_schedule=spec, epochs=2)
        execution.train(e, PLAIN, lambda *_: None)
        found.append(torch.load(e.folder / 'checkpoint.pth', weights_only=True))
    names = [k for k, v in found[0].items() if v.is_floating_point()]
    for k, one in enumerate(found):
        for other in found[k + 1 :]:
            assert any(not torch.equal(one[name], other[name]) for name in names)
