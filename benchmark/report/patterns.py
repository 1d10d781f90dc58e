"""Training under several patterns of missing data: how they are spelled, and their one table.

A pattern is a value of the protocol's `rates`. Every pattern has a protocol of its own; protocols
that differ in the rates alone are joined here, for rows of (training pattern, method) against the
subsets of the test.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmark.errors import COMPLETE_ONLY
from benchmark.missing import parse_rates
from benchmark.records.schema import Record, Unscored
from benchmark.report import captions
from benchmark.report.layout import Block, Cell, Row, Table, Training
from benchmark.report.ranking import Runs


def base(record: Record | Unscored) -> str:
    """Returns what records that differ in method, seed and rates alone share."""
    rest = {key: value for key, value in record['protocol'].items() if key != 'rates'}
    body = json.dumps([rest, record['dataset']['fingerprint']], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def training(runs: Runs) -> Training:
    """Returns what the methods of one protocol were trained on."""
    first = runs.records[0]
    names, protocol = first['dataset']['modalities'], first['protocol']
    gaps = {m: 100 * float(np.mean([r['gaps']['rates'][m] for r in runs.records])) for m in names}
    sentences = {
        'metric': captions.metric(runs),
        'protocol': f'Protocol: {captions.words(protocol)}.',
        'spread': captions.spread(runs),
        'marks': captions.significance(runs),
    }
    return Training(base(first), protocol.get('rates', ''), gaps, sentences)


def joined(made: Table, failed: Sequence[Unscored]) -> Table:
    """Returns the table of training patterns, one block per protocol that was run with gaps.

    Args:
        made: The dataset's ordinary table.
        failed: Records of failed and refused runs.
    """
    groups: dict[str, list[Block]] = {}
    for block in made.blocks:
        groups.setdefault(block.training.base, []).append(block)
    blocks = [
        _block(members, [f for f in failed if base(f) == key])
        for key, members in groups.items()
        if any(block.training.rates for block in members)
    ]
    return Table(made.dataset, blocks, made.problems)


def _block(members: Sequence[Block], failed: Sequence[Unscored]) -> Block:
    members = sorted(members, key=lambda b: (sum(b.training.gaps.values()), b.training.rates))
    patterns = dict(zip(_leads([b.training for b in members]), members, strict=True))
    first, most = members[0], max(map(_seeds, members))
    subsets = {k: title for b in members for k, title in list(b.columns.items())[: b.subsets]}
    columns = {**subsets, 'mean': 'mean', 'worst': 'worst'}
    rows = [
        _row(row, block, lead, columns)
        for lead, block in patterns.items()
        for row in block.rows
        if row.kind == 'method'
    ]
    rows += [_row(row, first, '', columns) for row in first.rows if row.kind == 'reference']
    notes = [f'{lead}: {note}' for lead, block in patterns.items() for note in block.notes]
    fewer = [(lead, _seeds(block)) for lead, block in patterns.items() if _seeds(block) < most]
    return Block(
        protocol='',
        title=f'{first.title} by what is missing in training',
        caption=_caption(members),
        size=f'{len(members)} pattern{"s" if len(members) > 1 else ""}, {_widest(members).size}',
        columns=columns,
        subsets=len(subsets),
        rows=rows,
        notes=[*(f'{lead}: {seeds} of {most} seeds' for lead, seeds in fewer), *notes],
        failures=_failures(failed, {block.protocol: lead for lead, block in patterns.items()}),
        sources=[],
        training=first.training,
        lead=f'missing % ({"/".join(first.training.gaps)})',
    )


def _seeds(block: Block) -> int:
    return max(row.seeds for row in block.rows)


def _widest(members: Sequence[Block]) -> Block:
    """Returns the block with the most seeds and, among those, the most methods."""
    return max(members, key=lambda b: (_seeds(b), sum(row.kind == 'method' for row in b.rows)))


def _leads(trainings: Sequence[Training]) -> list[str]:
    """Names each pattern by its realised rates, and by the given ones where those are the same."""
    names = [_percent(list(t.gaps.values())) for t in trainings]
    return [
        f'{name} (rates={t.rates})' if names.count(name) > 1 else name
        for name, t in zip(names, trainings, strict=True)
    ]


def _percent(rates: Sequence[float]) -> str:
    return '/'.join(f'{rate:.1f}'.removesuffix('.0') for rate in rates)


def _row(row: Row, block: Block, lead: str, columns: Mapping[str, str]) -> Row:
    cells = dict(zip(block.columns, row.cells, strict=True))
    facts: dict[str, Any] = {'rates': block.training.rates}
    facts |= {f'missing_{name}_in_training': rate for name, rate in block.training.gaps.items()}
    shown = [cells.get(key, Cell(math.nan)) for key in columns]
    return dataclasses.replace(row, cells=shown, facts=facts, lead=lead, protocol=block.key)


def _caption(members: Sequence[Block]) -> list[str]:
    told, names = _widest(members).training.sentences, members[0].training.gaps
    return [
        told['metric'],
        f'Rows: the percentage of training samples that lack {"/".join(names)} (realised, and the '
        'same samples in every epoch), and the method. Columns: what is there at test.',
        told['protocol'],
        told['spread'],
        'Mean and worst are taken per seed. Methods are compared under one training pattern.',
        told['marks'],
    ]


def _failures(failed: Sequence[Unscored], leads: Mapping[str, str]) -> list[str]:
    """Tells per method on which patterns it could not train, and each other failure."""
    refused: dict[str, set[str]] = {}
    for record in failed:
        if record['status'] == 'refused':
            names, rates = record['dataset']['modalities'], record['protocol'].get('rates') or '0'
            nominal = _percent(list(100 * parse_rates(rates, names, rates)))
            pattern = leads.get(record['protocol_id'], nominal)
            refused.setdefault(record['method']['label'], set()).add(pattern)
    order = [*leads.values(), *sorted(set().union(*refused.values()) - set(leads.values()))]
    told = [
        f'{label} not run on {", ".join(sorted(found, key=order.index))}: {COMPLETE_ONLY}'
        for label, found in refused.items()
    ]
    return told + captions.failures([f for f in failed if f['status'] == 'failed'])
