"""From the command line's words to datasets and experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.dataset import Dataset
from benchmark.errors import UserError, unknown
from benchmark.experiment import Experiment
from benchmark.protocol import Protocol
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
    data.options = {k: v for k, v in resolved.items() if k not in ('root', 'name')}
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
) -> list[Experiment]:
    """Returns the grid of experiments, dataset by dataset.

    Raises:
        UserError: An unknown method or option, or an option's value of the wrong type.
    """
    chosen = [parse_spec(spec) for spec in methods]
    grid = []
    for data in datasets:
        protocol = protocol_for(data, options, device)
        for name, given in chosen:
            lookup(METHODS, name)
            for seed in seeds:
                pairs = tuple(sorted(given.items()))
                grid.append(Experiment(name, pairs, data, protocol, seed, results))
    for experiment in grid:
        # Whatever is wrong with sampler, options or rates shows before anything is trained.
        experiment.check()
    unique = {e.folder: e for e in grid}
    return list(unique.values())
