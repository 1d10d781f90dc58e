"""Masked pre-training: which tokens are shown, what is rebuilt of the others, and its error."""

import numpy as np
import pytest
import torch
from scipy import stats
from tasks import TASKS, batch_of

from benchmark.errors import UserError
from benchmark.method import Modality
from methods import masked
from methods.common import hiding
from methods.masked import Masked

NAN = float('nan')
ALL = torch.ones(1500, 600, dtype=torch.bool)


@pytest.mark.parametrize('count', [2, 3])
def test_shares_of_the_modalities_are_those_of_a_flat_dirichlet_distribution(count):
    torch.manual_seed(0)
    shown = [x.sum(1).numpy() for x in hiding.draw_shown([ALL] * count, 1 / 6)]
    budget = 600 * count / 6
    np.testing.assert_allclose(sum(shown), budget, atol=count)  # each number is rounded
    for tokens in shown:
        assert stats.kstest(tokens / budget, stats.beta(1, count - 1).cdf).pvalue > 1e-3


def test_tokens_are_drawn_evenly_from_what_is_there_and_one_is_shown_at_least():
    torch.manual_seed(0)
    there = torch.rand(4000, 5) < 0.7
    there[:, 4] = True
    absent = torch.zeros(4000, 3, dtype=torch.bool)
    shown, none = hiding.draw_shown([there, absent], 0.4)
    assert not none.any()
    assert not (shown & ~there).any()
    counts = there.sum(1)
    expected = torch.maximum((0.4 * counts).round(), torch.ones(()))
    assert torch.equal(shown.sum(1).float(), expected)
    one = there.all(1)
    shares = shown[one].float().mean(0)
    assert (shares - 0.4).abs().max() < 0.06
    few = hiding.draw_shown([torch.ones(500, 2, dtype=torch.bool), ALL[:500, :50]], 0.5)
    assert few[0].sum(1).max() == 2  # no more than it has


@pytest.mark.parametrize('shape', [(1, 16, 16), (3, 40, 70), (2, 200, 97)])
def test_patches_are_squares_of_16_pixels_or_a_sixth_of_a_small_image(shape):
    m = Modality('x', shape)
    side = min(16, min(shape[1:]) // 6)
    rows, columns = (int(np.ceil(n / side)) for n in shape[1:])
    assert hiding.tokens_of(m) == (rows, columns)
    tokens = np.random.default_rng(0).random((2, rows * columns)) < 0.5
    found = hiding.spread(m, torch.from_numpy(tokens))
    for sample, grid in enumerate(tokens.reshape(2, rows, columns)):
        pixels = np.kron(grid, np.ones((side, side), bool))[: shape[1], : shape[2]]
        np.testing.assert_array_equal(found[sample], np.broadcast_to(pixels, shape))


def test_frames_and_values_are_tokens_and_padding_is_none():
    words, gait = TASKS['sequences'].modalities
    x = torch.randn(2, *words.shape)
    x[..., -1] = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 1]])
    assert torch.equal(hiding.real_tokens(words, x), x[..., -1] == 1)
    assert hiding.real_tokens(gait, torch.zeros(2, 3, 2)).all()
    tokens = torch.tensor([[True, False, True]])
    assert torch.equal(hiding.spread(gait, tokens)[0], torch.stack([tokens[0]] * 2, 1))
    assert hiding.spread(Modality('v', (3,)), tokens) is tokens


