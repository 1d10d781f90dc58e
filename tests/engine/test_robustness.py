"""Tests of trained networks under corruptions: what is computed, kept, repeated and refused."""

import dataclasses

import numpy as np
import pytest
import torch
from tasks import TASKS, Toy, batch_of
from toy_runs import arrays, trained

from benchmark import helpers, run, tables
from benchmark.dataset import VOID
from benchmark.engine import corruptions, execution, loading, robustness
from benchmark.engine.corrupted import CLEAN, Bench
from benchmark.engine.evaluation import SubsetEvaluator
from benchmark.engine.loading import Samples
from benchmark.engine.robustness import Request, lacking, predictions, tally
from benchmark.method import Method, Modality, Task
from benchmark.missing import subset_id, subset_masks
from benchmark.records import corruptions as files
from benchmark.records import kinds, store
from benchmark.records.corruptions import subsets_of
from benchmark.registry import DATASETS
from methods.hemis import HeMIS
from methods.modality_dropout import ModalityDropout

ALL = Request(tuple(kinds.KINDS), kinds.SEVERITIES)


class Networks:
    """Stands for the networks of a run."""

    def __init__(self, task, networks):
        self.task, self.networks = task, networks


def bench_of(task, sizes=(40, 16, 24)):
    data = Toy(task, sizes)
    return Bench(task, data.split('val'), data.split('test'))


def loader_over(bench, batch=8):
    return loading.test_loader(
        Samples(bench.test, bench.task, bench.test.available), batch, 0, False
    )


def network(task, cls=HeMIS):
    torch.manual_seed(0)
    return cls(task).eval()


def test_one_modality_is_tested_complete_alone_and_beside_one_that_is_absent():
    assert subsets_of('abc', 'b') == ['b', 'a+b', 'b+c', 'a+b+c']
    assert subsets_of('abcd', 'a') == ['a', 'a+b+c', 'a+b+d', 'a+c+d', 'a+b+c+d']
    assert subsets_of('ab', 'b') == ['b', 'a+b']
    assert subsets_of('a', 'a') == ['a']
    names = [f'm{k}' for k in range(8)]
    assert len(subsets_of(names, 'm3')) == 9


def test_what_a_run_is_tested_on_is_counted_before_it_starts():
    # rgb and ir have 7 kinds, depth has holes, too; 5 severities and 4 subsets each.
    assert ALL.size(TASKS['faces']) == (22 * 5, 22 * 5 * 4)
    assert Request(('holes', 'drift'), (1, 3)).size(TASKS['faces']) == (2, 8)
    assert ALL.size(TASKS['mixed']) == ((7 + 7 + 4) * 5, 18 * 5 * 4)


@pytest.mark.parametrize('kind', ['faces', 'mixed', 'sequences', 'rooms'])
def test_encoding_only_what_is_corrupted_gives_what_a_full_pass_gives(kind):
    task, batch = TASKS[kind], batch_of(TASKS[kind])
    net, changed = network(task), torch.randn_like(batch.inputs[task.names[1]])
    masks = [m for m in subset_masks(len(task.names)) if m[1]]
    grades = {CLEAN: None, ('gaussian', 2): lambda: changed}
    inputs = {CLEAN: batch.inputs, ('gaussian', 2): {**batch.inputs, task.names[1]: changed}}
    with torch.no_grad():
        found = list(predictions(net, batch, task.names[1], grades, masks))
        assert len(found) == 2 * len(masks)
        for grade, mask, logits in found:
            allowed = batch.available & torch.as_tensor(mask)
            torch.testing.assert_close(logits, net.predict(inputs[grade], allowed))


def test_only_the_corrupted_modality_is_encoded_anew():
    task, batch = TASKS['faces'], batch_of(TASKS['faces'])
    net, seen = network(task), []
    real = net.encode
    net.encode = lambda inputs: seen.append(tuple(inputs)) or real(inputs)
    grades = {g: lambda: batch.inputs['ir'] for g in (CLEAN, ('blur', 1), ('blur', 2))}
    with torch.no_grad():
        list(predictions(net, batch, 'ir', grades, subset_masks(3)))
    assert seen == [('rgb', 'depth', 'ir'), ('ir',), ('ir',)]


class Mixing(ModalityDropout):
    """Mixes modalities in its encoders, so that it must be tested subset by subset."""

    def predict(self, inputs, mask):
        return self.decode(self.encode(inputs), mask)


