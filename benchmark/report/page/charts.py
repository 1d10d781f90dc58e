"""The charts as Vega-Lite specifications; the page adds data, colours and titles.

A text that begins with '@' is replaced by a title of the figure, and a height {'row': h} by h for
each row of the data. Data come as rows whose field 'method' is the name of the method.
"""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

CONFIG: Spec = {
    # The text's own colour, so that one picture serves light, dark and print.
    'background': None,
    'font': 'system-ui, sans-serif',
    'view': {'stroke': None},
    'axis': {
        'labelColor': 'currentColor',
        'titleColor': 'currentColor',
        'tickColor': 'currentColor',
        'domainColor': 'currentColor',
        'gridColor': 'currentColor',
        'gridOpacity': 0.15,
        'labelFontSize': 12,
        'titleFontSize': 12,
        'titleFontWeight': 'normal',
        'labelLimit': 160,
    },
    'legend': {
        'labelColor': 'currentColor',
        'titleColor': 'currentColor',
        'labelFontSize': 12,
        'labelLimit': 220,
        'orient': 'bottom',
        'title': None,
        'symbolLimit': 0,
        'symbolOpacity': 1,
    },
    # The chart has a description and a table of its numbers; no reader wants hundreds of dots told.
    'mark': {'aria': False},
}

METHOD: Spec = {'field': 'method', 'type': 'nominal', 'title': None}


def axis(field: str, title: str | None, zero: bool = False, **more: Any) -> Spec:
    """Returns a quantitative axis."""
    return {
        'field': field,
        'type': 'quantitative',
        'title': title,
        'scale': {'zero': zero, 'nice': True},
        **more,
    }


def tips(*fields: tuple[str, str]) -> list[Spec]:
    """Returns what is shown where the pointer rests: the method, then fields with their titles."""
    told = [{'field': field, 'title': title} for field, title in fields]
    return [{'field': 'method', 'title': 'method', 'type': 'nominal'}, *told]


def _spec(height: Any, **more: Any) -> Spec:
    return {
        'width': 'container',
        'height': height,
        'autosize': {'type': 'fit-x', 'contains': 'padding'},
        'config': CONFIG,
        **more,
    }


MISSING = _spec(
    300,
    encoding={
        'x': {
            'field': 'k',
            'type': 'ordinal',
            'title': 'modalities missing at test',
            'axis': {'labelAngle': 0},
        },
        'color': METHOD,
    },
    layer=[
        {
            'mark': {'type': 'area', 'opacity': 0.15},
            'encoding': {'y': axis('low', '@y'), 'y2': {'field': 'high'}},
        },
        {
            'mark': {'type': 'line', 'strokeWidth': 2},
            'encoding': {'y': axis('mean', '@y')},
        },
        {
            'mark': {'type': 'point', 'filled': True, 'size': 45, 'opacity': 0.8},
            'encoding': {
                'y': axis('value', '@y'),
                'shape': METHOD,
                'tooltip': tips(('k', 'missing'), ('seed', 'seed'), ('value', 'score')),
            },
        },
    ],
)

SHAPLEY = _spec(
    {'row': 13},
    encoding={
        'y': {'field': 'modality', 'type': 'nominal', 'title': None, 'sort': None,
              'scale': {'paddingInner': 0.25}},
        'yOffset': {'field': 'method', 'type': 'nominal', 'sort': None},
        'color': METHOD,
    },
    layer=[
        {
            'mark': 'bar',
            'encoding': {
                'x': axis('value', '@x', zero=True, axis={'format': '~g', 'tickCount': 8}),
                'tooltip': tips(('modality', 'modality'), ('value', 'value'), ('std', '±')),
            },
        },
        {
            'mark': {'type': 'rule', 'color': 'currentColor'},
            'encoding': {
                'x': axis('low', '@x', zero=True),
                'x2': {'field': 'high'},
                'color': {'value': 'currentColor'},
            },
        },
    ],
)  # fmt: skip

_END = {'type': 'point', 'filled': True, 'size': 60, 'color': 'var(--c1)', 'opacity': 1}

_INSIDE: Any = {'scale': {'zero': False, 'nice': False, 'padding': 12}}

