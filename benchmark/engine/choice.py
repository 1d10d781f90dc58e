"""Which test samples are shown: chosen by rule, from outcomes that exist already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from benchmark.errors import UserError
from benchmark.missing import derive
from benchmark.records.gallery import RULES, Rule
from benchmark.records.metrics import dice, ratio, tested
from benchmark.records.schema import DatasetInfo, Outcomes


class Chosen(NamedTuple):
    """A sample that a rule chose.

    Attributes:
        rule: The rule.
        value: The drop or the disagreement as a fraction, mean over the runs; 0 for 'random'.
        position: Row of the sample in the outcomes.
    """

    rule: Rule
    value: float
    position: int


def stated(outcomes: Outcomes, subset: str, data: DatasetInfo) -> np.ndarray:
    """Returns the probabilities (N, K) that a run stated on a subset, NaN where not tested.

    Raises:
        UserError: The outcomes hold none.
    """
    logits = outcomes.get(f'logit/{subset}')
    if logits is None:
        raise UserError('outcomes: expected logits, found those of an older version; train again')
    logits = logits.astype(np.float64)
    if logits.ndim == 2:
        return special.softmax(logits, axis=1)
    one = special.expit(logits)
    positive = data['live'] if data['metric'] == 'ACER' else 1
    return np.stack([one, 1 - one] if positive == 0 else [1 - one, one], 1)


def errors(outcomes: Outcomes, subset: str, data: DatasetInfo) -> np.ndarray:
    """Returns the error (N,) of each sample on a subset as a fraction, NaN where not tested.

    It is 1 minus the probability of the true class; in segmentation the share of the labelled
    pixels that are wrong; where the metric is Dice, 1 minus the mean Dice of the regions of a
    volume.
    """
    if data['kind'] == 'classification':
        rows, target = np.arange(len(outcomes['target'])), outcomes['target'].astype(int)
        return 1 - stated(outcomes, subset, data)[rows, target]
    areas = outcomes[f'areas/{subset}'].astype(np.float64)
    if data['metric'] == 'Dice':
        there = tested(outcomes, subset, 'Dice')
        return np.where(there, 1 - dice(np.where(areas < 0, 0, areas)).mean(-1), np.nan)
    right, _, labelled = areas.sum(-1).T
    return 1 - ratio(right, labelled)


def _answers(outcomes: Outcomes, subset: str, data: DatasetInfo) -> np.ndarray:
    """Returns what was predicted (N, K): probabilities, or predicted areas in pixels."""
    if data['kind'] == 'classification':
        return stated(outcomes, subset, data)
    areas = outcomes[f'areas/{subset}'][:, 1].astype(np.float64)
    areas[~tested(outcomes, subset, data['metric'])] = np.nan
    return areas


def drops(outcomes: Outcomes, subsets: Sequence[str], data: DatasetInfo) -> np.ndarray:
    """Returns by how much the error (N,) of each sample grows from all modalities to the worst.

    The worst is that of the given subsets. NaN where not tested with all modalities.
    """
    full = '+'.join(data['modalities'])
    if f'{"pred" if data["kind"] == "classification" else "areas"}/{full}' not in outcomes:
        return np.full(len(errors(outcomes, subsets[0], data)), np.nan)
    every = np.stack([errors(outcomes, subset, data) for subset in subsets])
    # NaN would win every maximum.
    worst = np.where(np.isnan(every), -np.inf, every).max(0)
    return np.where(np.isfinite(worst), worst - errors(outcomes, full, data), np.nan)


def disagreements(outcomes: Outcomes, subsets: Sequence[str], data: DatasetInfo) -> np.ndarray:
    """Returns how far the answers (N,) to a sample differ between subsets, as fractions.

    It is the mean total variation distance of an answer from the mean of all answers: half the
    summed difference of the probabilities or, in segmentation, of the predicted areas as shares of
    the largest predicted area. NaN where fewer than two subsets were tested.
    """
    every = np.stack([_answers(outcomes, subset, data) for subset in subsets])
    there = ~np.isnan(every).any(-1)
    every = np.where(there[..., None], every, 0)
    largest = np.maximum(every.sum(-1).max(0), 1e-9)
    count = np.maximum(there.sum(0), 1)
    mean = every.sum(0) / count[:, None]
    distance = np.abs(every - mean).sum(-1) / 2 / largest
    found: np.ndarray = np.where(there, distance, 0).sum(0) / count
    return np.where(there.sum(0) > 1, found, np.nan)


def choose(
    runs: Sequence[Outcomes],
    data: DatasetInfo,
    subsets: Sequence[str],
    rules: Mapping[Rule, int],
    seed: int = 0,
) -> list[Chosen]:
    """Returns the samples that are shown, by rule and then by value.

    The value of a sample is its mean over the runs. No sample is chosen twice: the random ones are
    drawn first, so that they depend on the data and the seed alone, then those of the other rules.

    Args:
        runs: Outcomes of runs on the same test samples.
        data: Their data set.
        subsets: The subsets that are shown, which the rules look at.
        rules: Rule -> how many samples it chooses.
        seed: Seed of the random choice.

    Raises:
        UserError: No sample was tested on the subsets that a rule needs.
    """
    known = [s for s in subsets if all(f'{_kind(data)}/{s}' in found for found in runs)]
    if not known:
        raise UserError(
            f'expected a subset that all runs were tested on among {", ".join(subsets)}'
        )
    measures = {'drop': drops, 'disagreement': disagreements}
    anyhow = [np.isfinite([errors(r, s, data) for s in known]).any(0) for r in runs]
    usable, taken, found = np.all(anyhow, axis=0), set[int](), {}
    # False comes before True, so that the random ones are first.
    for rule in sorted(rules, key=lambda rule: rule != 'random'):
        if rule == 'random':
            values = np.random.default_rng(derive(seed, 'gallery')).random(len(usable))
        else:
            values = np.mean([measures[rule](r, known, data) for r in runs], axis=0)
        values = np.where(usable, values, np.nan)
        # Stable: of equal values the first sample is taken, on every machine.
        order = [int(k) for k in np.argsort(-values, kind='stable') if np.isfinite(values[k])]
        if not order:
            raise UserError(f'--rule {rule}: expected samples with all modalities, found none')
        new = [k for k in order if k not in taken][: rules[rule]]
        taken |= {*new}
        found[rule] = [Chosen(rule, 0.0 if rule == 'random' else float(values[k]), k) for k in new]
    return [chosen for rule in RULES for chosen in found.get(rule, ())]


def _kind(data: DatasetInfo) -> str:
    """Returns how the outcomes of a subset begin."""
    return 'pred' if data['kind'] == 'classification' else 'areas'
