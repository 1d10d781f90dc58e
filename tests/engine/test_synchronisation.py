"""No training step makes the host wait for the device: nothing reads a value that lies there."""

import contextlib

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner.loops import EpochBasedTrainLoop
from tasks import TASKS, Toy, batch_of
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.engine import loading, training
from benchmark.engine.evaluation import SubsetEvaluator, subset_logits
from benchmark.engine.fitting import is_fitted
from benchmark.engine.protocol import Protocol
from benchmark.missing import Sampler
from benchmark.registry import METHODS, discover
from methods.modality_dropout import ModalityDropout

discover()
TRAINED = sorted(name for name, cls in METHODS.module_dict.items() if not is_fitted(cls))

SETTLED = {'mmanet': {'_checked': True}}
"""What methods look up once in a training, as it is after that: whether a modality was mined."""

WAITING = {
    '_local_scalar_dense', 'nonzero', 'nonzero_numpy', 'masked_select', 'equal', 'bincount',
    '_unique', '_unique2', 'unique_dim', 'unique_consecutive', 'histc', 'lift_fresh',
}  # fmt: skip
"""Operations whose result, or its shape, the host needs; the last copies Python's numbers."""


class Waited(AssertionError):
    """A step would make the host wait."""


class NoWaiting(TorchDispatchMode):
    """Refuses operations that make the host wait for a GPU, on a CPU, where nothing waits.

    `allowed` are operations that do not wait where they are used.
    """

    def __init__(self, *allowed):
        super().__init__()
        self.waiting = WAITING - {*allowed}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Runs an operation that does not wait."""
        name = func.overloadpacket.__name__
        indices = args[1] if name in ('index', 'index_put', 'index_put_') else []
        if name in self.waiting or any(i is not None and i.dtype == torch.bool for i in indices):
            raise Waited(name)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def nothing_waits(monkeypatch, *allowed):
    """Refuses whatever brings values to the host, among them what no operation shows."""

    def refuse(tensor, *_, **__):
        raise Waited('numpy, tolist or cpu')

    with monkeypatch.context() as patch, NoWaiting(*allowed):
        for name in ('numpy', 'tolist', 'cpu', '__array__'):
            patch.setattr(torch.Tensor, name, refuse)
        yield


def step_of(name, kind, device='cpu', **fields):
    """A function that does a training step of a method in which every term of its loss is used."""
    torch.manual_seed(0)
    cls, task = METHODS.module_dict[name], TASKS[kind]
    method = cls(task).to(device)
    if cls.teacher:
        method.set_teacher(METHODS.module_dict[cls.teacher](task).to(device))
    method.epochs, method.epoch = 4, 3
    vars(method).update(SETTLED.get(name, {}))
    protocol = Protocol(epochs=4, batch_size=6, **{'precision': 'float32', **fields})
    wrapper = build_optim_wrapper(method, training.optim_wrapper(protocol))
    batch, _ = batch_of(task, 6), method.train()
    return lambda: method.train_step(batch, optim_wrapper=wrapper)


@pytest.mark.parametrize('kind', ['faces', 'rooms'])
@pytest.mark.parametrize('name', TRAINED)
def test_a_step_of_every_method_reads_nothing_from_the_device(name, kind, monkeypatch):
    if reason := METHODS.module_dict[name].contract_exceptions.get(kind):
        pytest.skip(reason)
    step = step_of(name, kind)
    with nothing_waits(monkeypatch):
        step()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', TRAINED)
def test_a_step_of_every_method_does_not_wait_for_the_gpu(name, precision):
    step = step_of(name, 'faces', 'cuda', precision=precision)
    step()
    torch.cuda.set_sync_debug_mode('error')
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode('default')


def test_the_step_of_bfloat16_reads_nothing_from_the_device(monkeypatch):
    step = step_of('mmanet', 'rooms')
    with torch.autocast('cpu', torch.bfloat16), nothing_waits(monkeypatch):
        step()


@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_no_batch_of_a_test_reads_anything_from_the_device(kind, monkeypatch):
    method, batch = ModalityDropout(TASKS[kind]).eval(), batch_of(TASKS[kind], 6)
    evaluator = SubsetEvaluator(TASKS[kind])
    masks = list(evaluator.masks.values())
    with torch.no_grad():
        list(subset_logits(method, batch, masks))  # whether subsets can be stacked is asked once
        # Masks in NumPy become tensors of the host, which are copied without a wait.
        with nothing_waits(monkeypatch, 'lift_fresh'):
            for mask, logits in subset_logits(method, batch, masks):
                evaluator.process_subset(mask, logits, batch)
    assert len(evaluator.evaluate(6)) > len(masks)


@pytest.mark.parametrize(
    'read',
    [
        lambda x: float(x.detach().sum()),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: (x > 0).nonzero(),
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: x.cpu(),
        lambda x: x.detach().numpy(),
        lambda x: np.asarray(x.detach()),
        lambda x: x.detach().tolist(),
    ],
)
def test_whatever_waits_is_noticed(read, monkeypatch):
    x = torch.randn(4, requires_grad=True)
    with nothing_waits(monkeypatch), pytest.raises(Waited):
        read(x)


def test_neither_hooks_nor_schedules_nor_clipping_wait(monkeypatch, tmp_path):
    data, steps = Toy(TASKS['vectors'], (16, 8, 8)), []
    protocol = Protocol(
        epochs=2, batch_size=8, precision='float32', clip=1.0, ema=0.9, schedule='cosine'
    )
    real = EpochBasedTrainLoop.run_iter

    def run_iter(self, idx, data_batch):
        with nothing_waits(monkeypatch):
            real(self, idx, data_batch)
        steps.append(idx)

    monkeypatch.setattr(EpochBasedTrainLoop, 'run_iter', run_iter)
    train, val = data.split('train'), data.split('val')
    drawn = loading.Samples(train, data.task, train.available, Sampler('uniform', ('a', 'b')))
    kept = loading.Samples(val, data.task, val.available)
    both = loading.train_loader(drawn, 8, 0, False), loading.test_loader(kept, 8, 0, False)
    job = training.Job(tmp_path, 'identity', 0, 'cpu')
    training.train(ModalityDropout(data.task), both, protocol, job, lambda *_: None)
    assert steps == [0, 1, 0, 1]
