"""Encoders of timm in the place of the suite's ResNet, with weights from a local file."""

from __future__ import annotations

import difflib
import functools
import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.method import Modality, Task
from methods.common.resize import bilinear

Size = tuple[int, int]
"""Height and width."""


def timm() -> Any:
    """Returns the library, which is an optional one.

    Raises:
        UserError: It is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module('timm')
    except ImportError as error:
        why = str(error)
    except RuntimeError as error:  # as torchvision does that was built for another PyTorch
        why = f'{type(error).__name__}: {error}'.splitlines()[0]
    raise UserError(f"encoder: expected the package timm (pip install '.[encoders]'), found: {why}")


def usual(name: str) -> Any:
    """Returns what timm knows of a model.

    Raises:
        UserError: timm has no model of this name.
    """
    library = timm()
    if not library.is_model(name):
        # More than a thousand names would hide what is wrong.
        known = [n for n in library.list_models() if not n.startswith('test_')]  # toys of its tests
        near = difflib.get_close_matches(name, known, 1, 0)
        raise UserError(
            f"unknown encoder '{name}'; did you mean '{near[0]}'? (all: timm.list_models())"
        )
    return library.get_pretrained_cfg(name) or library.models.PretrainedCfg()


def made(name: str, modality: Modality, **options: Any) -> nn.Module:
    """Builds a model for images of a modality.

    Args:
        name: Name of the model.
        modality: Gives channels and size.
        **options: What timm's `create_model` takes besides.

    Raises:
        UserError: timm has no such model, or it does not take images of this size.
    """
    channels, *size = modality.shape
    if usual(name).fixed_input_size:
        options['img_size'] = tuple(size)
    try:
        model: nn.Module = timm().create_model(name, in_chans=channels, **options)
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError) as error:
        raise _refused(name, modality, error) from None
    return model


@functools.cache
def probe(name: str, modality: Modality) -> tuple[tuple[int, ...], ...]:
    """Returns the shapes (C, H, W) of a model's maps, finest first, without computing anything.

    Raises:
        UserError: As `made`.
    """
    with torch.device('meta'):
        model = made(name, modality, features_only=True).eval()
        _check_patches(name, modality, model)
        try:
            maps = _maps(model, torch.zeros(1, *modality.shape))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise _refused(name, modality, error) from None
    return tuple(tuple(x.shape[1:]) for x in maps)


def _check_patches(name: str, modality: Modality, model: nn.Module) -> None:
    """Checks that an image consists of whole patches; timm would cut off the rest silently."""
    for part in model.modules():
        patch = getattr(part, 'patch_size', None)
        if not isinstance(part, timm().layers.PatchEmbed) or patch is None:
            continue
        if any(side % p for side, p in zip(modality.shape[1:], patch, strict=True)):
            sides = ' x '.join(map(str, modality.shape[1:]))
            raise UserError(
                f'encoder={name}: expected images of whole patches of '
                f'{" x ".join(map(str, patch))} pixels, found {modality.name} of {sides}'
            )


def _refused(name: str, modality: Modality, error: Exception) -> UserError:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    shape = ' x '.join(map(str, modality.shape))
    return UserError(f'encoder={name}: cannot encode {modality.name} of {shape}: {why}')


def _maps(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Returns the maps (B, C, H, W) of a model; some models have the channels last."""
    info: Any = model.feature_info
    pairs = zip(model(x), info.channels(), strict=True)
    return [y if y.shape[1] == channels else y.movedim(3, 1) for y, channels in pairs]


class Backbone(nn.Module):
    """A model of timm whose maps have the channels and sizes of those of the suite's ResNet.

    For label maps, the four deepest maps of the model serve the four scales; of a model whose maps
    all have one size, such as a vision transformer, the deepest serves all of them, as in the
    simple feature pyramid of ViTDet (Li et al., ECCV 2022). For classes, the deepest map serves.
    Each is projected by a convolution of 1x1 with batch normalisation and resized bilinearly, so
    that every method works on it unchanged.

    Args:
        modality: Gives channels and size of the images.
        task: Names the model (`Task.backbone`), the file of its weights (`Task.pretrained`), and
            says whether it is trained (`Task.frozen`).
        channels: Channels of each wanted map, finest first.
        sizes: Height and width of each wanted map.

    Raises:
        UserError: There is no such model, it does not take images of this size, or the weights do
            not fit.
    """

    def __init__(
        self, modality: Modality, task: Task, channels: tuple[int, ...], sizes: list[Size]
    ) -> None:
        super().__init__()
        name, shapes = task.backbone, probe(task.backbone, modality)
        self.backbone = name
        self.frozen, self.sizes = task.frozen, [tuple(size) for size in sizes]
        same = len({shape[1:] for shape in shapes}) == 1
        last = len(shapes) - 1
        first = max(0, len(shapes) - len(sizes))
        self.served = [last if same else min(first + k, last) for k in range(len(sizes))]
        loading = weights(name, modality, task.pretrained) if task.pretrained else {}
        self.model = made(name, modality, features_only=True, **loading)
        if self.frozen:
            self.model.requires_grad_(False)
        self.projections = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(shapes[k][0], c, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU(inplace=True)
            )
            for k, c in zip(self.served, channels, strict=True)
        )

    def train(self, mode: bool = True) -> Backbone:
        """Sets the mode; a frozen model stays as at test: statistics and dropout change nothing."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encodes (B, C, H, W) into a map per size."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = _maps(self.model, x)
        projected = [p(maps[k]) for p, k in zip(self.projections, self.served, strict=True)]
        return tuple(bilinear(y, size) for y, size in zip(projected, self.sizes, strict=True))


def weights(name: str, modality: Modality, file: str) -> dict[str, Any]:
    """Returns what makes timm load a file of weights, after a look at whether they fit.

    timm adapts the first convolution to other numbers of channels, and the positions of a vision
    transformer to other sizes. It would leave out silently whatever the file lacks.

    Args:
        name: Name of the model.
        modality: Gives channels and size of the images.
        file: A state dict in timm's naming, written by PyTorch or as safetensors.

    Raises:
        UserError: The file cannot be read, or lacks weights of the model.
    """
    what = f'encoder_weights={Path(file).name}'
    try:
        found = importlib.import_module('timm.models').load_state_dict(file)
    except Exception as error:  # pickle, zip files and safetensors have many of their own
        why = f'{type(error).__name__}: {(str(error).splitlines() or [""])[0]}'
        raise UserError(f'{what}: expected a state dict of {name}, found {why}') from None
    with torch.device('meta'):
        model = made(name, modality)
    heads = usual(name).classifier or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    wanted = [n for n in model.state_dict() if not n.startswith(tuple(f'{h}.' for h in heads))]
    lacking = [n for n in wanted if n not in found and not n.endswith('num_batches_tracked')]
    if lacking:
        more = f' and {len(lacking) - 3} more' if len(lacking) > 3 else ''
        raise UserError(
            f'{what}: expected the weights of {name} in the naming of timm, found no '
            f'{", ".join(lacking[:3])}{more}'
        )
    return {'pretrained': True, 'pretrained_cfg_overlay': {'file': file}}
