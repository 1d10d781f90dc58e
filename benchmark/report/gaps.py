"""The protocols that differ in their training gaps alone, and their names in one table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from benchmark.missing import GAPS, parse_rates
from benchmark.records.schema import Record, Unscored
from benchmark.report.runs import Runs


def base(record: Record | Unscored) -> str:
    """Returns what records share that may differ in method, seed and training gaps only."""
    rest = {key: value for key, value in record['protocol'].items() if key not in GAPS}
    return json.dumps([rest, record['dataset']['fingerprint']], sort_keys=True)


def joined(gathered: Iterable[Runs]) -> dict[str, dict[str, Runs]]:
    """Joins the protocols that differ in `GAPS` alone, if any of them has training gaps.

    Returns:
        What the protocols share -> lead of their rows -> their runs, the fewest gaps first.
    """
    members: dict[str, list[Runs]] = {}
    for runs in gathered:
        members.setdefault(base(runs.records[0]), []).append(runs)
    return {key: _leads(found) for key, found in members.items() if any(map(given, found))}


def given(runs: Runs) -> str:
    """Returns the missing rates of a protocol, and what they depend on; '' for none."""
    record = runs.records[0]
    return ' '.join(filter(None, (record['protocol'].get('rates', ''), dependence(record))))


def dependence(record: Record | Unscored) -> str:
    """Returns what decides which samples have gaps, as it is typed; '' where chance alone does."""
    fields = record['protocol']
    mechanism, mask = fields.get('mechanism'), fields.get('mask')
    return f'mechanism={mechanism}' if mechanism else f'mask={mask}' if mask else ''


def realised(runs: Runs) -> dict[str, float]:
    """Returns modality -> percentage of the training samples that lack it, over all runs.

    It is empty where other code trained all rows, whose training data are not known.
    """
    found = [record['gaps']['rates'] for record in runs.own]
    if not found:
        return {}
    return {
        name: 100 * float(np.mean([rates[name] for rates in found]))
        for name in runs.data['modalities']
    }


def nominal(record: Unscored) -> str:
    """Names the training gaps of a run that did not train by the missing rates of its protocol."""
    if record['protocol'].get('mask'):
        return dependence(record)  # the rates are in the file
    rates = record['protocol'].get('rates') or '0'
    found = list(100 * parse_rates(rates, record['dataset']['modalities'], rates))
    return _named(found, record)


def facts(runs: Runs) -> dict[str, float | str]:
    """Returns the training gaps as plain columns of the CSV file."""
    shares = {f'missing_{name}_in_training': rate for name, rate in realised(runs).items()}
    return {'rates': given(runs), **shares}


def _leads(members: Iterable[Runs]) -> dict[str, Runs]:
    """Names each protocol by its realised rates; the given ones tell equal names apart."""
    found = sorted(members, key=lambda runs: (sum(realised(runs).values()), given(runs)))
    names = [_named(list(realised(runs).values()), runs.records[0]) for runs in found]
    return {
        f'{name} (rates={given(runs)})' if names.count(name) > 1 else name: runs
        for name, runs in zip(names, found, strict=True)
    }


def _named(rates: Sequence[float], record: Record | Unscored) -> str:
    """Names training gaps by their rates in percent, and by what they depend on."""
    told = dependence(record)
    return f'{_percent(rates)} ({told})' if told else _percent(rates)


def _percent(rates: Sequence[float]) -> str:
    return '/'.join(f'{rate:.1f}'.removesuffix('.0') for rate in rates)
