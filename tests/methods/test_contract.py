"""What every registered method promises, on every kind of task."""

import copy
import re

import numpy as np
import pytest
import torch
from tasks import ESANET, batch_of
from tasks import TASKS as PLAIN

from benchmark.engine.evaluation import subset_logits
from benchmark.method import Method, SubsetScore
from benchmark.missing import subset_ids, subset_masks
from benchmark.registry import BROKEN, METHODS, discover

discover()
NAMES = sorted(METHODS.module_dict)
TASKS = {**PLAIN, 'esanet': ESANET}


def runs(name, task):
    """Whether the method takes the task's network; test_esanet.py sees what others say."""
    return task.network in METHODS.module_dict[name].supported_networks


BOTH = [(name, kind) for name in NAMES for kind in TASKS if runs(name, TASKS[kind])]


def test_every_method_file_imports():
    assert not BROKEN


def built(name, kind, seed=0):
    """A method in its last epoch, with teacher and one validation behind it."""
    torch.manual_seed(seed)
    cls, task = METHODS.module_dict[name], TASKS[kind]
    method = cls(task)
    if cls.teacher:
        method.set_teacher(METHODS.module_dict[cls.teacher](task))
    method.epochs = 100
    score = {'accuracy': 0.5, 'ACER': 0.5, 'mIoU': 0.5}
    shares = np.linspace(1, 2, len(task.classes))
    for epoch in range(method.epochs):
        method.epoch = epoch
        method.on_validation(
            {
                s: SubsetScore(
                    {k: v / (i + 1) for k, v in score.items()}, tuple(shares**i / sum(shares**i)), 9
                )
                for i, s in enumerate(subset_ids(task.names))
            }
        )
    return method


def exempt(name, test):
    reason = METHODS.module_dict[name].contract_exceptions.get(test)
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize('name', NAMES)
def test_docstring_names_the_paper(name):
    exempt(name, 'paper')
    assert re.search(r'\b(19|20)\d\d\b', METHODS.module_dict[name].__doc__)


@pytest.mark.parametrize(('name', 'kind'), BOTH)
def test_loss_is_finite_and_reaches_every_parameter(name, kind):
    exempt(name, 'gradient')
    method, task = built(name, kind).train(), TASKS[kind]
    # Every subset occurs, weak ones too.
    batch = batch_of(task, 14)
    masks = torch.from_numpy(subset_masks(len(task.names)))
    batch = batch._replace(mask=masks.repeat(14, 1)[:14])
    total, terms = method.parse_losses(method.loss(batch))
    assert all(torch.isfinite(v) for v in terms.values())
    total.backward()
    silent = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@pytest.mark.parametrize(('name', 'kind'), BOTH)
def test_missing_modalities_cannot_be_seen(name, kind):
    method, task = built(name, kind).eval(), TASKS[kind]
    batch = batch_of(task)
    for mask in subset_masks(len(task.names)):
        allowed = torch.from_numpy(mask).expand(len(batch.ids), -1)
        clean = method.predict(batch.inputs, allowed)
        absent = [n for n, there in zip(task.names, mask, strict=True) if not there]
        for poison in (float('nan'), 1e3):
            spoilt = {
                n: torch.full_like(x, poison) if n in absent else x for n, x in batch.inputs.items()
            }
            assert torch.equal(method.predict(spoilt, allowed), clean)


@pytest.mark.parametrize(('name', 'kind'), BOTH)
def test_a_sensor_that_is_off_need_not_be_given(name, kind):
    exempt(name, 'unplugged')
    method, task = built(name, kind).eval(), TASKS[kind]
    batch = batch_of(task)
    for mask in subset_masks(len(task.names)):
        allowed = torch.from_numpy(mask).expand(len(batch.ids), -1)
        given = {n: batch.inputs[n] for n, on in zip(task.names, mask, strict=True) if on}
        expected = method.predict(batch.inputs, allowed)
        torch.testing.assert_close(method.predict(given, allowed), expected)


@pytest.mark.parametrize(('name', 'kind'), BOTH)
def test_encoding_once_gives_the_numbers_of_separate_passes(name, kind):
    method, task = built(name, kind).eval(), TASKS[kind]
    batch = batch_of(task)
    masks = list(subset_masks(len(task.names)))
    with torch.no_grad():
        for mask, logits in subset_logits(method, batch, masks):
            allowed = torch.from_numpy(mask).expand(len(batch.ids), -1)
            assert torch.equal(logits, method.predict(batch.inputs, allowed))


@pytest.mark.parametrize(('name', 'kind'), BOTH)
def test_samples_with_different_masks_do_not_influence_each_other(name, kind):
    method, batch = built(name, kind).eval(), batch_of(TASKS[kind])
    together = method.predict(batch.inputs, batch.mask)
    for i in range(len(batch.ids)):
        alone = method.predict(
            {n: x[i : i + 1] for n, x in batch.inputs.items()}, batch.mask[i : i + 1]
        )
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('name', 'kind'), BOTH)
def test_logits_have_the_target_s_shape(name, kind):
    method, batch = built(name, kind).eval(), batch_of(TASKS[kind])
    logits = method.predict(batch.inputs, batch.mask)
    shape = list(batch.target.shape)
    assert list(logits.shape) == [shape[0], len(TASKS[kind].classes), *shape[1:]]


@pytest.mark.parametrize('name', NAMES)
def test_teacher_stays_outside_and_asleep(name):
    method = built(name, 'faces').train()
    if not method.teacher:
        pytest.skip('has no teacher')
    teacher = method.teacher_network
    before = copy.deepcopy(teacher.state_dict())
    inside = {id(p) for p in method.parameters()}
    assert not inside & {id(p) for p in teacher.parameters()}
    assert not teacher.training
    method.loss(batch_of(TASKS['faces'], 14))['loss_task'].backward()
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize('name', NAMES)
def test_same_seed_gives_the_same_loss(name):
    batch = batch_of(TASKS['faces'], 14)
    losses = []
    for _ in range(2):
        method = built(name, 'faces', seed=3).train()
        torch.manual_seed(7)
        losses.append(method.loss(batch))
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(losses[0][k], losses[1][k]) for k in losses[0])


@pytest.mark.parametrize('name', NAMES)
def test_hyper_parameters_are_keywords_with_defaults(name):
    cls = METHODS.module_dict[name]
    assert issubclass(cls, Method)
    for dataset, settings in cls.settings.items():
        assert cls(TASKS['faces'], **settings), dataset


def test_no_two_methods_are_one_renamed():
    batch = batch_of(TASKS['faces'], 14)
    found = {}
    for name in NAMES:
        method = built(name, 'faces').train()
        cls = type(method)
        total = method.parse_losses(method.loss(batch))[0].item()
        found.setdefault((total, cls.sampler, cls.dedicated), []).append(name)
    assert all(len(names) == 1 for names in found.values()), found
