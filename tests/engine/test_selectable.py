"""A selection or a search that has nothing to compare is refused before the training."""

import dataclasses

import numpy as np
import pytest
from tasks import TASKS, Toy

from benchmark import run
from benchmark.dataset import VOID
from benchmark.engine import plan, selectable
from benchmark.errors import UserError
from benchmark.missing import subset_ids
from benchmark.registry import discover

discover()

UNLABELLED = 'no labelled pixel in the samples that have it'


class Holed(Toy):
    """Validation samples lack modalities, and some of them labels."""

    def __init__(self, task, lacks, target):
        super().__init__(TASKS[task])
        self.lacks, self.target = lacks, target

    def split(self, name):
        found = super().split(name)
        if name != 'val':
            return found
        found.available[:] = np.array(self.lacks)[np.arange(len(found)) % len(self.lacks)]
        target = self.target(found.target, found.available)
        return dataclasses.replace(found, target=target)


def without_depth(target, available):
    """Removes the labels of the images that have depth."""
    return np.where(available[:, 1, None, None], VOID, target)


def attacks_with_ir(target, available):
    """Makes attacks of the samples that have infrared, as if no live person had been recorded."""
    return np.where(available[:, 2], 0, np.arange(len(target)) // 2 % 2)


ROOMS = Holed('rooms', [[1, 0], [1, 1]], without_depth)
FACES = Holed('faces', [[1, 1, 0], [1, 1, 1]], attacks_with_ir)
NEVER_ALL = Holed('vectors', [[1, 0], [0, 1]], lambda target, _: target)


def planned(data, tmp_path, method='modality_dropout', tune=None, **options):
    request = plan.Request([method], (0,), options, tmp_path, 'cpu', tune)
    return plan.experiments(request, [data])


@pytest.mark.parametrize(
    ('data', 'method', 'selection', 'message'),
    [
        (ROOMS, 'modality_dropout', 'worst', f'mIoU of depth on .*, found {UNLABELLED}'),
        (ROOMS, 'modality_dropout', 'mean', f'mIoU of depth on .*, found {UNLABELLED}'),
        (ROOMS, 'modality_dropout', 'full', rf'mIoU of rgb\+depth on .*, found {UNLABELLED}'),
        (FACES, 'modality_dropout', 'worst', 'ACER of ir on .*, found no live sample among those'),
        (NEVER_ALL, 'modality_dropout', 'full', r'accuracy of a\+b on .*, found no sample that'),
        (NEVER_ALL, 'customized', 'mean', r'accuracy of a\+b on .*, found no sample that'),
    ],
)
def test_a_score_that_would_be_undefined_is_named(data, method, selection, message, tmp_path):
    with pytest.raises(UserError, match=f'toy: selection={selection}: expected {message}') as told:
        planned(data, tmp_path, method, selection=selection)
    assert '\n' not in str(told.value)


@pytest.mark.parametrize(
    ('data', 'method', 'selection'),
    [
        (ROOMS, 'modality_dropout', 'last'),
        # A subset without any sample counts neither as the worst nor in the mean.
        (NEVER_ALL, 'modality_dropout', 'worst'),
        (NEVER_ALL, 'modality_dropout', 'mean'),
        # It is fitted, and no epoch is chosen.
        (NEVER_ALL, 'majority', 'full'),
        (Toy(TASKS['rooms']), 'customized', 'worst'),
    ],
)
def test_what_can_be_compared_is_planned(data, method, selection, tmp_path):
    assert planned(data, tmp_path, method, selection=selection)


def test_a_search_needs_the_mean_whatever_is_selected(tmp_path):
    with pytest.raises(UserError, match=f'toy: --tune: expected mIoU of depth .*{UNLABELLED}'):
        planned(ROOMS, tmp_path, 'mmanet', tune=2)
    assert planned(NEVER_ALL, tmp_path, 'mmanet', tune=2)


def test_labels_are_read_until_one_is_found():
    read = []

    class Rows:
        """Label maps of which the third one is labelled."""

        def __getitem__(self, rows):
            """Notes the rows that are read."""
            read.extend(rows.tolist())
            return np.where(rows[:, None, None] == 2, 0, VOID)

    data = Holed('rooms', [[1, 1]], lambda *_: Rows())
    assert selectable.undefined(data) == {}
    assert read == [0, 1, 2] * len(subset_ids(data.task.names))


def test_a_run_ends_in_one_line_and_a_plan_lists_it(tmp_path, capsys):
    rng = np.random.default_rng(0)
    split, have = np.arange(60) % 3, np.ones((60, 2), bool)
    have[split == 1] = [[True, False]]
    file = tmp_path / 'mine.npz'
    inputs = {'inputs/a': rng.random((60, 4)), 'inputs/b': rng.random((60, 3))}
    np.savez(file, target=np.arange(60) // 3 % 2, split=split, available=have, **inputs)
    words = ['--methods', 'hemis', '--datasets', 'arrays', '--data-root', str(file), '--device',
             'cpu', '--results', str(tmp_path / 'results'), '--cfg-options']  # fmt: skip
    assert run.main([*words, 'selection=full', '--dry-run']) == 1
    assert 'refused   mine  hemis  seed 0  mine: selection=full: ' in capsys.readouterr().out
    assert run.main([*words, 'selection=full']) == 2
    told = capsys.readouterr().err
    assert told.count('\n') == 1
    assert 'expected accuracy of a+b on the validation split, found no sample that has it' in told
    assert not list((tmp_path / 'results').rglob('record.json'))
