"""Measures what the harness costs, as ratios within one run.

python tools/speed.py

Testing: all subsets from one encoding against one pass with all modalities, and against separate
passes. Training: samples per second under the harness against a bare PyTorch loop over the same
network, data and batch size. Threads: training steps with as many threads as cores against one
thread, on the machine as it is and beside one competing process. Jobs: two trainings in two
processes at a time against the same two one after the other. Repetitions take turns, so that a
drifting machine hurts both alike.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
import contextlib  # noqa: E402
import functools  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402

import torch  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from benchmark.engine import plan, training  # noqa: E402
from benchmark.engine.building import Machine, build, cores, loaders, use_threads  # noqa: E402
from benchmark.engine.experiment import Experiment  # noqa: E402
from benchmark.engine.hooks import LossWatch  # noqa: E402
from benchmark.engine.jobs import share  # noqa: E402
from benchmark.engine.loading import Samples, split_of, test_loader  # noqa: E402
from benchmark.missing import Sampler, generator, subset_ids  # noqa: E402
from benchmark.progress import Progress  # noqa: E402
from benchmark.registry import discover  # noqa: E402


class EpochClock(Hook):
    """Takes the seconds of each epoch, without validation."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def before_train_epoch(self, runner: Runner) -> None:
        """Starts the clock."""
        self.since = time.perf_counter()

    def after_train_epoch(self, runner: Runner) -> None:
        """Stops it."""
        self.seconds.append(time.perf_counter() - self.since)


