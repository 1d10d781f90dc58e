"""The first convolution behind the masks, once for all subsets: plain logits, and less work."""

import pytest
import torch
from tasks import ESANET, TASKS, VOLUMES, batch_of
from torch import nn

from benchmark.engine import stacking
from benchmark.engine.first_layers import Products, Repeated
from benchmark.engine.stacking import decoded
from benchmark.missing import subset_masks
from benchmark.registry import METHODS, discover
from methods.common.networks import masked
from methods.modality_dropout import ModalityDropout

discover()
MASKS = list(subset_masks(3))
SHARING = sorted(name for name, cls in METHODS.module_dict.items() if cls.shares_convolution)


def network(cls=ModalityDropout, task=TASKS['faces']):
    torch.manual_seed(0)
    return cls(task).eval()


@torch.no_grad()
def both(method, batch, limit=1):
    """The logits of all subsets, from plain calls and as they are tested; the products made."""
    made, real = [], stacking.Products

    class Watched(real):
        """Remembers all that are made."""

        def __init__(self):
            super().__init__()
            made.append(self)

    masks = list(subset_masks(len(method.task.names)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(stacking.LIMIT, 'cpu', limit)
        patch.setattr(stacking, 'Products', Watched)
        features = method.encode(batch.inputs)
        plain = [method.decode(features, batch.available & torch.from_numpy(m)) for m in masks]
        found = [logits for _, logits in decoded(method, features, batch.available, masks)]
    return plain, found, made


def close(found, plain, tolerance=1e-5):
    for one, other in zip(found, plain, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(1, scale))


@pytest.mark.parametrize('limit', [1, 2**30])
@pytest.mark.parametrize(
    ('task', 'layers'),
    # The first block of a stage convolves its input twice. Where single pixels are reduced, nothing
    # would be gained.
    [(TASKS['faces'], 2), (TASKS['mixed'], 0), (TASKS['vectors'], 0), (TASKS['rooms'], 0)],
    ids=['faces', 'mixed', 'vectors', 'rooms'],
)
def test_each_modality_is_convolved_once_and_not_for_each_subset(task, layers, limit):
    method, batch = network(task=task), batch_of(task, 3)
    plain, found, (products,) = both(method, batch, limit)
    assert products.count == layers * len(task.names)
    close(found, plain)


@pytest.mark.parametrize('task', [VOLUMES, ESANET], ids=['volumes', 'esanet'])
def test_other_networks_give_plain_logits(task):
    plain, found, _ = both(network(task=task), batch_of(task, 2))
    close(found, plain)


def test_samples_that_lack_a_modality_may_hold_nan():
    method, batch = network(), batch_of(TASKS['faces'], 3)
    batch.available[1, 0] = False
    batch.inputs['rgb'][1] = torch.nan
    plain, found, _ = both(method, batch)
    assert all(x.isfinite().all() for x in found)
    close(found, plain)


class Pixels(ModalityDropout):
    """Sets to zero what is missing and each negative pixel."""

    def decode(self, features, mask):
        """Masks by hand."""
        maps = {
            name: tuple(
                torch.where(mask[:, i, None, None, None] & (x > 0), x, x.new_zeros(())) for x in xs
            )
            for i, (name, xs) in enumerate(features.items())
        }
        return super().decode(maps, mask)


class Token(ModalityDropout):
    """Puts another number than zero in the place of what is missing."""

    def decode(self, features, mask):
        """Masks by hand."""
        maps = {
            name: tuple(torch.where(mask[:, i, None, None, None], x, torch.ones(())) for x in xs)
            for i, (name, xs) in enumerate(features.items())
        }
        return super().decode(maps, torch.ones_like(mask))


@pytest.mark.parametrize('cls', [Pixels, Token])
def test_other_masks_than_plain_zeros_are_computed_as_they_are(cls):
    assert not cls.shares_convolution
    cls.shares_convolution = True
    plain, found, (products,) = both(network(cls), batch_of(TASKS['faces'], 3))
    assert products.count == 0
    assert all(map(torch.equal, found, plain))


class Inherits(ModalityDropout):
    """As it is."""


def test_a_subclass_does_not_share_unless_it_says_so():
    assert ModalityDropout.shares_convolution
    assert not Inherits.shares_convolution
    plain, found, made = both(network(Inherits), batch_of(TASKS['faces'], 3))
    assert not made
    assert all(map(torch.equal, found, plain))


@pytest.mark.parametrize('kind', ['faces', 'rooms'])
@pytest.mark.parametrize(
    'name', [n for n, c in METHODS.module_dict.items() if c.shares_convolution]
)
def test_methods_that_say_so_share_on_faces_and_have_plain_logits(name, kind):
    plain, found, (products,) = both(
        network(METHODS.get(name), TASKS[kind]), batch_of(TASKS[kind], 3)
    )
    assert (products.count > 0) == (kind == 'faces')
    close(found, plain)


def test_nothing_is_shared_where_gradients_are_asked_for():
    method, batch = network(), batch_of(TASKS['faces'], 3)
    features = method.encode(batch.inputs)
    (_, logits), *_ = decoded(method, features, batch.available, MASKS)
    logits.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in method.encoders.parameters())


def maps_of(*channels, subsets=4, layout=torch.contiguous_format):
    """Maps of a batch of 3, masks of some subsets, and the tensors that stand for the maps."""
    torch.manual_seed(0)
    names = tuple('abcd'[: len(channels)])
    drawn = [torch.randn(3, c, 6, 5).to(memory_format=layout) for c in channels]
    maps = {name: (x,) for name, x in zip(names, drawn, strict=True)}
    mask = torch.rand(3 * subsets, len(channels)) < 0.5
    products = Products()
    stand = {n: (Repeated([(x, None)], subsets, products),) for n, (x,) in maps.items()}
    plain = {n: (torch.cat([x] * subsets),) for n, (x,) in maps.items()}
    return (torch.cat(masked(m, mask, names)[0], 1) for m in (stand, plain)), products


@pytest.mark.parametrize(
    ('layer', 'shared'),
    [
        (nn.Conv2d(6, 8, 3, 2, 1), True),
        (nn.Conv2d(6, 8, 1), False),
        (nn.Conv2d(6, 8, 1, 2, bias=False), True),
        (nn.Conv2d(6, 8, (3, 1), dilation=2, padding='same'), True),
        (nn.Conv2d(6, 4, 3, groups=2), False),
        (nn.ConvTranspose2d(6, 4, 2, 2), False),
        (nn.Conv2d(6, 4, 3, padding=1, padding_mode='reflect'), False),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(6, 4, 3)), False),
    ],
    ids=[
        'strided',
        'pixel',
        'strided pixel',
        'dilated',
        'groups',
        'transposed',
        'reflect',
        'behind relu',
    ],
)
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_a_layer_computes_what_it_computes_of_the_plain_tensor(layer, shared, layout):
    (x, plain), products = maps_of(3, 2, 1, layout=layout)
    assert type(x) is Repeated
    assert x.shape == plain.shape
    layer = layer.to(memory_format=layout)
    expected = layer(plain)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)
    assert layer(x).is_contiguous(memory_format=layout)
    assert products.count == 3 * shared  # the second and third time they are known


@torch.no_grad()
def test_two_layers_on_the_same_maps_do_not_share_their_products():
    (x, plain), products = maps_of(2, 2)
    for seed in (1, 2):
        torch.manual_seed(seed)
        layer = nn.Conv2d(4, 3, 3)
        torch.testing.assert_close(layer(x), layer(plain), rtol=0, atol=1e-5)
        del layer  # its memory may be used again
    assert products.count == 4


@torch.no_grad()
def test_a_change_in_place_is_refused():
    (x, _), _ = maps_of(2, 2)
    with pytest.raises(TypeError, match='relu_.* would change what all subsets share'):
        nn.functional.relu_(x)
