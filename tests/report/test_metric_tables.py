"""Tables of the metrics beside the main one, and each metric's direction."""

import numpy as np
import pytest
from made_records import ID, SAMPLES, SUBSETS, TARGET, make_outcomes, make_record, save
from sklearn.metrics import confusion_matrix

from benchmark import tables
from benchmark.errors import UserError
from benchmark.records import metrics
from benchmark.report import arguments, captions, published, runs, writer
from benchmark.report.render import csv as to_csv
from benchmark.report.render import latex, markdown, terminal

REFERENCES = {'ceiling': {s: 0.05 for s in SUBSETS}, 'chance': 0.5}
PUBLISHED = [
    {
        'method': 'Paper',
        'scores': {'rgb': 2.0},
        'source': 'Paper, Table 1',
        'certainty': 'read in the paper',
        'comparable': True,
    }
]


def rates(outcomes, subset):
    """APCER, BPCER and accuracy, from scikit-learn's confusion matrix, rows normalised."""
    predicted = outcomes[f'pred/{subset}']
    table = confusion_matrix(outcomes['target'], predicted, labels=[0, 1], normalize='true')
    right = float((outcomes['target'] == predicted).mean())
    return {'APCER': float(table[0, 1]), 'BPCER': float(table[1, 0]), 'accuracy': right}


class Folder:
    """Runs saved as the suite saves them."""

    def __init__(self, path):
        self.path, self.outcomes = path, {}

    def add(self, label, seed, errors, dataset='faces', **others):
        outcomes = make_outcomes(dict.fromkeys(SUBSETS, errors), seed=[seed, *label.encode()])
        made = make_record(label, seed, outcomes, dataset={'name': dataset, **REFERENCES})
        for subset, scores in made['scores']['test'].items():
            scores |= rates(outcomes, subset) | others
        self.outcomes[label, seed] = outcomes
        save(self.path / 'runs', made, outcomes)

    def table(self, **arguments):
        return writer.write_tables(self.path, 'faces', **arguments)


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path)
    for seed in range(3):
        made.add('good', seed, 4 + seed)
        made.add('poor', seed, 120 + seed)
    return made


def row_of(block, label):
    (row,) = (row for row in block.rows if row.label == label)
    return row.cells


@pytest.mark.parametrize(('metric', 'worst'), [('APCER', max), ('accuracy', min)])
def test_another_metric_is_averaged_like_the_main_one(metric, worst, folder):
    (block,) = folder.table(metric=metric).blocks
    poor = [folder.outcomes['poor', seed] for seed in range(3)]
    expected = np.array([[100 * rates(o, s)[metric] for s in SUBSETS] for o in poor])
    row = row_of(block, 'poor')
    assert row['ir'].mean == pytest.approx(expected[:, 2].mean())
    assert row['ir'].std == pytest.approx(expected[:, 2].std(ddof=1))
    assert row['mean'].mean == pytest.approx(expected.mean())
    assert row['worst'].mean == pytest.approx(np.mean([worst(seed) for seed in expected]))


@pytest.mark.parametrize(('metric', 'arrow', 'told'), [('BPCER', '↓', 'lower'),
                                                       ('accuracy', '↑', 'higher')])  # fmt: skip
def test_title_and_caption_tell_the_direction(metric, arrow, told, folder):
    (block,) = folder.table(metric=metric).blocks
    assert captions.title(block) == f'faces: {metric} {arrow} (%)'
    assert captions.caption(block).startswith(f'{metric} in percent, {told} is better.')


def test_only_the_main_metric_is_marked_and_has_references(folder):
    main = writer.write_tables(folder.path, 'faces')
    assert any(cell.mark for row in main.blocks[0].rows for cell in row.cells.values())
    made = folder.table(metric='APCER')
    (block,) = made.blocks
    assert not any(cell.mark for row in block.rows for cell in row.cells.values())
    assert 'differences are tested in ACER only' in captions.caption(block)
    assert [row.label for row in block.rows] == ['good', 'poor']
    assert 'gap closed %' not in block.rows[0].extra
    assert block.cost is None
    arguments = {'outcomes': lambda r: None, 'published': PUBLISHED}
    record = make_record('m', 0, make_outcomes({'rgb': 4}))
    record['scores']['test']['rgb']['APCER'] = 0.25
    (shown,) = writer.table([record], **arguments).blocks
    (hidden,) = writer.table([record], **arguments, metric='APCER').blocks
    assert [row.kind for row in shown.rows] == ['method', 'published']
    assert [row.kind for row in hidden.rows] == ['method']
    assert published.sources(shown.shown)
    assert published.sources(hidden.shown) == []
    arguments['published'] = [{**PUBLISHED[0], 'metric': 'APCER'}]
    (shown,) = writer.table([record], **arguments, metric='APCER').blocks
    (hidden,) = writer.table([record], **arguments).blocks
    assert [row.kind for row in shown.rows] == ['method', 'published']
    assert shown.rows[1].cells['rgb'].mean == 2.0
    assert [row.kind for row in hidden.rows if row.kind == 'published'] == []


def test_file_names_get_the_metric_and_the_main_ones_stay(folder):
    folder.table()
    before = {p.name: p.read_bytes() for p in (folder.path / 'tables').iterdir()}
    made = folder.table(metric='APCER')
    after = {p.name: p.read_bytes() for p in (folder.path / 'tables').iterdir()}
    assert sorted(after) == sorted(before | dict.fromkeys(
        ['faces-APCER.md', 'faces-APCER.tex', 'faces-APCER.csv']
    ))  # fmt: skip
    assert {name: after[name] for name in before} == before
    for suffix, render in (('md', markdown), ('tex', latex), ('csv', to_csv)):
        assert after[f'faces-APCER.{suffix}'].decode() == render(made)
    assert 'faces: APCER ↓' in terminal(made)
    folder.table(metric='ACER')
    assert len(list((folder.path / 'tables').iterdir())) == 6