def seconds(job: Callable[[], object]) -> float:
    """Returns the wall seconds of one call."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def testing(e: Experiment, machine: Machine, repeats: int) -> str:
    """Compares all subsets from one encoding with one complete pass and with separate passes."""
    method = build(e, machine.device)
    task = e.data.task
    test = split_of(e.data, 'test')
    loader = test_loader(Samples(test, task, test.available), 2 * e.protocol.batch_size, 0, False)
    ids = subset_ids(task.names)
    with tempfile.TemporaryDirectory() as folder:

        def tested(only: list[str] | None) -> float:
            where = Path(folder)
            return seconds(lambda: training.test(method, loader, where, machine.device, only))

        tested(None)
        rounds = [
            (tested(None), tested(ids[-1:]), sum(tested([s]) for s in ids)) for _ in range(repeats)
        ]
    once, apart = (statistics.median(r[k] / r[1] for r in rounds) for k in (0, 2))
    return (
        f'{e.data.name}: testing {len(ids)} subsets of {len(test)} samples costs {once:.2f} times '
        f'one complete pass; in separate passes {apart:.2f} times'
    )


def harness_epoch(e: Experiment, machine: Machine, folder: Path) -> float:
    """Returns the seconds of one epoch under the harness."""
    method, both = build(e, machine.device), loaders(e, e.parts[0], machine)
    clock = EpochClock()
    runner = training.SilentRunner(
        machine.device,
        folder / 'train.log',
        model=method,
        train_dataloader=both[0],
        train_cfg={'by_epoch': True, 'max_epochs': 1},
        optim_wrapper=training.optim_wrapper(e.protocol),
        param_scheduler=training.schedulers(e.protocol, len(both[0])),
        custom_hooks=[training.EpochState(e.seed, 1), LossWatch(), clock],
        randomness={'seed': 0},
    )
    runner.train()
    runner.close()
    return clock.seconds[0]


def bare_epoch(e: Experiment, machine: Machine) -> float:
    """Returns the seconds of one epoch of a plain PyTorch loop."""
    task, device = e.data.task, machine.device
    train = split_of(e.data, 'train')
    inputs = {m: torch.as_tensor(train.inputs[m]) for m in task.names}
    target = torch.as_tensor(train.target)
    drawn = Sampler(e.sampler, task.names).draw(train.available, generator(0, 'bare'))
    mask, size = torch.from_numpy(drawn), e.protocol.batch_size
    method = build(e, device).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=e.protocol.lr)

    def epoch() -> None:
        order = torch.randperm(len(target))
        for rows in order[: len(order) // size * size].split(size):
            features = method.encode({m: x[rows].to(device) for m, x in inputs.items()})
            logits = method.decode(features, mask[rows].to(device))
            loss = method.task_loss(logits, target[rows].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if device == 'cuda':
            torch.cuda.synchronize()

    return seconds(epoch)


def throughput(e: Experiment, machine: Machine, repeats: int) -> str:
    """Compares the harness with a bare loop."""
    with tempfile.TemporaryDirectory() as folder:
        where, pairs = Path(folder), []
        for turn in range(repeats + 1):
            if turn % 2:
                harness = harness_epoch(e, machine, where)
                pairs.append((harness, bare_epoch(e, machine)))
            else:
                bare = bare_epoch(e, machine)
                pairs.append((harness_epoch(e, machine, where), bare))
        del pairs[0]  # the first turn also compiles kernels
    ratio = statistics.median(bare / harness for harness, bare in pairs)
    rate = len(split_of(e.data, 'train')) / statistics.median(harness for harness, _ in pairs)
    return (
        f'{e.data.name}: training runs at {ratio:.3f} of a bare loop '
        f'({rate:.0f} samples a second under the harness)'
    )


JOB_EPOCHS = 3
"""Epochs that a process trains where processes are compared."""

STEPS = 12
"""Training steps that are timed with one thread and with several."""


@contextlib.contextmanager
def competing() -> Iterator[None]:
    """Keeps one core busy with another process."""
    process = subprocess.Popen([sys.executable, '-c', 'while True: pass'])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def stepping(e: Experiment, machine: Machine, threads: int) -> float:
    """Returns the seconds of `STEPS` training steps, after one that compiles kernels."""
    method = build(e, machine.device).train()
    batch = method.data_preprocessor(next(iter(loaders(e, e.parts[0], machine)[0])), True)
    optimizer = torch.optim.AdamW(method.parameters(), lr=e.protocol.lr)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        method.parse_losses(method.loss(batch))[0].backward()
        optimizer.step()

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        step()
        return seconds(lambda: [step() for _ in range(STEPS)])
    finally:
        torch.set_num_threads(before)


def threading(e: Experiment, machine: Machine, repeats: int) -> str:
    """Compares one thread for each core with one thread, alone and beside a competing process."""
    many, told = cores(), []
    for beside, where in ((contextlib.nullcontext, 'alone'), (competing, 'beside another process')):
        with beside():
            pairs = [(stepping(e, machine, many), stepping(e, machine, 1)) for _ in range(repeats)]
        ratio = statistics.median(several / one for several, one in pairs)
        told.append(f'{ratio:.2f} times those of one thread {where}')
    return f'{e.data.name}: training steps of {many} threads take {" and ".join(told)}'


def _train_once(method: str, dataset: str, _reporter: object) -> bool:
    """Trains one network for some epochs, as each of several processes does."""
    discover()
    use_threads(1, 'cpu')
    with tempfile.TemporaryDirectory() as results:
        request = plan.Request([method], [0], {'epochs': '1'}, Path(results), 'cpu')
        (e,) = plan.flat(plan.experiments(request, plan.open_datasets([dataset], [], {})))
        for _ in range(JOB_EPOCHS):
            harness_epoch(e, Machine('cpu'), Path(results))
    return True


def jobs_at_a_time(e: Experiment, repeats: int) -> str:
    """Compares two processes that train at a time with the two one after the other."""
    job = functools.partial(_train_once, e.label, e.data.name)

    def run(count: int) -> None:
        with Progress({}, 1, count) as progress:
            share(job, count, progress)

    pairs = [(seconds(lambda: run(2)), 2 * seconds(lambda: run(1))) for _ in range(repeats)]
    ratio = statistics.median(together / apart for together, apart in pairs)
    return (
        f'{e.data.name}: two trainings of {JOB_EPOCHS} epochs in two processes take {ratio:.2f} '
        'times the time of one after the other, start included'
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the measurements."""
    p = argparse.ArgumentParser(prog='tools/speed.py', description=__doc__.split('\n')[0])
    p.add_argument('--methods', nargs='+', default=['modality_dropout'])
    p.add_argument('--datasets', nargs='+', default=['synth_faces', 'synth_rooms'])
    p.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    p.add_argument('--repeats', type=int, default=5)
    args = p.parse_args(argv)
    with tempfile.TemporaryDirectory() as results:
        discover()
        opened = plan.open_datasets(args.datasets, [], {})
        request = plan.Request(args.methods, [0], {}, Path(results), args.device)
        grid = plan.flat(plan.experiments(request, opened))
        machine = Machine(args.device)
        for e in grid:
            print(f'{e.label} on {machine.device}, median of {args.repeats} turns')
            print(f'  {testing(e, machine, args.repeats)}', flush=True)
            print(f'  {throughput(e, machine, args.repeats)}', flush=True)
            if args.device == 'cpu':
                print(f'  {threading(e, machine, args.repeats)}', flush=True)
                print(f'  {jobs_at_a_time(e, args.repeats)}', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
