"""GMD: what training on one subset would undo for another is taken out of the gradient."""

import copy
import itertools

import torch
from torch import nn

from benchmark.method import IGNORE, Method
from benchmark.registry import METHODS
from methods.common.networks import decoder, fused_channels
from methods.shaspec import SharedEncoder


class DynamicSharing(SharedEncoder):
    """One network from input to logits for every modality, with each modality's own norms.

    The adapters in front are each modality's own as well. What belongs to a modality is used where
    that modality is there, and only then.

    Args:
        task: Gives modalities, kind, width and classes.
    """

    def __init__(self, task):
        super().__init__(task)
        network = nn.Sequential(self.encoder, decoder(task, channels=fused_channels(task)[-1]))
        del self.encoder
        common = {
            id(p): p
            for module in network.modules()
            if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
            for p in module.parameters(recurse=False)
        }
        # What a copy finds in its memo is not copied: the copies differ in their norms alone.
        self.networks = nn.ModuleDict(
            {name: copy.deepcopy(network, dict(common)) for name in task.names}
        )

    def forward(self, inputs):
        """Turns {modality: (B, *shape)} into {modality: logits (B, K) or (B, K, H, W)}."""
        return {name: self.networks[name](self.adapt(name, x)) for name, x in inputs.items()}


def spread(flags, like):
    """Returns flags (B,) with as many trailing dimensions of 1 as `like` (B, ..) needs."""
    return flags.view(-1, *[1] * (like.dim() - 1))


def decoupling_weights(products, order):
    """Returns the weights by which gradients sum to their projections, (n,).

    Each g_i meets the others one by one; where it conflicts with g_j it loses its part along g_j:

        g_i <- g_i - <g_i, g_j> / ||g_j||^2 g_j    if <g_i, g_j> < 0

    g_j being as it was at first. Whatever g_i becomes is a combination of the gradients, so that
    their inner products say all: sum_i g_i = sum_k w_k g_k. One factor for all gradients does not
    change w, nor does their number of parameters make it slower.

    Args:
        products: <g_i, g_j>, (n, n).
        order: (n, n), row i a permutation: the order in which g_i meets the others.
    """
    rows = torch.arange(len(products), device=products.device)
    mixture = torch.eye(len(products), dtype=products.dtype, device=products.device)
    for met in order.T:
        product = (mixture * products[met]).sum(1)
        conflict = (product < 0) & (met != rows)
        part = torch.where(conflict, product / products.diagonal()[met], 0)
        mixture[rows, met] -= part
    return mixture.sum(0)


def decoupled_gradients(losses, parameters, scale):
    """Returns the sum of the losses' projected gradients, one tensor per parameter.

    Args:
        losses: n scalar tensors with a graph.
        parameters: Leaves of the graph; a loss need not reach them all.
        scale: Scalar tensor by which losses are multiplied on their way back, and gradients divided
            at its end, so that half precision does not lose small ones.
    """
    single = [
        torch.autograd.grad(scale * x, parameters, retain_graph=True, materialize_grads=True)
        for x in losses
    ]
    stacks = [torch.stack(g).flatten(1) / scale for g in zip(*single, strict=True)]
    products = sum(g @ g.T for g in stacks)
    order = torch.rand_like(products).argsort(1)
    weights = decoupling_weights(products, order)
    return [(weights @ g).view_as(p) for g, p in zip(stacks, parameters, strict=True)]


