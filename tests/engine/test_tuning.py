"""Equal tuning: who is tried how often, on what, and what the record and the table say of it."""

import hashlib
import json
import math
from pathlib import Path

import pytest
from made_records import make_outcomes, make_record
from repetitions import scientific
from scipy import stats
from tasks import TASKS, Toy

from benchmark import run
from benchmark.engine import dry_run, execution, forecast, plan, request, state, trials, tuning
from benchmark.engine import grid as runner
from benchmark.engine.building import Machine
from benchmark.engine.contents import ANEW
from benchmark.engine.experiment import Experiment, search_space
from benchmark.engine.hooks import Checkpoint, LossWatch, TrainingDiverged
from benchmark.errors import UserError
from benchmark.options import Spec, options_of
from benchmark.records import store
from benchmark.registry import METHODS, discover
from benchmark.report import captions, writer
from benchmark.search import Choice, LogUniform, Uniform, draw
from methods.modality_dropout import ModalityDropout

discover()
ROOT = Path(run.__file__).resolve().parent.parent
SHIPPED = sorted(METHODS.module_dict)
MACHINE = Machine('cpu')


class Stretched(ModalityDropout):
    """Modality dropout whose loss has weights to tune (made up, 2026)."""

    search = {'gain': LogUniform(0.01, 10), 'shift': Uniform(0, 1)}
    broken: dict = {}  # trial -> what its loss raises or returns

    def __init__(self, task, *, gain=1.0, shift=0.0, kind='plain'):
        super().__init__(task)
        self.gain, self.shift = gain, shift

    def loss(self, batch):
        if self.broken and (error := self.broken.get(self.gain)):
            raise error
        return {'loss_task': self.gain * super().loss(batch)['loss_task'] + self.shift}


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    for name, fields in {
        'stretched': {},
        'each': {'dedicated': True},
        'taught': {'teacher': 'stretched'},
        'odd': {'search': {'gian': Uniform(0, 1)}},
    }.items():
        cls = type(name, (Stretched,), {'broken': {}, **fields})
        monkeypatch.setitem(METHODS.module_dict, name, cls)


def toy(kind='vectors', cls=Toy):
    data = cls(TASKS[kind], sizes=(16, 8, 8))
    data.recipe = {**Toy.recipe, 'epochs': 2}
    return data


def grid_of(results, *methods, trials=3, seeds=(0,), data=None, **options):
    request = plan.Request(methods, seeds, options, results, 'cpu', trials)
    return plan.experiments(request, [data or toy()])


def untuned(results, *methods, data=None, seeds=(0,)):
    return grid_of(results, *methods, data=data, seeds=seeds, trials=None)


def trials_of(grid):
    return [t for s in grid if isinstance(s, tuning.Search) for t in s.experiments]


def usual(cls):
    """Every option of a method with its default."""
    return {key: option.default for key, option in options_of(cls).items()}


def tried(trial):
    return {key: trial.options[key] for key in trial.tunable}


def result(trial):
    return trials.result_of(trial)


def settled(trial):
    return trials.settled(result(trial))


def last(grid):
    return plan.flat(grid)[-1]


def executed(grid, force=False):
    return runner.execute(grid, MACHINE, force, writer.brief)


def record_of(e):
    return store.read(e.folder / 'record.json')


def settle(grid, scores):
    """Writes the outcomes of trials as if they had been run."""
    for trial, score in zip(trials_of(grid), scores, strict=True):
        outcome = {'status': 'complete', 'score': score, 'seconds': 2.0, 'teacher_seconds': 5.0}
        if score is None:
            outcome = {'status': 'diverged', 'error': 'it burst', 'seconds': 1.0}
        trial.folder.mkdir(parents=True)
        state.write_json(trial.folder / 'trial.json', {**trial.header, **outcome})


def identified(record):
    return {**record, 'identity': store.identity(record)}


# What is drawn


@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.93])
def test_distributions_are_scipys(share):
    expected = stats.loguniform(0.01, 5).ppf(share)
    assert LogUniform(0.01, 5).at(share) == pytest.approx(expected, rel=5e-3)
    assert Uniform(0.2, 0.7).at(share) == pytest.approx(
        stats.uniform(0.2, 0.5).ppf(share), rel=5e-3
    )
    assert Choice('a', 'b', 'c').at(share) == 'abc'[int(stats.randint(0, 3).ppf(share + 1e-9))]