def test_a_method_that_mixes_modalities_is_tested_by_full_passes():
    task, batch = TASKS['faces'], batch_of(TASKS['faces'])
    nets = network(task, ModalityDropout), network(task, Mixing)
    changed = torch.randn_like(batch.inputs['ir'])
    grades = {CLEAN: None, ('gaussian', 2): lambda: changed}
    with torch.no_grad():
        first, second = (list(predictions(n, batch, 'ir', grades, subset_masks(3))) for n in nets)
    for (_, _, a), (_, _, b) in zip(first, second, strict=True):
        torch.testing.assert_close(a, b)


def test_a_corruption_depends_on_neither_batch_nor_order_nor_other_samples():
    bench = bench_of(TASKS['mixed'])
    samples = Samples(bench.test, bench.task, bench.test.available)
    order = np.random.default_rng(0).permutation(24)
    for modality in bench.task.names:
        for kind in corruptions.kinds_of(bench.sensor(modality).modality):
            whole = bench.corrupted(samples.__getitems__(list(range(24))), modality, (kind, 3))
            mixed = bench.corrupted(samples.__getitems__(order.tolist()), modality, (kind, 3))
            alone = bench.corrupted(samples.__getitems__([7]), modality, (kind, 3))
            torch.testing.assert_close(mixed, whole[order], rtol=0, atol=0)
            torch.testing.assert_close(alone[0], whole[7], rtol=0, atol=0)


def test_a_split_in_another_order_shows_the_same_strangers():
    bench = bench_of(TASKS['faces'])
    order = np.random.default_rng(0).permutation(24)
    test = bench.test
    moved = dataclasses.replace(
        test,
        inputs={m: x[order] for m, x in test.inputs.items()},
        target=test.target[order],
        ids=test.ids[order],
    )
    other = Bench(bench.task, bench.val, moved)
    for place, position in enumerate(order):
        assert order[other.stranger('rgb', place)] == bench.stranger('rgb', position)


def test_a_stuck_sensor_shows_another_person_that_has_the_modality():
    bench = bench_of(TASKS['faces'])
    available = bench.test.available.copy()
    available[::3, 0] = False
    clusters = np.array([f'p{k // 8}' for k in range(24)])
    bench.test = dataclasses.replace(bench.test, available=available, clusters=clusters)
    shown = [bench.stranger('rgb', k) for k in range(24)]
    assert available[shown, 0].all()
    assert (clusters[shown] != clusters).all()
    assert len(set(shown)) > 8
    # Of one person alone, the sample itself is still never shown.
    bench = bench_of(TASKS['faces'])
    bench.test = dataclasses.replace(bench.test, clusters=np.full(24, 'p'))
    assert all(bench.stranger('rgb', k) != k for k in range(24))


def test_samples_without_the_modality_stay_zeros():
    bench = bench_of(TASKS['faces'])
    available = np.ones((24, 3), bool)
    available[::2, 1] = False
    bench.test = dataclasses.replace(bench.test, available=available)
    batch = Samples(bench.test, bench.task, available).__getitems__(list(range(24)))
    for kind in ('gaussian', 'frozen', 'drift', 'holes'):
        if kind in corruptions.kinds_of(bench.task.modalities[1]):
            x = bench.corrupted(batch, 'depth', (kind, 5))
            assert not x[::2].any()
            assert x[1::2].flatten(1).any(1).all()


def test_severity_0_is_the_very_batch():
    bench = bench_of(TASKS['faces'])
    batch = Samples(bench.test, bench.task, bench.test.available).__getitems__([0, 1])
    assert bench.corrupted(batch, 'rgb', ('gaussian', 0)) is batch.inputs['rgb']


class Reader(Method):
    """Answers with the mean of the first modality that it is given; nothing is learned."""

    def __init__(self, task):
        super().__init__(task)
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def encode(self, inputs):
        return {m: x.flatten(1).mean(1) for m, x in inputs.items()}

    def decode(self, features, mask):
        first = torch.stack([features[m] for m in self.task.names], 1)
        value = torch.where(mask, first, 0.0).sum(1) / mask.sum(1)
        return torch.stack([-value, value], 1)


def counted(task, test):
    """A case whose scores can be counted: class 1 has the value 1, class 0 the value -1."""
    n, (shape,) = len(test), {m.shape for m in task.modalities}
    x = np.where(np.arange(n) % 2, 1, -1).astype(np.float32)
    inputs = {m: np.broadcast_to(x[:, None], (n, *shape)).copy() for m in task.names}
    return dataclasses.replace(test, inputs=inputs, target=np.arange(n) % 2)


