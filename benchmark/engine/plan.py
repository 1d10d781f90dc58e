"""From the words of the command line to data sets and experiments."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import tested
from benchmark.dataset import Dataset
from benchmark.engine import backbones, gaps, manifest, selectable, values
from benchmark.engine.experiment import Experiment, experiment
from benchmark.engine.protocol import Protocol
from benchmark.engine.tuning import Search, search
from benchmark.errors import Refusals, UserError, listing, unknown
from benchmark.method import Method
from benchmark.missing import Sampler, spelled
from benchmark.narrowed import open_data, recorded
from benchmark.options import Spec, options_of, resolve, typed
from benchmark.records.identity import dumps
from benchmark.registry import DATASETS, METHODS, file_of, lookup, parse_spec

UNSCORED = ('root', 'name', 'cache', 'duplicates')
"""Options of data sets that change no score, and so belong to no identity."""

Grid = list[Experiment | Search]
"""What one command runs, in order; a search stands for its trials and the seeds after them."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for, beside the data sets.

    Attributes:
        methods: Specs, 'name' or 'name:key=value,...'.
        seeds: The seeds.
        options: Fields of the protocol and options of data sets, as text, from --cfg-options.
        results: Results folder.
        device: 'cpu' or 'cuda', which settles precision='auto'.
        tune: Trials of each method's search; no search without it.
        gaps: Settings of the protocol's `rates`, each an experiment of its own.
        refused: Takes what a plan refuses, so that the rest is planned; None for a run, which ends
            where something is refused.
        untuned: Leaves out the values of `results/settings.json`.
        mask: A file that says which modalities each training sample has.
    """

    methods: Sequence[str]
    seeds: Sequence[int]
    options: dict[str, str]
    results: Path
    device: str
    tune: int | None = None
    gaps: Sequence[str] | None = None
    refused: list[str] | None = None
    untuned: bool = False
    mask: Path | None = None


def open_datasets(
    specs: Sequence[str],
    roots: Sequence[Path],
    options: dict[str, str],
    refused: list[str] | None = None,
) -> list[Dataset]:
    """Opens the named data sets.

    Args:
        specs: 'name' or 'name:key=value,...'.
        roots: Data roots; a data set that needs one is opened once for each.
        options: Data set options from --cfg-options, by key or by 'dataset.key'.
        refused: As in `listing`; takes data sets that cannot be opened.

    Raises:
        UserError: An unknown name or option, data that are not there, or two data sets that would
            share a folder of records.
    """
    opened: dict[str, Dataset] = {}
    requests: dict[str, tuple[str, dict[str, Any]]] = {}
    for spec in specs:
        name, given = parse_spec(spec, DATASETS)
        cls = lookup(DATASETS, name)
        ours = {**_meant_for(cls, name, options), **given}
        for root in [None] if cls.embedded or not roots else roots:
            base = {} if root is None or 'root' in ours else {'root': str(root)}
            resolved = resolve(cls, name, ours, base)
            data: Dataset | None = None
            with listing(spec if root is None else f'{spec} in {root}', refused):
                data = _open(cls, name, resolved)
            if data is None:
                continue
            asked = name, resolved
            if requests.setdefault(data.name, asked) != asked:
                raise _namesakes(cls, name, data.name)
            opened.setdefault(data.name, data)
    return list(opened.values())


def _namesakes(cls: type[Dataset], spec: str, name: str) -> UserError:
    """Returns the error for two data sets that would share a folder of records."""
    advice = 'run them in two commands, each with a --results folder of its own'
    if 'name' in options_of(cls):
        advice = f'give one another name, e.g. {spec}:name=second'
    return UserError(f'two data sets are called {name!r}; {advice}')


def _open(cls: type[Dataset], name: str, resolved: dict[str, Any]) -> Dataset:
    data = open_data(cls, resolved)
    data.spec = name
    if data.name != name and data.name in DATASETS.module_dict:
        # Published rows and the papers' settings belong to the registered data set of this name.
        raise UserError(
            f'{name}: the name {data.name!r} is that of a registered data set; give another one, '
            f'e.g. {name}:name=my_{data.name}'
        )
    # Where the data lie changes no score; what they hold does, and is in the fingerprint.
    known = recorded(data, cls, resolved)
    kept = {k: v for k, v in known.items() if k not in UNSCORED}
    # Of a checkpoint the content counts, which is in the fingerprint as well.
    data.options = {k: Path(v).name if k == 'pretrained' else v for k, v in kept.items()}
    return data


def _meant_for(cls: type[Dataset], name: str, options: dict[str, str]) -> dict[str, str]:
    """Returns the --cfg-options that are this data set's own."""
    keys = options_of(cls)
    plain = {k: v for k, v in options.items() if k in keys}
    dotted = {k.partition('.')[2]: v for k, v in options.items() if k.startswith(f'{name}.')}
    return {**plain, **{k: v for k, v in dotted.items() if k not in Protocol.fields()}}


def check_options(
    options: Iterable[str], specs: Sequence[str], where: str = '--cfg-options'
) -> None:
    """Checks that every key of --cfg-options is a protocol field or some data set's option.

    Args:
        options: The keys.
        specs: Specs of the data sets.
        where: Where the keys stand, for messages.

    Raises:
        UserError: It is neither; the nearest name is given.
    """
    plain, dotted = set(Protocol.fields()), set()
    for spec in specs:
        name, _ = parse_spec(spec, DATASETS)
        own = options_of(lookup(DATASETS, name))
        dotted |= {f'{name}.{key}' for key in {*own, *Protocol.fields()}}
        plain |= {*own}
    for key in options:
        if key not in plain | dotted:
            raise unknown(f'option in {where}', key, plain, dotted)


