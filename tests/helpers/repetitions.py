"""What a repetition of a run must reproduce."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

PLACE = ('environment', 'commit', 'finished', 'content')
TIMES = ('train_seconds', 'teacher_seconds', 'test_seconds', 'peak_memory_mb')


def scientific(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that a repetition on the same machine must reproduce.

    Times, memory, the place of the run and the hash over them are left out. `tunable` is left out
    too: it is no result, and the oldest records lack it.
    """
    kept = {key: value for key, value in record.items() if key not in PLACE}
    for part, ignored in (('method', ('tunable',)), ('tuning', ('seconds',)), ('cost', TIMES)):
        if part in kept:
            kept[part] = {key: v for key, v in kept[part].items() if key not in ignored}
    # As JSON, so that a record in memory equals the same record read from its file.
    return json.loads(json.dumps(kept, sort_keys=True, default=lambda value: value.tolist()))
