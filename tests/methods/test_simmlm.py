"""SimMLM: its gate, its pairs of subsets and its ranking."""

import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tasks import TASKS, batch_of

from benchmark.method import IGNORE
from methods.simmlm import SimMLM, errors, fewer


def made(kind='faces', **options):
    torch.manual_seed(0)
    return SimMLM(TASKS[kind], **options)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_every_proper_subset_is_drawn_and_every_size_equally_often():
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, True, False]]).repeat(6000, 1)
    drawn = fewer(mask)
    assert not drawn[:, 3].any()
    found, counts = drawn.unique(dim=0, return_counts=True)
    rows = {
        tuple(row.nonzero()[:, 0].tolist()): int(n) for row, n in zip(found, counts, strict=True)
    }
    assert set(rows) == {s for n in (1, 2) for s in itertools.combinations(range(3), n)}
    assert all(abs(n - 1000) < 150 for n in rows.values())
    one = torch.eye(4, dtype=torch.bool)
    assert torch.equal(fewer(one), one)


@torch.no_grad()
@pytest.mark.parametrize('kind', ['faces', 'rooms'])
def test_experts_are_weighted_for_each_class_by_a_softmax_over_what_is_there(kind):
    method, batch = made(kind).eval(), batch_of(TASKS[kind])
    features = method.encode(batch.inputs)
    found = method.decode(features, batch.mask)
    for row, mask in enumerate(batch.mask):
        pooled = [
            x.pooled[row] if there else torch.zeros_like(x.pooled[row])
            for x, there in zip(features.values(), mask, strict=True)
        ]
        gate = method.gate(torch.cat(pooled)[None]).view(len(mask), -1)
        w = gate[mask].softmax(0)
        logits = torch.stack([x.logits[row] for x in features.values()])[mask]
        close(found[row], torch.einsum('mk,mk...->k...', w, logits))


def test_errors_are_those_of_each_sample():
    logits, target = torch.randn(3, 4, 5, 6), torch.randint(4, (3, 5, 6))
    target[0, :2], target[1] = IGNORE, IGNORE
    found = errors(logits, target, torch.ones(4))
    expected = [F.cross_entropy(x[None], y[None], ignore_index=IGNORE) for x, y in
                zip(logits, target, strict=True)]  # fmt: skip
    close(found[0], expected[0])
    close(found[2], expected[2])
    assert found[1] == 0
    vectors = torch.randn(3, 4)
    labels = torch.tensor([0, 3, 1])
    each = -vectors.log_softmax(1)[range(3), labels]
    close(errors(vectors, labels, torch.ones(4)), each)
    # With class weights the mean over samples, or over the pixels of one, is the weighted one.
    weights = torch.tensor([0.2, 1.0, 3.0, 0.5])
    close(errors(vectors, labels, weights).mean(), F.cross_entropy(vectors, labels, weights))
    expected = F.cross_entropy(logits[:1], target[:1], weights, ignore_index=IGNORE)
    close(errors(logits, target, weights)[0], expected)


def test_only_samples_that_more_modalities_make_worse_are_ranked():
    method, batch = made(ranking=0.5).eval(), batch_of(TASKS['faces'], 12)
    torch.manual_seed(3)
    less = fewer(batch.mask)
    torch.manual_seed(3)
    losses = method.loss(batch)
    features = method.encode(batch.inputs)
    more, few = (
        F.cross_entropy(method.decode(features, m), batch.target, reduction='none')
        for m in (batch.mask, less)
    )
    worse = more > few
    assert 0 < worse.sum() < 12
    close(losses['loss_ranking'], 0.5 * (more - few)[worse].sum() / 12)
    close(losses['loss_more'], more.mean() / 2)
    close(losses['loss_fewer'], few.mean() / 2)
