"""What every registered method promises, on a small task of every kind.

A new file in methods/ is found and tested by itself. A test that does not apply to a method is
named in its `contract_exceptions`, with the reason.
"""

import contextlib
import copy
import functools
import inspect
import re
import typing
from types import NoneType, UnionType
from typing import Literal

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from tasks import ESANET, batch_of
from tasks import TASKS as PLAIN

from benchmark.engine import stacking
from benchmark.engine.evaluation import subset_logits
from benchmark.errors import UserError
from benchmark.method import Method, SubsetScore
from benchmark.missing import subset_id, subset_ids, subset_masks
from benchmark.options import Range, options_of, typed
from benchmark.registry import BROKEN, METHODS, discover

discover()
NAMES = sorted(METHODS.module_dict)
TASKS = {**PLAIN, 'esanet': ESANET}
EXCEPTIONS = {'paper', 'gradient', 'unplugged', 'twin', *TASKS}
"""Keys of `contract_exceptions`: tests that call `exempt`, and tasks that a method refuses."""


def accepted(name):
    """The test tasks that a method takes; test_esanet.py tests how others refuse the network."""
    cls = METHODS.module_dict[name]
    return [
        kind
        for kind, task in TASKS.items()
        if task.network in cls.supported_networks and kind not in cls.contract_exceptions
    ]


BOTH = [(name, kind) for name in NAMES for kind in accepted(name)]
FIRST = [(name, accepted(name)[0]) for name in NAMES if accepted(name)]


@functools.cache
def teacher_of(name, kind):
    """An untrained teacher, which must not change: a test looks whether it does."""
    return METHODS.module_dict[name](TASKS[kind])


def built(name, kind, seed=0, **options):
    """A method in its last epoch, after a validation in every epoch, with an untrained teacher."""
    torch.manual_seed(seed)
    cls, task = METHODS.module_dict[name], TASKS[kind]
    method = cls(task, **options)
    if cls.teacher:
        method.set_teacher(teacher_of(cls.teacher, kind))
    method.epochs = 100
    score = {'accuracy': 0.5, 'ACER': 0.5, 'mIoU': 0.5}
    shares = np.linspace(1, 2, len(task.classes))
    for epoch in range(method.epochs):
        method.epoch = epoch
        method.on_validation(
            {
                s: SubsetScore(
                    {k: v / (i + 1) for k, v in score.items()}, tuple(shares**i / sum(shares**i)), 9
                )
                for i, s in enumerate(subset_ids(task.names))
            }
        )
    return method


@functools.cache
def finished(name, kind):
    """Such a method in evaluation mode, for tests that change nothing in it."""
    return built(name, kind).eval()


@contextlib.contextmanager
def training(method):
    """Lets a method be trained, and makes it what it was before."""
    kept = copy.deepcopy(method.state_dict())
    yield method.train()
    method.zero_grad()
    method.eval().load_state_dict(kept)


def training_batch(kind):
    """A batch of 14 samples in which every subset occurs as a mask."""
    task = TASKS[kind]
    masks = torch.from_numpy(subset_masks(len(task.names)))
    return batch_of(task, 14)._replace(mask=masks.repeat(14, 1)[:14])


def subsets(kind, count):
    """Every subset of a task's modalities: its id, its mask row, and the mask for a batch."""
    names = TASKS[kind].names
    for row in subset_masks(len(names)):
        yield subset_id(names, row), row, torch.from_numpy(row).expand(count, -1)


@functools.cache
@torch.no_grad()
def together(name, kind):
    """What such a method predicts for a batch whose samples have different masks."""
    batch = batch_of(TASKS[kind])
    return finished(name, kind).predict(batch.inputs, batch.mask)


@functools.cache
@torch.no_grad()
def predicted(name, kind):
    """What such a method predicts for a batch: id of a subset -> logits."""
    inputs = batch_of(TASKS[kind]).inputs
    count = len(next(iter(inputs.values())))
    method = finished(name, kind)
    return {subset: method.predict(inputs, mask) for subset, _, mask in subsets(kind, count)}


def exempt(name, test):
    reason = METHODS.module_dict[name].contract_exceptions.get(test)
    if reason:
        pytest.skip(reason)


def or_exempt(name, test):
    """The way out that a message names."""
    cls = METHODS.module_dict[name].__name__
    return f'or set {cls}.contract_exceptions = {{{test!r}: <reason>}}'


def test_every_method_file_can_be_imported():
    broken = {file: why for file, why in BROKEN.items() if file.startswith('methods/')}
    assert not broken, f'these files raise an error when they are imported: {broken}'