def test_the_error_is_that_of_hidden_elements_standardised_over_the_batch():
    m, rng = Modality('x', (2, 12, 12)), np.random.default_rng(0)
    x = rng.normal(7, 3, (4, *m.shape))
    there, hidden = np.ones(x.shape, bool), rng.random(x.shape) < 0.5
    there[1] = False
    mean, std = x[there].mean(), x[there].std()
    answer = rng.standard_normal(x.shape)
    errors = ((x - mean) / std - answer)[there & hidden] ** 2
    x[1] = NAN
    head = hiding.Rebuilding(m, TASKS['faces'], (8,))
    given = [torch.from_numpy(v) for v in (x, there, hidden)]
    size = [n // head.cells for n in m.shape[1:]]
    wanted = head.wanted(*given, size)
    np.testing.assert_allclose(wanted.error(torch.from_numpy(answer)), errors.mean(), rtol=1e-5)
    nothing = torch.zeros_like(given[1])
    assert head.wanted(given[0], nothing, given[2], size).error(torch.from_numpy(answer)) == 0


def test_a_position_of_the_map_rebuilds_the_pixels_under_it():
    task = TASKS['faces']
    head = hiding.Rebuilding(task.modalities[0], task, (6,))
    maps, real = torch.randn(1, 6, 4, 4), torch.ones(1, 1, dtype=torch.bool)
    before = head((maps,), real)
    assert before.shape == (1, 3, 16, 16)
    maps[0, :, 2, 1] += 1
    changed = (head((maps,), real) != before).any(1)[0]
    assert changed[8:12, 4:8].any()
    changed[8:12, 4:8] = False
    assert not changed.any()


@pytest.mark.parametrize('kind', [*TASKS])
def test_encoders_see_what_is_shown_and_nothing_else(kind, monkeypatch):
    torch.manual_seed(0)
    task = TASKS[kind]
    method, batch = Masked(task, shown=0.3).eval(), batch_of(task, 8)
    for m in task.modalities:
        if m.padded:
            batch.inputs[m.name][..., -1] = (torch.rand(8, m.shape[0]) < 0.7).float()
    there = torch.rand(8, len(task.names)) < 0.6
    drawn, seen, real = [], [], method.encode

    def draw(tokens, share):
        assert share == 0.3
        drawn.append([t & (torch.rand(t.shape) < 0.5) for t in tokens])
        assert not any(t[~on].any() for t, on in zip(tokens, there.T, strict=True))
        return drawn[0]

    monkeypatch.setattr(masked, 'draw_shown', draw)
    monkeypatch.setattr(method, 'encode', lambda inputs: seen.append(inputs) or real(inputs))
    inputs = {
        name: x.where(on.view(-1, *[1] * (x.ndim - 1)), NAN)
        for (name, x), on in zip(batch.inputs.items(), there.T, strict=True)
    }
    # As in training, padding is marked where a sample lacks the modality.
    for m in task.modalities:
        if m.padded:
            inputs[m.name][..., -1] = batch.inputs[m.name][..., -1]
    batch = batch._replace(available=there, mask=batch.mask & there)
    losses = method.loss(batch._replace(inputs=inputs))
    assert all(x.isfinite() for x in losses.values())
    for m, tokens in zip(task.modalities, drawn[0], strict=True):
        visible = hiding.spread(m, tokens).clone()
        if m.padded:
            visible[..., -1] = True
        expected = torch.where(visible, batch.inputs[m.name], 0.0)
        assert torch.equal(seen[0][m.name], expected)
    # What is not there is not asked for either.
    monkeypatch.setattr(masked, 'draw_shown', lambda *_: drawn[0])
    assert torch.equal(method.loss(batch)['loss_masked'], losses['loss_masked'])


def test_labels_train_the_probe_alone_and_its_features_leave_no_trace():
    method, batch = Masked(TASKS['faces']), batch_of(TASKS['faces'])
    before = {k: x.clone() for k, x in method.encoders.state_dict().items()}
    method._frozen(batch.inputs)
    assert method.encoders.training
    assert all(torch.equal(x, before[k]) for k, x in method.encoders.state_dict().items())
    losses = method.loss(batch)
    encoders, probe = [*method.encoders.parameters()], [*method.probe.parameters()]
    found = torch.autograd.grad(losses['loss_probe'], encoders + probe, allow_unused=True)
    assert [x is not None for x in found] == [False] * len(encoders) + [True] * len(probe)


def test_a_modality_is_rebuilt_from_another_one_that_determines_it():
    torch.manual_seed(0)
    task = TASKS['vectors']
    method = Masked(task, shown=0.4)
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    errors = []
    for _ in range(100):
        batch = batch_of(task, 32)
        a = torch.randn(32, 1).expand(-1, 6) + 0.1 * torch.randn(32, 6)
        batch = batch._replace(inputs={'a': a, 'b': -a[:, :3]})
        losses = method.loss(batch)
        optimizer.zero_grad()
        losses['loss_masked'].backward()
        optimizer.step()
        errors.append(losses['loss_masked'].item())
    # The variance is 1, so that guessing the mean has an error of 1.
    assert np.mean(errors[-20:]) < 0.5 < 0.9 < errors[0]


@pytest.mark.parametrize('shown', [0, 1, -0.5, NAN])
def test_a_share_outside_of_0_to_1_is_refused(shown):
    with pytest.raises(UserError, match='masked:shown: expected a share between 0 and 1'):
        Masked(TASKS['vectors'], shown=shown)
