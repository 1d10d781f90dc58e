"""A data set as records describe it."""

from __future__ import annotations

from typing import Any

from benchmark.dataset import Dataset
from benchmark.records.metrics import higher_is_better


def described(data: Dataset) -> dict[str, Any]:
    """Returns the field `dataset` of a record, `benchmark.records.schema.DatasetInfo`."""
    task = data.task
    return {
        'name': data.name,
        'options': data.options,
        'changed': _changed(data),
        'fingerprint': data.fingerprint,
        'kind': task.kind,
        'modalities': list(task.names),
        'classes': list(task.classes),
        'metric': task.metric,
        'higher_is_better': higher_is_better(task.metric),
        'live': task.live,
        'ceiling': data.bounds[0],
        'chance': data.bounds[1],
        'encoder': task.encoder,
        **({'reader': data.spec} if data.spec else {}),
        **({'sentiment': True} if task.sentiment else {}),
        **({'regions': [name for name, _ in task.regions]} if task.regions else {}),
    }


def _changed(data: Dataset) -> list[str]:
    """Returns which options of a data set are not its defaults."""
    defaults = data.declared
    return [k for k, v in data.options.items() if k not in defaults or defaults[k].default != v]
