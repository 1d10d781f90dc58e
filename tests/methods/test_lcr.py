"""LCR against its linear maps, written sample by sample."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from learning import lowers
from tasks import TASKS, batch_of

from benchmark.errors import UserError
from benchmark.missing import subset_masks
from methods.lcr import LCR, Correlation

KINDS = ['faces', 'mixed', 'vectors', 'rooms']


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def naive(model, maps, b, i):
    """F_i of sample b: the estimator and the linear map in their scalars."""
    first, _, second = model.estimators[i]
    hidden = F.leaky_relu(first.weight @ maps[i][b].mean((1, 2)) + first.bias, 0.01)
    *weights, offset = second.weight @ hidden + second.bias
    represented = torch.full_like(maps[i][b], offset.item())
    for j, f in enumerate(maps):
        if j != i:
            represented = represented + weights.pop(0) * f[b]
    assert not weights
    return represented


@pytest.mark.parametrize('count', [2, 3, 4])
def test_a_representation_is_an_affine_map_of_the_other_modalities(count):
    model, maps = Correlation(count, 6), list(torch.randn(count, 5, 6, 4, 3))
    found = model(maps)
    assert len(found) == count
    for i in range(count):
        for b in range(5):
            torch.testing.assert_close(found[i][b], naive(model, maps, b, i))


def test_every_sample_and_modality_has_as_many_scalars_as_there_are_modalities():
    for count in (2, 3, 4):
        model = Correlation(count, 6)
        assert len({id(e) for e in model.estimators}) == count
        assert all(e(torch.randn(5, 6)).shape == (5, count) for e in model.estimators)


def test_a_modality_enters_its_own_representation_through_its_average_alone():
    model, maps = Correlation(3, 6), list(torch.randn(3, 5, 6, 4, 3))
    shuffled = list(maps)
    shuffled[1] = maps[1].flatten(2)[:, :, torch.randperm(12)].unflatten(2, (4, 3))
    before, after = model(maps), model(shuffled)
    torch.testing.assert_close(after[1], before[1])
    assert (after[0] - before[0]).abs().max() > 1e-2
    for parameter in model.estimators[1].parameters():
        torch.nn.init.zeros_(parameter)
    assert not model(maps)[1].any()


def test_without_the_others_a_representation_is_its_offset_everywhere():
    model, f = Correlation(3, 6), torch.randn(5, 6, 4, 3)
    represented = model([f, torch.zeros_like(f), torch.zeros_like(f)])[0]
    offset = model.estimators[0](f.mean((2, 3)))[:, 2]
    torch.testing.assert_close(represented, offset.view(5, 1, 1, 1).expand_as(f))


@pytest.mark.parametrize('count', [2, 3, 4])
def test_before_training_an_absent_modality_is_about_the_mean_of_the_others(count):
    """Without features and hidden biases, the estimator returns the biases of its last layer."""
    model, maps = Correlation(count, 6), list(torch.randn(count, 5, 6, 4, 3))
    maps[0] = torch.zeros_like(maps[0])
    for estimate in model.estimators:
        torch.nn.init.zeros_(estimate[0].bias)
    expected = torch.stack(maps[1:]).mean(0)
    torch.testing.assert_close(model(maps)[0], expected)


def test_an_absent_modality_is_a_constant_combination_of_the_present_ones():
    task = TASKS['faces']
    net = LCR(task).eval()
    batch = batch_of(task)
    mask = torch.tensor([[False, True, True]]).expand(6, -1)
    features = net.encode(batch.inputs)
    (represented,) = net.represent(features, mask)[task.names[0]]
    (model,) = net.correlations
    a, b, offset = model.estimators[0](torch.zeros(8))
    expected = a * features[task.names[1]][0] + b * features[task.names[2]][0] + offset
    torch.testing.assert_close(represented, expected)
    # The sensor that is on alone is represented by nothing but an offset, but represents others.
    alone = net.represent(features, torch.tensor([[True, False, False]]).expand(6, -1))
    own, other = (alone[name][0].flatten(1) for name in task.names[:2])
    torch.testing.assert_close(own, own[:, :1].expand_as(own))
    assert (other.std(1) > 0).all()


@pytest.mark.parametrize('kind', KINDS)
def test_the_decoder_receives_the_concatenated_representations(kind):
    task, net = TASKS[kind], LCR(TASKS[kind]).eval()
    batch = batch_of(task)
    features = net.encode(batch.inputs)
    fused = []
    for s, model in enumerate(net.correlations):
        maps = [
            features[name][s] * batch.mask[:, m, None, None, None]
            for m, name in enumerate(task.names)
        ]
        joined = torch.cat(
            [torch.stack([naive(model, maps, b, i) for b in range(6)]) for i in range(len(maps))], 1
        )
        fused.append(net.fusion.reduce[s](joined) if net.fusion.reduce else joined)
    expected = net.decoder(tuple(fused))
    torch.testing.assert_close(net.decode(features, batch.mask), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_with_parameters_of_zero_predictions_do_not_depend_on_inputs(kind):
    task, net = TASKS[kind], LCR(TASKS[kind]).eval()
    for p in net.correlations.parameters():
        torch.nn.init.zeros_(p)
    batch = batch_of(task)
    logits = net.predict(batch.inputs, batch.mask)
    torch.testing.assert_close(logits, logits[:1].expand_as(logits))


def test_a_zero_input_that_is_there_is_not_taken_for_a_missing_one():
    task = TASKS['faces']
    net = LCR(task).train()
    net(*batch_of(task))  # move the running statistics, or zeros might encode to zeros
    net.eval()
    batch = batch_of(task)
    batch.inputs['depth'].zero_()
    with_depth, without = (
        net.predict(batch.inputs, torch.tensor([[True, d, True]]).expand(6, -1))
        for d in (True, False)
    )
    assert (with_depth - without).abs().max() > 1e-6


def test_a_single_modality_is_refused():
    task = dataclasses.replace(TASKS['faces'], modalities=TASKS['faces'].modalities[:1])
    with pytest.raises(UserError, match='lcr on toy: expected 2 modalities or more, found 1'):
        LCR(task)


@pytest.mark.parametrize('kind', KINDS)
def test_training_lowers_the_loss(kind):
    task, net = TASKS[kind], LCR(TASKS[kind])
    masks = torch.from_numpy(subset_masks(len(task.names)))
    batch = batch_of(task, 8)._replace(mask=masks[torch.arange(8) % len(masks)])
    if task.kind == 'segmentation':  # large squares instead of noise
        squares = torch.randint(len(task.classes), (8, 4, 4))
        batch = batch._replace(target=squares.repeat_interleave(8, 1).repeat_interleave(8, 2))
    for name, x in batch.inputs.items():
        shown = batch.target.view(8, *[1] * (x.ndim - batch.target.ndim), *batch.target.shape[1:])
        batch.inputs[name] = 0.1 * x + shown
    assert lowers(net, batch, 3e-3, 20)
