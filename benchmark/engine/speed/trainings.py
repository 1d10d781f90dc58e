"""Training steps: in the suite and bare, of MMANet and of the unified model, and of papers."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from benchmark.engine import training
from benchmark.engine.building import build, cores, loaders
from benchmark.engine.compiling import compiled
from benchmark.engine.experiment import Experiment
from benchmark.engine.hooks import EpochState, LossWatch
from benchmark.engine.loading import split_of
from benchmark.engine.runner import SilentRunner
from benchmark.engine.schedules import schedulers
from benchmark.engine.speed import measuring
from benchmark.engine.speed.cases import Noise, any_kernels, embedded, machine, network, of_noise
from benchmark.engine.speed.measuring import Row, Sizes, in_turns, ratios, seconds
from benchmark.method import Batch
from benchmark.missing import Sampler, generator

UNIFIED = 'modality_dropout'
DATASETS = ('synth_faces', 'synth_rooms')


class Clock(Hook):
    """Takes the seconds of the epochs without validation, and the memory after each step."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.memory: list[float] = []

    def before_train_epoch(self, runner: Runner) -> None:
        """Starts the clock."""
        measuring.settle()
        self.since = measuring.time.perf_counter()

    def after_train_iter(self, runner: Runner, *_: object, **__: object) -> None:
        """Notes the memory."""
        self.memory.append(measuring.memory_mb(machine().device))

    def after_train_epoch(self, runner: Runner) -> None:
        """Stops the clock."""
        measuring.settle()
        self.seconds.append(measuring.time.perf_counter() - self.since)


def in_suite(e: Experiment, folder: Path, epochs: int = 1) -> Clock:
    """Trains in the suite and returns what the clock noted."""
    method, both, clock = network(e), loaders(e, e.parts[0], machine()), Clock()
    runner = SilentRunner(
        machine().device,
        folder / training.LOG,
        model=method,
        train_dataloader=both[0],
        train_cfg={'by_epoch': True, 'max_epochs': epochs},
        optim_wrapper=training.optim_wrapper(e.protocol),
        param_scheduler=schedulers(e.protocol, len(both[0])),
        custom_hooks=[EpochState(e.seed, epochs), LossWatch(), clock],
        randomness={'seed': 0},
    )
    runner.train()
    runner.close()
    return clock


def epoch(e: Experiment, folder: Path) -> float:
    """Returns the seconds of one epoch in the suite."""
    return in_suite(e, folder).seconds[0]


