"""Bilinear resizing against PyTorch's, and the pyramid's head against mmsegmentation's."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from mmseg.models.decode_heads import FPNHead

from methods.common import resize

HEAD = {
    'in_channels': [6] * 3,
    'in_index': [0, 1, 2],
    'feature_strides': [4, 8, 16],
    'channels': 6,
    'dropout_ratio': 0,
    'num_classes': 5,
    'norm_cfg': {'type': 'BN'},
    'align_corners': False,
}


@pytest.mark.parametrize('many', [0, 99], ids=['kernel', 'products'])
@pytest.mark.parametrize('corners', [False, True])
@pytest.mark.parametrize('size', [(5, 7), (10, 14), (13, 9), (3, 4), (5, 14)])
def test_values_and_gradients_are_those_of_pytorch(size, corners, many, monkeypatch):
    monkeypatch.setattr(resize, 'MANY', many)
    x, weights = torch.randn(2, 3, 5, 7, requires_grad=True), torch.randn(2, 3, *size)
    expected = F.interpolate(x, size, mode='bilinear', align_corners=corners)
    (slope,) = torch.autograd.grad((expected * weights).sum(), x)
    found = resize.bilinear(x, size, corners)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), x)[0], slope)


def test_half_precision_is_resized_in_full():
    x = torch.randn(1, 2, 4, 4).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        found = resize.bilinear(x, (8, 8))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, F.interpolate(x.float(), (8, 8), mode='bilinear'))


@pytest.mark.parametrize('finest', [(8, 12), (7, 9)])
def test_the_head_is_that_of_mmsegmentation(finest):
    ours, theirs = resize.PyramidHead(**HEAD).eval(), FPNHead(**HEAD).eval()
    ours.load_state_dict(theirs.state_dict())
    maps = [torch.randn(2, 6, -(-finest[0] // k), -(-finest[1] // k)) for k in (1, 2, 4)]
    torch.testing.assert_close(ours(maps), theirs(maps))


def test_methods_resize_bilinearly_in_this_module_alone():
    own = Path(resize.__file__)
    others = [f for f in own.parent.parent.rglob('*.py') if f != own]
    assert [f.name for f in others if "mode='bilinear'" in f.read_text()] == []