@pytest.mark.parametrize('name', NAMES)
def test_a_method_takes_some_task_and_names_only_known_exceptions(name):
    cls = METHODS.module_dict[name]
    assert issubclass(cls, Method), f'{name}: expected a subclass of benchmark.method.Method'
    assert accepted(name), f'{name} takes none of the test tasks {list(TASKS)}'
    unknown = set(cls.contract_exceptions) - EXCEPTIONS
    assert not unknown, f'{name}.contract_exceptions: {unknown} are none of {sorted(EXCEPTIONS)}'


@pytest.mark.parametrize('name', NAMES)
def test_the_docstring_names_the_paper_with_its_year(name):
    exempt(name, 'paper')
    assert re.search(r'\b(19|20)\d\d\b', METHODS.module_dict[name].__doc__ or ''), (
        f'{name}: name the paper and its year in the docstring of the class (for a new method '
        "your names, 'unpublished' and the year), " + or_exempt(name, 'paper')
    )


def problems(cls):
    """What is wrong with the constructor of a method, whose parameters are its options."""
    found = []
    hints = typing.get_type_hints(cls.__init__)
    parameters = inspect.signature(cls).parameters
    for option in list(parameters.values())[1:]:
        hint = hints.get(option.name, type(option.default))
        if option.kind in (option.VAR_POSITIONAL, option.VAR_KEYWORD, option.POSITIONAL_ONLY):
            found.append(f'{option}: expected a named parameter, since it is an option')
        elif option.default is option.empty:
            found.append(f'{option}: expected a default, since it is an option')
        elif not fits(option.default, hint):
            found.append(f'{option}: the default has not the annotated type, or no option has it')
    groups = {f'settings[{dataset!r}]': given for dataset, given in cls.settings.items()}
    groups['ranges'] = vars(cls).get('ranges', {})
    for where, given in {'search': cls.search, **groups}.items():
        found += [f'{where}: {key!r} is not an option' for key in given if key not in parameters]
    return found


@pytest.mark.parametrize('name', NAMES)
def test_values_of_a_method_are_in_range_and_a_number_below_is_refused_in_one_line(name):
    cls = METHODS.module_dict[name]
    options = options_of(cls)
    plain = {key: option.default for key, option in options.items()}
    for given in (plain, *cls.settings.values()):
        assert typed(cls, name, given) == given
        for key, drawn in cls.search_space({**plain, **given}).items():
            for share in (0.0, 0.999999):
                typed(cls, name, {key: drawn.at(share)})
    for key, option in options.items():
        if key in cls.ranges or fits(0.5, option.hint):
            least = cls.ranges.get(key, Range()).least
            told = f'^{name}:{key}: expected .*, found {least - 1}$'
            with pytest.raises(UserError, match=told) as error:
                typed(cls, name, {key: str(least - 1)})
            assert '\n' not in str(error.value)