def test_draws_fill_the_distribution():
    drawn = [math.log(draw('m', 'alpha', k, LogUniform(0.01, 5))) for k in range(1, 400)]
    uniform = stats.uniform(math.log(0.01), math.log(5) - math.log(0.01))
    assert stats.kstest(drawn, uniform.cdf).pvalue > 0.01
    pair = [[draw('m', key, k, Uniform(0, 1)) for k in range(1, 400)] for key in ('a', 'b')]
    assert stats.pearsonr(*pair).pvalue > 0.01


@pytest.mark.parametrize(
    'made', [lambda: LogUniform(0, 1), lambda: Uniform(1, 1), lambda: Choice(3)]
)
def test_a_distribution_without_two_values_is_refused(made):
    with pytest.raises(ValueError, match='expected'):
        made()


def test_values_can_be_given_again_on_the_command_line(tmp_path):
    for trial in trials_of(grid_of(tmp_path, 'stretched', trials=8))[1:]:
        spec = 'stretched:' + ','.join(f'{k}={v}' for k, v in tried(trial).items())
        (again,) = untuned(tmp_path, spec, data=trial.data)
        assert again.options == trial.options
        assert all(
            len(f'{v:.15g}'.lstrip('0.').replace('.', '')) <= 3 for v in tried(trial).values()
        )


def test_more_trials_contain_the_fewer_whatever_the_seeds_and_the_other_parameters(
    tmp_path, monkeypatch
):
    few = trials_of(grid_of(tmp_path, 'stretched', trials=4))
    many = trials_of(grid_of(tmp_path, 'stretched', trials=8, seeds=(5, 6)))
    assert [tried(t) for t in few] == [tried(t) for t in many[:4]]
    assert [t.folder for t in few] == [t.folder for t in many[:4]]
    assert len({tuple(tried(t).values()) for t in many}) == 8
    cls = METHODS.module_dict['stretched']
    monkeypatch.setattr(cls, 'search', {'kind': Choice('plain', 'odd'), **cls.search})
    wider = trials_of(grid_of(tmp_path, 'stretched', trials=4))
    assert [{**tried(t), 'kind': ''} for t in wider] == [{**tried(t), 'kind': ''} for t in few]
    others = trials_of(grid_of(tmp_path, 'each', trials=4))
    assert not any(tried(a) == tried(b) for a, b in zip(few[1:], others[1:], strict=True))


# Who is tried


def test_every_method_gets_the_same_trials_at_one_seed_of_their_own(tmp_path):
    grid = grid_of(tmp_path, *SHIPPED, trials=5, seeds=(0, 1, 2))
    for name in SHIPPED:
        mine = [
            x for x in grid if (x.spec.name if isinstance(x, tuning.Search) else x.name) == name
        ]
        trials, seeds = trials_of(mine), plan.flat(mine)
        options = {
            key: option.default for key, option in options_of(METHODS.module_dict[name]).items()
        }
        assert len(trials) == (5 if METHODS.module_dict[name].search_space(options) else 0)
        assert {t.seed for t in trials} <= {tuning.SEED}
        assert [e.seed for e in seeds] == [0, 1, 2]
        assert all((e.search is not None) == bool(trials) for e in seeds)
    assert {e.name for e in trials_of(grid)} >= {'mmanet', 'rfnet', 'dmrnet', 'redcore'}


def test_trial_0_is_the_untuned_setting_and_what_is_given_stays(tmp_path):
    data = toy('faces')
    data.task = TASKS['faces'].__class__(**{**vars(TASKS['faces']), 'dataset': 'nyuv2'})
    first, *drawn = trials_of(grid_of(tmp_path, 'mmanet', trials=4, data=data))
    (plain,) = untuned(tmp_path, 'mmanet', data=data)
    assert first.options == plain.options
    assert (first.options['alpha'], first.options['begin_epoch']) == (4.0, 10)
    assert all(t.options['alpha'] != 4.0 and t.options['begin_epoch'] == 10 for t in drawn)
    fixed = trials_of(grid_of(tmp_path, 'mmanet:alpha=7', trials=4, data=data))
    assert [t.options['alpha'] for t in fixed] == [7.0] * 4
    assert [t.options['beta'] for t in fixed] == [first.options['beta']] + [
        t.options['beta'] for t in drawn
    ]
    assert fixed[0].folder != first.folder
    (nothing_left,) = grid_of(tmp_path, 'mmanet:alpha=7,beta=1', trials=4, data=data)
    assert isinstance(nothing_left, Experiment)


