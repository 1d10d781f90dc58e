"""What a method gets to see: whole batches of what is there, and never what is hidden."""

import os
import signal
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from tasks import TASKS, Toy

from benchmark.dataset import Split
from benchmark.engine import building, loading, training
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.loading import Samples, train_loader
from benchmark.engine.protocol import Protocol
from benchmark.engine.resident import resident
from benchmark.errors import UserError
from benchmark.missing import Sampler
from benchmark.options import Spec
from benchmark.registry import discover
from methods.modality_dropout import ModalityDropout

discover()
KINDS = list(TASKS)
VECTORS = TASKS['vectors']


class Guarded:
    """Rows of a modality that notes what is read of it."""

    def __init__(self, values):
        self.values, self.read, self.shape = values, [], values.shape

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        self.read.extend(np.asarray(rows).tolist())
        return self.values[rows]


def split_with_holes(task, count=20, seed=0):
    """A split whose hidden rows are poisoned with NaN, and what may be read of it."""
    rng = np.random.default_rng(seed)
    split = Toy(task, (count, 4, 4)).split('train')
    available = rng.random(split.available.shape) < 0.6
    available[0] = True
    inputs = {}
    for column, (name, x) in enumerate(split.inputs.items()):
        x[~available[:, column]] = np.nan
        inputs[name] = Guarded(x)
    return Split(inputs, split.target, split.available, split.ids), available


def batches(samples, size=4, workers=0, epoch=0):
    loader = train_loader(samples, size, workers, False)
    samples.set_epoch(epoch)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def flat(batch):
    return [*batch.inputs.values(), *batch[1:5]]


def order(*args, **kwargs):
    return torch.cat([b.ids for b in batches(*args, **kwargs)]).tolist()


def vectors(spec='uniform', seed=0, count=22):
    split = Toy(VECTORS, (count, 4, 4)).split('train')
    return Samples(split, VECTORS, split.available, Sampler(spec, VECTORS.names), seed)


@pytest.mark.parametrize('kind', KINDS)
def test_a_batch_holds_what_is_there_and_zeros_for_the_rest(kind):
    task = TASKS[kind]
    split, available = split_with_holes(task)
    samples = Samples(split, task, available, Sampler('uniform', task.names))
    rows = samples.positions
    assert rows.tolist() == np.flatnonzero(available.any(1)).tolist()
    batch = samples.__getitems__(list(range(len(samples))))
    assert batch.ids.tolist() == rows.tolist()
    assert (batch.available.numpy() == available[rows]).all()
    assert not (batch.mask & ~batch.available).any()
    assert batch.mask.any(1).all()
    assert (batch.target.numpy() == split.target[rows]).all()
    assert batch.target.dtype == batch.ids.dtype == torch.int64
    assert batch.available.dtype == batch.mask.dtype == torch.bool
    for column, modality in enumerate(task.modalities):
        x = batch.inputs[modality.name]
        assert x.dtype == torch.float32
        for i, row in enumerate(rows):
            there = available[row, column]
            expected = split.inputs[modality.name].values[row] if there else 0 * x[i].numpy()
            assert x[i].shape == modality.shape
            assert (x[i].numpy() == expected).all()


@pytest.mark.parametrize('kind', KINDS)
def test_what_is_hidden_is_never_read_and_losses_stay_finite(kind):
    torch.manual_seed(0)
    task = TASKS[kind]
    split, available = split_with_holes(task)
    samples = Samples(split, task, available, Sampler('uniform', task.names))
    method = ModalityDropout(task).train()
    optimizer = torch.optim.SGD(method.parameters(), 0.01)
    for epoch in range(2):
        for batch in batches(samples, 5, epoch=epoch):
            loss = method.loss(batch)['loss_task']
            loss.backward()
            optimizer.step()
            assert loss.isfinite()
    assert all(p.isfinite().all() for p in method.parameters())
    for column, name in enumerate(task.names):
        read = set(split.inputs[name].read)
        assert read
        assert read <= set(np.flatnonzero(available[:, column]))


def test_masks_of_an_epoch_do_not_depend_on_order_or_batch_size():
    def masks(samples, size, epoch):
        found = batches(samples, size, epoch=epoch)
        return {int(i): m.tolist() for b in found for i, m in zip(b.ids, b.mask, strict=True)}

    small, large = masks(vectors(), 2, 1), masks(vectors(), 11, 1)
    assert len(small) == len(large) == 22
    assert small == large
    assert small != masks(vectors(), 2, 2)
    assert small != masks(vectors(seed=1), 2, 1)


@pytest.mark.parametrize('epoch', [0, 1])
def test_worker_processes_change_nothing(epoch):
    alone, helped = (batches(vectors(), 4, workers, epoch) for workers in (0, 2))
    assert len(alone) == len(helped) == 5
    for a, b in zip(alone, helped, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))


