"""From the command line's words to datasets and experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.dataset import Dataset
from benchmark.engine import tuning
from benchmark.engine.experiment import Experiment, gaps, splits
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError, unknown
from benchmark.missing import spelled
from benchmark.registry import DATASETS, METHODS, keywords, lookup, parse_spec, resolve_options


def open_datasets(
    specs: Sequence[str], roots: Sequence[Path], options: dict[str, Any]
) -> list[Dataset]:
    """Opens the named datasets.

    Args:
        specs: 'name' or 'name:key=value,...'.
        roots: Data roots; a dataset that needs one is opened once for each.
        options: Dataset options from --cfg-options, by key or by 'dataset.key'.

    Raises:
        UserError: An unknown name or option, data that are not there, or two datasets that would
            share a folder of records.
    """
    opened: dict[str, Dataset] = {}
    for spec in specs:
        name, given = parse_spec(spec)
        cls = lookup(DATASETS, name)
        ours = {**_meant_for(cls, name, options), **given}
        for root in [None] if cls.embedded or not roots else roots:
            data = _open(cls, name, ours, root)
            if data.name in opened:
                raise UserError(
                    f'two datasets are called {data.name!r}; give one another name, '
                    f'e.g. {name}:name=second'
                )
            opened[data.name] = data
    return list(opened.values())


def _open(cls: type[Dataset], name: str, given: dict[str, Any], root: Path | None) -> Dataset:
    base = {} if root is None or 'root' in given else {'root': str(root)}
    resolved = resolve_options(cls, name, given, base)
    data = cls(**resolved)
    data.spec = name
    # Where the data lie changes no score; what they hold does, and is in the fingerprint.
    kept = {k: v for k, v in resolved.items() if k not in ('root', 'name', 'cache')}
    # Of a checkpoint the content counts, which is in the fingerprint as well.
    data.options = {k: Path(v).name if k == 'pretrained' else v for k, v in kept.items()}
    return data


def _meant_for(cls: type[Dataset], name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the --cfg-options that are this dataset's own."""
    keys = keywords(cls)
    plain = {k: v for k, v in options.items() if k in keys}
    dotted = {k.partition('.')[2]: v for k, v in options.items() if k.startswith(f'{name}.')}
    return {**plain, **{k: v for k, v in dotted.items() if k not in Protocol.fields()}}


def check_options(options: dict[str, Any], specs: Sequence[str]) -> None:
    """Checks that every --cfg-options key is a protocol field or some dataset's option.

    Raises:
        UserError: It is neither; the nearest name is given.
    """
    known = set(Protocol.fields())
    for spec in specs:
        name, _ = parse_spec(spec)
        own = keywords(lookup(DATASETS, name))
        known |= {*own} | {f'{name}.{key}' for key in {*own, *Protocol.fields()}}
    for key in options:
        if key not in known:
            raise unknown('option in --cfg-options', key, known)


def protocol_for(data: Dataset, options: dict[str, Any], device: str) -> Protocol:
    """Returns the dataset's protocol with the user's overrides, the dataset's own last."""
    fields = Protocol.fields()
    plain = {k: v for k, v in options.items() if k in fields}
    dotted = {
        k.partition('.')[2]: v
        for k, v in options.items()
        if k.startswith(f'{data.spec}.') and k.partition('.')[2] in fields
    }
    return Protocol.build(data.recipe, {**plain, **dotted}, device)


def experiments(
    methods: Sequence[str],
    datasets: Sequence[Dataset],
    seeds: Sequence[int],
    options: dict[str, Any],
    results: Path,
    device: str,
    tune: int | None = None,
    patterns: Sequence[str] | None = None,
) -> list[Experiment]:
    """Returns the grid of experiments, dataset by dataset; trials come before what they tune.

    Args:
        methods: 'name' or 'name:key=value,...'.
        datasets: The opened datasets.
        seeds: The seeds.
        options: Fields of the protocol and options of datasets from --cfg-options.
        results: Results folder.
        device: 'cpu' or 'cuda', which settles precision='auto'.
        tune: Trials of each method's search; no search without it.
        patterns: Values of the protocol's rates, each a grid of its own.

    Raises:
        UserError: An unknown method or option, an option's value of the wrong type, or too few
            trials to choose from.
    """
    if tune is not None and tune < 2:
        raise UserError(f'--tune: expected 2 trials or more, the first untuned, found {tune}')
    chosen = [parse_spec(spec) for spec in methods]
    grid: list[Experiment] = []
    for data, fields in _by_pattern(datasets, options, patterns):
        protocol = protocol_for(data, fields, device)
        for name, given in chosen:
            lookup(METHODS, name)
            for seed in seeds:
                pairs = tuple(sorted(given.items()))
                e = Experiment(name, pairs, data, protocol, seed, results)
                grid += [e] if tune is None else tuning.expand(e, tune)
    for experiment in grid:
        # Whatever is wrong with sampler, options or rates shows before anything is trained.
        experiment.check()
    unique = {e.folder: e for e in grid}
    return list(unique.values())


def _by_pattern(
    datasets: Sequence[Dataset], options: dict[str, Any], patterns: Sequence[str] | None
) -> list[tuple[Dataset, dict[str, Any]]]:
    """Returns each dataset with the options of each training pattern."""
    if patterns is None:
        return [(data, options) for data in datasets]
    for key in options:
        if key.rpartition('.')[2] == 'rates':
            raise UserError(f'--patterns: expected no {key} in --cfg-options beside it')
    return [
        (data, {**options, 'rates': rates})
        for data in datasets
        for rates in spelled(patterns, data.task.names, data.name)
    ]


def refusals(grid: Sequence[Experiment]) -> dict[Path, str]:
    """Returns folder -> why, of experiments whose method cannot train on data with gaps."""
    found = {}
    for e in grid:
        if not e.method.needs_complete:
            continue  # spares reading the data
        train = splits(e.data, 'train')
        try:
            gaps(e, train)
        except UserError as error:
            found[e.folder] = str(error)
    return found