def protocol_for(data: Dataset, options: dict[str, str], device: str) -> Protocol:
    """Returns the data set's protocol with the user's overrides, the data set's own last.

    Raises:
        UserError: A field's value does not fit, or names a modality that the data lack.
    """
    fields = Protocol.fields()
    plain = {k: v for k, v in options.items() if k in fields}
    dotted = {
        k.partition('.')[2]: v
        for k, v in options.items()
        if k.startswith(f'{data.spec}.') and k.partition('.')[2] in fields
    }
    given, names = {**plain, **dotted}, data.task.names
    given |= gaps.spelled(given, names)
    given['subsets'] = tested.spelled(str(given.get('subsets', '')), names)
    if sampler := given.get('sampler'):
        given['sampler'] = Sampler(sampler, names).canonical
    return backbones.applied(Protocol.build(data.recipe, given, device, data.task.kind))


def experiments(request: Request, datasets: Sequence[Dataset]) -> Grid:
    """Returns what the command line asks for, data set by data set, each experiment once.

    Raises:
        UserError: An unknown method or option, an option's value of the wrong type, or too few
            trials to choose from.
    """
    specs, seeds = [_spec(text) for text in request.methods], request.seeds
    grid: dict[Path, Experiment | Search] = {}
    rows, wrong = dict[Path, Spec](), Refusals(request.refused)
    for data, protocol in _protocols(datasets, request):
        for spec in dict.fromkeys(specs):
            for item in _expanded(spec, data, protocol, request):
                e = plain(item)
                with wrong.noting(e.data.name, e.label, e.seed):
                    # Whatever is wrong with sampler, options or rates shows before any training.
                    e.check()
                    selectable.check(e, tuned=isinstance(item, Search))
                    folder = _folder(item)
                    grid.setdefault(folder, item)
                    if (first := rows.setdefault(folder, spec)) != spec and e.seed == seeds[0]:
                        print(f'note: {data.name}: {spec} is {first} there; it is run once')
    wrong.tell()
    return list(grid.values())


def once(grid: Grid) -> Grid:
    """Returns the items of a grid, each once: what it varies may not concern all data sets."""
    return list({_folder(item): item for item in reversed(grid)}.values())[::-1]


def _folder(item: Experiment | Search) -> Path:
    return item.experiments[0].folder if isinstance(item, Search) else item.folder


def _spec(text: str) -> Spec:
    name, given = parse_spec(text, METHODS)
    cls = lookup(METHODS, name)
    _check_defaults(cls, name)
    return Spec(name, tuple(sorted(typed(cls, name, given).items())))


def _check_defaults(cls: type[Method], name: str) -> None:
    """Checks that every option of a method has a value which a record can hold.

    Raises:
        UserError: The message names the file, the option and what was expected.
    """
    where, (_, *parameters) = f'{file_of(cls)}: {name}', inspect.signature(cls).parameters.values()
    own = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for p in own:
        if p.default is p.empty:
            raise UserError(
                f'{where}:{p.name}: expected a default value, since every argument of a method '
                'after the task is an option, found none'
            )
    values = [(p.name, p.default) for p in own]
    for key, value in [*values, *(i for s in cls.settings.values() for i in s.items())]:
        try:
            json.dumps(json.loads(dumps(value)), allow_nan=False)
        except (TypeError, ValueError):
            raise UserError(
                f'{where}:{key}: expected text, finite numbers, true, false or none, which a '
                f'record can hold, found {value!r:.80}'
            ) from None


def _expanded(spec: Spec, data: Dataset, protocol: Protocol, request: Request) -> Grid:
    """Returns the search of a method, or its seeds where nothing is tuned."""
    seeds, results = request.seeds, request.results
    if request.untuned:
        spec = values.untuned(spec, data.task.dataset)
    if request.tune is not None:
        found = search(spec, data, protocol, seeds, results, request.tune)
        if found is not None:
            return [found]
    chosen = not request.untuned
    return [experiment(spec, data, protocol, seed, results, chosen) for seed in seeds]


def _protocols(datasets: Sequence[Dataset], request: Request) -> list[tuple[Dataset, Protocol]]:
    """Returns each data set with its protocol, or with that of each setting of training gaps."""
    for key in request.options if request.gaps is not None else ():
        if key.rpartition('.')[2] == 'rates':
            raise UserError(f'--gaps: expected no {key} in --cfg-options beside it')
    found: list[tuple[Dataset, Protocol]] = []
    for data in datasets:
        with listing(data.name, request.refused):
            settings: list[dict[str, str]] = [{}]
            if request.gaps is not None:
                rates = spelled(request.gaps, data.task.names, data.name)
                settings = [{'rates': r} for r in rates]
            for own in settings:
                protocol = protocol_for(data, {**request.options, **own}, request.device)
                if request.mask is not None:
                    protocol = manifest.applied(request.mask, data, protocol)
                found.append((data, protocol))
    return found


def plain(item: Experiment | Search) -> Experiment:
    """Returns the experiment that an item is, or would be without tuning."""
    return item.untuned if isinstance(item, Search) else item


def flat(grid: Grid) -> list[Experiment]:
    """Returns the experiments that leave records, those of searches with what is known of them."""
    found: list[Experiment] = []
    for item in grid:
        found += item.tuned(item.read()) if isinstance(item, Search) else [item]
    return found