def test_a_score_falls_as_counted():
    modalities = tuple(Modality(m, (20,)) for m in 'ab')
    task = Task('toy', 'classification', modalities, ('0', '1'), 'ACER')
    data = Toy(task, (4, 4, 40))
    test = counted(task, data.split('test'))
    bench = Bench(task, test, test)
    grades = [('frozen', s) for s in range(1, 6)] + [('features', 5), ('drift', 5)]
    found = tally(Networks(task, {'': Reader(task)}), bench, loader_over(bench), 'a', grades)
    target = np.arange(40) % 2
    strangers = np.array([bench.stranger('a', k) % 2 for k in range(40)])
    assert 0.2 < (strangers != target).mean() < 0.8
    assert {c['score'] for c in found.cells(CLEAN).values()} == {0.0}
    for severity in range(1, 6):
        cells = found.cells(('frozen', severity))
        # Alone, the mean of 20 features changes its sign once more than half are a stranger's.
        wrong = (strangers != target) & (severity >= 3)
        apcer, bpcer = wrong[target == 0].mean(), wrong[target == 1].mean()
        assert cells['a']['score'] == pytest.approx((apcer + bpcer) / 2)
        counts = np.bincount(2 * target + np.where(wrong, 1 - target, target), minlength=4)
        assert cells['a']['totals'] == counts.tolist()
        # Beside a clean one it never outvotes that, and at worst both are equal: 0 is an attack.
        tied = (strangers != target) & (severity == 5)
        assert cells['a+b']['score'] == pytest.approx(tied[target == 1].mean() / 2)
        assert cells['a']['n'] == cells['a+b']['n'] == 40
    for kind in ('features', 'drift'):
        assert {c['score'] for c in found.cells((kind, 5)).values()} == {0.0}


DICE = Task(
    'toy', 'segmentation', (Modality('t1', (1, 32, 32)), Modality('t2', (1, 32, 32))),
    ('none', 'core', 'edge'), 'Dice', 4, regions=(('whole', (1, 2)), ('core', (1,))),
)  # fmt: skip


@pytest.mark.parametrize('task', [TASKS['rooms'], DICE, TASKS['mixed']], ids=lambda t: t.metric)
def test_sums_over_batches_give_the_score_of_the_usual_test(task):
    bench = bench_of(task)
    groups = np.array([f'v{k // 5}' for k in range(24)]) if task is DICE else None
    target = bench.test.target.copy()
    if task.kind == 'segmentation':
        target[3] = 0 if task is DICE else VOID
    bench.test = dataclasses.replace(bench.test, groups=groups, target=target)
    net, loader = network(task, ModalityDropout), loader_over(bench)
    found = tally(Networks(task, {'': net}), bench, loader, task.names[0], [('gaussian', 3)])
    for grade in (CLEAN, ('gaussian', 3)):
        usual = SubsetEvaluator(task, None, bench.test)
        with torch.no_grad():
            for batch in loader:
                inputs = dict(batch.inputs)
                inputs[task.names[0]] = bench.corrupted(batch, task.names[0], grade)
                for mask in usual.masks.values():
                    logits = net.predict(inputs, batch.available & torch.as_tensor(mask))
                    usual.process_subset(mask, logits, batch)
        usual.evaluate(24)
        cells = found.cells(grade)
        assert cells.keys() == set(subsets_of(task.names, task.names[0]))
        for subset, cell in cells.items():
            expected = usual.scores[subset]
            assert cell['score'] == pytest.approx(expected.metrics[task.metric], abs=1e-12)
            unlabelled = task.metric == 'mIoU'
            assert cell['n'] == expected.n - unlabelled


def test_a_network_of_its_own_is_asked_for_its_subset_alone():
    task = TASKS['vectors']
    bench = bench_of(task)
    nets = {subset_id(task.names, m): network(task) for m in subset_masks(2)}
    for k, net in enumerate(nets.values()):
        torch.nn.init.constant_(list(net.parameters())[-1], float(k))
    grade = 'drift', 5
    apart = tally(Networks(task, nets), bench, loader_over(bench), 'a', [grade]).cells(grade)
    assert apart.keys() == {'a', 'a+b'}
    for subset, cell in apart.items():
        one = Networks(task, {'': nets[subset]})
        assert tally(one, bench, loader_over(bench), 'a', [grade]).cells(grade)[subset] == cell