@pytest.mark.parametrize('name', SHIPPED)
def test_search_spaces_fit_their_methods(name):
    cls = METHODS.module_dict[name]
    spaces = [(cls.search_space(usual(cls)), {})]
    if name == 'distilled':
        from methods.distilled import WEIGHTS

        options = [{'loss': loss, 'mar': mar} for loss in WEIGHTS for mar in (False, True)]
        spaces += [(cls.search_space({**usual(cls), **given}), given) for given in options]
    for space, given in spaces:
        assert set(space) <= set(usual(cls)) - {'variant'}
        task = TASKS['vectors' if 'faces' in cls.contract_exceptions else 'faces']
        for share in (0.0, 0.999):
            cls(task, **given, **{key: d.at(share) for key, d in space.items()})
        known = [usual(cls), *cls.settings.values()]
        for key, found in space.items():
            values = [s[key] for s in known if not isinstance(s.get(key, ''), str)]
            assert all(found.at(0.0) <= v <= found.at(0.9999) for v in values), (key, values)


def test_distilled_searches_around_the_usual_weight_of_its_loss():
    cls = METHODS.module_dict['distilled']
    space = cls.search_space({**usual(cls), 'loss': 'at'})
    assert list(space) == ['alpha']
    assert space['alpha'].at(0.5) == pytest.approx(1000, rel=0.01)
    assert cls.search_space({**usual(cls), 'loss': 'att'}) == {}


def test_what_changes_nothing_beside_the_given_options_is_not_searched():
    cls = METHODS.module_dict['mmpareto']
    for pareto, space in ((True, ['gamma']), (False, [])):
        spec = Spec('mmpareto', (('pareto', pareto),))
        assert list(search_space(spec, {**usual(cls), 'pareto': pareto})) == space


def test_a_hyper_parameter_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match="search space of odd 'gian'; did you mean 'gain'"):
        grid_of(tmp_path, 'odd')


# What is chosen


@pytest.mark.parametrize(
    ('kind', 'scores', 'chosen', 'of_two'),
    [
        ('faces', [0.3, 0.1, 0.2, None], 1, 1),  # ACER: lower is better
        ('rooms', [0.3, 0.1, 0.2, None], 0, 0),
        ('rooms', [0.3, None, 0.4, 0.4], 2, 0),  # the first of equals
        ('faces', [None, None, 0.0, 1.0], 2, None),
    ],
)
def test_the_best_validation_mean_is_chosen(kind, scores, chosen, of_two, tmp_path):
    grid = grid_of(tmp_path, 'stretched', trials=4, data=toy(kind))
    assert last(grid).options == trials_of(grid)[0].options  # nothing is known yet
    settle(grid, scores)
    assert last(grid).options == trials_of(grid)[chosen].options
    assert last(grid).header['tuning']['chosen'] == chosen
    # Fewer trials know nothing of later ones.
    (fewer,) = grid_of(tmp_path, 'stretched', trials=2, data=grid[0].data)
    assert fewer.best(fewer.read()) == of_two


def test_a_trial_s_score_is_the_mean_over_the_subsets_of_all_its_networks(tmp_path, monkeypatch):
    def summary(**scores):
        found = {s: {'metrics': {'accuracy': v, 'UAR': 0.1}, 'n': 8} for s, v in scores.items()}
        return None, {'scores': found, 'seconds': 3.0}

    networks = [summary(a=0.5), summary(b=0.75), summary(**{'a+b': 0.9})]
    monkeypatch.setattr(execution, 'train', lambda *_: (networks, {'seconds': 7.0}))
    grid = grid_of(tmp_path, 'stretched')
    trial = trials_of(grid)[0]
    outcome = trials.attempt(trial, MACHINE, lambda *_: None)
    assert outcome['score'] == pytest.approx((0.5 + 0.75 + 0.9) / 3)
    assert (outcome['seconds'], outcome['teacher_seconds']) == (9.0, 7.0)
    assert result(trial)['score'] == outcome['score']
    assert last(grid).recorded() is None