def bare(e: Experiment, epochs: int = 1) -> float:
    """Returns the seconds of epochs of a plain PyTorch loop over the same network and data."""
    task, train, size = e.data.task, split_of(e.data, 'train'), e.protocol.batch_size
    device = machine().device
    inputs = {m: torch.as_tensor(train.inputs[m], device=device) for m in task.names}
    target = torch.as_tensor(train.target, device=device)
    drawn = Sampler(e.sampler, task.names).draw(train.available, generator(0, 'bare'))
    mask, method = torch.from_numpy(drawn).to(device), build(e, device).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=e.protocol.lr, fused=True)

    def epoch() -> None:
        order = torch.randperm(len(target), device=device)
        for rows in order[: len(order) // size * size].split(size):
            with torch.autocast(device, torch.bfloat16, e.protocol.precision == 'bfloat16'):
                features = method.encode({m: x[rows] for m, x in inputs.items()})
                loss = method.task_loss(method.decode(features, mask[rows]), target[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return epochs * seconds(epoch, epochs)


def whole(e: Experiment) -> float:
    """Returns the seconds of a training in the suite, with saving and its one validation."""
    with tempfile.TemporaryDirectory() as folder:
        job = training.Job(Path(folder), 'whole', e.seed, machine().device)
        given = network(e), loaders(e, e.parts[0], machine()), e.protocol, job
        return seconds(lambda: training.train(*given, lambda *_: None))


def few(sizes: Sizes, folder: Path) -> Row:
    """Compares a whole training on few vectors, whose steps are short, with a bare loop."""
    epochs = max(2, sizes.steps // 4)
    e = of_noise(UNIFIED, Noise((60, 40), 0, 16, 12, 50), folder, epochs=epochs)
    pairs = in_turns(lambda: bare(e, epochs), lambda: whole(e), sizes.repeats)
    what = '50 random vectors of 2 modalities: steps a second of a whole training in the suite'
    each = statistics.median(b for _, b in pairs) / (4 * epochs)
    told = f'{1e3 * each:.1f} ms a step in the suite, with saving and a validation'
    return Row(f'{what} / in a bare PyTorch loop', ratios(pairs), '', told)


def first_batch(e: Experiment) -> Batch:
    """Returns the first training batch of an experiment."""
    batch: Batch = next(iter(loaders(e, e.parts[0], machine())[0]))
    return batch


def prepared(e: Experiment, compile_: bool = False) -> Callable[[], None]:
    """Returns a function that does a training step of an experiment's network on its first batch.

    Args:
        e: The experiment.
        compile_: Whether torch.compile compiles the network.
    """
    method = network(e).train()
    if compile_:
        compiled(method)
    wrapper = build_optim_wrapper(method, training.optim_wrapper(e.protocol))
    batch = on_device(first_batch(e))

    def step() -> None:
        method.train_step(batch, optim_wrapper=wrapper)

    return step


def loops(sizes: Sizes, folder: Path) -> list[Row]:
    """Compares the suite with a bare loop, and the loading with the epoch."""
    rows = []
    for dataset in DATASETS:
        e = embedded(UNIFIED, dataset, sizes, folder)
        pairs = in_turns(partial(bare, e), partial(epoch, e, folder),
                         sizes.repeats)  # fmt: skip
        rate = len(split_of(e.data, 'train')) / statistics.median(b for _, b in pairs)
        rows.append(
            Row(f'{dataset}: samples a second in the suite / in a bare PyTorch loop',
                ratios(pairs), '>= 0.97', f'{rate:.0f} samples a second in the suite')
        )  # fmt: skip
        loader = loaders(e, e.parts[0], machine())[0]
        loading = [seconds(partial(list, loader)) for _ in pairs]
        shares = [a / b for a, (_, b) in zip(loading, pairs, strict=True)]
        rows.append(Row(f'{dataset}: loading / whole epoch', shares))
    return rows


def flops(step: Callable[[], None]) -> int:
    """Returns the floating-point operations of a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def mmanet(sizes: Sizes, folder: Path) -> list[Row]:
    """Compares a step of MMANet, all of whose terms are used, with one of the unified model."""
    rows = []
    for dataset in DATASETS:
        one, other = (
            prepared(embedded(name, dataset, sizes, folder)) for name in ('mmanet', UNIFIED)
        )
        pairs = in_turns(partial(seconds, one, sizes.times), partial(seconds, other, sizes.times),
                         2 * sizes.repeats - 1)  # fmt: skip
        work = flops(one) / flops(other)
        each = 1e3 * statistics.median(b for _, b in pairs)
        told = f'FLOPs: {work:.2f}; {each:.1f} ms for the unified model'
        what = f'{dataset}: step of `mmanet` / step of the unified model (`{UNIFIED}`)'
        rows.append(Row(what, ratios(pairs), '<= 1.6', told))
    return rows


def memories(sizes: Sizes, folder: Path) -> list[float]:
    """Returns the memory in MiB after each step of an epoch."""
    data = Noise((1, 1), 16, 4, 8, 8 * sizes.steps)
    return in_suite(of_noise(UNIFIED, data, folder, epochs=1), folder).memory


def threads(sizes: Sizes, folder: Path) -> Row:
    """Compares steps with one thread for each core with steps of one thread."""
    step, before = (
        prepared(embedded(UNIFIED, 'synth_rooms', sizes, folder)),
        torch.get_num_threads(),
    )

    def timed(count: int) -> float:
        torch.set_num_threads(count)
        return seconds(step)

    try:
        pairs = in_turns(lambda: timed(cores()), lambda: timed(1), 2 * sizes.repeats - 1)
    finally:
        torch.set_num_threads(before)
    return Row(f'synth_rooms: step with {cores()} threads / with one thread', ratios(pairs))


def peak(sizes: Sizes, folder: Path) -> list[Row]:
    """Compares the FLOPs of steps with the highest rate of a matrix product."""
    side, width, batch = sizes.paper
    data = Noise((3, 1, 1), side, width, max(2, batch // 4), max(4, batch // 2))
    cases = {f"papers' size ({side} x {side}, width {width})": of_noise(UNIFIED, data, folder)}
    for dataset in DATASETS:
        cases[dataset] = embedded(UNIFIED, dataset, sizes, folder)
    rows = []
    for name, e in cases.items():
        step = prepared(e)
        work, values = flops(step), []
        for _ in range(min(3, sizes.repeats)):
            best = measuring.matmul_peak(sizes.matmul, 2, machine().device)
            values.append(work / seconds(step, sizes.times) / best)
        told = f'{best / 1e9:.0f} GFLOPs a second in {sizes.matmul} x {sizes.matmul} matrices'
        rows.append(Row(f'{name}: FLOPs a second of a step / of matrix products', values, '', told))
    return rows


def papers(sizes: Sizes, folder: Path) -> Row:
    """Compares a step of MMANet here with one of the released loop's work in plain PyTorch.

    The released loop keeps the weights in the usual layout and computes in float32, has SGD without
    fused kernels, lets cuDNN choose its kernels by trying, copies each batch to a GPU while nothing
    else happens there, and reads every loss. Networks and losses are the same here and there.
    """
    side, width, batch = sizes.paper
    data, device = Noise((3, 1, 1), side, width, batch, batch), machine().device
    e = of_noise('mmanet', data, folder, optimizer='SGD', lr=1e-3, momentum=0.9)
    ours, theirs, raw = network(e).train(), network(e).train(), _on_host(first_batch(e))
    theirs = theirs.to(memory_format=torch.contiguous_format)
    wrapper = build_optim_wrapper(ours, training.optim_wrapper(e.protocol))
    kept = raw if device == 'cpu' else tree_map_only(Tensor, Tensor.pin_memory, raw)
    optimizer = torch.optim.SGD(theirs.parameters(), 1e-3, 0.9, foreach=False)

    def step() -> None:
        ours.train_step(kept, optim_wrapper=wrapper)

    def official() -> None:
        losses = theirs.loss(on_device(raw))
        loss = sum(losses.values(), torch.zeros((), device=device))
        for value in losses.values():
            value.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def released() -> float:
        with any_kernels():
            return seconds(official, sizes.times)

    pairs = in_turns(released, lambda: seconds(step, sizes.times), min(2, sizes.repeats))
    rate = batch / statistics.median(b for _, b in pairs)
    return Row(
        f'papers\' size (3 modalities, {side} x {side}, width {width}, batch {batch}): images a '
        "second of `mmanet` in training / of the released loop's work in plain PyTorch",
        ratios(pairs), '>= 1' if device == 'cpu' else '>= 5', f'{rate:.1f} samples a second here',
    )  # fmt: skip


def on_device(batch: Batch) -> Batch:
    """Returns a batch where everything is timed."""
    moved: Batch = tree_map_only(Tensor, lambda x: x.to(machine().device), batch)
    return moved


def _on_host(batch: Batch) -> Batch:
    """Returns a batch in the memory of the host, from where a loop reads it."""
    moved: Batch = tree_map_only(Tensor, Tensor.cpu, batch)
    return moved
