"""What identifies a record and its protocol, and the hash of a record's content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmark.records.schema import EXTERNAL, SCHEMA

IDENTITY = {
    'method': ('name', 'options', 'version', 'code'),
    'dataset': ('name', 'options', 'fingerprint'),
}
"""What can change a score beside schema, protocol and seed; paths, device and label cannot."""

YOUNGER = ('code',)
"""Fields that the oldest records lack; without them the identity of those records is the same."""

SEARCH = ('trials', 'seed', 'space')
"""What identifies a search. A tuned run never has the identity of an untuned one, not even if the
search chose the same options."""


def identity(record: Mapping[str, Any]) -> str:
    """Returns a hash of the fields that can change a score, 16 hexadecimal digits.

    Args:
        record: A record, or as much of one as `method`, `dataset`, `protocol`, `seed` and, if the
            options were tuned, `tuning`.
    """
    chosen: dict[str, Any] = {
        part: {f: record[part][f] for f in fields if f in record[part] or f not in YOUNGER}
        for part, fields in IDENTITY.items()
    }
    chosen |= {'schema': SCHEMA, 'protocol': record['protocol'], 'seed': record['seed']}
    if 'tuning' in record:
        chosen['tuning'] = {field: record['tuning'][field] for field in SEARCH}
    return hashlib.sha256(dumps(chosen).encode()).hexdigest()[:16]


def protocol_id(protocol: Mapping[str, Any], fingerprint: str) -> str:
    """Returns the name of the folder of a protocol, readable and unique per protocol and data.

    Args:
        protocol: Its fields as records hold them; predictions of other code have none.
        fingerprint: The data set's, so that runs on other data or other options of a generated
            data set never share a folder.
    """
    body = json.dumps([protocol, fingerprint], sort_keys=True)
    # A sampler may name many modalities; the hash tells two of one beginning apart.
    sampler = str(protocol.get('sampler', '')).replace(':', '_')[:80]
    gaps = 'gaps' if protocol.get('rates') or protocol.get('mask') else ''
    words = [sampler, gaps, str(protocol.get('selection', ''))] if protocol else [EXTERNAL]
    return '-'.join([*filter(None, words), hashlib.sha256(body.encode()).hexdigest()[:8]])


def content(record: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of all fields of a record but `content`, as parsed from JSON."""
    fields = {key: value for key, value in record.items() if key != 'content'}
    return hashlib.sha256(dumps(fields).encode()).hexdigest()


def dumps(value: Any, indent: int | None = None) -> str:
    """Returns JSON with sorted keys; numbers and arrays of NumPy become plain ones."""
    return json.dumps(value, sort_keys=True, indent=indent, default=_plain)


def _plain(value: Any) -> Any:
    """Turns numpy numbers and arrays into plain ones; JSON can hold nothing else."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f'a record cannot hold a {type(value).__name__}')
