"""The rows that papers print: read from `results/published`, one row for each metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from benchmark.files import ROOT, read_json
from benchmark.records.checks import check_form

PUBLISHED = ROOT / 'results' / 'published'


class _Row(TypedDict):
    method: str
    scores: dict[str, Any]
    mean: Any
    runs: int | None
    source: str
    certainty: str
    comparable: bool


class _Entry(_Row, total=False):
    """A row; `why_not` or `protocol` is there unless the row is comparable."""

    protocol: str
    metric: str
    truncated: str
    repeats: list[Any]
    other: dict[str, Any]
    erratum: str
    why_not: str


class _File(TypedDict):
    dataset: str
    metric: str
    unit: str
    rows: list[_Entry]


class _Content(_File, total=False):
    """A file; `protocols` tells in words what those that rows name are."""

    mean_of: list[str]
    protocols: dict[str, str]


def published(dataset: str, problems: list[str]) -> list[dict[str, Any]]:
    """Returns the rows that papers print for a data set; none where no file holds them.

    A row of the file that has several metrics becomes a row for each, and one for the file's own
    metric if that is the mean of those (Dice of the regions). A row has the file's metric unless it
    names one. The text of a protocol becomes the reason why rows under it cannot be compared. Rows
    whose numbers belong to no subset (`other`) are left out.

    Args:
        dataset: Name of the data set.
        problems: Takes a line on a file that cannot be used; no row of it is shown.
    """
    path = PUBLISHED / f'{dataset}.json'
    try:
        content = read_json(path)
        check_form(content, _Content)
        rows = [row for entry in content['rows'] for row in _by_metric(entry, content)]
        rows = [row for row in rows if row['scores'] or row['mean'] is not None]
        for row in rows:
            check_form([row['scores'], {'': row['mean']}], list[dict[str, float | None]])
            if not row['comparable'] and 'why_not' not in row:
                raise ValueError(f'why_not of {row["method"]} is missing')
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f'results/published/{path.name}: its rows are left out: {_told(error)}')
        return []
    return rows


def _told(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f'{error} is missing'
    return error.strerror or '' if isinstance(error, OSError) else str(error)


def _by_metric(entry: Mapping[str, Any], content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    own, row = content['metric'], dict(entry)
    if protocol := entry.get('protocol'):
        row['method'] = f'{entry["method"]}, protocol {protocol}'
        row['why_not'] = content['protocols'][protocol]
    if not isinstance(entry['mean'], dict):
        yield {**row, 'metric': entry.get('metric', own)}
        return
    scores, mean = entry['scores'], entry['mean']
    for name in mean:
        yield {**row, 'metric': name, 'scores': scores.get(name, {}), 'mean': mean[name]}
    if set(mean) == set(content.get('mean_of', ())):
        shared = set.intersection(*(set(scores.get(name, {})) for name in mean))
        certainty = f'{entry["certainty"]}; averaged over {", ".join(mean)}'
        yield {
            **row,
            'metric': own,
            'scores': {s: _average([scores[n][s] for n in mean]) for s in sorted(shared)},
            'mean': _average(list(mean.values())),
            'certainty': certainty,
        }


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def sources(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the footnotes on published rows: source, errata, why they are not comparable."""
    origin: dict[str, list[str]] = {}
    reason: dict[str, list[str]] = {}
    errata = []
    for row in rows:
        told = f'{row["source"]}; {row["certainty"]}{_number(row)}'
        origin.setdefault(told, []).append(row['method'])
        if not row['comparable']:
            reason.setdefault(row['why_not'], []).append(row['method'])
        if row.get('truncated'):
            cut = 'mean is' if row['truncated'] == 'mean' else 'cells and the mean are'
            errata.append(f'{row["method"]} (published): the {cut} truncated, not rounded')
        if row.get('erratum'):
            errata.append(f'{row["method"]} (published): {row["erratum"]}')
    return [
        *(f'published {"; ".join(names)}: {text}' for text, names in origin.items()),
        *errata,
        *(f'‡ not comparable: {"; ".join(names)}: {text}' for text, names in reason.items()),
    ]


def _number(row: Mapping[str, Any]) -> str:
    """Says how many runs the numbers are the mean of, where the file tells it."""
    if 'runs' not in row:
        return ''
    count = row['runs']
    if count is None:
        return '; number of runs not known'
    return '; one run' if count == 1 else f'; mean of {count} runs'
