"""The optimiser wrappers: what hooks of an optimiser see, with and without mixed precision."""

import pytest
import torch
from mmengine.optim.optimizer import amp_optimizer_wrapper

from benchmark.engine.wrappers import MixedWrapper, PlainWrapper
from methods.common.clipping import clip_networks

SCALE = 2.0**16
LARGEST = 0.1


def stepped(make, fused, clip):
    """The weights after a step of AdamW, and the norm that a hook of the optimiser found."""
    torch.manual_seed(0)
    network, norms = torch.nn.Linear(4, 3), []
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=fused)
    optimizer.register_step_pre_hook(
        lambda *_: norms.append(torch.nn.utils.get_total_norm(p.grad for p in network.parameters()))
    )
    wrapper = make(optimizer=optimizer, **({'clip_grad': {'max_norm': clip}} if clip else {}))
    with clip_networks(optimizer, [[network]], LARGEST):
        wrapper.update_params(network(torch.ones(2, 4)).square().sum())
    return torch.cat([p.detach().flatten() for p in network.parameters()]), norms[0].item()


def mixed(**given):
    return MixedWrapper(loss_scale={'device': 'cpu', 'init_scale': SCALE}, **given)


@pytest.mark.parametrize('clip', [0, 0.5])
@pytest.mark.parametrize('fused', [False, True])
def test_hooks_of_the_optimiser_see_gradients_without_the_scale(fused, clip, monkeypatch):
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    plain, norm = stepped(PlainWrapper, fused, clip)
    weights, seen = stepped(mixed, fused, clip)
    assert norm > 2 * LARGEST  # so that it is clipped
    assert seen == pytest.approx(norm, rel=1e-5)
    torch.testing.assert_close(weights, plain)
