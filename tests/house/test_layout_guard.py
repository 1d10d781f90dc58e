"""No convolution runs in the memory layout that breaks the process on some CPUs.

On a CPU with AVX-512 nothing would die without the guard, so its effect is tested as well as the
absence of a crash.
"""

import torch
from forks import status_of
from torch import nn

from benchmark.engine.building import keep_plain_layout

FEW = [2, 3, 4, 5, 6]
"""Numbers of input channels at which the convolution breaks the process."""


def train():
    """Trains such convolutions; ends with status 0 if the process survives that."""
    torch.manual_seed(0)
    for channels in FEW:
        for _ in range(30):
            conv = nn.Conv2d(channels, 8, 1, stride=2, bias=False)
            conv = conv.to(memory_format=torch.channels_last)
            keep_plain_layout(conv)
            x = torch.randn(8, channels, 24, 24).to(memory_format=torch.channels_last)
            conv(x.requires_grad_()).square().sum().backward()
        print(channels, flush=True)


def test_a_strided_1x1_convolution_of_few_channels_trains_without_killing_the_process(tmp_path):
    told = tmp_path / 'told'
    status = status_of(train, told)
    assert (status, told.read_text().split()) == (0, [str(channels) for channels in FEW])


def layout_seen_by(conv):
    """Whether weights and input of a forward pass are plain, given a channels_last input."""
    seen = []
    conv.to(memory_format=torch.channels_last)
    keep_plain_layout(conv)
    conv.register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous()))
    conv(torch.randn(2, conv.in_channels, 8, 8).to(memory_format=torch.channels_last))
    # A 1x1 kernel is stored alike in both layouts; its strides tell which one was asked for.
    plain = conv.weight.stride() == torch.empty(conv.weight.shape).stride()
    return plain, seen[0]


def test_only_the_convolutions_that_break_leave_channels_last():
    assert layout_seen_by(nn.Conv2d(4, 8, 1, stride=2)) == (True, True)
    assert layout_seen_by(nn.Conv2d(32, 8, 1, stride=2, groups=8)) == (True, True)
    assert layout_seen_by(nn.Conv2d(16, 8, 1, stride=2)) == (False, False)
    assert layout_seen_by(nn.Conv2d(4, 8, 3, stride=2)) == (False, False)
    assert layout_seen_by(nn.Conv2d(4, 8, 1)) == (False, False)


def test_the_guard_changes_no_value():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 8, 1, stride=2), torch.randn(2, 4, 9, 9)
    before = conv(x)
    keep_plain_layout(conv)
    torch.testing.assert_close(conv(x.to(memory_format=torch.channels_last)), before)