def test_the_order_depends_on_seed_and_epoch_alone():
    first = order(vectors(), 2, epoch=1)
    torch.manual_seed(5)
    np.random.seed(5)
    assert order(vectors('only:a'), 2, epoch=1) == first
    assert sorted(first) == list(range(22)) != first
    assert order(vectors(), 2, epoch=2) != first
    assert order(vectors(seed=1), 2, epoch=1) != first


class Noting(ModalityDropout):
    """Notes the batches that it is trained on."""

    def loss(self, batch):
        self.__dict__.setdefault('seen', []).append((self.epoch, batch.ids, batch.mask))
        return super().loss(batch)


def test_each_epoch_of_a_training_has_an_order_and_masks_of_its_own(tmp_path):
    torch.manual_seed(0)
    samples, method = vectors(), Noting(VECTORS)
    held_out = Samples(samples.split, VECTORS, samples.available)
    loaders = train_loader(samples, 11, 0, False), loading.test_loader(held_out, 8, 0, False)
    protocol = Protocol(epochs=3, batch_size=11, precision='float32')
    job = training.Job(tmp_path, 'identity', 0, 'cpu')
    training.train(method, loaders, protocol, job, lambda *_: None)
    for epoch in range(3):
        seen = [(ids, mask) for e, ids, mask in method.seen if e == epoch]
        expected = batches(vectors(), 11, epoch=epoch)
        for (ids, mask), batch in zip(seen, expected, strict=True):
            assert torch.equal(ids, batch.ids)
            assert torch.equal(mask, batch.mask)


def test_training_drops_the_last_incomplete_batch():
    assert [len(b.ids) for b in batches(vectors(), 8)] == [8, 8]
    ids = order(vectors(), 8)
    assert len(ids) == len(set(ids)) == 16


def test_a_split_smaller_than_the_batch_size_is_one_batch():
    assert [len(b.ids) for b in batches(vectors(count=5), 64)] == [5]


@pytest.mark.parametrize('size', [1, 8, 64])
def test_testing_takes_every_sample_once_and_in_order(size):
    samples = Samples(vectors().split, VECTORS, vectors().available)
    found = list(loading.test_loader(samples, size, 0, False))
    assert torch.cat([b.ids for b in found]).tolist() == list(range(22))
    assert all(torch.equal(b.mask, b.available) for b in found)


def test_samples_that_the_sampler_cannot_use_do_not_train():
    split, available = split_with_holes(VECTORS)
    samples = Samples(split, VECTORS, available, Sampler('only:a+b', VECTORS.names))
    assert sorted(order(samples, 1)) == np.flatnonzero(available.all(1)).tolist()


def test_too_few_samples_are_told():
    split, available = split_with_holes(VECTORS)
    available[1:, 0] = False
    samples = Samples(split, VECTORS, available, Sampler('only:a', VECTORS.names))
    with pytest.raises(UserError, match=r"toy: expected at least 2 .*'only:a', found 1$"):
        train_loader(samples, 4, 0, False)


def readable(tmp_path, name, rates='', seed=0, data=None):
    protocol = Protocol(rates=rates, precision='float32')
    found = experiment_of(Spec(name), data or Toy(VECTORS), protocol, seed, tmp_path)
    return found.readable


def test_gaps_follow_rates_and_seed_and_keep_the_data_s_own(tmp_path):
    data = Toy(VECTORS)
    loading.split_of(data, 'train').available[:7, 1] = False
    kept = readable(tmp_path, 'modality_dropout', 'a=0.25', data=data)
    assert (~kept).sum(0).tolist() == [10, 7]
    other = readable(tmp_path, 'modality_dropout', 'a=0.25', seed=1, data=data)
    assert (~other).sum(0).tolist() == [10, 7]
    assert (kept != other).any()
    # A table compares methods on the same gaps.
    assert (readable(tmp_path, 'rfnet', 'a=0.25', data=data) == kept).all()


def test_a_method_that_needs_complete_data_refuses_gaps(tmp_path):
    data = Toy(VECTORS)
    assert readable(tmp_path, 'mmanet', data=data).all()
    told = r'^mmanet on toy: .* 10 of 40 training samples have gaps$'
    with pytest.raises(UserError, match=told):
        readable(tmp_path, 'mmanet', 'b=0.25', data=data)
    loading.split_of(data, 'train').available[:10, 0] = False
    with pytest.raises(UserError, match=told):
        readable(tmp_path, 'mmanet', data=data)
    loading.split_of(data, 'train').available[1:10] = True
    with pytest.raises(UserError, match=' and 1 of 40 training samples has gaps$'):
        readable(tmp_path, 'mmanet', data=data)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.float16, np.uint8])