@METHODS.register_module('gmd')
class GMD(Method):
    """Gradient-guided modality decoupling (Wang, Luo, Hu and Zhang, AAAI 2024).

    arXiv 2402.16318. Every modality alone is turned into logits z_i by one network with norms of
    the modality's own (`DynamicSharing`); a prediction is the mean of those that are there. Each
    step takes the gradients g_K of all non-empty subsets' losses

        L_K = task loss of mean_{i in K} z_i

    one by one, takes out of each what conflicts with another, in random order
    (`decoupling_weights`), and descends along their mean. A dominant modality can so not train the
    others' share away. With decouple=False it descends along the plain mean of the g_K.

    The subsets are the training masks: the table's sampler has no say. They count alike, as with
    the sampler 'uniform'. Where data have real gaps L_K covers the samples that have all of K,
    which without gaps is the paper's; a K that no sample of a batch has gives no gradient.

    Only excerpts of the paper were available to check against: the form is the released code's,
    at its setting of all subsets (another of its scripts takes those of two modalities alone).
    This project's adaptations: the suite's encoders and decoders, hence batch normalisation
    instead of group normalisation, adapters in front of the shared network (ShaSpec's), and
    cross-entropy for L_K, which is a soft Dice there. Differences to that code: it sums, instead
    of averaging, gradients of parameters that not every subset reaches, such as norms, which its
    Adam hides and plain descent would not; and there a gradient meets itself too.

    Args:
        task: What the dataset asks.
        decouple: Take out conflicts; without, the network with dynamic sharing alone.
    """

    sampler = 'complete'

    def __init__(self, task, *, decouple=True):
        super().__init__(task)
        self.decouple = decouple
        self.networks = DynamicSharing(task)
        count = len(task.names)
        sizes = range(1, count + 1)
        self.subsets = [k for size in sizes for k in itertools.combinations(range(count), size)]

    def encode(self, inputs):
        """Turns {modality: (B, *shape)} into {modality: logits (B, K) or (B, K, H, W)}."""
        return self.networks(inputs)

    def decode(self, features, mask):
        """Returns the mean of the present modalities' logits, in float32; mask (B, M) bool."""
        total, count = 0, 0
        for column, name in enumerate(self.task.names):
            if name in features:
                there = spread(mask[:, column], features[name])
                total = total + torch.where(there, features[name].float(), 0)
                count = count + there.int()
        return total / count.clamp_min(1)

    def loss(self, batch):
        """Returns the loss of every subset, divided by their number: in sum they are the mean."""
        features, losses = self.encode(batch.inputs), {}
        for members in self.subsets:
            counted = torch.stack([batch.mask[:, m] for m in members]).all(0)
            # Given these logits alone, the way back leads through these networks alone.
            given = {self.task.names[m]: features[self.task.names[m]] for m in members}
            term = self.criterion(self.decode(given, batch.mask), batch.target, counted)
            losses[f'loss_{"+".join(given)}'] = term / len(self.subsets)
        return losses

    def criterion(self, logits, target, counted):
        """Returns the task loss over the samples that count; 0 where none does.

        Args:
            logits: (B, K) or (B, K, H, W).
            target: (B,) or (B, H, W).
            counted: (B,) bool.
        """
        counted = spread(counted, target) & (target != IGNORE)
        loss = self.task_loss(logits, torch.where(counted, target, IGNORE))
        # A mean over none is NaN, though its gradient is zero.
        return torch.where(counted.any(), loss, 0.0)

    def train_step(self, data, optim_wrapper):
        """Updates the parameters along the decoupled gradients.

        Returns:
            The terms of the loss for the log, as they were before anything was decoupled.
        """
        if not self.decouple:
            return super().train_step(data, optim_wrapper)
        with optim_wrapper.optim_context(self):
            losses = self._run_forward(self.data_preprocessor(data, True), mode='loss')
        _, logged = self.parse_losses(losses)
        parameters = [p for p in self.parameters() if p.requires_grad]
        scale = next(iter(logged.values())).new_ones(())
        if hasattr(optim_wrapper, 'loss_scaler'):
            scale = optim_wrapper.loss_scaler.scale(scale)
        terms = [x for name, x in losses.items() if 'loss' in name]
        gradients = decoupled_gradients(terms, parameters, scale)
        # A linear function that has these gradients: scaling, accumulating, clipping and stepping
        # remain the wrapper's business.
        linear = [(p * g).sum() for p, g in zip(parameters, gradients, strict=True)]
        optim_wrapper.update_params(torch.stack(linear).sum())
        return logged