RANKS = _spec(
    {'row': 19},
    encoding={
        'y': {'field': 'method', 'type': 'nominal', 'title': None, 'sort': {'field': 'order'}},
        'x': axis('low', 'rank (95 % interval)', axis={'tickMinStep': 1, 'format': 'd'}, **_INSIDE),
        'tooltip': tips(('low', 'best rank'), ('high', 'worst rank')),
    },
    layer=[
        {
            'mark': {'type': 'rule', 'strokeWidth': 3, 'color': 'var(--c1)'},
            'encoding': {'x2': {'field': 'high'}},
        },
        {'mark': _END},
        {'mark': _END, 'encoding': {'x': axis('high', 'rank (95 % interval)', **_INSIDE)}},
    ],
)

_COST = {'x': axis('cost', '@x'), 'y': axis('score', '@y')}
_FRONT = {'filter': {'field': 'front', 'gt': 0}}

COST = _spec(
    340,
    encoding=_COST,
    layer=[
        {
            'transform': [_FRONT],
            'mark': {'type': 'line', 'color': 'var(--c1)', 'strokeDash': [4, 3]},
        },
        {
            'mark': {'type': 'point', 'size': 70, 'color': 'var(--c1)', 'opacity': 1},
            'encoding': {
                'fill': {
                    'condition': {'test': {'field': 'front', 'gt': 0}, 'value': 'var(--c1)'},
                    'value': 'transparent',
                },
                'tooltip': tips(('cost', 'cost'), ('score', 'score')),
            },
        },
        {
            'transform': [_FRONT],
            'mark': {'type': 'text', 'align': 'left', 'color': 'currentColor', 'limit': 140,
                     'dx': 8, 'dy': {'expr': '13 * (datum.front % 3) - 14'}},
            'encoding': {'text': {'field': 'method', 'type': 'nominal'}},
        },
    ],
)  # fmt: skip


def _lines(x: Spec, y: Spec, more: list[Spec], **encoding: Any) -> Spec:
    tip = tips((x['field'], x['title']), (y['field'], y['title']))
    return _spec(
        280,
        layer=[
            *more,
            {
                'mark': {'type': 'line', 'strokeWidth': 2},
                'encoding': {'x': x, 'y': y, 'color': METHOD, **encoding},
            },
            {
                'mark': {'type': 'point', 'filled': True, 'size': 30, 'opacity': 0.9},
                'encoding': {'x': x, 'y': y, 'color': METHOD, 'shape': METHOD, 'tooltip': tip},
            },
        ],
    )


# Of few epochs Vega also marks halves, which 'd' would round.
WHOLE: Spec = {
    'tickMinStep': 1,
    'format': 'd',
    'labelExpr': "datum.value % 1 ? '' : datum.label",
}

_PERCENT: Any = {'scale': {'domain': [0, 100]}}

DIAGONAL: Spec = {
    'data': {'values': [{'a': 0}, {'a': 100}]},
    'mark': {'type': 'line', 'strokeDash': [4, 3], 'color': 'currentColor', 'opacity': 0.5},
    'encoding': {
        'x': axis('a', 'stated confidence (%)'),
        'y': axis('a', 'right answers (%)'),
    },
}

CHARTS: dict[str, Spec] = {
    'missing': MISSING,
    'shapley': SHAPLEY,
    'ranks': RANKS,
    'cost': COST,
    'risk': _lines(
        axis('coverage', 'coverage (%)', **_PERCENT), axis('risk', 'risk (%)', zero=True), []
    ),
    'reliability': _lines(
        axis('confidence', 'stated confidence (%)', **_PERCENT),
        axis('accuracy', 'right answers (%)', **_PERCENT),
        [DIAGONAL],
    ),
    'severity': _lines(
        axis('severity', 'severity', axis={'tickMinStep': 1, 'format': 'd'}),
        axis('value', '@y'),
        [],
    ),
    'curves': _lines(
        axis('epoch', 'epoch', axis=WHOLE),
        axis('value', '@0'),
        [],
        detail={'field': 'seed', 'type': 'nominal'},
    ),
}
"""Name -> specification."""