def test_nothing_that_is_known_is_tested_again():
    task = TASKS['vectors']
    request = Request(('gaussian', 'drift'), (1, 3))
    cells = {'b': {}}
    tests = {'tests': {'b': {'gaussian': {'1': cells, '3': cells}, 'drift': {'1': cells}}}}
    assert lacking(tests, request, task) == {
        'a': [('gaussian', 1), ('gaussian', 3), ('drift', 1), ('drift', 3)],
        'b': [('drift', 3)],
    }
    assert lacking(None, Request(('holes',), (1,)), task) == {}


# The command, on a run of one epoch.

WORDS = ['--datasets', 'arrays', '--device', 'cpu', '--cfg-options', 'epochs=1', 'width=4']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('corrupted')
    np.savez(folder / 'mine.npz', **arrays())
    return folder


@pytest.fixture(scope='module')
def runs(folder):
    return trained(folder, 'mine.npz', 'arrays', 'hemis', 'logistic')


def command(folder, *words):
    places = ['--results', str(folder / 'results'), '--data-root', str(folder / 'mine.npz')]
    return run.main(['--methods', 'hemis', 'logistic', *WORDS, *places, *words])


def contents(folder):
    return {f: f.read_bytes() for kind in ('json', 'npz') for f in folder.rglob(f'*.{kind}')}


def test_recorded_runs_are_tested_without_training_and_their_records_stay(
    folder, runs, capsys, monkeypatch
):
    before = contents(folder)
    monkeypatch.setattr(execution, '_fit', None)  # nothing may be trained
    cls, opened = DATASETS.module_dict['arrays'], []
    real = cls.split
    monkeypatch.setattr(cls, 'split', lambda self, name: opened.append(name) or real(self, name))
    assert command(folder, '--corruptions', 'gaussian,frozen', '--severities', '1,5') == 0
    told = capsys.readouterr().out
    # Two kinds, two severities, three modalities; four subsets each.
    assert '2 runs, each on 12 corrupted inputs and 48 subsets of these; about' in told
    assert told.count('mean under corruption') == 2
    assert 'accuracy ↑ (%) under corruption' in told
    assert set(opened) == {'val', 'test'}
    after = contents(folder)
    assert {f: after[f] for f in before} == before
    assert [f.name for f in after.keys() - before.keys()] == [files.FILE] * 2
    for path in runs.values():
        record = store.read(path / store.RECORD)
        tests = files.read(path, record)
        assert set(tests['tests']) == {'rgb', 'gait', 'scan'}
        own = record['scores']['test']
        assert {s: c['score'] for s, c in tests['clean'].items()} == {
            s: own[s]['accuracy'] for s in tests['clean']
        }
        assert len(tests['clean']) == 7


def test_a_second_command_tests_only_what_is_new(folder, runs, capsys, monkeypatch):
    assert command(folder, '--corruptions', 'gaussian,frozen', '--severities', '1,5') == 0
    capsys.readouterr()
    asked = []
    real = robustness.tally
    monkeypatch.setattr(robustness, 'tally', lambda *args: asked.append(args[3:5]) or real(*args))
    before = {p: files.read(p, store.read(p / store.RECORD))['tests'] for p in runs.values()}
    assert command(folder, '--corruptions', 'gaussian,frozen', '--severities', '1,5') == 0
    assert asked == []
    assert command(folder, '--corruptions', 'gaussian', '--severities', '3') == 0
    assert sorted(asked) == sorted(2 * [(m, [('gaussian', 3)]) for m in ('rgb', 'gait', 'scan')])
    for path, known in before.items():
        now = files.read(path, store.read(path / store.RECORD))['tests']
        assert set(now['rgb']['gaussian']) == {'1', '3', '5'}
        assert {k: now['rgb']['gaussian'][k] for k in '15'} == known['rgb']['gaussian']


def test_another_version_of_the_formulas_and_damage_mean_that_all_is_tested_anew(
    folder, runs, capsys, monkeypatch
):
    words = '--corruptions', 'drift', '--severities', '1'
    assert command(folder, *words) == 0
    file = runs['hemis'] / files.FILE
    file.write_text(file.read_text()[:-20])
    monkeypatch.setattr(corruptions, 'VERSION', 2)
    capsys.readouterr()
    assert command(folder, *words) == 0
    told = capsys.readouterr().out
    assert '2 runs' in told
    assert f'{file}: cannot be used' in told
    record = store.read(runs['hemis'] / store.RECORD)
    assert files.read(runs['hemis'], record)['tests'].keys() == {'scan'}