def test_a_validation_split_without_scores_cannot_tune(tmp_path, capsys, monkeypatch):
    class Bare(Toy):
        def split(self, name):
            split = super().split(name)
            if name == 'val':
                split.target[...] = 1  # no attack: ACER is undefined
            return split

    with pytest.raises(UserError, match='toy: --tune: expected ACER of rgb on .* no attack'):
        grid_of(tmp_path, 'stretched', trials=2, data=toy('faces', Bare))
    # Whoever makes the search without a plan meets it after the training.
    monkeypatch.setattr(plan.selectable, 'check', lambda *_, **__: None)
    assert not executed(grid_of(tmp_path, 'stretched', trials=2, data=toy('faces', Bare)))
    assert '--tune: expected ACER on the validation split for rgb' in capsys.readouterr().out


# What is read


class Sealed(Toy):
    """A toy dataset whose test split cannot be opened."""

    def split(self, name):
        if name == 'test':
            raise AssertionError('the test split was opened')
        return super().split(name)


class Spoilt(Toy):
    """A toy dataset whose test split holds NaN and wrong labels."""

    def split(self, name):
        split = super().split(name)
        if name == 'test':
            for x in split.inputs.values():
                x[...] = float('nan')
            split.target[...] = 0
        return split


def test_the_test_split_is_opened_by_no_trial_and_changes_no_choice(tmp_path):
    grid = grid_of(tmp_path / 'sealed', 'taught', data=toy(cls=Sealed))
    assert not executed(grid)  # the test of the chosen setting fails
    assert 'test split was opened' in record_of(last(grid))['error']
    assert grid[0].data.opened.count('val') == 1
    scores = [[result(t)['scores'] for t in trials_of(grid)]]
    for cls in (Toy, Spoilt):
        again = grid_of(tmp_path / cls.__name__, 'taught', data=toy(cls=cls))
        assert executed(again) == (cls is Toy)  # a test of NaN fails its run
        scores.append([result(t)['scores'] for t in trials_of(again)])
        assert last(again).options == last(grid).options
        assert again[0].data.opened.count('test') == 1
    assert scores[0] == scores[1] == scores[2]
    assert len(scores[0]) == 3


# What is run again


def test_what_is_recorded_is_not_tried_again(tmp_path, monkeypatch):
    grid = grid_of(tmp_path, 'stretched', seeds=(0, 1))
    assert executed(grid)
    files = {
        t.folder / 'trial.json': (t.folder / 'trial.json').read_bytes() for t in trials_of(grid)
    }
    assert not list((tmp_path / 'tuning').rglob('*.pth'))
    trained = []
    monkeypatch.setattr(execution.training, 'train', lambda *a: trained.append(a))
    fresh = grid_of(tmp_path, 'stretched', seeds=(0, 1))
    assert executed(fresh)
    assert all(e.recorded() for e in plan.flat(fresh))
    assert not trained
    assert all(file.read_bytes() == before for file, before in files.items())
    # More trials: only the new ones, then the seeds of another row.
    more = grid_of(tmp_path, 'stretched', trials=4)
    assert [settled(t) for t in trials_of(more)] == [True] * 3 + [False]
    assert last(more).recorded() is None


def test_another_space_or_version_is_another_search(tmp_path, monkeypatch):
    grid = grid_of(tmp_path, 'stretched')
    settle(grid, [0.1, 0.2, 0.3])
    assert all(settled(t) for t in trials_of(grid))
    cls = METHODS.module_dict['stretched']
    monkeypatch.setattr(cls, 'search', {**cls.search, 'gain': LogUniform(0.1, 10)})
    fresh = trials_of(grid_of(tmp_path, 'stretched'))
    assert [settled(t) for t in fresh] == [True, False, False]
    monkeypatch.setattr(cls, 'version', cls.version + 1)
    assert not any(settled(t) for t in trials_of(grid_of(tmp_path, 'stretched')))
    (fresh[0].folder / 'trial.json').write_text('{"identity": ')
    assert result(fresh[0]) is None


