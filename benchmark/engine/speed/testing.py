"""Tests of all subsets, against one pass with all modalities and against separate passes."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.engine.building import loader_of
from benchmark.engine.evaluation import SubsetEvaluator, subset_logits
from benchmark.engine.experiment import Experiment
from benchmark.engine.loading import split_of
from benchmark.engine.speed.cases import Noise, embedded, machine, network, of_noise
from benchmark.engine.speed.measuring import Row, Sizes, in_turns, ratios, seconds
from benchmark.engine.speed.trainings import UNIFIED, first_batch, on_device
from benchmark.method import Method
from benchmark.missing import subset_ids, subset_masks

EMBEDDED = {'synth_faces': 1.86, 'synth_rooms': 2.2}
"""Embedded data set -> what all subsets took, in passes with all modalities, with one call each."""


def work(method: Method) -> float:
    """Returns the FLOPs of encoding once and decoding all subsets, in passes with everything."""
    task = method.task
    device = machine().device
    inputs = {m.name: torch.zeros(1, *m.shape, device=device) for m in task.modalities}
    mask = torch.ones(1, len(inputs), dtype=torch.bool, device=device)
    counted = []
    with torch.no_grad():
        for job in (lambda: method.encode(inputs), lambda: method.predict(inputs, mask)):
            with FlopCounterMode(display=False) as counter:
                job()
            counted.append(counter.get_total_flops())
    encoding, whole = counted
    subsets = 2 ** len(inputs) - 1
    return (encoding + subsets * (whole - encoding)) / whole


@torch.no_grad()
def tested(e: Experiment, method: Method, only: list[str] | None) -> None:
    """Tests some subsets, all by default, as a run does."""
    loader = loader_of(e, machine(), 'test')
    evaluator = SubsetEvaluator(e.data.task, only, split_of(e.data, 'test'))
    for number, raw in enumerate(loader):
        batch = method.data_preprocessor(raw, False)
        for mask, logits in subset_logits(method, batch, list(evaluator.masks.values())):
            evaluator.process_subset(mask, logits, batch, number)
    evaluator.evaluate(len(split_of(e.data, 'test')))


def subsets(e: Experiment, repeats: int, goal: float | None) -> Row:
    """Compares the test of all subsets with one pass with all modalities.

    Args:
        e: The experiment.
        repeats: Number of turns.
        goal: What the ratio should not exceed, beside the ratio of the FLOPs.
    """
    method = network(e).eval()
    names = e.data.task.names
    full = subset_ids(names)[-1:]

    pairs = in_turns(
        lambda: seconds(lambda: tested(e, method, None)),
        lambda: seconds(lambda: tested(e, method, full)),
        repeats,
    )
    flops, count = work(method), 2 ** len(names) - 1
    rate = len(split_of(e.data, 'test')) * count / statistics.median(a for a, _ in pairs)
    return Row(
        f'{e.data.name}: test of all {count} subsets of {len(names)} modalities / one pass with '
        'all modalities',
        ratios(pairs),
        f'<= {min(flops, goal or flops):.2f}',
        f'FLOPs: {flops:.2f}; {rate:.0f} predictions a second',
    )


def all_subsets(sizes: Sizes, folder: Path) -> list[Row]:
    """Compares the tests of the embedded data and of several numbers of modalities."""
    rows = [
        subsets(embedded(UNIFIED, name, sizes, folder), sizes.repeats, goal)
        for name, goal in EMBEDDED.items()
    ]
    for count in sizes.modalities:
        data = Noise((1,) * count, 32, 8, 32, max(8, min(512, 2048 // 2**count)))
        data.name = 'random images (32 x 32, width 8)'
        few = min(2, sizes.repeats) if count > 4 else sizes.repeats
        rows.append(subsets(of_noise(UNIFIED, data, folder), few, None))
    return rows


def papers(sizes: Sizes, folder: Path) -> Row:
    """Compares the test of 7 subsets from one encoding with the 7 passes of the released code."""
    side, width, batch = sizes.paper
    few = max(2, batch // 4)
    e = of_noise(UNIFIED, Noise((3, 1, 1), side, width, few, few), folder)
    ours, theirs, batch_ = network(e).eval(), network(e).eval(), on_device(first_batch(e))
    theirs = theirs.to(memory_format=torch.contiguous_format)
    masks = subset_masks(3)

    @torch.no_grad()
    def here() -> None:
        list(subset_logits(ours, batch_, list(masks)))

    @torch.no_grad()
    def released() -> None:
        for mask in torch.from_numpy(masks).to(machine().device):
            theirs.predict(batch_.inputs, mask.expand(few, -1)).softmax(1).cpu().numpy()

    pairs = in_turns(
        lambda: seconds(released, sizes.times),
        lambda: seconds(here, sizes.times),
        min(2, sizes.repeats),
    )
    rate = few / statistics.median(b for _, b in pairs)
    return Row(
        f"papers' size (batch {few}): samples a second in the test of 7 subsets here / in 7 full "
        'passes in plain PyTorch',
        ratios(pairs), f'>= {7 / work(ours):.2f}', f'{rate:.1f} samples a second here',
    )  # fmt: skip
