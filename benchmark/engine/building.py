"""From an experiment to what trains: the network with its seeded weights, and the loaders."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmark.dataset import Dataset
from benchmark.engine.experiment import Experiment, Part
from benchmark.engine.granted import cores
from benchmark.engine.loading import Samples, split_of, test_loader, train_loader
from benchmark.engine.mask_schedules import CONSTANT, MaskSchedule
from benchmark.engine.parallel import processes
from benchmark.engine.resident import Resident, resident
from benchmark.engine.untrained import constructed
from benchmark.method import Method
from benchmark.missing import Sampler, derive


def use_threads(threads: int | None, device: str, jobs: int = 1) -> None:
    """Sets how many threads compute one operation.

    On a CPU the default is one: threads that share a small operation wait for each other, and on a
    loaded machine they wait for most of the time. Beside a GPU, several jobs share the cores. Where
    OMP_NUM_THREADS is set, that applies.

    Args:
        threads: The number; None for the default.
        device: 'cpu' or 'cuda'.
        jobs: How many experiments run at the same time, if that was asked for.
    """
    if threads is None and 'OMP_NUM_THREADS' not in os.environ:
        if device == 'cpu':
            threads = 1
        elif jobs > 1:
            threads = max(1, cores() // jobs)
    if threads is not None:
        torch.set_num_threads(threads)


def use_gpu(gpus: Sequence[int], job: int = 0) -> None:
    """Makes a GPU the current one of this thread, which 'cuda' means everywhere.

    Args:
        gpus: The GPUs that jobs get in turn; nothing is changed without any.
        job: Number of the job, from 0.
    """
    if gpus:
        torch.cuda.set_device(gpus[job % len(gpus)])


@dataclass(frozen=True)
class Machine:
    """Where and how to compute; nothing here may change what a score means.

    Attributes:
        device: 'cpu' or 'cuda'.
        workers: Loader processes; by default none for data in memory and one per core that this
            process may use, up to 8, for data that are decoded as they are read. Jobs, and the
            processes of `torchrun` on this machine, share the cores.
        jobs: How many experiments run at the same time, which share the cores.
        curves: Whether trainings validate every `val_interval` epochs, for their curves alone.
        visualizer: What else shows the curves: 'tensorboard', 'wandb', 'mlflow' or nothing.
        gpus: The GPUs that the jobs get in turn; without any all compute on the current one.
        grid: Name and hash of the grid that asks for the runs, which records hold.
        compiled: Whether torch.compile compiles the networks that are trained.
        deterministic: Whether only operations are used that give the same numbers every time.
        varied: The options that the grid varies, which lines about its experiments tell.
    """

    device: str
    workers: int | None = None
    jobs: int = 1
    curves: bool = False
    visualizer: str = ''
    gpus: tuple[int, ...] = ()
    grid: Mapping[str, str] | None = None
    compiled: bool = False
    deterministic: bool = True
    varied: tuple[str, ...] = ()

    @property
    def unusual(self) -> dict[str, str]:
        """What records tell of the settings here that are not the usual ones."""
        compiled = {'compiled': 'yes'} if self.compiled else {}
        return {**compiled, **({} if self.deterministic else {'deterministic': 'no'})}

    def loader(self, data: Dataset) -> tuple[int, bool]:
        """Returns how many loader processes these data get, and whether memory is pinned."""
        workers = self.workers
        if workers is None:
            sharing = self.jobs * processes.here()
            workers = min(8, max(1, cores() // sharing)) if data.streams else 0
        return workers, self.device == 'cuda'

    def resident(self, data: Dataset, name: str) -> Resident | None:
        """Returns a split on the GPU, if there is one and the split is small and in memory."""
        if self.device != 'cuda' or self.loader(data)[0]:
            return None
        return resident(data, name, split_of(data, name), self.device)


def build(experiment: Experiment, device: str) -> Method:
    """Returns the method with weights drawn from the experiment's seed alone."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(derive(experiment.seed, 'weights'))
        method = constructed(experiment.method, experiment.task, experiment.options)
        if method.task.volumes:
            draw_volumes(method)
        # Last: what a method itself says about its weights holds.
        method.init_weights()
    return placed(method, device)


