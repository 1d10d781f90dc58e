"""Terms of a loss that start late: in a short training they start earlier, and the user is told."""

import pytest
import torch
from tasks import TASKS, batch_of

from benchmark.method import SubsetScore, late_start
from benchmark.missing import subset_ids, subset_masks
from benchmark.options import resolve
from benchmark.registry import METHODS, discover

discover()
TERMS = {'mmanet': 'loss_mad', 'distilled': 'loss_distill', 'dmrnet': 'loss_hard'}
TASK = TASKS['faces']


def started(name, epochs, **options):
    """The epochs, from 0, of a training in which the late term is in the loss."""
    torch.manual_seed(0)
    method = METHODS.module_dict[name](TASK, **options)
    if method.teacher:
        method.set_teacher(METHODS.module_dict[method.teacher](TASK))
    method.epochs = epochs
    masks = torch.from_numpy(subset_masks(len(TASK.names)))
    batch = batch_of(TASK, len(masks))._replace(mask=masks)
    scores = {
        s: SubsetScore({'ACER': 0.1}, (0.5 + 0.01 * i, 0.5 - 0.01 * i), 9)
        for i, s in enumerate(subset_ids(TASK.names))
    }
    found = []
    for method.epoch in range(epochs):
        if TERMS[name] in method.loss(batch):
            found.append(method.epoch)
        method.on_validation(scores)
    return found


def notes(name, epochs, **options):
    cls = METHODS.module_dict[name]
    return cls.schedule_notes(resolve(cls, name, options, {}), epochs)


def test_on_faces_dmrnet_s_term_starts_after_as_many_learning_epochs_as_released():
    # The released run has the learning rate 0 in epochs 0 and 1, and the term from epoch 6 on.
    given = METHODS.module_dict['dmrnet'].settings['casia_surf']
    assert started('dmrnet', 6, **given) == [epoch - 2 for epoch in (6, 7)]


@pytest.mark.parametrize('name', TERMS)
def test_a_training_as_long_as_the_paper_asks_is_as_the_options_say_and_needs_no_note(name):
    assert started(name, 7)[-1] == 6
    assert started(name, 8) == [6, 7]
    assert not notes(name, 7)


@pytest.mark.parametrize('name', TERMS)
@pytest.mark.parametrize(('epochs', 'start'), [(3, 2), (6, 2)])
def test_a_shorter_training_uses_the_term_all_the_same_and_says_from_when_on(name, epochs, start):
    assert started(name, epochs) == list(range(start, epochs))
    (note,) = notes(name, epochs)
    assert f'starts after {start} of {epochs} epochs' in note
    assert 'start after 6' in note


@pytest.mark.parametrize('name', TERMS)
def test_a_training_of_two_epochs_cannot_use_the_term_and_says_so(name):
    assert not started(name, 2)
    (note,) = notes(name, 2)
    assert 'never used' in note
    assert '2 epochs' in note


def test_a_note_counts_epochs_as_the_options_do():
    (note,) = notes('mmanet', 1, begin_epoch=3)
    assert ': it starts after 4 epochs (numbers 0 to 3), and the training has only 1 epoch' in note
    (note,) = notes('dmrnet', 1, warmup=1)
    assert ': it starts after 1 epoch, and the training has only 1 epoch' in note


def test_a_third_of_a_longer_training_passes_first():
    assert [late_start(99, epochs) for epochs in (3, 8, 9, 30)] == [2, 2, 3, 10]
    assert late_start(4, 5) == 4


def test_pretraining_takes_one_epoch_of_two_and_none_of_one():
    m3ae = METHODS.module_dict['m3ae'](TASK)
    taken = {}
    for m3ae.epochs in (1, 2, 3, 9):
        taken[m3ae.epochs] = m3ae.pretraining_epochs
    assert taken == {1: 0, 2: 1, 3: 1, 9: 3}
    assert [bool(notes('m3ae', epochs)) for epochs in (1, 2)] == [True, False]
    assert not notes('m3ae', 1, pretraining=0.0)
