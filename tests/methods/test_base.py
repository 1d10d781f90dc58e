"""The base class of all methods."""

import collections
import dataclasses
import re

import pytest
import torch
from tasks import TASKS, batch_of
from torch import nn

from benchmark.engine import untrained
from benchmark.errors import UserError
from benchmark.method import Batch, Method
from benchmark.registry import METHODS, discover

discover()


class Echo(Method):
    """Returns what reaches `loss` and `predict`."""

    def loss(self, batch):
        return batch

    def predict(self, inputs, mask):
        return inputs, mask


def test_a_batch_arrives_unchanged_whatever_the_order_of_its_fields(monkeypatch):
    method, given = Echo(TASKS['faces']), batch_of(TASKS['faces'])._asdict()
    for fields in (Batch._fields, Batch._fields[::-1]):
        batch = collections.namedtuple('Batch', fields)(**given)
        monkeypatch.setattr('benchmark.method.Batch', type(batch))
        arrived = method._run_forward(batch, mode='loss')
        assert all(getattr(arrived, name) is value for name, value in given.items())
        inputs, mask = method._run_forward(batch, mode='predict')
        assert inputs is given['inputs']
        assert mask is given['mask']


def test_terms_without_loss_in_their_name_are_logged_and_not_minimised():
    terms = {'loss_a': torch.tensor(2.0), 'weight': torch.tensor(8.0), 'b_loss': torch.tensor(0.5)}
    total, logged = Echo(TASKS['faces']).parse_losses(terms)
    assert total == 2.5
    assert {name: value.item() for name, value in logged.items()} == {
        'loss_a': 2.0,
        'weight': 8.0,
        'b_loss': 0.5,
        'loss': 2.5,
    }


@pytest.mark.parametrize(
    ('call', 'told'),
    [
        (lambda m: m.predict({}, torch.ones(1, 3)), 'encode(inputs)'),
        (lambda m: m.decode({}, torch.ones(1, 3)), 'decode(features, mask) or predict('),
        (lambda m: Method.loss(m, None), 'loss(batch)'),
        (lambda m: m.fit(None, None), 'fit(train, val)'),
    ],
)
def test_a_function_that_a_method_lacks_is_named_with_its_class(call, told):
    class Bare(Method):
        pass

    with pytest.raises(UserError, match='Bare: expected the class Bare to have') as error:
        call(Bare(TASKS['faces']))
    assert told in str(error.value)


@pytest.mark.parametrize('given', [None, (torch.zeros(6, 2), 1), [0.5]])
@pytest.mark.parametrize('function', ['decode', 'predict'])
@pytest.mark.parametrize('task', ['vectors', 'rooms'])
def test_logits_of_another_type_are_told_in_training_with_the_function(given, function, task):
    class Odd(Method):
        def encode(self, inputs):
            return inputs

        def loss(self, batch):
            logits = self.predict(batch.inputs, batch.mask)
            return {'loss_task': self.task_loss(logits, batch.target)}

    setattr(Odd, function, lambda self, *_: given)
    shape = '(B, K)' if task == 'vectors' else '(B, K, H, W)'
    names = 'decode' if function == 'decode' else 'decode or predict'
    with pytest.raises(UserError) as told:
        Odd(TASKS[task]).loss(batch_of(TASKS[task]))
    assert str(told.value) == (
        f'{names} of Odd: expected logits {shape} as a tensor, found {type(given).__name__}'
    )