def draw_volumes(method: Method) -> None:
    """Draws the initial weights of 3-D convolutions as the encoders of images have them.

    They are normal with the variance 2 / (kernel size x output channels), which suits ReLU. These
    convolutions have no bias, because a norm without weights of its own follows; those with a bias
    predict logits and gates, and keep what PyTorch draws, as in networks of images. This is one
    rule for all methods. Authors may have another, which a method's `init_weights` draws, such as
    that of RFNet's official variant.
    """
    for module in method.modules():
        if isinstance(module, nn.Conv3d) and module.bias is None:
            nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')


def placed(method: Method, device: str) -> Method:
    """Returns a method on a device, in the memory layout in which it is fast."""
    if method.task.volumes:  # their weights have five axes
        return method.to(device)
    # Convolutions run 1.1 to 1.3 times as fast in this layout on CPUs, and tensor cores want it.
    method = method.to(device, memory_format=torch.channels_last)
    if device == 'cpu':
        keep_plain_layout(method)
    return method


def exact() -> None:
    """Lets a GPU round no product of single precision to the 10 bits of TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def keep_plain_layout(module: nn.Module) -> None:
    """Keeps the convolutions that oneDNN breaks in channels_last out of that layout.

    On CPUs without AVX-512 the backward pass of a strided 1x1 convolution with 2 to 6 input
    channels writes outside its memory when its weights or its input are channels_last
    (PyTorch 2.13); the process then hangs or dies. In the plain layout it does not. The bound of 8
    leaves a margin.
    """
    for conv in module.modules():
        if not isinstance(conv, nn.Conv2d) or max(conv.kernel_size) > 1:
            continue
        if max(conv.stride) > 1 and conv.in_channels // conv.groups < 8:
            conv.weight.data = conv.weight.data.clone(memory_format=torch.contiguous_format)
            conv.register_forward_pre_hook(_plain_input)


def _plain_input(_module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return arguments[0].contiguous(), *arguments[1:]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences mmengine outside a run, as when it logs every parameter's initialisation."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def loaders(experiment: Experiment, part: Part, machine: Machine) -> tuple[DataLoader, DataLoader]:
    """Returns the training and validation loaders of one network.

    Raises:
        CannotTrain: The method needs complete training data, and these are not.
    """
    data, protocol = experiment.data, experiment.protocol
    train = split_of(data, 'train')
    moved = machine.resident(data, 'train')
    workers, pin = machine.loader(data)
    sampler = Sampler(part.sampler, data.task.names)
    schedule = None
    if protocol.mask_schedule != CONSTANT and part.only is None:  # one subset has no distribution
        schedule = MaskSchedule(protocol.mask_schedule, protocol.epochs)
    given = experiment.readable, sampler, experiment.seed, moved, schedule
    samples = Samples(train, data.task, *given)
    return (
        train_loader(
            samples, protocol.batch_size, workers, pin and moved is None, protocol.sampling
        ),
        loader_of(experiment, machine, 'val'),
    )


def loader_of(
    experiment: Experiment, machine: Machine, name: str, resident: bool = True
) -> DataLoader:
    """Returns the loader of the split 'val' or 'test': in order, every sample once.

    Args:
        experiment: What is validated or tested.
        machine: Where.
        name: The split.
        resident: Whether batches may be made on the device.
    """
    data, split = experiment.data, split_of(experiment.data, name)
    moved = machine.resident(data, name) if resident else None
    samples = Samples(split, data.task, split.available, moved=moved)
    workers, pin = machine.loader(data)
    return test_loader(samples, tested_at_once(experiment), workers, pin and moved is None)


def tested_at_once(experiment: Experiment) -> int:
    """Returns how many samples a batch of validation and test has: one volume, or more images."""
    return 1 if experiment.data.task.volumes else 2 * experiment.protocol.batch_size
