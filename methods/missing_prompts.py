"""Missing-aware prompts: learned vectors tell a transformer which modalities are missing."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmark.errors import UserError, unknown
from benchmark.method import Batch, Method, Task
from benchmark.options import Range
from benchmark.registry import METHODS
from benchmark.search import Uniform
from methods.common.tokens import STD, Body, Tokens, drawn, own_body, timm_body, transformed

PATTERNS = 8
"""Most modalities of which every pattern has prompts of its own."""


class Prompts(nn.Module):
    """The prompts of each pattern of missing modalities.

    Args:
        count: Number of modalities M.
        shape: Number of blocks, prompts of a block, and channels.
        per: Whether each 'pattern' or each missing 'modality' has prompts.
        ones: None for prompts that are drawn; for prompts of zeros but for one vector of ones, the
            lengths of the parts of a block's prompts that have such a vector each.
    """

    def __init__(
        self, count: int, shape: tuple[int, int, int], per: str, ones: tuple[int, ...] | None
    ) -> None:
        super().__init__()
        self.pattern = per == 'pattern'
        rows = 2**count - 1 if self.pattern else count + 1
        table = STD * torch.randn(rows, *shape) if ones is None else torch.zeros(rows, *shape)
        begin = 0
        for length in ones or ():
            for row in range(rows):
                table[row, :, begin + row % length] = 1
            begin += length
        self.table = nn.Parameter(table)

    def forward(self, mask: Tensor) -> Tensor:
        """Returns the prompts (B, blocks, length, D) of samples with a mask (B, M) bool."""
        missing = ~mask
        if self.pattern:
            # 0 is complete data; the last modality counts 1, the one before it 2, and so on.
            columns = enumerate(reversed(missing.long().unbind(1)))
            number = sum((x * 2**k for k, x in columns), missing.new_zeros(len(mask)).long())
            return self.table[number.clamp_max(len(self.table) - 1)]
        return self.table[0] + torch.einsum(
            'bm,mnlc->bnlc', missing.to(self.table.dtype), self.table[1:]
        )


class PromptedTransformer(nn.Module):
    """A transformer whose first blocks have prompts.

    Args:
        body: The transformer.
        prompts: The prompts of all patterns.
        attention: Whether prompts are keys and values, instead of tokens.
    """

    def __init__(self, body: Body, prompts: Prompts, attention: bool) -> None:
        super().__init__()
        self.blocks, self.norm, self.prompts = body.blocks, body.norm, prompts
        self.attention = attention

    def forward(self, x: Tensor, keep: Tensor, mask: Tensor) -> Tensor:
        """Returns the output of the first token.

        Args:
            x: (B, N, D).
            keep: (B, N) bool, the tokens that others attend to.
            mask: (B, M) bool, the modalities that are there.

        Returns:
            (B, D).
        """
        prompts = self.prompts(mask)
        length, skipped = prompts.shape[2], 0
        none = x[:, :0]
        for k, block in enumerate(self.blocks):
            if k >= prompts.shape[1]:
                x = transformed(block, x, keep, none, none)
            elif self.attention:
                keys, values = prompts[:, k].chunk(2, 1)
                more = torch.cat([keep.new_ones(len(x), length // 2), keep], 1)
                x = transformed(block, x, more, keys, values)
            else:
                x = torch.cat([prompts[:, k].to(x), x], 1)
                keep = torch.cat([keep.new_ones(len(x), length), keep], 1)
                x = transformed(block, x, keep, none, none)
                skipped += length
        return self.norm(x[:, skipped])


@METHODS.register_module('missing_prompts')
class MissingPrompts(Method):
    """Missing-aware prompts.

    Lee, Tsai, Chiu & Lee, Multimodal Prompting with Missing Modalities for Visual Recognition, CVPR
    2023 (arXiv 2303.03369). The tokens of all modalities go through one transformer. Each pattern
    of missing modalities has prompts of its own, learned vectors P_i for the first blocks i, which
    tell the transformer what is missing. A missing modality has the tokens of a blank input. With
    prompts='input' a block sees its prompts as further tokens, in front of those of earlier blocks;
    with prompts='attention' their halves are further keys and values:

        h_{i+1} = block_i([P_i; h_i])
        h_{i+1} = block_i(h_i), with attention(h W_Q, [P_K; h W_K], [P_V; h W_V])

    The class token behind the last block is classified by a pooler (linear, tanh) and a perceptron.
    In the paper the transformer is ViLT, pretrained on images and captions and frozen; prompts,
    pooler and perceptron are trained. Here encoder=NAME puts a vision transformer of timm in its
    place, with its patches, positions and class token; the protocol's fields `encoder_weights` and
    `encoder_frozen` say what it starts from and whether it stays so. A vector is one token and each
    frame of a sequence is one, by linear layers that are trained.

    Without `encoder` the transformer is the suite's own, with tokens of 8 `width` channels, and is
    trained from drawn weights. That is another method than the paper's: prompts then do not adapt
    with few parameters what was learned elsewhere, but tell the pattern to a network that learns
    everything else itself. The paper's claims are about the former.

    Of M modalities, 2^M - 1 patterns have prompts; the paper has two modalities. Beyond 8 that is
    refused: the prompts of 9 modalities would have 38 million parameters in the paper's sizes.
    per='modality' is this project's form for many modalities: the prompts of a pattern are those of
    complete data plus those of each missing modality.

    Departures from the paper and its code. ViLT's tokens are words and patches, and its embedding
    of modalities is pretrained; here the embedding of a modality is drawn and trained. A blank
    input is zeros, after the data set's normalisation; in the code it is an empty text or an image
    of ones. What a sample lacks is drawn in each epoch by the protocol's sampler; in the code it is
    fixed for 70 % of the samples. The optimiser is the protocol's; the code has AdamW with a rate
    of 0.01. Label maps are refused, because the paper classifies. The paper's text was not
    available; formulas and sizes are those of the released code. There prompts start at zero but
    for one vector of ones, whose place tells the pattern (variant='official'). In the input, layer
    normalisation makes ones and zeros equal: all prompts of a block start alike, and equal
    gradients keep them so but for dropout, as if there were one. variant='paper' draws all of them
    with a standard deviation of 0.02.

    With equal weights, tokens of two modalities and labels, the loss, its gradients in prompts,
    pooler and perceptron, and the places of the ones equal those of the released code, for both
    values of `prompts` and without dropout (tests/methods/test_released_newest.py). A whole step
    cannot be compared, since ViLT's embedding of words and its pretrained weights are not here.

    Args:
        task: What the data set requires.
        prompts: Where prompts enter, 'input' or 'attention'.
        per: Whether each 'pattern' or each missing 'modality' has prompts.
        length: Number of prompts of a block; keys and values have half of them each.
        prompted: Number of blocks, from the first, that have prompts.
        depth: Number of blocks of the suite's own transformer; ViLT has 12.
        heads: Number of its attention heads, a divisor of 8 times the width.
        patches: Number of its patches along the shorter side of an image, at most 32; ViLT has 12.
        dropout: Dropout rate in the transformer, also if it is frozen, as in the code.
        variant: 'paper' or 'official'.

    Raises:
        UserError: An option has a value that it cannot have, the targets are label maps, there are
            too many modalities, or the encoder is no vision transformer.
    """

    ranges = {'patches': Range(1, 32)}
    search = {'dropout': Uniform(0, 0.5)}
    task_kinds = ('classification', 'multilabel', 'regression')
    contract_exceptions = {'rooms': 'the paper classifies; label maps are refused'}

    def __init__(
        self,
        task: Task,
        *,
        prompts: Literal['input', 'attention'] = 'input',
        per: Literal['pattern', 'modality'] = 'pattern',
        length: int = 16,
        prompted: int = 6,
        depth: int = 6,
        heads: int = 8,
        patches: int = 6,
        dropout: float = 0.1,
        variant: Literal['paper', 'official'] = 'paper',
    ) -> None:
        super().__init__(task)
        self._check_choices(prompts, per, variant)
        self._check_numbers(prompts, length, depth, heads, patches)
        if not 0 <= dropout < 1:
            raise UserError(f'missing_prompts:dropout: expected 0 to below 1, found {dropout}')
        count = len(task.names)
        if per == 'pattern' and count > PATTERNS:
            raise UserError(
                f'missing_prompts on {task.dataset}: expected at most {PATTERNS} modalities, since '
                f'each pattern of missing ones has prompts, found {count}; use per=modality'
            )
        if task.backbone and any(m.kind == 'image' for m in task.modalities):
            body, self.backbone = timm_body(task, dropout), task.backbone
        else:
            body = own_body(task, depth, heads, patches, dropout)
        if not 1 <= prompted <= len(body.blocks):
            raise UserError(
                f'missing_prompts:prompted: expected 1 to {len(body.blocks)}, the number of '
                f'blocks, found {prompted}'
            )
        channels, attention = body.start.shape[2], prompts == 'attention'
        halves = (length // 2, length // 2) if attention else (length,)
        self.embed, self.start = nn.ModuleDict(body.embed), body.start
        self.kinds = nn.ParameterDict({n: STD * torch.randn(channels) for n in task.names})
        table = Prompts(
            count, (prompted, length, channels), per, halves if variant == 'official' else None
        )
        self.transformer = PromptedTransformer(body, table, attention)
        self.pooler = nn.Sequential(nn.Linear(channels, channels), nn.Tanh())
        self.head = nn.Sequential(
            nn.Linear(channels, 2 * channels),
            nn.LayerNorm(2 * channels),
            nn.GELU(),
            nn.Linear(2 * channels, len(task.classes)),
        )
        drawn([self.pooler, self.head])

    @staticmethod
    def _check_choices(prompts: str, per: str, variant: str) -> None:
        choices = {
            'prompts': (prompts, ('input', 'attention')),
            'per': (per, ('pattern', 'modality')),
            'variant': (variant, ('paper', 'official')),
        }
        for option, (value, allowed) in choices.items():
            if value not in allowed:
                raise unknown(f'{option} of missing_prompts', value, allowed)

    def _check_numbers(
        self, prompts: str, length: int, depth: int, heads: int, patches: int
    ) -> None:
        for option, value in (('length', length), ('depth', depth), ('patches', patches)):
            if value < 1:
                raise UserError(f'missing_prompts:{option}: expected 1 or more, found {value}')
        if prompts == 'attention' and length % 2:
            raise UserError(
                f'missing_prompts:length: expected an even number, since half of the prompts are '
                f'keys, found {length}'
            )
        width = 8 * self.task.width
        if not self.task.backbone and (heads < 1 or width % heads):
            raise UserError(f'missing_prompts:heads: expected a divisor of {width}, found {heads}')

    def tokens(self, name: str, x: Tensor) -> Tokens:
        """Returns the tokens of inputs (B, *shape) of a modality."""
        tokens, real = self.embed[name](x)
        return tokens + self.kinds[name], real

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tokens]:
        """Returns the tokens of each modality."""
        return {name: self.tokens(name, x) for name, x in inputs.items()}

    def joined(self, features: dict[str, Tokens], mask: Tensor) -> Tokens:
        """Returns the tokens of all modalities behind the first ones.

        Args:
            features: What `encode` returned.
            mask: (B, M) bool; what it excludes has the tokens of a blank input.
        """
        count = len(mask)
        start = self.start.expand(count, -1, -1)
        parts = [(start, mask.new_ones(start.shape[:2]))]
        for column, m in enumerate(self.task.modalities):
            blank, real = self.tokens(m.name, self.start.new_zeros(1, *m.shape))
            x, there = features.get(m.name, (blank, real))
            keep = mask[:, column, None]
            # No selection among truth values, which ONNX runtimes lack.
            kept = (keep & there) | (~keep & real)
            parts.append((torch.where(keep[..., None], x, blank), kept))
        tokens = torch.cat([x.to(start) for x, _ in parts], 1)
        return tokens, torch.cat([kept for _, kept in parts], 1)

    def decode(self, features: dict[str, Tokens], mask: Tensor) -> Tensor:
        """Returns the logits; mask (B, M) bool."""
        first = self.transformer(*self.joined(features, mask), mask)
        logits: Tensor = self.head(self.pooler(first))
        return logits

    def loss(self, batch: Batch) -> dict[str, Any]:
        """Returns loss_task."""
        logits = self.predict(batch.inputs, batch.mask)
        return {'loss_task': self.task_loss(logits, batch.target)}