@pytest.mark.parametrize(
    ('task', 'given'),
    [
        ('vectors', ('more', 'classes')),
        ('vectors', ('one', 'axis')),
        ('vectors', ('fewer', 'samples')),
        ('rooms', ('fewer', 'pixels')),
        ('rooms', ('one', 'axis')),
    ],
)
def test_logits_of_another_shape_are_told_in_training(task, given):
    class Odd(Method):
        pass

    target = batch_of(TASKS[task]).target
    expected = (len(target), len(TASKS[task].classes), *target.shape[1:])
    found = {
        ('more', 'classes'): (expected[0], expected[1] + 1),
        ('one', 'axis'): expected[:1],
        ('fewer', 'samples'): (expected[0] - 1, *expected[1:]),
        ('fewer', 'pixels'): (*expected[:2], 8, 8),
    }[given]
    told = f'decode or predict of Odd: expected logits {expected}, found {found}'
    with pytest.raises(UserError, match=f'^{re.escape(told)}$'):
        Odd(TASKS[task]).task_loss(torch.zeros(found), target)


class Never(Method):
    def __init__(self, task):
        self.kept = 3


class Late(Method):
    def __init__(self, task):
        self.heads = nn.Linear(2, 2)
        super().__init__(task)


class Reads(Method):
    def __init__(self, task):
        self.names = self.task.names
        super().__init__(task)


@pytest.mark.parametrize('cls', [Never, Late, Reads])
def test_a_constructor_that_does_not_call_that_of_the_base_first_is_told(cls, monkeypatch):
    monkeypatch.setitem(METHODS.module_dict, 'mine', cls)
    told = r'^mine: expected __init__ to call super\(\).__init__\(task\) first, found '
    with pytest.raises(UserError, match=told):
        untrained.built('mine', (), TASKS['vectors'])


class Block(nn.Module):
    def __init__(self):
        self.head = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ('fault', 'told'),
    [(lambda task: task.nothing, 'nothing'), (lambda _: Block(), 'cannot assign module before')],
)
def test_another_error_in_a_constructor_stays_a_fault_of_the_code(fault, told, monkeypatch):
    class Wrong(Method):
        def __init__(self, task):
            super().__init__(task)
            self.size = fault(task)

    monkeypatch.setitem(METHODS.module_dict, 'mine', Wrong)
    with pytest.raises(AttributeError, match=told):
        untrained.built('mine', (), TASKS['vectors'])


def test_a_method_without_its_teacher_lacks_the_attribute():
    method = METHODS.module_dict['mmanet'](TASKS['vectors'])
    assert not hasattr(method, 'teacher_network')
    told = r'^MMANet\.teacher_network: expected set_teacher to be called first$'
    with pytest.raises(AttributeError, match=told):
        _ = method.teacher_network
    with pytest.raises(AttributeError, match="'MMANet' object has no attribute 'teachers'"):
        _ = method.teachers
    teacher = METHODS.module_dict['complete'](TASKS['vectors'])
    method.set_teacher(teacher)
    assert method.teacher_network is teacher


class Deployed(torch.nn.Module):
    """A network with every modality, as it may be exported."""

    def __init__(self, method, names):
        super().__init__()
        self.method, self.names = method, names

    def forward(self, *inputs):
        mask = torch.ones(inputs[0].shape[0], len(self.names), dtype=torch.bool)
        return self.method.predict(dict(zip(self.names, inputs, strict=True)), mask)


def test_a_method_without_its_teacher_can_be_traced_by_torchscript():
    task = TASKS['vectors']
    method = METHODS.module_dict['mmanet'](task).eval()
    network = Deployed(method, task.names)
    inputs = tuple(torch.randn(2, *m.shape) for m in task.modalities)
    traced = torch.jit.trace(network, inputs)
    assert torch.equal(traced(*inputs), network(*inputs))


def test_the_encoders_are_told_in_words():
    told = {kind: task.encoder for kind, task in TASKS.items()}
    assert told['faces'] == 'ResNet-18, width 4'
    assert told['vectors'] == 'width 4'
    assert told['rooms'] == 'ResNet-18, width 4, network pyramid'


def test_a_width_below_1_is_refused():
    with pytest.raises(UserError, match='width on toy: expected 1 or more, found 0'):
        dataclasses.replace(TASKS['faces'], width=0)
