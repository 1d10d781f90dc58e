"""Several processes that compute one training have the numbers of one process.

All are forked from the process of the tests, which spares each of them the loading of libraries.
"""

import contextlib
from argparse import Namespace

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from benchmark.engine.loading import test_loader as loader_of_tests
from benchmark.engine.loading import train_loader
from benchmark.engine.parallel import alike, exchange, processes, sharing
from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.registry import METHODS, discover
from tests.helpers.ranks import forked, run_in
from tests.methods.test_contract import accepted, built, training_batch

discover()
TRAINED = sorted(n for n, cls in METHODS.module_dict.items() if cls.fit is Method.fit)
LAST = 99
"""The last epoch of `built`, in which all terms of a loss are there."""

IMAGES = {
    'gmd': 'faces',
    'mmanet': 'rooms',
    'rfnet': 'rooms',
}
"""Methods with a case of images -> the task; they cover the parts that methods have in common."""


def cheap(name):
    """The task on which a method's step takes least time."""
    kinds = accepted(name)
    return next(kind for kind in ('vectors', 'mixed', *kinds) if kind in kinds)


CASES = [(name, cheap(name), LAST) for name in TRAINED]
CASES += [(name, kind, LAST) for name, kind in IMAGES.items()]
CASES += [(name, cheap(name), 0) for name in ('dmrnet', 'm3ae')]  # which mine or pretrain then
CASES += [('mmin', 'sequences', LAST)]
# Official variants with parts of their own; one layer of RobustSeg's has two places.
CASES += [(f'{name}:official', 'rooms', LAST) for name in ('mmformer', 'passion', 'robustseg')]
COUNT = 7
"""Samples in a batch: the two processes have 3 and 4 of them."""


def in_double():
    """Computes in double precision from here on, so that rounding hides nothing."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    torch.float32 = torch.float64


def own_rows(batch):
    """The rows of a batch that this process loads."""
    begin, end, _ = exchange.own(COUNT)
    return tree_map_only(torch.Tensor, lambda x: x[begin:end], batch)


def step(method, batch):
    """What a training step leaves: the terms, the gradients, the buffers, the generator."""
    wrapper = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.1}}
    optimiser = build_optim_wrapper(method, wrapper)
    gradients, shares = {}, sharing.Shares(method, COUNT)

    def keep(*_):
        for name, p in method.named_parameters():
            gradients[name] = None if p.grad is None else p.grad.clone()

    optimiser.optimizer.register_step_pre_hook(keep)
    torch.manual_seed(3)
    if processes.world() > 1:
        with shares.on():
            terms = method.train_step(own_rows(batch), optimiser)
    else:
        terms = method.train_step(batch, optimiser)
    names = {id(m): n for n, m in method.named_modules()}
    shared = [names.get(key[0], 'teacher') for key, v in shares.verdicts.items() if v.shared]
    state = dict(method.named_parameters()), dict(method.named_buffers()), torch.get_rng_state()
    return {'terms': terms, 'gradients': gradients, 'state': state}, shared


def steps_of_all():
    """What a step of every method leaves, and which modules were shared."""
    in_double()
    found = {}
    for case in CASES:
        row, kind, epoch = case
        name, _, variant = row.partition(':')
        method = built(name, kind, **({'variant': variant} if variant else {})).train()
        method.epoch = epoch
        for network in (method, *method._teacher):
            network.double()
        batch = training_batch(kind)
        batch = tree_map_only(torch.Tensor, lambda x: x[:COUNT], batch)
        inputs = {m: x.double() for m, x in batch.inputs.items()}
        found[case] = step(method, batch._replace(inputs=inputs))
    return found


@pytest.fixture(scope='module')
def all_steps(tmp_path_factory):
    """The steps of one process, and those of each of two."""
    folder = tmp_path_factory.mktemp('steps')
    (alone,) = forked(1, folder / 'one', lambda rank: steps_of_all())
    return alone, run_in(2, folder / 'two', steps_of_all)


@pytest.mark.parametrize('case', CASES, ids=lambda case: '-'.join(map(str, case)))
def test_a_step_of_two_processes_is_that_of_one(all_steps, case):
    alone, both = all_steps
    expected, _ = alone[case]
    for found, shared in (steps[case] for steps in both):
        assert shared, 'no module was shared'
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


class Centred(nn.Module):
    """Relates the samples of a batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x) - x.mean(0)


