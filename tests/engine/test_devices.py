"""No step and no prediction of a method puts tensors of two devices together.

PyTorch's device 'meta' has no numbers, but it refuses an operation with a tensor of another device,
as a GPU does; so a machine without a GPU notices what would fail on one.
"""

import contextlib

import pytest
import torch
from tasks import TASKS, batch_of
from torch.utils._pytree import tree_map_only

from benchmark.engine import building, execution
from benchmark.engine.building import Machine
from benchmark.engine.fitting import is_fitted
from benchmark.registry import DATASETS, METHODS, discover

discover()
TRAINED = sorted(name for name, cls in METHODS.module_dict.items() if not is_fitted(cls))


def on_meta(name):
    """A method on that device, all of whose terms are used, and a batch there."""
    torch.manual_seed(0)
    cls, task = METHODS.module_dict[name], TASKS['faces']
    method = cls(task).to('meta')
    if cls.teacher:
        method.set_teacher(METHODS.module_dict[cls.teacher](task).to('meta'))
    method.epochs, method.epoch = 4, 3
    if name == 'mmanet':
        method._checked = True  # whether a modality was mined, which it looks up once
    return method, tree_map_only(torch.Tensor, lambda x: x.to('meta'), batch_of(task, 6))


@pytest.mark.parametrize('name', TRAINED)
def test_losses_gradients_and_predictions_stay_on_one_device(name, monkeypatch):
    # The device has no mixed precision to leave.
    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: contextlib.nullcontext())
    method, batch = on_meta(name)
    loss = sum(method.loss(batch).values())
    loss.backward()
    assert {p.grad.device.type for p in method.parameters() if p.grad is not None} == {'meta'}
    with torch.no_grad():
        assert method.eval().predict(batch.inputs, batch.mask).device.type == 'meta'


@pytest.mark.parametrize(
    'careless',
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.where(torch.ones(3, dtype=torch.bool), x, x),
        lambda x: torch.cat([x, torch.zeros(3)]),
        lambda x: torch.stack([x, torch.zeros(3)]),
    ],
)
def test_two_devices_are_noticed(careless):
    with pytest.raises(RuntimeError, match='device'):
        careless(torch.ones(3, device='meta'))


def test_a_gpu_gets_pinned_memory_channels_last_and_no_rounded_products():
    data = DATASETS.get('synth_faces')(train=16, val=8, test=8)
    _, pinned = Machine('cuda').loader(data)
    assert pinned
    assert not Machine('cpu').loader(data)[1]
    method = building.placed(METHODS.module_dict['modality_dropout'](TASKS['faces']), 'cpu')
    kernels = [p for p in method.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = True
        execution.deterministic(Machine('cuda'))
        assert not any(backend.allow_tf32 for backend in backends)
    finally:
        execution.deterministic(Machine('cpu'))
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value
