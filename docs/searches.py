"""The table of the searches on the validation split, which `comparisons.py` writes."""

from __future__ import annotations

import json
from pathlib import Path

TRIALS = Path(__file__).resolve().parent.parent / 'results/search/tuning'


def tried(folder: Path) -> list[dict]:
    """Returns the trials of one method's search in order."""
    files = sorted(folder.glob('trial*/trial.json'), key=lambda f: int(f.parent.name[5:]))
    return [json.loads(f.read_text(encoding='utf-8')) for f in files]


def brief(value: object) -> str:
    """Returns a number with three digits, and any other value as it is."""
    return f'{value:.3g}' if isinstance(value, float) else str(value)


def search() -> str:
    """Returns the scores of the searches on validation as a Markdown table."""
    head = 'data set', 'method', 'first setting', 'score', 'chosen', 'score', 'worst of 8'
    lines = [f'| {" | ".join(head)} |', '| --- | --- | --- | ---: | --- | ---: | ---: |']
    for folder in sorted(TRIALS.glob('*/*/*')):
        trials = tried(folder)
        data, method = trials[0]['dataset'], trials[0]['method']
        ranked = sorted(trials, key=lambda t: t['score'], reverse=data['higher_is_better'])
        words = [
            ', '.join(f'{key} = {brief(t["method"]["options"][key])}' for key in method['tunable'])
            for t in (trials[0], ranked[0])
        ]
        scores = [f'{100 * t["score"]:.2f}' for t in (trials[0], ranked[0], ranked[-1])]
        chosen = 'the first' if ranked[0] is trials[0] else words[1]
        cells = data['name'], f'`{method["name"]}`', words[0], scores[0], chosen, *scores[1:]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join([*lines, ''])