class Counting(Centred):
    """Keeps a sum over the batch."""

    def __init__(self):
        super().__init__()
        self.register_buffer('seen', torch.zeros(3))

    def forward(self, x):
        self.seen += x.detach().sum(0)
        return self.layer(x)


class Picking(Centred):
    """Draws in a way that cannot be divided."""

    def forward(self, x):
        return self.layer(x) * torch.multinomial(x.detach().abs() + 1, 1)


class Summed(Centred):
    """Returns no rows."""

    def forward(self, x):
        return self.layer(x).sum()


class Scaled(Centred):
    """Takes a tensor that all samples share, and drops some of what it computes."""

    def forward(self, x, scale, dropped=0.5):
        kept = torch.nn.functional.dropout(self.layer(x) * scale, dropped)
        return {'whole': kept, 'parts': (kept[:, :1], kept[:, 1:].t().contiguous().t())}


class One(Method):
    """A method with one module, whose parts are summed."""

    def __init__(self, module, *others):
        nn.Module.__init__(self)
        self.module, self.others, self._teacher = module, others, ()
        self.data_preprocessor = nn.Identity()
        self.data_preprocessor.cast_data = None

    def terms(self, x):
        found = self.module(x, *self.others)
        leaves = tree_leaves(found)
        return sum((leaf * torch.arange(leaf.numel()).view(leaf.shape)).sum() for leaf in leaves)


def gradients(kind):
    """The gradients of a module of a kind and of its input, and whether the module is shared."""
    in_double()
    torch.manual_seed(1)
    x, scale = torch.randn(COUNT, 3), torch.randn(3, requires_grad=True)
    source = torch.randn(COUNT, 3, requires_grad=True)
    method = One(kind(), *([scale] if kind is Scaled else [])).train()
    shares = sharing.Shares(method, COUNT)
    with shares.on() if processes.world() > 1 else contextlib.nullcontext():
        method.terms(x + source).backward()
    assert 'forward' not in vars(method.module), 'the module stays as it was'
    found = [source.grad, scale.grad, *(p.grad for p in method.parameters())]
    state = dict(method.named_buffers()), torch.get_rng_state()
    verdicts = [v.shared for key, v in shares.verdicts.items() if key[0] == id(method.module)]
    return found, state, verdicts


def of_modules():
    return {kind: gradients(kind) for kind in KINDS}


