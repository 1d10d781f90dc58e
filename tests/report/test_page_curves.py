"""The section on training: curves from the file beside a record, or from the log of older ones."""

import json

import numpy as np
import pytest
from made_pages import HOSTILE, add, made

from benchmark.missing import subset_ids
from benchmark.records import curves, store
from benchmark.report.page import bundle
from benchmark.report.page import curves as page

SUBSETS = subset_ids(['rgb', 'depth', 'ir'])


@pytest.fixture(autouse=True, scope='module')
def small():
    """The charts' code is not wanted here, and joining it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, 'javascript', lambda: '')
        yield


def curve(epochs=3, validated=None, **losses):
    """Curves whose values follow from epoch and position of the subset."""
    validated = list(range(epochs)) if validated is None else validated
    return {
        'epochs': list(range(epochs)),
        'lr': [1e-3 / (1 + e) for e in range(epochs)],
        'losses': {'loss': [1 / (1 + e) for e in range(epochs)], **losses},
        'validated': validated,
        'validation': {s: [(k + e) / 100 for e in validated] for k, s in enumerate(SUBSETS)},
    }


def draw(results, label, seed, networks, **changes):
    """Writes a run with curves."""
    path = add(results / 'runs', label, seed, **changes)
    record = store.read(path)
    file = path.with_name(curves.CURVES)
    sha256 = curves.write(file, record['identity'], networks)
    store.write(path, {**record, 'curves': sha256})
    return file


def shown(results):
    """What can be chosen -> (method, seed, epoch) -> value; and what the section says."""
    text, data = made(results)
    (figure,) = [v for k, v in data['parts'].items() if k.endswith('-curves')]
    kinds = figure['selects'][0]['options']
    found = {kind: {} for kind in kinds}
    for row in (dict(zip(figure['fields'], row, strict=True)) for row in figure['rows']):
        found[kinds[row['kind']]][row['m'], row['seed'], row['epoch']] = row['value']
    return found, text


def test_the_page_shows_loss_terms_rate_and_the_validation_of_each_subset(tmp_path):
    draw(tmp_path, 'a', 0, {'': curve(loss_task=[0.5, 0.25, None])})
    draw(tmp_path, 'b', 3, {'': curve(2, [1])})
    found, text = shown(tmp_path)
    assert list(found) == [
        'training loss', 'validation, mean over subsets', *(f'validation of {s}' for s in SUBSETS),
        'loss term loss_task', 'learning rate',
    ]  # fmt: skip
    assert found['training loss'] == pytest.approx(
        {(0, 0, 0): 1, (0, 0, 1): 0.5, (0, 0, 2): 1 / 3, (1, 3, 0): 1, (1, 3, 1): 0.5}, abs=1e-4
    )
    assert found['loss term loss_task'] == {(0, 0, 0): 0.5, (0, 0, 1): 0.25}
    assert found['learning rate'][0, 0, 2] == pytest.approx(1e-3 / 3, rel=1e-4)
    assert found['validation of depth'] == {
        (0, 0, 0): 1.0, (0, 0, 1): 2.0, (0, 0, 2): 3.0, (1, 3, 1): 2.0,
    }  # fmt: skip
    mean = found['validation, mean over subsets']
    assert mean == {(0, 0, 0): 3.0, (0, 0, 1): 4.0, (0, 0, 2): 5.0, (1, 3, 1): 4.0}
    assert 'is missing or damaged' not in text


def test_networks_of_single_subsets_are_joined():
    made_of = {}
    for k, subset in enumerate(SUBSETS):
        one = curve()
        one['losses'] = {'loss': [k + e for e in range(3)]}
        one['validation'] = {subset: one['validation'][subset]}
        made_of[subset] = one
    found = page.of_networks(made_of, SUBSETS, 'ACER')
    assert found['training loss'] == pytest.approx({e: np.mean(np.arange(7)) + e for e in range(3)})
    assert found['validation, mean over subsets'] == pytest.approx({0: 3, 1: 4, 2: 5})
    del made_of['ir']
    assert page.of_networks(made_of, SUBSETS, 'ACER')['validation, mean over subsets'] == {}


def test_damaged_curves_are_told_and_the_log_stands_in(tmp_path):
    file = draw(tmp_path, 'a', 0, {'': curve()}, log=True)
    draw(tmp_path, 'b', 0, {'': curve()})
    file.write_text(file.read_text().replace('0.5', '0.6'))
    found, text = shown(tmp_path)
    assert 'Of 1 run the file curves.json is missing or damaged.' in text
    assert found['training loss'][0, 0, 0] == 0.7  # of the log
    assert found['training loss'][1, 0, 0] == 1
    assert (1, 0, 0) in found['validation of rgb']
    assert (0, 0, 1) not in found['validation of rgb']


def test_of_many_epochs_some_are_shown_and_the_last_always(tmp_path, monkeypatch):
    monkeypatch.setattr(page, 'MAX_POINTS', 100)
    draw(tmp_path, 'a', 0, {'': curve(31, [30])})
    found, text = shown(tmp_path)
    points = sum(len(line) for line in found.values())
    total = 31 + 31 + 8
    assert points == total  # few enough
    draw(tmp_path, 'b', 0, {'': curve(31)})
    found, text = shown(tmp_path)
    step = -(-(total + 10 * 31) // 100)
    assert f'The curves have many epochs, of which one in {step} is shown.' in text
    assert sum(len(line) for line in found.values()) <= 100 + 20
    assert {e for m, _, e in found['training loss'] if m == 0} == set(range(30 % step, 31, step))
    assert (0, 0, 30) in found['validation of rgb']


def test_no_name_of_a_term_can_act(tmp_path):
    draw(tmp_path, 'a', 0, {'': curve(**{HOSTILE: [1.0, 1.0, 1.0]})})
    found, text = shown(tmp_path)
    assert f'loss term {HOSTILE}' in found
    assert '<b>' not in text
    assert text.count('</script>') == 3


def test_curves_of_another_run_are_none(tmp_path):
    files = [draw(tmp_path, label, 0, {'': curve(2 + k)}) for k, label in enumerate('ab')]
    files[0].write_bytes(files[1].read_bytes())
    found, text = shown(tmp_path)
    assert {m for m, *_ in found['training loss']} == {1}
    assert (
        json.loads(files[0].read_text())['identity']
        != store.read(files[0].with_name(store.RECORD))['identity']
    )
