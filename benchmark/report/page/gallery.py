"""The section of pictures: some test samples under every subset, methods side by side.

The pictures lie beside the records (`benchmark.records.gallery`); no network is loaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.records import gallery as files
from benchmark.records.gallery import Answer, Gallery, Picture, Shown
from benchmark.records.schema import DatasetInfo, Record, RecordError
from benchmark.report import escaping
from benchmark.report.page.view import Part, Section, View, lacking, section
from benchmark.shown import noun
from benchmark.subsets import is_subset, subset_order

LARGEST = 1_000_000
"""Characters of the pictures of one part of the page; methods beyond are left out."""

MOST = 2_500_000
"""Characters of all pictures of a page; those of blocks beyond are left out."""

DIFFERS = 0.01
"""Difference of an error from the outcomes that is told; machines differ by less."""

BARS = 4
"""Most classes whose probabilities are shown, unless the true one is not among them."""

TITLES = {
    'drop': 'Largest drop',
    'disagreement': 'Largest disagreement between subsets',
    'random': 'Random samples',
}
EXTREME = 'They are the extreme cases of {of}: they show what can go wrong, not how often it does.'
CHOICE = {
    'drop': 'The samples whose error grows most from all modalities to the worst subset that is '
    f'shown. {EXTREME}',
    'disagreement': 'The samples whose predictions differ most between the subsets that are shown. '
    f'{EXTREME}',
    'random': 'Drawn at random from {of}, without a look at any prediction; the same for every '
    'method. A few samples prove nothing: the scores of a run are those of all test samples.',
}
ERRORS = {
    'classification': 'The error is 100 % minus the probability of the true class.',
    'mIoU': 'The error is the share of the labelled pixels that are wrong, which are red.',
    'Dice': 'One slice of each volume is shown, the middle one of those in which the largest '
    'region lies. Wrong pixels are red. Dice is the mean over the regions of the whole volume.',
}


class Kept(NamedTuple):
    """The pictures of one run.

    Attributes:
        method: The method as the page calls it.
        number: Its number on the page.
        seed: The seed of the run.
        gallery: The pictures.
    """

    method: str
    number: int
    seed: int
    gallery: Gallery


def section_of(view: View, folder: Callable[[Record], Path]) -> Section:
    """Returns the section of a block.

    Args:
        view: The block.
        folder: Returns the folder of a record's run.
    """
    id, title, notes = f'{view.id}-samples', 'Samples, predictions and errors', list[str]()
    kept, without = [], []
    for m in view.order:
        try:
            found = _of(view, m, folder)
        except RecordError as error:
            notes.append(escaping.terminal(str(error)))
            found = None
        if found is None:
            without.append(view.methods[m])
        else:
            kept.append(found)
    if not kept:
        why = (
            'No pictures of samples lie beside these records. Runs on embedded data keep some; '
            'for other data, python benchmark/show.py RUN --data PATH --keep makes them.'
        )
        return section(id, title, '', lacking(' '.join([why, *notes])))
    if without:
        notes.append(f'Without pictures: {", ".join(without)}.')
    about = (
        'The same test samples under every subset of the modalities: what each network was given, '
        'what it answered, and how wrong that is.'
    )
    return section(id, title, about, part(f'{view.id}-gallery', view.runs.data, kept, notes))


def _of(view: View, m: int, folder: Callable[[Record], Path]) -> Kept | None:
    """Returns the pictures of a method: those of the first of its seeds that has some."""
    for i in view.members[m]:
        record = view.runs.records[i]
        found = files.read(folder(record), record)
        if found is not None:
            return Kept(view.methods[m], m, record['seed'], found)
    return None


def part(
    id: str,
    data: DatasetInfo,
    kept: Sequence[Kept],
    notes: Sequence[str] = (),
    all: bool = False,
) -> Part:
    """Returns what the template shows.

    Args:
        id: Identifies it within the page.
        data: The data set.
        kept: The pictures of each method, in the order of their columns; at least one.
        notes: What else is told.
        all: Whether all methods are shown, however large their pictures are together.
    """
    fitting, told = list(kept) if all else _fitting(kept), list(notes)
    if left := [each.method for each in kept if each not in fitting]:
        told.append(f'Left out, so that the page stays small: {", ".join(left)}.')
    for each in fitting:
        if each.gallery['differs'] > DIFFERS:
            gap = 100 * each.gallery['differs']
            told.append(
                f'{each.method}: an error of the pictures differs by {gap:.1f} points from that of '
                'the test, because the code or the machine is another one.'
            )
    seeds = {each.seed for each in fitting}
    if len(seeds) == 1:
        told.append(f'All networks are those of seed {seeds.pop()}.')
    else:
        told.append(', '.join(f'{each.method}: seed {each.seed}' for each in fitting) + '.')
    used: dict[str, str] = {}
    groups = [
        {
            'rule': rule,
            'title': TITLES[rule],
            'text': _told(rule, first.gallery, data),
            'samples': [_sample(id, data, s, fitting, used) for s in _samples(fitting, rule)],
        }
        for rule in TITLES
        if (first := next((k for k in fitting if _samples([k], rule)), None))
    ]
    colours = next((each.gallery['colours'] for each in fitting if each.gallery['colours']), [])
    names = [escaping.terminal(name) for name in data['classes']]
    return {
        'kind': 'gallery',
        'id': id,
        'legend': list(zip(names, colours, strict=True)) if colours else [],
        'error': ERRORS.get(data['metric'], ERRORS['classification']),
        'groups': groups,
        'pictures': used,
        'notes': told,
    }


def _fitting(kept: Sequence[Kept]) -> list[Kept]:
    """Returns the first methods whose pictures are together small enough, at least one."""
    found: list[Kept] = []
    pictures: dict[str, str] = {}
    for each in kept:
        pictures |= each.gallery['pictures']
        if found and sum(map(len, pictures.values())) > LARGEST:
            break
        found.append(each)
    return found


def limited(made: Sequence[Mapping[str, Any]]) -> None:
    """Takes pictures off a page that would be too large, and says so.

    Args:
        made: The blocks.
    """
    total = 0
    for block in made:
        for each in block['sections']:
            for k, one in enumerate(each['parts']):
                if one['kind'] != 'gallery':
                    continue
                total += sum(map(len, one['pictures'].values()))
                if total > MOST:
                    each['parts'][k] = lacking(
                        'The pictures are left out, so that the page stays small. '
                        'python benchmark/show.py RUN makes a page of them alone.'
                    )


def _told(rule: str, gallery: Gallery, data: DatasetInfo) -> str:
    """Says how samples were chosen."""
    unit = 'volumes' if data['metric'] == 'Dice' else 'samples'
    of = f'{gallery["of"]} test {noun(unit, gallery["of"])}'
    text = CHOICE[rule].format(of=of)
    if rule == 'random' or gallery['chosen'] == 1:
        return text
    return f'{text} They were chosen by the mean over {gallery["chosen"]} runs.'


def _key(shown: Shown) -> tuple[str, str]:
    return shown['name'], shown['place']


def _samples(kept: Sequence[Kept], rule: str) -> list[Shown]:
    """Returns the samples of a rule, each once."""
    found: dict[tuple[str, str], Shown] = {}
    for each in kept:
        for shown in each.gallery['samples']:
            if shown['rule'] == rule:
                found.setdefault(_key(shown), shown)
    return list(found.values())


def _sample(
    id: str, data: DatasetInfo, shown: Shown, kept: Sequence[Kept], used: dict[str, str]
) -> dict[str, Any]:
    """Returns a sample with the answers of all methods that have it; notes the pictures in use."""
    every = {key: png for each in kept for key, png in each.gallery['pictures'].items()}

    def tile(picture: Picture) -> dict[str, str]:
        used[f'{id}-{picture["key"]}'] = every[picture['key']]
        return {'key': f'{id}-{picture["key"]}', 'text': escaping.terminal(picture['text'])}

    answers = [
        (each, one['answers'])
        for each in kept
        for one in each.gallery['samples']
        if (one['rule'], *_key(one)) == (shown['rule'], *_key(shown))
    ]
    answered = {subset for _, found in answers for subset in found}
    known = (subset for subset in answered if is_subset(subset, data['modalities']))
    subsets = subset_order(known, data['modalities'])
    inputs = {m: tile(p) for m, p in shown['inputs'].items() if m in data['modalities']}
    name = escaping.terminal(shown['name'])
    return {
        'name': f'{name}, {shown["place"]}' if shown['place'] else name,
        'truth': data['classes'][shown['label']] if 'label' in shown else '',
        'map': tile(shown['truth']) if 'truth' in shown else None,
        'value': _value(shown),
        'modalities': data['modalities'],
        'inputs': inputs,
        'methods': [(each.number, each.method) for each, _ in answers],
        'rows': [
            {
                'subset': subset,
                'given': subset.split('+'),
                'cells': [
                    (each.number, _cell(a[subset], data, shown, tile) if subset in a else None)
                    for each, a in answers
                ],
            }
            for subset in subsets
        ],
    }


def _value(shown: Shown) -> str:
    points = f'{100 * shown["value"]:.0f}'
    told = {
        'drop': f'its error grows by {points} percentage points',
        'disagreement': f'disagreement {points} %',
    }
    return told.get(shown['rule'], '')


def _cell(
    answer: Answer, data: DatasetInfo, shown: Shown, tile: Callable[[Picture], dict[str, str]]
) -> dict[str, Any]:
    """Returns what one method answered on one subset."""
    error = f'{100 * answer["error"]:.1f} %'
    if 'shares' in answer and 'label' in shown:
        shares, label = answer['shares'], shown['label']
        order = sorted(range(len(shares)), key=lambda k: -shares[k])
        bars = [k for k in order if k in order[:BARS] or k == label]
        return {
            'answer': data['classes'][order[0]],
            'right': order[0] == label,
            'error': f'error {error}',
            'bars': [
                {'name': data['classes'][k], 'share': round(100 * shares[k], 1), 'true': k == label}
                for k in bars
            ],
        }
    if data['metric'] == 'Dice':
        wrong, dice = 100 * answer.get('wrong', 0), 100 * (1 - answer['error'])
        error = f'{wrong:.1f} % of the slice, Dice of the volume {dice:.1f} %'
    tiles = [tile(answer[kind]) for kind in ('map', 'mistakes') if kind in answer]
    return {'bars': [], 'tiles': tiles, 'error': f'wrong: {error}'}
