"""Whole volumes through windows: which there are, what a voxel gets, and what is held in memory."""

import numpy as np
import pytest
import torch

from benchmark.engine import evaluation, windows
from benchmark.method import Batch, Method, Modality, Task

SIDES = (4, 6, 8)
MASKS = [np.array(m) for m in ((True, False), (False, True), (True, True))]


def volumes(*extents, count=2):
    rng = np.random.default_rng(0)
    return {m: torch.from_numpy(rng.standard_normal((count, 1, *extents))) for m in 'ab'}


def window_logits(part, mask):
    """Logits (B, 2, ...) of a window, which depend on the place in it and on what lies in it."""
    x = sum(np.asarray(v) for v, there in zip(part.values(), mask, strict=True) if there)
    ramp = np.linspace(0, 1, x[0].size).reshape(x.shape[1:])
    return np.concatenate([x * ramp, x - x.mean((1, 2, 3, 4), keepdims=True)], 1)


def expected(inputs, mask):
    """The same means voxel by voxel: over all windows of a list that is made by hand."""
    extents = inputs['a'].shape[2:]
    whole = [max(n, side) for n, side in zip(extents, SIDES, strict=True)]
    padded = {}
    for name, x in inputs.items():
        padded[name] = np.zeros((*x.shape[:2], *whole))
        padded[name][:, :, : extents[0], : extents[1], : extents[2]] = x
    places = [
        sorted({*(k * side // 2 for k in range(n) if k * side // 2 + side <= n), n - side})
        for n, side in zip(whole, SIDES, strict=True)
    ]
    seen = {}
    for corner in np.stack(np.meshgrid(*places, indexing='ij'), -1).reshape(-1, 3):
        cut = tuple(slice(c, c + side) for c, side in zip(corner, SIDES, strict=True))
        logits = window_logits({m: x[(..., *cut)] for m, x in padded.items()}, mask)
        for voxel in np.ndindex(*SIDES):
            at = tuple(corner + voxel)
            seen.setdefault(at, []).append(logits[(..., *voxel)])
    found = np.zeros((len(inputs['a']), 2, *whole))
    for at, each in seen.items():
        found[(..., *at)] = np.mean(each, 0)
    return found[..., : extents[0], : extents[1], : extents[2]]


@pytest.mark.parametrize('extents', [(4, 6, 8), (5, 6, 13), (9, 7, 8), (3, 6, 17)])
@pytest.mark.parametrize('limit', [windows.LIMIT, 1])
def test_a_voxel_gets_the_mean_of_all_windows_that_see_it(extents, limit, monkeypatch):
    monkeypatch.setattr(windows, 'LIMIT', limit)
    inputs, calls = volumes(*extents), []

    def predict(part, masks, places):
        calls.append(len(masks))
        assert places.dtype == torch.int64
        assert places[..., 1].eq(1).all()
        for x, whole, begin in zip(part['a'], inputs['a'], places[..., 0].tolist(), strict=True):
            cut = tuple(slice(b, b + side) for b, side in zip(begin, SIDES, strict=True))
            there = whole[(slice(None), *cut)]
            d, h, w = there.shape[1:]
            assert torch.equal(x[:, :d, :h, :w], there)
        return [(m, torch.from_numpy(window_logits(part, m))) for m in masks]

    found = list(windows.averaged(inputs, MASKS, SIDES, 2, predict))
    assert [m.tolist() for m, _ in found] == [m.tolist() for m in MASKS]
    for mask, logits in found:
        np.testing.assert_allclose(logits, expected(inputs, mask), atol=1e-5)
    # Where memory is short, each group of subsets goes through all windows.
    assert set(calls) == ({1} if limit == 1 else {len(MASKS)})


class Counted(Method):
    """Logits are the masked sum; every call of `encode` is counted."""

    def __init__(self, task):
        super().__init__(task)
        self.calls = []

    def encode(self, inputs):
        self.calls.append({m: tuple(x.shape) for m, x in inputs.items()})
        return {m: (x,) for m, x in inputs.items()}

    def decode(self, features, mask):
        there = mask.view(*mask.shape, 1, 1, 1, 1)
        x = sum(torch.where(there[:, k], x, 0) for k, (x,) in enumerate(features.values()))
        return torch.cat([x, -x], 1)


def test_every_window_is_encoded_once_for_all_subsets():
    modalities = tuple(Modality(m, (1, *SIDES)) for m in 'ab')
    kinds = {'regions': (('r', (1,)),), 'network': 'unet3d'}
    Counted.supported_networks = ('unet3d',)
    method = Counted(Task('toy', 'segmentation', modalities, ('x', 'y'), 'Dice', 4, **kinds))
    inputs = {m: x.float() for m, x in volumes(5, 6, 13).items()}
    there = torch.ones(2, 2, dtype=torch.bool)
    batch = Batch(inputs, there, there, torch.zeros(2, 5, 6, 13), torch.arange(2))
    found = dict(zip('ab+', evaluation.subset_logits(method.eval(), batch, MASKS), strict=True))
    assert len(method.calls) == 2 * 1 * 3
    assert set(method.calls[0].values()) == {(2, 1, *SIDES)}
    for key, x in (('a', inputs['a']), ('b', inputs['b']), ('+', inputs['a'] + inputs['b'])):
        torch.testing.assert_close(found[key][1], torch.cat([x, -x], 1))


class Placed(Method):
    """Logits are the coordinates of each voxel in its volume, as far as the method is told."""

    supported_networks = ('unet3d',)

    def predict(self, inputs, mask):
        return self.predict_at(inputs, mask)

    def predict_at(self, inputs, mask, places=None):
        begin = torch.zeros(len(mask), 3) if places is None else places[..., 0]
        axes = torch.meshgrid(*(torch.arange(n) for n in SIDES), indexing='ij')
        return begin[..., None, None, None] + torch.stack(axes).float()


@pytest.mark.parametrize('extents', [(4, 6, 8), (9, 7, 13)])
def test_a_window_is_told_its_place_wherever_volumes_are_predicted(extents):
    modalities = tuple(Modality(m, (1, *SIDES)) for m in 'ab')
    kinds = {'regions': (('r', (1,)),), 'network': 'unet3d'}
    method = Placed(Task('toy', 'segmentation', modalities, ('x', 'y', 'z'), 'Dice', 4, **kinds))
    inputs = {m: x.float() for m, x in volumes(*extents).items()}
    there = torch.ones(2, 2, dtype=torch.bool)
    batch = Batch(inputs, there, there, torch.zeros(2, *extents), torch.arange(2))
    found = [logits for _, logits in evaluation.subset_logits(method.eval(), batch, MASKS)]
    found.append(windows.logits_of(method, inputs, there))
    for logits in found:
        for sample in logits:
            np.testing.assert_allclose(sample, np.indices(extents), atol=1e-4)
    patch = {m: x[..., :4, :6, :8] for m, x in inputs.items()}
    places = torch.tensor([[[1, 1], [0, 1], [5, 1]], [[0, 1], [0, 1], [0, 1]]])
    logits = method(*batch._replace(inputs=patch, places=places))
    assert logits[:, :, 0, 0, 0].tolist() == [[1, 0, 5], [0, 0, 0]]
