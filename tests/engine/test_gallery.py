"""Pictures of test samples: chosen by rule, true to what the networks answer, and kept."""

import base64
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from made_records import make_failure, make_outcomes, make_record, make_refusal, save
from PIL import Image
from tasks import TASKS, target_of
from toy_runs import arrays, trained

from benchmark import show
from benchmark.dataset import VOID, Split
from benchmark.deploy import load
from benchmark.engine import choice, drawing, gallery, recording
from benchmark.engine.evaluation import SubsetEvaluator, subset_logits
from benchmark.engine.loading import Samples
from benchmark.errors import UserError
from benchmark.method import IGNORE, Modality
from benchmark.missing import subset_ids
from benchmark.records import gallery as files
from benchmark.records import store
from benchmark.records.schema import RecordError
from benchmark.registry import METHODS, discover
from benchmark.report.page import gallery_page

discover()

ROOMS = TASKS['rooms']
SCANS = dataclasses.replace(
    ROOMS, metric='Dice', classes=('none', 'core', 'edge'),
    regions=(('whole', (1, 2)), ('core', (1,))),
)  # fmt: skip


def image(made, picture):
    """The picture as an array."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(made['pictures'][picture['key']]))))


def rgb(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert('RGB'))


def split_of(task, count=12, size=None, groups=None):
    """A test split in which one sample lacks the last modality."""
    rng = np.random.default_rng(1)
    available = np.ones((count, len(task.names)), bool)
    available[2:3, -1] = False
    target = target_of(task, count, rng) if size is None else rng.integers(3, size=(count, *size))
    return Split(
        {m.name: rng.standard_normal((count, *m.shape)).astype('f4') for m in task.modalities},
        target, available, np.array([f's{k}' for k in range(count)]), groups,
    )  # fmt: skip


def outcomes_of(task, split, seed=0):
    """An untrained network, its outcomes on a split, and the data set as a record describes it."""
    torch.manual_seed(seed)
    network = METHODS.get('hemis')(task).eval()
    evaluator = SubsetEvaluator(task, None, split)
    batch = Samples(split, task, split.available).__getitems__([*range(len(split))])
    with torch.no_grad():
        for mask, logits in subset_logits(network, batch, list(evaluator.masks.values())):
            evaluator.process_subset(mask, logits, batch)
    evaluator.evaluate(len(split))
    data = {
        'kind': task.kind, 'metric': task.metric, 'live': task.live,
        'classes': list(task.classes), 'modalities': list(task.names),
    }  # fmt: skip
    return network, recording.outcomes(task, split, evaluator.outcomes), data


def made_of(task, split, rules, **more):
    network, outcomes, data = outcomes_of(task, split)
    subsets = subset_ids(task.names)
    chosen = choice.choose([outcomes], data, subsets, rules)
    source = gallery.Source(task, split, data)
    return network, outcomes, gallery.make(source, {'': network}, outcomes, chosen, subsets, **more)


def probabilities(network, split, subset, k):
    """What the network answers to one sample, without any of the code under test."""
    names = network.task.names
    mask = torch.tensor([[name in subset.split('+') for name in names]])
    inputs = {m: torch.from_numpy(x[k : k + 1]) for m, x in split.inputs.items()}
    with torch.no_grad():
        return network.predict(inputs, mask)[0]


@pytest.mark.parametrize('kind', ['faces', 'mixed', 'sequences'])
def test_answers_are_those_of_the_network_on_every_subset_that_a_sample_has(kind):
    split = split_of(TASKS[kind])
    network, _, made = made_of(TASKS[kind], split, {'random': 12})
    names = TASKS[kind].names
    assert {s['name'] for s in made['samples']} == {*split.ids}
    assert made['differs'] < 2e-3  # outcomes keep logits in half precision
    for shown in made['samples']:
        k = int(shown['name'][1:])
        has = [m for m, there in zip(names, split.available[k], strict=True) if there]
        assert list(shown['inputs']) == has
        assert set(shown['answers']) == set(subset_ids(has))
        assert shown['label'] == split.target[k]
        for subset, answer in shown['answers'].items():
            p = probabilities(network, split, subset, k).softmax(0)
            np.testing.assert_allclose(answer['shares'], p, atol=1e-5)
            assert answer['error'] == pytest.approx(1 - float(p[split.target[k]]), abs=2e-3)


def test_a_network_of_its_own_for_every_subset_answers_to_that_subset():
    task, split = TASKS['vectors'], split_of(TASKS['vectors'], 3)
    networks = {s: outcomes_of(task, split, k)[0] for k, s in enumerate(subset_ids(task.names))}
    batch = Samples(split, task, split.available).__getitems__([0, 1])
    found = dict(gallery.answers(networks, batch, ['b', 'a+b'], task.names))
    assert list(found) == ['b', 'a+b']
    for subset, logits in found.items():
        for k in range(2):
            expected = probabilities(networks[subset], split, subset, k)
            np.testing.assert_allclose(logits[k], expected, atol=1e-6)


def test_label_maps_and_mistakes_are_those_of_the_prediction():
    split = split_of(ROOMS, 4, size=(48, 40))  # labels of another size than the inputs
    split.target[0, :5] = VOID
    network, _, made = made_of(ROOMS, split, {'random': 4})
    palette = [tuple(bytes.fromhex(c[1:])) for c in made['colours']]
    for shown in made['samples']:
        k = int(shown['name'][1:])
        truth, known = split.target[k], split.target[k] != VOID
        for subset, answer in shown['answers'].items():
            logits = probabilities(network, split, subset, k)[None]
            big = torch.nn.functional.interpolate(logits, (48, 40), mode='bilinear')
            predicted = big[0].argmax(0).numpy()
            png = base64.b64decode(made['pictures'][answer['map']['key']])
            np.testing.assert_array_equal(rgb(png), np.array(palette, np.uint8)[predicted])
            wrong = (predicted != truth)[known].mean()
            assert answer['wrong'] == pytest.approx(wrong)
            assert answer['error'] == pytest.approx(wrong)
            assert f'{100 * wrong:.1f} %' in answer['mistakes']['text']
            red = image(made, answer['mistakes'])
            np.testing.assert_array_equal(red == 1, known & (predicted != truth))
            np.testing.assert_array_equal(red == 2, ~known)


def test_the_middle_slice_of_the_largest_region_stands_for_a_volume():
    groups = np.repeat(['a', 'b', 'c'], 5)
    split = split_of(SCANS, 15, size=(32, 32), groups=groups)
    split.available[:] = True
    split.target[:] = 0
    split.target[[1, 2, 3], :9] = 2  # slices 2 to 4 of a: the whole region
    split.target[4, :2] = 1
    split.target[9, 0] = 1  # the last slice of b alone
    _, outcomes, made = made_of(SCANS, split, {'random': 3})
    places = {shown['name']: shown['place'] for shown in made['samples']}
    assert places == {'a': 'slice 4 of 5', 'b': 'slice 5 of 5', 'c': 'slice 3 of 5'}
    for shown in made['samples']:
        row = list(outcomes['name']).index(shown['name'])
        for subset, answer in shown['answers'].items():
            both, found, there = outcomes[f'areas/{subset}'][row]
            sizes = found + there
            dice = [2 * b / s if s else 1 for b, s in zip(both, sizes, strict=True)]
            assert answer['error'] == pytest.approx(1 - np.mean(dice))


def test_a_window_of_a_slice_is_drawn_at_its_place():
    split = split_of(SCANS, 2, size=(40, 36))
    network, _, made = made_of(SCANS, split, {'random': 2})
    for shown in made['samples']:
        k = int(shown['name'][1:])
        depth = image(made, shown['inputs']['rgb'])
        assert depth.shape[:2] == (40, 36)
        predicted = np.zeros((40, 36), int)
        predicted[4:36, 2:34] = probabilities(network, split, 'rgb', k).argmax(0)
        np.testing.assert_array_equal(image(made, shown['answers']['rgb']['map']), predicted)


def test_rules_choose_what_a_search_by_hand_finds():
    task, split = TASKS['mixed'], split_of(TASKS['mixed'], 30)
    found = [outcomes_of(task, split, seed) for seed in range(2)]
    data, subsets = found[0][2], subset_ids(task.names)
    p = {
        (r, s, k): np.exp(x := o[f'logit/{s}'][k].astype(float)) / np.exp(x).sum()
        for r, (_, o, _) in enumerate(found)
        for s in subsets
        for k in range(30)
    }
    drop, apart = np.full(30, -1.0), np.full(30, -1.0)
    for k in range(30):
        if k == 2:  # it lacks a modality
            continue
        label = split.target[k]
        drop[k] = np.mean(
            [max(p[r, subsets[-1], k][label] - p[r, s, k][label] for s in subsets) for r in (0, 1)]
        )
        each = [np.array([p[r, s, k] for s in subsets]) for r in (0, 1)]
        apart[k] = np.mean([np.abs(x - x.mean(0)).sum(1).mean() / 2 for x in each])
    runs = [o for _, o, _ in found]
    first = choice.choose(runs, data, subsets, {'drop': 3})
    assert [c.position for c in first] == np.argsort(-drop)[:3].tolist()
    np.testing.assert_allclose([c.value for c in first], np.sort(drop)[::-1][:3], atol=1e-9)
    (most,) = choice.choose(runs, data, subsets, {'disagreement': 1})
    other = np.abs(np.array([p[0, s, 2] for s in ('image', 'sound', 'image+sound')]))
    if np.abs(other - other.mean(0)).sum(1).mean() / 2 < apart.max():
        assert most.position == apart.argmax()
        assert most.value == pytest.approx(apart.max())


def test_random_samples_are_the_same_for_every_method_and_no_sample_comes_twice():
    task, split = TASKS['faces'], split_of(TASKS['faces'])
    chosen = []
    for seed in range(2):
        _, outcomes, data = outcomes_of(task, split, seed)
        both = choice.choose([outcomes], data, subset_ids(task.names), {'drop': 4, 'random': 4})
        assert len({c.position for c in both}) == 8
        chosen.append([c.position for c in both if c.rule == 'random'])
    assert chosen[0] == chosen[1]
    again = choice.choose([outcomes], data, subset_ids(task.names), {'random': 4}, seed=1)
    assert [c.position for c in again] != chosen[0]


def test_the_drop_needs_samples_with_all_modalities():
    task, split = TASKS['faces'], split_of(TASKS['faces'])
    split.available[:, 1] = False
    _, outcomes, data = outcomes_of(task, split)
    with pytest.raises(UserError, match='--rule drop: expected samples with all modalities'):
        choice.choose([outcomes], data, subset_ids(task.names), {'drop': 1})


def test_inputs_are_drawn_in_the_values_of_the_data():
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (3, 20, 10)).astype(float)
    raw[0, 0, 0], raw[0, 0, 1] = 0, 255
    facts = {'mean': [[[120.0]], [[10.0]], [[60.0]]], 'std': [[[50.0]], [[5.0]], [[90.0]]]}
    normal = (raw - np.array(facts['mean'])) / np.array(facts['std'])
    png, text = drawing.sample(Modality('rgb', (3, 20, 10)), normal, facts)
    np.testing.assert_array_equal(rgb(png), raw.transpose(1, 2, 0))
    assert text == 'rgb'
    png, _ = drawing.sample(Modality('rgb', (3, 20, 10)), normal, facts, 10)
    assert rgb(png).shape == (10, 5, 3)


def test_low_frequencies_of_a_sound_are_below():
    values = np.zeros((1, 6, 4))
    values[0, 0] = 1
    png, _ = drawing.sample(Modality('audio', (1, 6, 4)), values, None)
    assert (rgb(png)[-1] == 255).all()
    assert (rgb(png)[:-1] == 0).all()


def test_bars_and_fields_tell_the_sign():
    png, text = drawing.sample(Modality('scan', (3,)), np.array([2.0, -1, 0]), None)
    drawn = rgb(png)
    high, wide = drawn.shape[0] // 2, drawn.shape[1] // 3
    orange, blue = (drawn == drawing.POSITIVE).all(2), (drawn == drawing.NEGATIVE).all(2)
    assert orange[:high, 0].all()
    assert not orange[high:].any()
    assert blue[:, wide].sum() == high // 2
    assert not blue[:high].any()
    assert text == 'scan, 3 numbers, orange above 0, blue below'
    values = np.array([[1.0, -1, 1], [0, 2, 1], [9, 9, 0]])
    png, text = drawing.sample(Modality('gait', (3, 3), padded=True), values, None)
    assert rgb(png).shape[:2] == (2, 2)  # features, frames that are real
    assert text.startswith('gait, 2 frames of 2 features, time to the right, orange above 0')


def test_label_maps_name_their_largest_classes_and_many_classes_have_colours_of_their_own():
    classes = np.repeat([[0, 0, 0, 1]], 4, 0)
    classes[0] = IGNORE
    png, text = drawing.labels(ROOMS, classes)
    assert text == 'wall 75 %, floor 25 %'
    drawn = np.asarray(Image.open(io.BytesIO(png)).convert('RGBA'))
    np.testing.assert_array_equal(drawn[..., 3] == 0, classes == IGNORE)
    many = dataclasses.replace(ROOMS, classes=tuple(f'c{k}' for k in range(40)))
    assert len({*drawing.colours(many)}) == 40


def test_of_many_subsets_the_smallest_and_the_largest_are_shown():
    assert len(gallery.shown_subsets('abcde')) == 31
    assert [s.count('+') for s in gallery.shown_subsets('abcdef')] == [0] * 6 + [4] * 6 + [5]


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    """Method -> run on embedded data."""
    options = ['train=16', 'val=8', 'test=12', 'size=24', 'batch_size=8']
    folder = tmp_path_factory.mktemp('faces')
    return trained(folder, '', 'synth_faces', 'hemis', 'logistic', options=options)


def test_runs_on_embedded_data_keep_pictures_of_the_same_samples(faces):
    kept = [files.read(run, store.read(run / store.RECORD)) for run in faces.values()]
    names = [[shown['name'] for shown in one['samples']] for one in kept]
    assert names[0] == names[1]
    assert len(names[0]) == 4
    for run, one in zip(faces.values(), kept, strict=True):
        model = load(run)
        inputs = model.card.dataset['name']
        assert inputs == 'synth_faces'
        assert one['differs'] < 1e-5
        for shown in one['samples']:
            assert set(shown['answers']) == set(subset_ids(model.names))


def test_pictures_of_another_run_do_not_count_and_damaged_ones_are_named(faces, tmp_path):
    run = faces['hemis']
    record, found = store.read(run / store.RECORD), json.loads((run / files.FILE).read_text())
    assert files.read(tmp_path, record) is None
    for change in ({'identity': '0' * 16}, {'outcomes': 'another'}):
        files.write(tmp_path, {**{k: v for k, v in found.items() if k != 'content'}, **change})
        assert files.read(tmp_path, record) is None
    script = base64.b64encode(b'<svg onload=alert(1)>').decode()
    for change, told in (
        ({'pictures': {}}, 'is missing'),
        ({'pictures': dict.fromkeys(found['pictures'], script)}, 'expected PNG files'),
        ({'pictures': {'a{}</style>': 'x', **found['pictures']}}, 'expected PNG files'),
        ({'colours': ['red;}']}, 'expected #rrggbb'),
        ({'samples': [{**found['samples'][0], 'rule': 'mine'}]}, 'rule'),
        ({'samples': [{**found['samples'][0], 'label': 7}]}, 'expected 2 classes'),
        ({'more': 1}, 'no such field'),
    ):
        files.write(tmp_path, {**{k: v for k, v in found.items() if k != 'content'}, **change})
        with pytest.raises(RecordError, match=told):
            files.read(tmp_path, record)
    text = (run / files.FILE).read_text().replace('random', 'drop')
    (tmp_path / files.FILE).write_text(text)
    with pytest.raises(RecordError, match='does not fit its hash'):
        files.read(tmp_path, record)


def test_show_puts_methods_side_by_side_and_keeps_the_pictures_when_asked(faces, tmp_path, capsys):
    before = [(run / files.FILE).read_bytes() for run in faces.values()]
    words = [str(run) for run in faces.values()]
    words += ['--samples', '2', '--subsets', 'depth', 'ir+rgb', '--out', str(tmp_path)]
    assert show.main(words) == 0
    assert [(run / files.FILE).read_bytes() for run in faces.values()] == before
    text = (tmp_path / gallery_page.FILE).read_text()
    for told in ('hemis', 'logistic', 'Largest drop', 'not how often it does', 'rgb+ir'):
        assert told in text
    assert text.count('<table class="answers"') == 6
    # In each table two rows; depth lacks two modalities, rgb+ir one.
    assert text.count('>withheld<') == 6 * 3 + 1
    assert 'rgb+depth' not in text
    assert 'http' not in text.replace('http-equiv', '')
    assert 'chosen by the mean over 2 runs' in text
    assert show.main([*words, '--keep']) == 0
    assert capsys.readouterr().out.count(files.FILE) == 2
    kept = [files.read(run, store.read(run / store.RECORD)) for run in faces.values()]
    assert [len(one['samples']) for one in kept] == [6, 6]
    for run, content in zip(faces.values(), before, strict=True):
        (run / files.FILE).write_bytes(content)


def test_show_needs_the_data_of_the_training(tmp_path, capsys):
    np.savez(tmp_path / 'mine.npz', **arrays())
    np.savez(tmp_path / 'other.npz', **arrays(1))
    options = ['class_weights=1,2,3']  # JSON makes a list of them
    run = trained(tmp_path, 'mine.npz', 'arrays', 'logistic', options=options)['logistic']
    assert not (run / files.FILE).exists()
    for words, told in (
        ([], 'expected --data PATH, where the data of mine lie'),
        (['--data', str(tmp_path / 'other.npz')], 'expected the data of the training'),
        (['--data', str(tmp_path / 'mine.npz'), '--samples', '0'], '--samples: expected 1 or more'),
        (
            ['--subsets', 'rgb+gaitt'],
            "unknown modality in --subsets 'rgb+gaitt': 'gaitt'; did you mean 'gait'",
        ),
    ):
        capsys.readouterr()
        assert show.main([str(run), *words]) == 2
        assert told in capsys.readouterr().err
    assert show.main([str(run), '--data', str(tmp_path / 'mine.npz')]) == 0
    text = (run / 'gallery' / gallery_page.FILE).read_text()
    for told in ('scan, 4 numbers', 'features, time to the right', 'hen'):
        assert told in text


def test_what_has_no_network_to_show_is_refused_in_one_line(tmp_path, capsys):
    answers = make_outcomes({'rgb': 3})
    other = make_record('theirs', 0, answers, method={'source': 'external'})
    for path, told in (
        (save(tmp_path / 'a', make_failure('m', 0, 'no memory')), 'found one that failed'),
        (save(tmp_path / 'b', make_refusal('m', 0, 'has gaps')), 'found one that was refused'),
        (save(tmp_path / 'c', other, answers), 'found predictions of other code'),
        (tmp_path / 'c' / 'record.json', 'expected one run, found '),
        (tmp_path / 'd' / 'record.json', 'found nothing there'),
    ):
        assert show.main([str(path.parent)]) == 2
        assert told in capsys.readouterr().err


def test_teachers_among_the_folders_of_a_pattern_are_left_out(faces, tmp_path, capsys):
    words = ['--rule', 'random', '--samples', '1', '--out', str(tmp_path / 'out')]
    assert show.main([str(tmp_path), str(faces['hemis']), *words]) == 0
    assert f'left out: {tmp_path} holds no record' in capsys.readouterr().out
    assert show.main([str(tmp_path), *words]) == 2
    assert 'expected a finished run, found no record.json' in capsys.readouterr().err


def test_runs_on_other_samples_are_not_shown_side_by_side(faces, tmp_path, capsys):
    options = ['train=16', 'val=8', 'test=14', 'size=24', 'batch_size=8']
    other = trained(tmp_path, '', 'synth_faces', 'majority', options=options)['majority']
    assert show.main([str(faces['hemis']), str(other)]) == 2
    assert 'expected the test samples of' in capsys.readouterr().err
