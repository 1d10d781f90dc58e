"""Every variant of every method, from training to a record that its outcomes prove."""

import dataclasses
import typing

import pytest
from tasks import TASKS, Toy

from benchmark.engine import execution, notes
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment
from benchmark.engine.protocol import Protocol
from benchmark.files import ROOT
from benchmark.options import Spec, options_of
from benchmark.records import store, verification
from benchmark.registry import METHODS, discover

discover()


def variants():
    """Every method that has variants, with each of them."""
    for name, cls in sorted(METHODS.module_dict.items()):
        hints = typing.get_type_hints(cls.__init__)
        for value in typing.get_args(hints.get('variant')):
            yield name, value


VARIANTS = list(variants())
DENSE = {'mmformer', 'passion', 'rfnet', 'robustseg'}
"""Methods whose variants differ in segmentation in more than in classification."""


def test_methods_have_variants():
    assert {('redcore', 'official'), ('mmformer', 'masked')} < set(VARIANTS)


@pytest.mark.parametrize(('name', 'variant'), VARIANTS)
def test_the_record_of_a_variant_is_proven_by_its_outcomes(name, variant, tmp_path):
    cls = METHODS.module_dict[name]
    dense = ('rooms',) if name in DENSE else ()
    (kind,) = [k for k in (*dense, 'vectors', 'faces') if k not in cls.contract_exceptions][:1]
    data = Toy(TASKS[kind], (8, 8, 8))
    protocol = Protocol.build(data.recipe, {'epochs': '1'}, 'cpu')
    e = experiment(Spec(name, (('variant', variant),)), data, protocol, 0, tmp_path)
    execution.run(e, Machine('cpu'), lambda *_: None)
    file = e.folder / store.RECORD
    record = store.read(file)
    verification.check_validation(file.with_name(store.VALIDATION), record)
    outcomes = store.read_outcomes(file.with_name(store.OUTCOMES), record)
    assert verification.verified(record, outcomes)['scores'] == record['scores']


def test_an_official_variant_tells_of_a_loss_that_its_code_lacks(tmp_path):
    data, told = Toy(TASKS['rooms']), {}
    for loss in ('ce_dice', 'ce', 'own'):
        protocol = Protocol.build(data.recipe, {'loss': loss}, 'cpu', 'segmentation')
        for name, variant in (v for v in VARIANTS if METHODS.module_dict[v[0]].official_loss):
            spec = Spec(name, (('variant', variant),))
            e = experiment(spec, data, protocol, 0, tmp_path)
            told[name, variant, loss] = any('variant=official' in x for x in notes.of(e))
    own = ('mmformer', 'passion', 'rfnet', 'robustseg', 'shaspec')
    released = {'mmanet': 'ce', 'dmrnet': 'ce'} | dict.fromkeys(own, 'own')
    assert {n for n, *_ in told} == set(released)
    # The official variant of HeMIS follows code that classifies, by other authors than its loss.
    have_one = {
        name
        for name, variant in VARIANTS
        if variant == 'official' and 'own_loss' in vars(METHODS.module_dict[name])
    }
    assert have_one - {'hemis'} <= set(released)
    for (name, variant, loss), found in told.items():
        assert found == (variant == 'official' and loss != released[name])


def test_a_note_tells_of_class_weights_that_a_method_s_own_loss_ignores(tmp_path):
    told = {'own': set(), 'ce_dice': set()}
    weighted = Toy(dataclasses.replace(TASKS['rooms'], class_weights=(1.0, 4.0, 0.5)))
    for loss, names in told.items():
        protocol = Protocol.build(weighted.recipe, {'loss': loss}, 'cpu', 'segmentation')
        for name, cls in METHODS.module_dict.items():
            if 'rooms' in cls.contract_exceptions or 'segmentation' not in cls.task_kinds:
                continue
            found = notes.of(experiment(Spec(name), weighted, protocol, 0, tmp_path))
            names |= {name} if any('use the class weights' in note for note in found) else set()
    listed = ', '.join(f'`{name}`' for name in sorted(told['own'])[:-1])
    last = max(told['own'])
    page = ' '.join((ROOT / 'docs/options.md').read_text().split())
    assert f'the losses of {listed} and `{last}` do not use them' in page
    assert told['ce_dice'] == set()
    protocol = Protocol.build(weighted.recipe, {'loss': 'own'}, 'cpu', 'segmentation')
    for weights, rows in {(): ('rfnet', 'hemis'), (1.0, 2.0, 3.0): ('hemis', 'mmanet')}.items():
        data = Toy(dataclasses.replace(TASKS['rooms'], class_weights=weights))
        for name in rows:
            found = notes.of(experiment(Spec(name), data, protocol, 0, tmp_path))
            assert not any('use the class weights' in note for note in found)


def test_a_loss_that_cannot_be_tried_gets_no_note_on_class_weights(tmp_path, monkeypatch):
    def broken(self, logits, target):
        raise RuntimeError

    monkeypatch.setattr(METHODS.module_dict['rfnet'], 'own_loss', broken)
    data = Toy(dataclasses.replace(TASKS['rooms'], class_weights=(1.0, 4.0, 0.7)))
    protocol = Protocol.build(data.recipe, {'loss': 'own'}, 'cpu', 'segmentation')
    found = notes.of(experiment(Spec('rfnet'), data, protocol, 0, tmp_path))
    assert not any('use the class weights' in note for note in found)


def test_records_leave_out_a_later_option_that_has_the_value_of_before(tmp_path):
    later = [(name, cls) for name, cls in METHODS.module_dict.items() if cls.later]
    assert {'rfnet', 'robustseg'} <= {name for name, _ in later}
    data = Toy(TASKS['faces'])
    protocol = Protocol.build(data.recipe, {}, 'cpu')
    for name, cls in later:
        known = options_of(cls)
        assert {key: known[key].default for key in cls.later} == cls.later
        plain, official = (
            experiment(Spec(name, given), data, protocol, 0, tmp_path).header['method']['options']
            for given in ((), (('variant', 'official'),))
        )
        assert plain.keys() == known.keys() - cls.later.keys()
        assert official.keys() == known.keys()
