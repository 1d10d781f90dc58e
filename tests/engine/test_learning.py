"""How each modality learns: gradient norms and losses by modality, kept with `--curves`."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.special import log_softmax
from tasks import TASKS, Toy, batch_of
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.engine import execution
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.learning import Learning, encoders_of
from benchmark.engine.protocol import Protocol
from benchmark.options import Spec
from benchmark.records import curves, store
from benchmark.registry import METHODS, discover, lookup

discover()
CURVES = Machine('cpu', curves=True)


def experiment(results, method='modality_dropout', **fields):
    data = Toy(TASKS['vectors'], (40, 22, 24))  # validation has two batches of different sizes
    protocol = Protocol.build(data.recipe, {'epochs': 2, 'batch_size': 8, **fields}, 'cpu')
    return experiment_of(Spec(method), data, protocol, 0, results)


def ran(results, machine=CURVES, **fields):
    """Runs an experiment on vectors; returns it, its record and its curves."""
    e = experiment(results, **fields)
    execution.run(e, machine, lambda *_: None)
    record = store.read(e.folder / store.RECORD)
    return e, record, curves.read(e.folder / curves.CURVES, record)['']


def test_norms_are_the_means_of_those_of_all_gradients_of_an_encoder(tmp_path, monkeypatch):
    """Against NumPy, in the place where the optimiser reads the gradients."""
    seen, real, built = [], torch.optim.AdamW.step, execution.build

    def build(*given):
        seen.append({'method': (method := built(*given))})
        return method

    def step(self, closure=None):
        flat = {'a': [], 'b': []}
        for name, p in seen[0]['method'].named_parameters():
            place = name.split('.')
            if place[0] == 'encoders' and p.grad is not None:
                flat[place[1]].append(p.grad.numpy().ravel().astype(np.float64))
        seen.append({k: np.linalg.norm(np.concatenate(v)) for k, v in flat.items()})
        return real(self, closure)

    monkeypatch.setattr(execution, 'build', build)
    monkeypatch.setattr(torch.optim.AdamW, 'step', step)
    _, _, curve = ran(tmp_path)
    steps = seen[1:]
    assert len(steps) % 2 == 0
    assert len(steps) > 4
    halves = steps[: len(steps) // 2], steps[len(steps) // 2 :]
    for name in ('a', 'b'):
        means = [np.mean([step[name] for step in half]) for half in halves]
        assert curve['gradient_norms'][name] == pytest.approx(means, rel=1e-4)
        assert means[0] > 0


def test_norms_are_those_before_clipping_and_losses_those_of_the_outcomes(tmp_path):
    whole = {'batch_size': 40, 'epochs': 1}
    plain = ran(tmp_path / 'plain', **whole)[2]
    clipped = ran(tmp_path / 'clipped', clip=1e-6, **whole)[2]
    assert clipped['gradient_norms'] == plain['gradient_norms']
    e, _, curve = ran(tmp_path / 'many')
    outcomes = np.load(e.folder / 'validation.npz')
    sign = 2.0 * outcomes['target'] - 1
    for name in ('a', 'b'):
        # The outcomes hold log-odds of the second of two classes.
        expected = np.logaddexp(0, -sign * outcomes[f'logit/{name}']).mean()
        assert curve['modality_losses'][name][-1] == pytest.approx(expected, rel=1e-4)
        assert len(curve['modality_losses'][name]) == 2
    assert set(curve['modality_losses']) == {'a', 'b'}


def test_without_the_option_nothing_is_kept_and_nothing_changes(tmp_path):
    e, _, curve = ran(tmp_path / 'without', machine=Machine('cpu'))
    own, _, kept = ran(tmp_path / 'with')
    assert set(kept) - set(curve) == {'gradient_norms', 'modality_losses'}
    weights = [torch.load(x.folder / 'checkpoint.pth', weights_only=True) for x in (e, own)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def told(method, batch, subset, logits, has):
    """What a validation of one batch keeps of a subset."""
    learning = Learning(method)
    mask = np.isin(method.task.names, subset)
    learning.subset(mask, logits, batch, has, 0)
    learning.after_val_epoch(None)
    return learning.losses


@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_samples_without_the_modality_have_no_part_in_its_loss(kind):
    task = TASKS[kind]
    method, batch = lookup(METHODS, 'modality_dropout')(task), batch_of(task, 6)
    shape = (6, len(task.classes), *batch.target.shape[1:])
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    has = torch.tensor([True, False, True, True, False, False])
    wrong = logits.clone()
    wrong[1], wrong[4] = math.nan, 50.0
    found = told(method, batch, ['rgb'], wrong, has)
    kept, target = logits[has].double().numpy(), batch.target[has].numpy()
    logs = np.take_along_axis(log_softmax(kept, axis=1), target[:, None], 1)
    expected = -logs.mean()
    if kind == 'rooms':  # the default there adds 1 less the mean soft Dice
        p, label = np.exp(log_softmax(kept, axis=1)), np.eye(3)[target].transpose(0, 3, 1, 2)
        both, sizes = (p * label).sum((0, 2, 3)), (p + label).sum((0, 2, 3))
        expected += 1 - ((2 * both + 1) / (sizes + 1)).mean()
    assert found == {'rgb': pytest.approx(expected, rel=1e-4)}
    assert told(method, batch, ['rgb', 'depth'], logits, has) == {}
    assert math.isnan(told(method, batch, ['rgb'], logits, ~has & has)['rgb'])


def test_logits_are_compared_with_labels_where_they_are_scored():
    task = TASKS['rooms']
    method, batch = lookup(METHODS, 'modality_dropout')(task), batch_of(task, 2)
    small = torch.randn(2, 3, 16, 16)
    has = torch.ones(2, dtype=torch.bool)
    large = F.interpolate(small, (32, 32), mode='bilinear', align_corners=False)
    expected = told(method, batch, ['depth'], large, has)
    assert told(method, batch, ['depth'], small, has) == expected


def test_the_scale_of_half_precision_is_taken_away_and_skipped_steps_do_not_count():
    method = lookup(METHODS, 'modality_dropout')(TASKS['vectors'])
    scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)
    learning, wrapper = Learning(method), SimpleNamespace(loss_scaler=scaler)
    for factor in (1.0, 3.0, math.inf):
        for p in method.parameters():
            p.grad = torch.full_like(p, 1024 * factor)
        learning.step(wrapper)
    learning.after_train_epoch(None)
    for name, parameters in encoders_of(method).items():
        count = sum(p.numel() for p in parameters)
        assert learning.gradients[name] == pytest.approx(2 * math.sqrt(count))


@pytest.mark.parametrize('name', ['modality_dropout', 'ogm_ge', 'gradient_blending', 'mmpareto'])
def test_methods_that_balance_modalities_have_an_encoder_for_each(name):
    assert set(encoders_of(lookup(METHODS, name)(TASKS['faces']))) == {'rgb', 'depth', 'ir'}


class Reads(TorchDispatchMode):
    """Counts how often Python reads a number from a tensor, which waits for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_no_step_reads_a_number(tmp_path):
    counts = []
    for size in (40, 8):  # one step an epoch, and five
        e = experiment(tmp_path / str(size), batch_size=size, epochs=1)
        method = execution.build(e, 'cpu')
        trained, _ = execution.loaders(e, e.parts[0], CURVES)
        # As many batches of validation in both.
        _, validated = execution.loaders(experiment(tmp_path), e.parts[0], CURVES)
        job = execution.training.Job(e.folder, 'x', 0, 'cpu', curves=True)
        with Reads() as reads:
            found = execution.training.train(
                method, (trained, validated), e.protocol, job, lambda *_: None
            )
        assert found['curves']['gradient_norms'].keys() == {'a', 'b'}
        counts.append(reads.count)
    assert counts[0] == counts[1]