def test_scores_that_contradict_their_outcomes_do_not_count_in_any_metric(folder):
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 9))
    wrong = make_outcomes(dict.fromkeys(SUBSETS, 10))
    made = make_record('false', 0, wrong, dataset=REFERENCES)
    for scores in made['scores']['test'].values():
        scores['APCER'] = 0.0
    save(folder.path / 'runs', made, outcomes)
    table = folder.table(metric='APCER')
    assert [row.label for row in table.blocks[0].rows] == ['good', 'poor']
    assert 'in the record' in table.problems[0]
    assert '--methods false --datasets DATASET --data-root PATH --seeds 0' in table.problems[0]


def test_a_run_without_the_metric_is_named_and_an_undefined_value_is_blank(folder):
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 9))
    save(folder.path / 'runs', make_record('old', 0, outcomes, dataset=REFERENCES), outcomes)
    unproven = make_record('unproven', 0, outcomes, dataset=REFERENCES)
    for scores in unproven['scores']['test'].values():
        scores['EER'] = 0.25
    save(folder.path / 'runs', unproven, outcomes)
    rank = np.where(np.arange(SAMPLES) % 8 < 2, 1 - TARGET, TARGET).astype(np.float32)
    ranked = {**outcomes, **{f'score/{s}': rank for s in SUBSETS}}
    ranked['pred/ir'] = np.where(TARGET == 1, ranked['pred/ir'], -1)
    half = make_record('half', 0, outcomes, dataset=REFERENCES)
    half['scores']['test']['ir'] = {'EER': None, 'ACER': None}
    half['n']['test']['ir'] = int((TARGET == 1).sum())
    save(folder.path / 'runs', half, ranked)
    table = folder.table(metric='EER')
    for label in ('old', 'unproven'):
        assert f'{label} {ID} seed 0: its outcomes do not tell EER' in table.problems
    row = row_of(table.blocks[0], 'half')
    assert np.isnan(row['ir'].mean)
    assert row['mean'].mean == pytest.approx(25)


def test_a_metric_whose_direction_is_not_known_is_refused(folder):
    folder.add('odd', 0, 9, loss=0.5)
    with pytest.raises(UserError, match="unknown metric 'loss'"):
        folder.table(metric='loss')


def test_every_metric_that_is_measured_has_a_direction():
    lower = {'ACER', 'APCER', 'BPCER', 'EER'}
    higher = {'accuracy', 'AUC', 'UAR', 'F1', 'mIoU', 'pixel_accuracy', 'class_accuracy', 'Dice',
              'Dice_WT', 'Dice_core'}  # fmt: skip
    assert not any(map(metrics.higher_is_better, lower))
    assert all(map(metrics.higher_is_better, higher))
    data = make_record('m', 0, make_outcomes({'rgb': 1}))['dataset']
    for own in ('ACER', 'accuracy', 'mIoU', 'Dice'):
        assert metrics.determined({**data, 'metric': own, 'regions': ['WT']}) <= lower | higher
    with pytest.raises(UserError, match="unknown metric 'Dicey'; did you mean 'Dice'"):
        metrics.higher_is_better('Dicey')


def test_the_record_s_own_direction_ranks_its_main_metric():
    record = make_record('m', 0, make_outcomes({'rgb': 4}), dataset={'higher_is_better': True})
    assert runs.gather([record], lambda r: None, [])[0].higher


def test_the_script_leaves_out_datasets_without_the_metric(folder, capsys):
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 9))
    save(folder.path / 'runs', make_record('m', 0, outcomes, dataset={'name': 'bare'}))
    assert tables.main([str(folder.path), '--metric', 'APCER']) == 0
    out = capsys.readouterr().out
    assert 'faces: APCER ↓' in out
    assert "left out: unknown metric of bare 'APCER'" in out
    assert not (folder.path / 'tables' / 'bare-APCER.md').exists()
    for named in (['bare'], ['faces', 'bare']):
        assert tables.main([str(folder.path), '--metric', 'APCER', '--datasets', *named]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: unknown metric of bare 'APCER'")
        assert err.count('\n') == 1


def test_a_distance_that_was_not_measured_is_told_with_the_option_that_measures_it():
    hint = '; a run measures it with --cfg-options hd95=true'
    for metric in ('HD95', 'HD95_core'):
        told = str(arguments.no_metric('metric of bones', metric, {'Dice', 'Dice_core'}))
        assert told.startswith(f"unknown metric of bones '{metric}'")
        assert told.endswith(hint)
    for metric, known in (('Dyce', {'Dice'}), ('HD95', {'ACER', 'accuracy'})):
        assert hint not in str(arguments.no_metric('metric', metric, known))


def test_an_unknown_metric_is_one_line_with_the_nearest_name(folder, capsys):
    outcomes = make_outcomes(dict.fromkeys(SUBSETS, 9))
    save(folder.path / 'runs', make_record('m', 0, outcomes, dataset={'name': 'bare'}))
    assert tables.main([str(folder.path), '--metric', 'bpcr']) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1
    assert "unknown metric 'bpcr'; did you mean 'BPCER'?" in err
