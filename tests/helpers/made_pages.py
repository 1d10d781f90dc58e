"""Pages made of records by hand, for the tests of what reads them."""

import json
import re

import numpy as np
from made_records import make_record, save

from benchmark.missing import subset_ids
from benchmark.records import metrics
from benchmark.report.page import document

HOSTILE = '=A1*2</script><b>{{x}}</b><!--$\\alpha$"\'&amp;'
"""A name with a formula, markup, TeX and quotes; records refuse control characters."""


def logits_of(rng, target, skill):
    """Log-odds of class 1 and the predictions that they make."""
    logit = (rng.normal(skill * (2 * target - 1), 1) * 1.5).astype(np.float32)
    return logit, (logit > 0).astype(np.int16)


def outcomes_of(names, seed, skill=0.7, samples=60):
    """Outcomes of two classes that get easier with every modality."""
    rng = np.random.default_rng(seed)
    target = np.arange(samples, dtype=np.int16) % 2
    outcomes = {'target': target}
    for subset in subset_ids(names):
        found = logits_of(rng, target, skill * (1 + subset.count('+')) ** 0.5)
        outcomes[f'logit/{subset}'], outcomes[f'pred/{subset}'] = found
    return outcomes


def add(runs, label, seed, names=('rgb', 'depth', 'ir'), samples=60, log=False, **dataset):
    """Writes a run with cost and log; `dataset` holds further fields of the data set."""
    names = list(names)
    outcomes = outcomes_of(names, [seed, *label.encode()], samples=samples)
    subsets = subset_ids(names)
    described = {'modalities': names, 'chance': 0.5, **dataset}
    flops = {s: 1_000_000 * (1 + s.count('+')) * (1 + len(label)) for s in subsets}
    record = make_record(
        label,
        seed,
        outcomes,
        dataset=described,
        cost={'flops': flops, 'deployed_parameters': 1000 * (1 + len(label))},
        gaps={'rates': dict.fromkeys(names, 0.0)},
    )
    path = save(runs, record, outcomes)
    if log:
        scores = ', '.join(f'{s}/ACER 0.{e}500' for e in '4' for s in subsets)
        path.with_name('train.log').write_text(
            '2026/01/01 - epoch 0: loss_task 0.6000, loss_extra 0.1000, loss 0.7000\n'
            '2026/01/01 - epoch 1: loss_task 0.5000, loss_extra 0.1000, loss 0.6000\n'
            f'2026/01/01 - epoch 1: validation ACER {scores}\n'
        )
    return path


def add_rooms(runs, label, seed, names=('rgb', 'depth'), **dataset):
    """Writes a run of segmentation into three classes; nobody states its chance."""
    rng = np.random.default_rng([seed, *label.encode()])
    outcomes = {}
    labelled = np.array([60, 30, 10])
    for subset in subset_ids(list(names)):
        right = rng.integers(1, 1 + labelled, size=(20, 3))
        predicted = right + rng.integers(20, size=(20, 3))
        truth = np.broadcast_to(labelled, (20, 3))
        outcomes[f'areas/{subset}'] = np.stack([right, predicted, truth], axis=1).astype(np.int32)
    subsets = subset_ids(list(names))
    scores = {s: metrics.of_areas(outcomes[f'areas/{s}']) for s in subsets}
    record = make_record(
        label,
        seed,
        {'target': np.zeros(20, np.int16)},
        dataset={
            'name': 'rooms',
            'kind': 'segmentation',
            'metric': 'mIoU',
            'higher_is_better': True,
            'modalities': list(names),
            'classes': ['wall', 'floor', 'box'],
            **dataset,
        },
        scores={'test': scores},
        n={'test': dict.fromkeys(subsets, 20)},
        predicted=dict.fromkeys(subsets, [0.6, 0.3, 0.1]),
        gaps={'rates': dict.fromkeys(names, 0.0)},
    )
    save(runs, record, outcomes)
    return outcomes


def made(results):
    """Writes the page of a results folder; returns its text and the data in it."""
    assert document.write(results) == []
    text = (results / document.NAME).read_text(encoding='utf-8')
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return text, json.loads(data)