def test_what_an_interrupted_test_has_finished_is_kept(folder, runs, monkeypatch):
    words = '--corruptions', 'gaussian', '--severities', '2'
    real = robustness.tally

    def stop(*args):
        if args[3] == 'scan':
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(robustness, 'tally', stop)
        assert command(folder, *words) == 130
    asked = []
    monkeypatch.setattr(robustness, 'tally', lambda *a: asked.append(a[3]) or real(*a))
    assert command(folder, *words) == 0
    assert asked == ['scan', 'rgb', 'gait', 'scan']


class Told(list):
    """Stands for the process that shows what another one tells."""

    def start(self, *words):
        self.append(words)

    report = end = waiting = start


def test_another_process_takes_its_share_of_the_runs(folder, runs, monkeypatch):
    words = ['--corruptions', 'blur', '--severities', '1', '--results', str(folder / 'results')]
    words += ['--methods', 'hemis', 'logistic', *WORDS, '--data-root', str(folder / 'mine.npz')]
    args, told = run.parser().parse_args(words), Told()
    assert helpers.help_test(args, {runs['hemis']}, told)
    assert told[0] == ('mine', 'hemis', 0, runs['hemis'])
    assert told[-1][0].endswith('mean under corruption')
    tested = {
        name
        for name, path in runs.items()
        if 'blur' in files.read(path, store.read(path / store.RECORD))['tests']['rgb']
    }
    assert tested == {'hemis'}


def test_a_run_whose_networks_are_gone_fails_alone(folder, runs, capsys):
    file = runs['hemis'] / 'model.json'
    kept = file.read_text()
    file.unlink()
    try:
        assert command(folder, '--corruptions', 'contrast', '--severities', '1') == 1
    finally:
        file.write_text(kept)
    told = capsys.readouterr().out
    assert told.count('FAILED under corruptions') == 1
    assert told.count('mean under corruption') == 1
    record = store.read(runs['logistic'] / store.RECORD)
    assert 'contrast' in files.read(runs['logistic'], record)['tests']['rgb']


def test_the_plan_tells_what_would_be_tested(folder, runs, capsys):
    assert command(folder, '--corruptions', '--dry-run') == 0
    told = capsys.readouterr().out
    assert 'corruptions: mine: 2 runs, each on 75 corrupted inputs and 300 subsets' in told


def test_tables_are_made_of_the_tests(folder, runs, capsys):
    assert command(folder, '--corruptions', 'gaussian,frozen', '--severities', '1,5') == 0
    capsys.readouterr()
    assert tables.main([str(folder / 'results'), '--corruptions']) == 0
    told = capsys.readouterr().out
    assert 'under corruption' in told
    csv = (folder / 'results/tables/mine-corruptions.csv').read_text().splitlines()
    assert csv[0].startswith('method,protocol,modality,corruption,severity,subset,seeds,score')
    (line,) = [x for x in csv if x.startswith('hemis,') and ',rgb,gaussian,5,rgb+gait+scan,' in x]
    record = store.read(runs['hemis'] / store.RECORD)
    cell = files.read(runs['hemis'], record)['tests']['rgb']['gaussian']['5']['rgb+gait+scan']
    assert float(line.split(',')[-2]) == pytest.approx(100 * cell['score'], abs=1e-3)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (
            ['--corruptions', 'gausian'],
            "corruption in --corruptions: 'gausian'; did you mean",
        ),
        (['--corruptions', 'blur,'], "unknown corruption in --corruptions: ''"),
        (['--corruptions', '--severities', '0'], '--severities: expected some of 1,2,3,4,5, found'),
        (['--corruptions', '--severities', '1,6'], '--severities: expected some of 1,2,3,4,5'),
        (['--severities', '1'], '--severities: expected --corruptions beside it'),
    ],
)
def test_bad_words_are_told_in_one_line(words, message, capsys):
    assert run.main(['--methods', 'hemis', *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1


def test_words_choose_kinds_and_severities_once_and_in_order():
    assert kinds.kinds('blur,gaussian,blur') == ('gaussian', 'blur')
    assert kinds.kinds('all') == tuple(kinds.KINDS)
    assert kinds.severities('5,1,5') == (1, 5)