def test_an_interrupted_search_goes_on_to_the_same_choice(tmp_path, monkeypatch):
    whole = grid_of(tmp_path / 'whole', 'stretched')
    assert executed(whole)
    parts = grid_of(tmp_path / 'parts', 'stretched')
    real, saves, epochs, watch = Checkpoint._save, [], [], LossWatch.after_train_epoch

    def watched(self, runner):
        epochs.append(runner.epoch)
        watch(self, runner)

    def interrupting(self, runner):
        real(self, runner)
        saves.append(runner.epoch)
        if len(saves) == 3:  # trial 1 after its first epoch of two
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, '_save', interrupting)
    monkeypatch.setattr(LossWatch, 'after_train_epoch', watched)
    with pytest.raises(KeyboardInterrupt):
        executed(parts)
    assert [result(t) is None for t in trials_of(parts)] == [False, True, True]
    assert executed(parts)
    assert epochs == [0, 1] * 4  # none is trained twice
    for a, b in zip(trials_of(whole), trials_of(parts), strict=True):
        assert result(a)['scores'] == result(b)['scores']
    assert scientific(record_of(last(whole))) == scientific(record_of(last(parts)))


def test_force_tries_again(tmp_path, monkeypatch):
    grid = grid_of(tmp_path, 'stretched', trials=2)
    assert executed(grid)
    before = record_of(last(grid))
    real, folders = execution.training.train, []
    monkeypatch.setattr(
        execution.training, 'train', lambda *a: folders.append(a[3].folder) or real(*a)
    )
    assert executed(grid_of(tmp_path, 'stretched', trials=2), force=True)
    rows = [e.folder / ANEW for e in plan.flat(grid)]
    assert folders == [*(e.folder for e in trials_of(grid)), *rows]
    assert scientific(record_of(last(grid))) == scientific(before)


# What fails


def test_a_trial_that_fails_loses_and_is_tried_again_unless_it_diverged(
    tmp_path, monkeypatch, capsys
):
    grid = grid_of(tmp_path, 'stretched', trials=4)
    cls = METHODS.module_dict['stretched']
    gains = [t.options['gain'] for t in trials_of(grid)]
    monkeypatch.setattr(
        cls, 'broken', {gains[0]: KeyError('oops'), gains[2]: TrainingDiverged('not finite')}
    )
    assert executed(grid)
    told = capsys.readouterr().out
    assert "FAILED: KeyError: 'oops' (see " in told
    assert 'FAILED: not finite' in told
    assert 'Traceback' not in told
    assert 'oops' in (trials_of(grid)[0].folder / 'train.log').read_text()
    statuses = [result(t)['status'] for t in trials_of(grid)]
    assert statuses == ['failed', 'complete', 'diverged', 'complete']
    record = record_of(last(grid))
    assert [t['score'] is None for t in record['tuning']['tried']] == [True, False, True, False]
    assert record['tuning']['chosen'] in (1, 3)
    monkeypatch.setattr(cls, 'broken', {})
    assert executed(grid_of(tmp_path, 'stretched', trials=4))
    statuses = [result(t)['status'] for t in trials_of(grid)]
    assert statuses == ['complete', 'complete', 'diverged', 'complete']
    record = record_of(last(grid))
    assert [t['score'] is None for t in record['tuning']['tried']] == [False, False, True, False]


def test_a_search_without_any_score_is_one_line_and_stops_no_one(tmp_path, monkeypatch, capsys):
    grid = grid_of(tmp_path, 'stretched', 'modality_dropout', trials=2)
    cls = METHODS.module_dict['stretched']
    broken = {
        t.options['gain']: TrainingDiverged(f'burst {k}') for k, t in enumerate(trials_of(grid))
    }
    monkeypatch.setattr(cls, 'broken', broken)
    assert not executed(grid)
    told = capsys.readouterr().out.splitlines()
    (line,) = (x for x in told if 'stretched (tuned 2)' in x)
    assert 'FAILED: all 2 trials failed, the first one: burst 0' in line
    failed = record_of(plan.flat(grid)[0])
    assert failed['status'] == 'failed'
    assert failed['tuning']['chosen'] is None
    assert record_of(last(grid))['status'] == 'complete'


def test_a_tuned_run_without_its_search_is_refused(tmp_path):
    with pytest.raises(UserError, match='expected 3 trials to have run before it'):
        execution.run(last(grid_of(tmp_path, 'stretched')), MACHINE, lambda *_: None)


@pytest.mark.parametrize('count', ['0', '1', '-3'])
def test_too_few_trials_are_one_clear_line(count, tmp_path, capsys):
    args = ['--methods', 'mmanet', '--results', str(tmp_path), '--tune', count]
    assert run.main(args) == 2
    expected = f'--tune: expected 2 trials or more, the first untuned, found {count}'
    assert capsys.readouterr().err == f'error: {expected}\n'


# What is written


