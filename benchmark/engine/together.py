"""Whether what is asked for goes together, as far as it shows without data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.engine import backbones, gaps, loading, mask_schedules, noise, one_encoder, untrained
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.method import Task
from benchmark.missing import Sampler
from benchmark.options import options_of
from benchmark.registry import DATASETS, METHODS, lookup, parse_spec
from benchmark.tested import tested


def check(label: str, name: str, options: dict[str, Any], task: Task, protocol: Protocol) -> None:
    """Checks what an experiment consists of.

    Args:
        label: What messages call the method.
        name: Its registered name.
        options: Its options.
        task: The task, with what the protocol chooses.
        protocol: The protocol.

    Raises:
        UserError: Network, gaps, sampling, sampler, encoder, mask schedule, noise, tested subsets
            or a value of an option do not fit the method or the task.
    """
    method = lookup(METHODS, name)
    method.check_network(task)
    gaps.check(task, protocol)
    loading.check_sampling(protocol.sampling, task)
    noise.check(protocol.vector_noise, task)
    mask_schedules.check(protocol.mask_schedule, Sampler(protocol.sampler, task.names), task)
    backbones.check(label, name, options, task)
    one_encoder.check(label, name, options, task)
    # The label names the options that were given. Pre-trained weights would be read, or fetched.
    if ':' in label and not task.pretrained:
        why = untrained.refusal(name, untrained.frozen(options), task)
        if why:
            raise UserError(f'{label} on {task.dataset}: cannot be built: {why}')
    if method.mines and method.mines.items() <= options.items():
        _check_tested(f'{label} on {task.dataset}', protocol.subsets, task.names)


def check_roots(specs: Sequence[str], roots: Sequence[Path]) -> None:
    """Checks that some data set reads the data roots that are given.

    Args:
        specs: Specs of the data sets.
        roots: The data roots.

    Raises:
        UserError: All data sets are embedded.
    """
    names = list(dict.fromkeys(parse_spec(spec, DATASETS)[0] for spec in specs))
    if not roots or not names or not all(lookup(DATASETS, name).embedded for name in names):
        return
    *own, last = sorted(n for n, cls in DATASETS.module_dict.items() if 'name' in options_of(cls))
    raise UserError(
        f'--data-root: {" and ".join(names)} read{"s" * (len(names) == 1)} no data; did you forget '
        f'--datasets {", ".join(own)} or {last}?'
    )


def _check_tested(who: str, spec: str, names: Sequence[str]) -> None:
    """Checks that the subsets that lack one modality are validated.

    Raises:
        UserError: Some are not.
    """
    needed = ['+'.join(n for n in names if n != absent) for absent in names if len(names) > 1]
    validated = {*tested(spec, names)}
    lacking = [subset for subset in needed if subset not in validated]
    if lacking:
        raise UserError(
            f'{who}: expected in --subsets all {len(needed)} subsets that lack one modality, which '
            f'it mines, such as {lacking[0]}, found {len(needed) - len(lacking)} of them'
        )
