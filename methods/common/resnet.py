"""ResNet encoders of images: depth, strides and ImageNet weights."""

from __future__ import annotations

import pickle
from typing import TypeVar

import torch
from mmengine.runner import CheckpointLoader
from mmseg.models.backbones import ResNet
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.method import Modality, Task

Network = TypeVar('Network', bound=nn.Module)

SMALL = 80
"""If a side of an image has fewer pixels, the stem's max-pooling, which halves it, is left out."""
EXPANSION = {18: 1, 34: 1, 50: 4}
"""Depth -> output channels of a stage, divided by the channels of its 3x3 convolutions.

The bottleneck blocks of ResNet-50 end with a convolution that widens their output four times.
"""


def kaiming(network: Network) -> Network:
    """Draws the initial weights of a network in place, and returns the network.

    The weights of convolutions are normal with the variance 2 / (kernel size x output channels),
    which suits ReLU (He et al., Delving Deep into Rectifiers, ICCV 2015, with the fan out, as in
    torchvision's ResNet). BatchNorm starts with weight 1 and bias 0, the last one of a residual
    branch as well. Biases of convolutions and linear layers keep what PyTorch draws.

    All parts of the shared networks that mmsegmentation builds without drawing weights pass
    through this function; mmcv's ConvModule draws equal ones itself. A method that needs other
    weights draws them in its constructor, after the parts have been built, or in `init_weights`,
    which runs last.

    Args:
        network: A network whose convolutions are followed by ReLU, or by BatchNorm.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    return network


def resnet(modality: Modality, task: Task, stages: int, stem: int = 7) -> ResNet:
    """Returns the first stages of the task's ResNet; the first stage has `width` channels.

    Args:
        modality: Gives the image's channels and size.
        task: Gives width, depth and pretrained weights.
        stages: Number of residual stages, 1 to 4.
        stem: Side of the first convolution's kernel, an odd number.

    Raises:
        UserError: No ResNet of this depth is supported, or the pretrained weights do not fit.
    """
    if task.depth not in EXPANSION:
        raise UserError(f'depth on {task.dataset}: expected 18, 34 or 50, found {task.depth!r}')
    net = ResNet(
        depth=task.depth,
        in_channels=modality.shape[0],
        stem_channels=task.width,
        base_channels=task.width,
        num_stages=stages,
        strides=(1, 2, 2, 2)[:stages],
        dilations=(1,) * stages,
        out_indices=tuple(range(stages)),
        norm_eval=False,
    )
    if small(modality):
        net.maxpool = nn.Identity()
    if stem != 7:
        net.conv1 = nn.Conv2d(modality.shape[0], task.width, stem, 2, stem // 2, bias=False)
    kaiming(net)
    if task.pretrained:
        load_pretrained(net, task.pretrained)
    return net


def small(modality: Modality) -> bool:
    """Returns whether the image is so small that the stem leaves out its max-pooling."""
    return min(modality.shape[1:]) < SMALL


def stride(modality: Modality, stages: int) -> int:
    """Returns the total stride, in pixels of this image, after `stages` stages."""
    return (2 if small(modality) else 4) * 2 ** (stages - 1)


def map_sizes(modality: Modality, stages: int) -> list[tuple[int, int]]:
    """Returns height and width of the map after each of the stages, finest first."""
    _, height, width = modality.shape
    steps = [stride(modality, k) for k in range(1, stages + 1)]
    return [(-(-height // step), -(-width // step)) for step in steps]


def read_weights(file: str) -> dict[str, Tensor]:
    """Reads the weights of a checkpoint.

    Args:
        file: A path, a URL or another address that mmengine can load, such as
            'torchvision://resnet50'.

    Returns:
        Name of the parameter, without the prefixes 'module.' and 'backbone.' -> weights.

    Raises:
        UserError: The file does not exist, cannot be read, or holds no state dict.
    """
    try:
        # mmengine would otherwise print which loader it chose into the log of the run.
        found = CheckpointLoader.load_checkpoint(file, map_location='cpu', logger='silent')
    except FileNotFoundError:
        raise UserError(f'pretrained={file}: expected a checkpoint, found no such file') from None
    except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [''])[0]
        problem = f'{type(error).__name__}: {reason}'
        raise UserError(f'pretrained={file}: expected a checkpoint, found {problem}') from None
    if isinstance(found, dict):
        found = found.get('state_dict', found)
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise UserError(f'pretrained={file}: expected a state dict, found a {kind}')
    return {
        name.removeprefix('module.').removeprefix('backbone.'): x
        for name, x in found.items()
        if isinstance(x, Tensor)
    }


def load_pretrained(net: ResNet, file: str) -> None:
    """Copies all weights of a network from a checkpoint in torchvision's naming.

    The checkpoint's deeper stages and its classifier are ignored. If the number of input channels
    differs, the first convolution is summed over its channels and the sum divided equally among the
    network's; for one channel this is what ESANet (Seichter et al., ICRA 2021) does for depth.

    Args:
        net: The network, changed in place.
        file: As in `read_weights`.

    Raises:
        UserError: The file cannot be read, or holds the weights of another architecture.
    """
    found, state = read_weights(file), net.state_dict()
    # Checkpoints from before torch 0.4 lack these counters. BatchNorm needs them only if its
    # statistics are plain averages over all steps, which they are not here.
    own = {name: x for name, x in state.items() if not name.endswith('num_batches_tracked')}
    what = f'pretrained={file}: expected the weights of a ResNet-{net.depth}'
    _refuse(f'{what}, found no', [name for name in own if name not in found])
    parts = {name.partition('.')[0] for name in own}
    others = [n for n in found if n.partition('.')[0] in parts and n not in state]
    _refuse(f'{what}, found besides', others)
    stem, channels = found['conv1.weight'], own['conv1.weight'].shape[1]
    if stem.shape[1] != channels:
        found['conv1.weight'] = (stem.sum(1, keepdim=True) / channels).expand(-1, channels, -1, -1)
    for name, x in own.items():
        if found[name].shape != x.shape:
            shapes = f'expected {tuple(x.shape)}, found {tuple(found[name].shape)}'
            raise UserError(f'pretrained={file}: {name}: {shapes}')
    with torch.no_grad():
        for name, x in own.items():
            x.copy_(found[name])
    # mmengine's init_weights() would otherwise draw the weights again.
    net.is_init = True


def _refuse(text: str, names: list[str]) -> None:
    if names:
        more = f' and {len(names) - 3} more' if len(names) > 3 else ''
        raise UserError(f'{text} {", ".join(names[:3])}{more}')