@pytest.fixture(scope='module')
def tuned(tmp_path_factory):
    """Results with a tuned row whose choice is the untuned setting, and the untuned row."""
    results = tmp_path_factory.mktemp('tuned')
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS.module_dict, 'stretched', type('stretched', (Stretched,), {}))
        grid = grid_of(results, 'stretched', seeds=(0, 1))
        settle(grid, [0.9, 0.5, None])
        assert executed(grid)
        specs = ['stretched', 'modality_dropout']
        assert executed(untuned(results, *specs, seeds=(0, 1)))
    return grid


def test_the_record_holds_the_search(tuned):
    record = record_of(last(tuned))
    assert record['method']['source'] == 'tuned'
    assert record['method']['label'] == 'stretched (tuned 3)'
    assert record['method']['options'] == {'gain': 1.0, 'shift': 0.0, 'kind': 'plain'}
    search = record['tuning']
    assert search['space'] == {'gain': 'log-uniform 0.01 to 10', 'shift': 'uniform 0 to 1'}
    assert (search['trials'], search['chosen'], search['seed']) == (3, 0, tuning.SEED)
    assert search['tried'] == [
        {'options': tried(t), 'score': score}
        for t, score in zip(trials_of(tuned), [0.9, 0.5, None], strict=True)
    ]
    assert search['tried'][0]['options'] == {'gain': 1.0, 'shift': 0.0}
    assert search['seconds'] == 2 + 2 + 1 + 5  # the teacher's once
    assert last(tuned).folder.parts[-3:] == ('stretched-tuned3', last(tuned).protocol_id, 'seed1')
    assert all(c.isalnum() or c in '-=.,' for c in last(tuned).folder.parts[-3])


def test_the_tuned_row_stands_beside_the_untuned_one(tuned):
    table = writer.write_tables(tuned[0].results, 'toy')
    assert not table.problems
    (block,) = table.blocks
    rows = {row.label: row for row in block.rows}
    assert {'stretched', 'stretched (tuned 3)', 'modality_dropout'} <= rows.keys()
    assert all(row.extra['seeds'] == '2' for row in rows.values() if row.extra)
    found = [rows[x].extra['options'] for x in ('stretched', 'stretched (tuned 3)')]
    assert found == ['default', 'tuned']
    assert rows['modality_dropout'].extra['options'] == 'no search space'
    (note,) = (n for n in captions.notes(block) if n.startswith('stretched (tuned 3): '))
    for words in ('gain=1.0', 'untuned setting', 'of 3 trials (1 failed)', 'took 10 s',
                  'gain log-uniform 0.01 to 10', 'shift uniform 0 to 1'):  # fmt: skip
        assert words in note


def test_searches_over_other_spaces_are_other_rows():
    made = []
    for seed, space in enumerate(('0 to 1', '0 to 2')):
        search = {'trials': 2, 'seed': 1, 'space': {'alpha': space}, 'chosen': 0, 'seconds': 1.0,
                  'tried': [{'options': {'alpha': 1.0}, 'score': 0.5}] * 2}  # fmt: skip
        record = make_record('m (tuned 2)', seed, make_outcomes({'rgb': 5}))
        made.append(identified({**record, 'tuning': search}))
    (block,) = writer.table(made, lambda _: None).blocks
    labels = [row.label for row in block.rows if row.kind == 'method']
    assert len(labels) == 2
    assert all('0 to' in label for label in labels)
    told = 'alpha=1.0, the untuned setting, is the first of 2 trials with the best validation mean'
    assert sum(told in note for note in captions.notes(block)) == 2


def test_the_search_is_part_of_the_identity_and_its_seconds_are_not():
    plain = make_record('m', 0, make_outcomes({'rgb': 5}))
    tried = [{'options': {}, 'score': 0.5}]
    search = {'trials': 2, 'seed': 1, 'space': {}, 'tried': tried, 'chosen': 0, 'seconds': 1.0}
    record = store.validate(identified({**plain, 'tuning': search}))
    assert record['identity'] != plain['identity']
    slower = {**record, 'tuning': {**search, 'seconds': 2.0}}
    assert store.identity(slower) == record['identity']
    assert scientific(record) == scientific(slower)
    other = {**record, 'tuning': {**search, 'chosen': 1}}
    assert scientific(record) != scientific(other)
    assert store.identity({**record, 'tuning': {**search, 'trials': 3}}) != record['identity']
    with pytest.raises(store.RecordError, match=r'tuning\.trials: expected int'):
        store.validate({**record, 'tuning': {**search, 'trials': 'two'}})
    with pytest.raises(store.RecordError, match=r'tuning\.seed: missing'):
        store.validate({**record, 'tuning': {k: v for k, v in search.items() if k != 'seed'}})


