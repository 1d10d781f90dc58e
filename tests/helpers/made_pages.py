"""Pages made of records by hand, for the tests of what reads them."""

import base64
import io
import json
import re

import numpy as np
from made_records import make_record, save
from PIL import Image

from benchmark.files import digest
from benchmark.missing import subset_ids
from benchmark.records import gallery as gallery_files
from benchmark.records import metrics, store
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


def png(*pixels):
    """A PNG file of some grey pixels in a row, in base64."""
    buffer = io.BytesIO()
    Image.fromarray(np.array([pixels], np.uint8)).save(buffer, 'PNG')
    return base64.b64encode(buffer.getvalue()).decode()


def picture_of(first, second, text=''):
    """How a gallery refers to the picture of two grey pixels."""
    content = base64.b64decode(png(first, second))
    return {'key': gallery_files.key_of(content), 'text': text}


def add_gallery(path, samples=(('s1', 'random', 1),), start=0, **changes):
    """Keeps made-up pictures beside the record of a run; the first modality is not recorded.

    `start` is the grey of the first pixel of all pictures. A sample is its name, the rule that
    chose it, and its class, or all that the file holds of it.
    """
    record = json.loads(path.read_text())
    record['outcomes'] = {store.OUTCOMES: digest(path.with_name(store.OUTCOMES)).sha256}
    store.write(path, record)
    names, classes = record['dataset']['modalities'], len(record['dataset']['classes'])
    keys = [picture_of(start, k)['key'] for k in range(len(names))]
    pictures = dict(zip(keys, (png(start, k) for k in range(len(names))), strict=True))
    inputs = {m: picture_of(start, k, m) for k, m in enumerate(names) if k}
    shares = [0.75, *[0.25 / (classes - 1)] * (classes - 1)]
    answers = {s: {'error': 0.125, 'shares': shares} for s in subset_ids(names[1:])}
    gallery = {
        'format': gallery_files.FORMAT,
        'identity': record['identity'],
        'outcomes': record['outcomes'][store.OUTCOMES],
        'chosen': 1,
        'of': 60,
        'differs': 0.0,
        'colours': [],
        'samples': [
            sample if isinstance(sample, dict) else
            {'rule': sample[1], 'value': 0.5, 'name': sample[0], 'place': '', 'label': sample[2],
             'inputs': inputs, 'answers': answers}
            for sample in samples
        ],
        'pictures': pictures,
        **changes,
    }  # fmt: skip
    gallery_files.write(path.parent, gallery)


def made(results):
    """Writes the page of a results folder; returns its text and the data in it."""
    assert document.write(results) == []
    text = (results / document.NAME).read_text(encoding='utf-8')
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return text, json.loads(data)
