"""timm, also where torchvision was built for a PyTorch with CUDA and this one has none."""

import torch

SHAPE = 'Tensor dets, Tensor scores, float iou_threshold'


def get_ready():
    """Imports timm.

    It imports torchvision, which describes two compiled operators that it does not find here. No
    encoder uses them, so that their names are enough.
    """
    try:
        import timm
    except RuntimeError as error:
        if 'torchvision::' not in str(error):
            raise
        library = torch.library.Library('torchvision', 'FRAGMENT')
        for name in ('nms', 'qnms'):
            library.define(f'{name}({SHAPE}) -> Tensor')
        get_ready.library = library  # the names last as long as it does
        import timm
    return timm