def test_the_identity_of_an_untuned_run_is_what_it_was(tmp_path):
    (e,) = untuned(tmp_path, 'stretched:gain=2', seeds=[3])
    header = e.header
    version = METHODS.module_dict['stretched'].version
    content = {
        'schema': 1,
        'method': {'name': 'stretched', 'version': version, 'options': e.options, 'code': e.code},
        'dataset': {'name': 'toy', 'options': {}, 'fingerprint': 'toy'},
        'protocol': e.protocol.recorded(),
        'seed': 3,
    }
    text = json.dumps(content, sort_keys=True)
    assert header['identity'] == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert 'tuning' not in header
    assert e.folder.parts[-3:] == ('stretched-gain=2', e.protocol_id, 'seed3')


# Teachers, dedicated methods, plans


def test_one_teacher_serves_all_trials(tmp_path, monkeypatch):
    real, jobs = execution.training.train, []
    monkeypatch.setattr(execution.training, 'train', lambda *a: jobs.append(a[3]) or real(*a))
    grid = grid_of(tmp_path, 'taught', 'stretched', trials=2)
    assert executed(grid)
    names = [(j.folder.parts[-3], j.folder.name) for j in jobs]
    assert names == [
        ('stretched', 'teacher'), ('taught', 'trial0'), ('taught', 'trial1'),
        ('stretched', 'seed0'), ('taught-tuned2', 'seed0'),
        ('stretched', 'trial0'), ('stretched', 'trial1'), ('stretched-tuned2', 'seed0'),
    ]  # fmt: skip
    assert {j.seed for j in jobs[:3]} == {tuning.SEED}
    first, second = (result(t) for t in trials_of(grid)[:2])
    assert first['teacher_seconds'] == second['teacher_seconds'] > 0
    total = record_of(plan.flat(grid)[0])['tuning']['seconds']
    assert total == pytest.approx(
        sum(t['seconds'] for t in (first, second)) + first['teacher_seconds']
    )


def test_a_dedicated_method_is_scored_over_all_its_networks(tmp_path):
    grid = grid_of(tmp_path, 'each', trials=2)
    assert executed(grid)
    outcome = result(trials_of(grid)[0])
    assert outcome['scores'].keys() == {'a', 'b', 'a+b'}
    mean = sum(v['accuracy'] for v in outcome['scores'].values()) / 3
    assert outcome['score'] == pytest.approx(mean)


def test_the_plan_counts_the_trials_and_runs_nothing(tmp_path, capsys, monkeypatch):
    real, measured = forecast.forecast, []
    each = forecast.Training(50.0, 0.0, [2]), 0.0
    monkeypatch.setattr(forecast, 'forecast', lambda *a: measured.append(real(*a)) or each)
    data = toy(cls=Sealed)
    grid = grid_of(tmp_path, 'taught', 'modality_dropout', seeds=(0, 1), data=data)
    dry_run.show_plan(grid, MACHINE)
    told = capsys.readouterr().out
    assert told.count('taught trial') == 3
    assert told.count('taught (tuned 3)') == 2
    # 3 trials, 2 tuned and 2 other seeds, and a teacher for each of three seeds.
    assert 'expected: 16 min 40 s' in told
    assert len(measured) == 3
    assert not list(tmp_path.rglob('*.json'))
    todo = [*trials_of(grid), *(e for e in plan.flat(grid) if e.name == 'taught')]
    epochs = runner._epochs_to_train(todo, False)
    assert epochs == {'toy': 2 * (3 + 2 + 3)}


def test_what_has_nothing_to_tune_is_named(tmp_path, capsys):
    words = ['--methods', 'modality_dropout', 'mmanet', 'mmanet:alpha=1,beta=1', '--tune', '2']
    args = run.parser().parse_args([*words, '--results', str(tmp_path), '--device', 'cpu'])
    grid, _ = request.prepare(args)
    told = capsys.readouterr().out.splitlines()
    assert told == ['mmanet:alpha=1,beta=1: nothing to tune', 'modality_dropout: nothing to tune']
    assert len(grid) == 2 * 3