def fits(value, hint):
    """Whether an option may have a type, and whether a value is of it."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in inner
    if origin in (UnionType, typing.Union):
        return any(fits(value, one) for one in inner)
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(item, inner[0]) for item in value)
    if hint is float:
        return type(value) in (int, float)
    return hint in (str, int, bool, NoneType) and type(value) is hint


@pytest.mark.parametrize(('name', 'kind'), FIRST)
def test_every_parameter_after_the_task_is_an_option_with_a_default(name, kind):
    cls = METHODS.module_dict[name]
    assert not problems(cls)
    for dataset, settings in {str(v): (k, v) for k, v in cls.settings.items()}.values():
        assert cls(TASKS[kind], **settings), dataset


class Ordinary(Method):
    search = {'heads': None, 'ratio': None}

    def __init__(
        self,
        task,
        heads=1,
        *,
        ratio: float | Literal['auto'] = 'auto',
        sizes: tuple[int, ...] = (1, 2),
    ):
        super().__init__(task)


class Bad(Method):
    search = {'depth': None}
    settings = {'casia_surf': {'heads': 2, 'width': 3}}

    def __init__(
        self,
        task,
        heads,
        sizes=[1],  # noqa: B006
        mode: Literal['a', 'b'] = 'c',
        share: float = '0.5',
        rate: int = 0.5,
        **others,
    ):
        super().__init__(task)


def test_options_may_be_ordinary_parameters_and_mistakes_are_named():
    assert not problems(Ordinary)
    named = [found.partition(':')[0].partition('=')[0].strip() for found in problems(Bad)]
    assert named == ['heads', 'sizes', 'mode', 'share', 'rate', '**others', 'search'] + [
        "settings['casia_surf']"
    ]


@pytest.mark.parametrize(('name', 'kind'), BOTH)
def test_the_loss_is_finite_and_reaches_every_parameter(name, kind):
    exempt(name, 'gradient')
    silent = None
    for seed in range(3):  # a unit of a narrow layer may be dead with some initial weights
        with training(built(name, kind, seed) if seed else finished(name, kind)) as method:
            torch.manual_seed(seed)
            total, terms = method.parse_losses(method.loss(training_batch(kind)))
            bad = [term for term, value in terms.items() if not torch.isfinite(value)]
            assert not bad, f'{name} on {kind}: these terms of the loss are not finite: {bad}'
            assert total.requires_grad, f'{name}: no term of the loss has "loss" in its name'
            total.backward()
            found = {n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()}
        silent = found if silent is None else silent & found
        if not silent:
            break
    assert not silent, (
        f'{name} on {kind}: in the last epoch the loss has no gradient for {silent}; '
        f'remove these parameters, {or_exempt(name, "gradient")}'
    )


def poisoned(x):
    """NaN in every second sample and 1000 in the others."""
    poison = torch.where(torch.arange(len(x)) % 2 == 0, float('nan'), 1e3)
    return poison.reshape(-1, *[1] * (x.ndim - 1)).expand_as(x)


@torch.no_grad()
@pytest.mark.parametrize(('name', 'kind'), BOTH)
def test_missing_modalities_have_no_effect_on_predictions(name, kind):
    method, task = finished(name, kind), TASKS[kind]
    batch = batch_of(task)
    for subset, row, mask in subsets(kind, len(batch.ids)):
        absent = [n for n, there in zip(task.names, row, strict=True) if not there]
        spoilt = {n: poisoned(x) if n in absent else x for n, x in batch.inputs.items()}
        assert torch.equal(method.predict(spoilt, mask), predicted(name, kind)[subset]), (
            f'{name} on {kind}: predictions from {subset} change if {absent} hold NaN or 1000; '
            'select by the mask (methods.common.networks.masked), never multiply by it'
        )


@torch.no_grad()
@pytest.mark.parametrize(('name', 'kind'), BOTH)
def test_a_sensor_that_is_off_need_not_be_given(name, kind):
    exempt(name, 'unplugged')
    method, task = finished(name, kind), TASKS[kind]
    batch = batch_of(task)
    for subset, row, mask in subsets(kind, len(batch.ids)):
        given = {n: batch.inputs[n] for n, on in zip(task.names, row, strict=True) if on}
        torch.testing.assert_close(
            method.predict(given, mask),
            predicted(name, kind)[subset],
            msg=lambda why, subset=subset: (
                f'{name} on {kind}: predictions change if inputs hold {subset} only; '
                f'encode what is given, {or_exempt(name, "unplugged")}: {why}'
            ),
        )


@pytest.mark.parametrize(('name', 'kind'), BOTH)
def test_encoding_once_gives_the_predictions_of_separate_passes(name, kind, monkeypatch):
    # Each subset is decoded alone: what several share is rounded in another way.
    monkeypatch.setitem(stacking.LIMIT, 'cpu', 1)
    monkeypatch.setattr(stacking, '_shares', lambda _: False)
    method, batch = finished(name, kind), batch_of(TASKS[kind])
    masks = list(subset_masks(len(TASKS[kind].names)))
    names = TASKS[kind].names
    with torch.no_grad():
        for row, logits in subset_logits(method, batch, masks):
            assert torch.equal(logits, predicted(name, kind)[subset_id(names, row)]), (
                f'{name} on {kind}: decode(encode(inputs), mask) is not predict(inputs, mask); '
                'encode must not mix modalities, and decode must not change the features'
            )


@torch.no_grad()
@pytest.mark.parametrize(('name', 'kind'), BOTH)
def test_samples_with_different_masks_do_not_influence_each_other(name, kind):
    method, batch = finished(name, kind), batch_of(TASKS[kind])
    whole = together(name, kind)
    for i in range(len(batch.ids)):
        alone = method.predict(
            {n: x[i : i + 1] for n, x in batch.inputs.items()}, batch.mask[i : i + 1]
        )
        torch.testing.assert_close(
            alone[0],
            whole[i],
            rtol=1e-4,
            # Rounding errors are as large as the largest values that are summed.
            atol=1e-5 * max(1, whole.abs().max().item()),
            msg=lambda why: (
                f'{name} on {kind}: a prediction depends on the rest of the batch: {why}'
            ),
        )


@pytest.mark.parametrize(('name', 'kind'), BOTH)
def test_logits_have_the_target_s_shape(name, kind):
    found = list(together(name, kind).shape)
    count, *place = batch_of(TASKS[kind]).target.shape
    expected = [count, len(TASKS[kind].classes), *place]
    assert found == expected, f'{name} on {kind}: expected logits {expected}, found {found}'


@pytest.mark.parametrize(('name', 'kind'), FIRST)
def test_the_teacher_stays_outside_frozen_and_in_evaluation_mode(name, kind):
    if not METHODS.module_dict[name].teacher:
        pytest.skip('has no teacher')
    method = built(name, kind).train()
    teacher = method.teacher_network
    before = copy.deepcopy(teacher.state_dict())
    inside = {id(p) for p in method.parameters()}
    assert not inside & {id(p) for p in teacher.parameters()}, f'{name} trains its teacher'
    assert not teacher.training, f'{name}: train() puts the teacher into training mode'
    method.parse_losses(method.loss(training_batch(kind)))[0].backward()
    changed = [k for k, v in teacher.state_dict().items() if not torch.equal(v, before[k])]
    assert not changed, f'{name}: a training step changes its teacher: {changed}'
    assert all(p.grad is None for p in teacher.parameters()), f'{name}: its teacher has gradients'


def seeded(name, kind):
    """The named losses of a new method for a batch, and then its logits, all from seeds."""
    method, batch = built(name, kind, seed=3).train(), training_batch(kind)
    torch.manual_seed(7)
    losses = {key: value.detach() for key, value in method.loss(batch).items()}
    return losses, method.eval().predict(batch.inputs, batch.mask).detach()


first = functools.cache(seeded)


@pytest.mark.parametrize(('name', 'kind'), FIRST)
def test_the_same_seed_gives_the_same_loss(name, kind):
    losses = [first(name, kind)[0], seeded(name, kind)[0]]
    assert losses[0].keys() == losses[1].keys()
    different = [k for k in losses[0] if not torch.equal(losses[0][k], losses[1][k])]
    assert not different, (
        f'{name}: {different} differ between two runs; draw from torch only, which is seeded'
    )


def test_no_two_methods_are_the_same_under_two_names():
    found = {}
    for name in NAMES:
        cls = METHODS.module_dict[name]
        if 'faces' not in accepted(name) or 'twin' in cls.contract_exceptions:
            continue
        losses, logits = first(name, 'faces')
        loss = sum(value.item() for key, value in losses.items() if 'loss' in key)
        key = (loss, logits.sum().item(), cls.sampler, cls.dedicated, cls.train_step)
        found.setdefault(key, []).append(name)
    twins = [names for names in found.values() if len(names) > 1]
    assert not twins, (
        f'{twins} have the same loss, predictions and sampler; make one an option of the other, '
        + or_exempt('<method>', 'twin')
    )


IDLE = [
    (name, option, kind)
    for name in NAMES
    for option in METHODS.module_dict[name].only_with
    for kind in accepted(name)
]


def others(option):
    """The values of an option that are tried, if its type is a choice, or another number."""
    if typing.get_origin(option.hint) is Literal:
        return typing.get_args(option.hint)
    if isinstance(option.default, bool):
        return False, True
    return (option.default / 2 if option.default else 1.0,)


def a_step(name, kind, options):
    """The weights of a method after a training step with some options."""
    method, batch = built(name, kind, **options).train(), training_batch(kind)
    torch.manual_seed(7)
    method.train_step(batch, OptimWrapper(torch.optim.SGD(method.parameters(), lr=0.1)))
    return method.state_dict()


@pytest.mark.parametrize(('name', 'option', 'kind'), IDLE)
def test_an_option_changes_nothing_without_the_values_that_it_is_declared_to_need(
    name, option, kind
):
    cls = METHODS.module_dict[name]
    known = options_of(cls)
    other, needed = cls.only_with[option]
    assert {option, other} <= set(known)
    assert all(fits(value, known[other].hint) for value in needed)
    if known[option].hint is str:
        (second,) = TASKS[kind].names[1:2]
    elif type(known[option].default) is int:
        second = known[option].default + 1
    else:
        second = next(value for value in others(known[option]) if value != known[option].default)
    alone = [value for value in others(known[other]) if value not in needed]
    tried = 0
    for value in alone:
        with contextlib.suppress(UserError):  # the task is not one for this value
            one, two = (a_step(name, kind, {other: value, **o}) for o in ({}, {option: second}))
            assert one.keys() == two.keys()
            assert all(torch.equal(one[key], two[key]) for key in one), value
            tried += 1
    assert tried