class Fickle(Centred):
    """Draws from the second step on."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        # Each trial of the module takes two calls.
        return torch.nn.functional.dropout(self.layer(x), 0.5, self.calls > 3)


def refused():
    """What a module that draws in some steps only is told."""
    method = One(Fickle()).train()
    with sharing.Shares(method, COUNT).on():
        method.terms(torch.ones(COUNT, 3))
        try:
            method.terms(torch.ones(COUNT, 3))
        except UserError as error:
            return str(error)
    return ''


def test_a_module_that_draws_in_some_steps_only_is_refused(tmp_path):
    told = 'Fickle: draws random numbers in some steps only, which several processes cannot share; '
    assert run_in(2, tmp_path, refused) == [f'{told}run this method without torchrun'] * 2


KINDS = {Centred: False, Counting: False, Picking: False, Summed: False, Scaled: True}
"""Module -> whether its rows may be shared."""


@pytest.fixture(scope='module')
def modules(tmp_path_factory):
    folder = tmp_path_factory.mktemp('modules')
    (alone,) = forked(1, folder / 'one', lambda rank: of_modules())
    return alone, run_in(2, folder / 'two', of_modules)


@pytest.mark.parametrize('kind', KINDS)
def test_only_modules_whose_rows_are_independent_are_shared(modules, kind):
    alone, both = modules
    expected, state, _ = alone[kind]
    for found, after, verdicts in (each[kind] for each in both):
        assert verdicts == [KINDS[kind]]
        torch.testing.assert_close((found, after), (expected, state), rtol=1e-9, atol=1e-9)


class Related(nn.Module):
    """Takes some of the mean over the batch from each row, of which half precision sees little."""

    def __init__(self, share):
        super().__init__()
        self.share = share
        layers = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5)
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        y = self.layers(x)
        return y - self.share * y.mean(0)


class Rounding(Related):
    """Rounds what it returns."""

    def forward(self, x):
        return super().forward(x).bfloat16()


@pytest.mark.parametrize(
    ('kind', 'share', 'half', 'alone'),
    [
        (Related, 0.1, False, False),
        (Related, 0.01, False, False),
        (Related, 0.0, False, True),
        (Related, 0.0, True, True),  # a part of its parameters is in half precision
        (Rounding, 0.0, False, False),
    ],
)
def test_rows_that_depend_on_each_other_are_found_under_autocast(
    kind, share, half, alone, as_one_of, monkeypatch
):
    as_one_of(0, 2)
    monkeypatch.setattr(processes, 'everyone', lambda value: [value])
    torch.manual_seed(2)
    module = kind(share).train()
    if half:
        module.layers[-1].bfloat16()
    x = torch.randn(COUNT, 3, 4, 4).bfloat16()
    leaves, form = tree_flatten(((x,), {}))
    with torch.autocast('cpu', torch.bfloat16):
        found, drew = alike.rows_alone(module, module.forward, leaves, form, COUNT)
        # What the trial leaves behind: gradients, and the training's own precision.
        y = module(x)
    assert (found, drew) == (alone, False)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


class Counted:
    """Samples that are their own positions."""

    def __init__(self, count):
        self.count = count
        self.task = Namespace(dataset='toy')
        self.sampler, self.seed = None, 3

    def __len__(self):
        return self.count

    def __getitems__(self, indices):
        return list(indices)


@pytest.fixture
def as_one_of(monkeypatch):
    """Makes this process look like one of several that work together."""

    def pretend(rank, count):
        monkeypatch.setattr(processes, 'world', lambda: count)
        monkeypatch.setattr(processes, 'rank', lambda: rank)

    return pretend


@pytest.mark.parametrize('count', [2, 3])
def test_the_rows_of_a_batch_are_dealt_out_once(as_one_of, count):
    samples = Counted(23)
    whole = list(train_loader(samples, 7, 0, False))
    parts = []
    for rank in range(count):
        as_one_of(rank, count)
        parts.append(list(train_loader(samples, 7, 0, False)))
    assert [sum(rows, []) for rows in zip(*parts, strict=True)] == whole
    assert len(whole) == 3
    assert {len(rows) for part in parts for rows in part} <= {7 // count, 7 // count + 1}


@pytest.mark.parametrize('count', [2, 3, 5])
def test_a_sample_is_tested_by_one_process_in_its_usual_batch(as_one_of, count):
    samples = Counted(23)
    whole = list(loader_of_tests(samples, 6, 0, False))
    found = []
    for rank in range(count):
        as_one_of(rank, count)
        loader = loader_of_tests(samples, 6, 0, False)
        found += [(rank + count * k, batch) for k, batch in enumerate(loader)]
        assert len(loader) == len(list(loader))
    assert [batch for _, batch in sorted(found)] == whole


def test_batches_of_too_few_samples_are_told(as_one_of):
    as_one_of(0, 4)
    with pytest.raises(UserError, match='^toy: expected batches of 4 samples or more for 4 proc'):
        train_loader(Counted(23), 3, 0, False)
