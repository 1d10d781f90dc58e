"""Records and outcomes made by hand, for the tests of what reads them."""

from __future__ import annotations

from typing import get_type_hints

import numpy as np

from benchmark.missing import subset_ids
from benchmark.records import store
from benchmark.records.identity import protocol_id
from benchmark.records.schema import SCHEMA, Failure

NAMES = ['rgb', 'depth', 'ir']
SUBSETS = subset_ids(NAMES)
SAMPLES = 400
TARGET = np.arange(SAMPLES) % 2


def make_outcomes(errors: dict[str, int], seed: int = 0, target: np.ndarray = TARGET) -> dict:
    """Predictions with a given number of errors per subset, at random samples."""
    rng = np.random.default_rng(seed)
    outcomes = {'target': target.astype(np.int16)}
    for subset, count in errors.items():
        predicted = target.copy()
        wrong = rng.choice(len(target), count, replace=False)
        predicted[wrong] = 1 - predicted[wrong]
        outcomes[f'pred/{subset}'] = predicted.astype(np.int16)
    return outcomes


def acer_of(outcomes: dict, subset: str) -> float:
    """ACER with live = 1, from the four counts of two classes."""
    truth, found = (np.asarray(outcomes[key]) for key in ('target', f'pred/{subset}'))
    (attack_ok, attack_wrong), (live_wrong, live_ok) = (
        [np.sum((truth == own) & (found == other)) for other in (0, 1)] for own in (0, 1)
    )
    apcer = attack_wrong / (attack_ok + attack_wrong)
    return float(apcer / 2 + live_wrong / (live_ok + live_wrong) / 2)


def make_record(label: str, seed: int, outcomes: dict, **changes) -> dict:
    """A complete record whose scores are those of its outcomes."""
    subsets = [key.removeprefix('pred/') for key in outcomes if key.startswith('pred/')]
    shares = {
        s: np.bincount(outcomes[f'pred/{s}'], minlength=2) / len(outcomes['target'])
        for s in subsets
    }
    record = {
        'schema': SCHEMA,
        'status': 'complete',
        'method': {
            'name': label.split(':')[0],
            'label': label,
            'options': {'alpha': 1.0},
            'version': 1,
            'source': 'default',
        },
        'dataset': {
            'name': 'faces',
            'options': {},
            'fingerprint': 'abc',
            'kind': 'classification',
            'modalities': NAMES,
            'classes': ['attack', 'live'],
            'metric': 'ACER',
            'higher_is_better': False,
            'live': 1,
            'ceiling': {},
            'chance': None,
        },
        'protocol': {'sampler': 'uniform', 'selection': 'last', 'epochs': 3},
        'seed': seed,
        'scores': {'val': {}, 'test': {s: {'ACER': acer_of(outcomes, s)} for s in subsets}},
        'n': {'val': {}, 'test': dict.fromkeys(subsets, len(outcomes['target']))},
        'predicted': {s: share.tolist() for s, share in shares.items()},
        'collapsed': [s for s, share in shares.items() if max(share) == 1],
        'selected_epoch': 2,
        'gaps': {'rates': dict.fromkeys(NAMES, 0.0), 'mask_hash': '', 'dropped': 0},
        'cost': {
            'parameters': 2_000_000,
            'deployed_parameters': 1_500_000,
            'flops': {},
            'train_seconds': 50.0,
            'teacher_seconds': 20.0,
            'test_seconds': 1.0,
            'peak_memory_mb': 10.0,
        },
        'environment': {'python': '3'},
        'commit': 'c0ffee',
        'finished': '2024-01-01T00:00:00+00:00',
    }
    for part, values in changes.items():
        record[part] = {**record[part], **values} if isinstance(values, dict) else values
    own = protocol_id(record['protocol'], record['dataset']['fingerprint'])
    return {'protocol_id': own, **record, 'identity': store.identity(record)}


def make_failure(label: str, seed: int, error: str) -> dict:
    """The record of a run that failed."""
    record = make_record(label, seed, make_outcomes({}))
    kept = {key: value for key, value in record.items() if key in get_type_hints(Failure)}
    return {**kept, 'status': 'failed', 'error': error}


def make_refusal(label: str, seed: int, error: str) -> dict:
    """The record of a run that the method refused."""
    return {**make_failure(label, seed, error), 'status': 'refused'}


def save(runs, record: dict, outcomes: dict | None = None):
    """Writes a record and its outcomes where the suite does, and returns the record's path."""
    variant = record['method']['label'].replace(':', '-')
    folder = runs / record['dataset']['name'] / variant / record['protocol_id']
    folder /= f'seed{record["seed"]}'
    if outcomes is not None:
        store.write_outcomes(folder / store.OUTCOMES, outcomes)
    store.write(folder / store.RECORD, record)
    return folder / store.RECORD


ID = make_record('any', 0, make_outcomes({}))['protocol_id']
"""Id of the protocol of the records made here."""
