"""Training a network on one batch until it has learnt something."""

import torch


def lowers(method, batch, lr, steps, names=None):
    """Returns whether every term of the loss falls below 80 % of its first value within some steps.

    Args:
        method: The method, which is trained by Adam.
        batch: What it is trained on.
        lr: The learning rate.
        steps: The number of steps in which the terms have to fall.
        names: The terms that have to fall, 'loss' being their sum; all but the sum by default.

    Returns:
        Whether they fell, all at the same step; no further one is taken then.
    """
    optimizer = torch.optim.Adam(method.parameters(), lr)
    first = None
    for _ in range(steps):
        losses = method.loss(batch)
        total, logged = method.parse_losses(losses)
        first = first or logged
        if all(logged[k] < 0.8 * first[k] for k in names or losses):
            return True
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return False