def test_data_on_a_device_give_the_same_batches(kind, dtype):
    task, data = TASKS[kind], Toy(TASKS[kind], (20, 4, 4))
    split, available = split_with_holes(task)
    hidden = ~available
    values = {m: np.nan_to_num(100 * x.values).astype(dtype) for m, x in split.inputs.items()}
    for column, x in enumerate(values.values()):
        if dtype != np.uint8:
            x[hidden[:, column]] = np.nan
    split = Split(values, split.target.astype(np.uint8), split.available, split.ids)
    moved = resident(data, 'train', split, 'cpu')
    both = [
        Samples(split, task, available, Sampler('uniform', task.names), moved=m)
        for m in (None, moved)
    ]
    for epoch in (0, 1):
        for expected, found in zip(*(batches(s, epoch=epoch) for s in both), strict=True):
            for x, y in zip(flat(expected), flat(found), strict=True):
                assert x.dtype == y.dtype
                assert torch.equal(x, y)
    assert resident(data, 'train', split, 'cpu') is moved


def test_only_small_arrays_in_memory_go_to_a_device(monkeypatch, tmp_path):
    split, available = split_with_holes(VECTORS)
    arrays = Toy(VECTORS, (20, 4, 4)).split('train')

    def goes(split):
        return resident(Toy(VECTORS), 'train', split, 'cpu') is not None

    assert goes(arrays)
    assert not goes(split)  # decoded as it is read
    file = np.lib.format.open_memmap(tmp_path / 'a.npy', 'w+', shape=arrays.inputs['a'].shape)
    assert not goes(replace(arrays, inputs={**arrays.inputs, 'a': file}))
    text = np.zeros(arrays.inputs['a'].shape, 'S1')
    assert not goes(replace(arrays, inputs={**arrays.inputs, 'a': text}))
    size = arrays.target.nbytes + sum(x.nbytes for x in arrays.inputs.values())
    monkeypatch.setattr('benchmark.engine.resident.LIMIT', size)
    assert goes(arrays)
    monkeypatch.setattr('benchmark.engine.resident.LIMIT', size - 1)
    assert not goes(arrays)


def test_arrays_in_the_byte_order_of_other_machines_go_to_a_device():
    split = Toy(VECTORS, (20, 4, 4)).split('train')
    swapped = {m: x.astype('>f4') for m, x in split.inputs.items()}
    other = replace(split, inputs=swapped, target=split.target.astype('>i4'))
    rows, there = np.array([3, 1]), split.available[[3, 1]]
    expected, found = (
        resident(Toy(VECTORS), 'train', s, 'cpu').batch(rows, there, there) for s in (split, other)
    )
    for x, y in zip(flat(expected), flat(found), strict=True):
        assert torch.equal(x, y)


def test_data_sets_used_before_make_room_on_a_device(monkeypatch):
    monkeypatch.setattr('benchmark.engine.resident._MOVED', WeakKeyDictionary())
    before, now = Toy(VECTORS, (20, 4, 4)), Toy(VECTORS, (20, 4, 4))
    splits = [now.split('train'), now.split('train')]
    size = splits[0].target.nbytes + sum(x.nbytes for x in splits[0].inputs.values())
    monkeypatch.setattr('benchmark.engine.resident.LIMIT', size)
    first = resident(before, 'train', splits[0], 'cpu')
    assert resident(before, 'train', splits[0], 'cpu') is first
    second = resident(now, 'train', splits[1], 'cpu')
    assert second is not None
    assert resident(now, 'val', splits[0], 'cpu') is None  # both splits are one set's
    assert resident(now, 'train', splits[1], 'cpu') is second
    assert resident(before, 'train', splits[0], 'cpu') not in (None, first)


def test_data_stay_in_memory_where_the_device_has_none_left(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    data = Toy(VECTORS, (20, 4, 4))
    with monkeypatch.context() as patch:
        patch.setattr(torch, 'from_numpy', full)
        assert resident(data, 'train', data.split('train'), 'cpu') is None


def test_a_wrong_label_of_data_on_a_device_is_told():
    split = Toy(VECTORS, (20, 4, 4)).split('train')
    split.target[5] = 2
    moved = resident(Toy(VECTORS), 'train', split, 'cpu')
    samples = Samples(split, VECTORS, split.available, moved=moved)
    with pytest.raises(UserError, match='label of sample train-5: expected 0 to 1, found 2'):
        samples.__getitems__([4, 5])


def test_a_gpu_takes_data_in_memory_unless_workers_read_them(monkeypatch):
    asked = []
    monkeypatch.setattr(building, 'resident', lambda data, *given: asked.append(given[0]))
    data = Toy(VECTORS)
    for machine in (Machine('cpu'), Machine('cuda', workers=2)):
        machine.resident(data, 'train')
    assert not asked
    Machine('cuda').resident(data, 'val')
    assert asked == ['val']


def announced(batch):
    """Gets the signal that announces to a task of Slurm, and all its processes, a preemption."""
    os.kill(os.getpid(), signal.SIGTERM)
    return batch


def test_loader_processes_ignore_what_their_command_ignores(monkeypatch):
    monkeypatch.setattr(loading, '_as_is', announced)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        samples = vectors()
        assert len(batches(samples, workers=1)) == len(samples) // 4
        assert len(list(loading.test_loader(samples, 8, 1, False))) == -(-len(samples) // 8)
    finally:
        signal.signal(signal.SIGTERM, before)
