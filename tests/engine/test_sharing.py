"""Shares of a command: together they are the whole, and a teacher's students stay together."""

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from repetitions import scientific
from tasks import TASKS, Toy

from benchmark import run
from benchmark.engine import arguments, plan, tuning
from benchmark.engine.arguments import Shard
from benchmark.engine.sharing import share_of
from benchmark.errors import UserError
from benchmark.records import store
from benchmark.registry import discover

discover()
TINY = ('train=16', 'val=8', 'test=8', 'size=16', 'width=4', 'batch_size=8', 'epochs=1')
MANY = ('majority', 'hemis', 'distilled', 'customized', 'complete', 'mmanet', 'rfnet', 'mmin')


def grid_of(results, *methods, seeds=(0, 1), tune=None):
    data = Toy(TASKS['vectors'], sizes=(16, 8, 8))
    request = plan.Request(methods, seeds, {}, results, 'cpu', tune)
    return plan.experiments(request, [data])


def shares(grid, count):
    return [share_of(grid, Shard(i + 1, count)) for i in range(count)]


def names(share):
    return [f'{e.label} {e.seed}' for e in share]


@pytest.mark.parametrize('tune', [None, 3])
@pytest.mark.parametrize('count', [1, 2, 3, 5, 40])
def test_all_shares_together_are_the_grid(count, tune, tmp_path):
    grid = grid_of(tmp_path, *MANY, tune=tune)
    found = [item for share in shares(grid, count) for item in share]
    assert sorted(map(id, found)) == sorted(map(id, grid))
    for share in shares(grid, count):
        assert [grid.index(item) for item in share] == sorted(grid.index(item) for item in share)


def test_shares_are_the_same_wherever_they_are_made(tmp_path):
    methods = ('majority', 'hemis', 'distilled', 'complete', 'mmanet', 'rfnet')
    first, second = (shares(grid_of(tmp_path / place, *methods), 3) for place in 'ab')
    assert [*map(names, first)] == [*map(names, second)]
    assert [*map(names, first)] == [
        ['hemis 1', 'distilled 0', 'complete 0', 'mmanet 0'],
        ['distilled 1', 'complete 1', 'mmanet 1', 'rfnet 0'],
        ['majority 0', 'majority 1', 'hemis 0', 'rfnet 1'],
    ]


def test_students_share_the_share_of_their_teacher_and_the_shares_are_even(tmp_path):
    grid = grid_of(tmp_path, 'hemis', 'distilled', 'rfnet', 'mmanet', 'complete', 'robustseg')
    for share in shares(grid, 2):
        assert len(share) == 6
        teachers = {e.teacher.folder for e in share if e.teacher is not None}
        assert len(teachers) == 1
        assert teachers <= {e.folder for e in share}


def test_more_students_than_a_fair_share_are_split(tmp_path):
    grid = grid_of(tmp_path, 'distilled', 'mmanet', 'mmin', 'complete', seeds=(0,))
    assert [len(share) for share in shares(grid, 2)] == [2, 2]
    assert [len(share) for share in shares(grid, 4)] == [1, 1, 1, 1]
    assert [len(share) for share in shares(grid, 6)] == [1, 1, 1, 1, 0, 0]


def test_a_network_for_each_subset_counts_as_so_many(tmp_path):
    grid = grid_of(tmp_path, 'customized', 'hemis', 'rfnet', seeds=(0,))
    networks = len(grid[0].parts)
    assert networks > 2
    assert [*map(names, shares(grid, 2))] == [['customized 0'], ['hemis 0', 'rfnet 0']]


def numbered(number, networks, earlier):
    """An experiment in so many networks, and what is trained before it, by the numbers of both."""
    before = {n: SimpleNamespace(folder=Path(f'{n}')) for n in earlier}
    return SimpleNamespace(folder=Path(f'{number}'), parts=[None] * networks, earlier=before)


def groups_by_hand(grid):
    """The groups that items form which have a folder in common, each compared with all others."""
    groups = []
    for item in grid:
        folders = {item.folder, *(x.folder for x in item.earlier.values())}
        items = [item]
        for group in [group for group in groups if group[1] & folders]:
            groups.remove(group)
            items, folders = group[0] + items, group[1] | folders
        groups.append((items, folders))
    return [items for items, _ in groups]


def shares_by_hand(grid, count):
    """Puts the largest piece of all groups that is left into the share that has least."""
    fair = -(-sum(len(e.parts) for e in grid) // count)
    pieces, found = [], [[] for _ in range(count)]
    for items in groups_by_hand(grid):
        piece = []
        for e in items:
            if piece and size_of(piece) + len(e.parts) > fair:
                pieces.append(piece)
                piece = []
            piece.append(e)
        pieces.append(piece)
    while pieces:
        largest = max(pieces, key=size_of)
        pieces = [piece for piece in pieces if piece is not largest]
        min(found, key=size_of).extend(largest)
    return [[e for e in grid if any(e is other for other in share)] for share in found]


def size_of(items):
    return sum(len(e.parts) for e in items)


@pytest.mark.parametrize('seed', range(40))
def test_the_shares_are_those_of_all_pairs_compared(seed):
    rng = np.random.default_rng(seed)
    folders = int(rng.integers(2, 12))
    grid = [
        numbered(
            rng.integers(folders), rng.integers(1, 5), rng.integers(folders, size=rng.integers(3))
        )
        for _ in range(rng.integers(1, 16))
    ]
    for count in (1, 2, 3, 7):
        found = [[*map(id, share)] for share in shares(grid, count)]
        assert found == [[*map(id, share)] for share in shares_by_hand(grid, count)]


@pytest.mark.parametrize('students', [False, True])
def test_the_shares_of_a_large_grid_are_even(students):
    grid = [numbered(n, 1, [0] if students else []) for n in range(20_000)]
    assert len(share_of(grid, Shard(2, 3))) == 20_000 // 3 + 1


def test_a_search_stays_whole(tmp_path):
    grid = grid_of(tmp_path, 'mmanet', 'rfnet', tune=3)
    assert all(isinstance(item, tuning.Search) for item in grid)
    assert [len(share) for share in shares(grid, 2)] == [1, 1]


@pytest.mark.parametrize(
    'given',
    ['', '1', '0/3', '4/3', '0/0', '-1/3', '1/3/4', '1 / 3', 'a/b', '1.5/2', '１/２', '1/3\n'],
)
def test_a_wrong_share_is_one_line(given, capsys):
    with pytest.raises(
        UserError, match='--shard: expected i/n with i from 1 to n, e.g. 2/8, found'
    ):
        arguments.shard(given)
    assert run.main(['--methods', 'hemis', f'--shard={given}']) == 2
    assert capsys.readouterr().err.count('\n') == 1


def command(results, *words):
    methods = ('--methods', 'complete', 'distilled', 'majority', 'hemis')
    how = ('--datasets', 'synth_faces', '--device', 'cpu', '--results', str(results))
    return [*methods, *how, '--cfg-options', *TINY, *words]


def test_shares_in_one_folder_run_each_experiment_once(tmp_path, capsys):
    assert run.main(command(tmp_path / 'whole')) == 0
    capsys.readouterr()
    processes = [
        multiprocessing.get_context('fork').Process(
            target=run.main, args=(command(tmp_path / 'shared', '--shard', f'{i}/3'),)
        )
        for i in (1, 2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    before = {file: file.stat().st_mtime_ns for file in store.files(tmp_path)}
    assert run.main(command(tmp_path / 'shared', '--shard', '3/3')) == 0
    told = capsys.readouterr().out.splitlines()
    assert told.count('share 3 of 3: 1 of 4 experiments') == 1
    assert sum(line.startswith('[1/1] ') for line in told) == 1
    assert (
        before.items() <= {file: file.stat().st_mtime_ns for file in store.files(tmp_path)}.items()
    )
    found = [
        {r['method']['label']: scientific(r) for r in store.scan(part).complete.values()}
        for part in (tmp_path / 'whole' / 'runs', tmp_path / 'shared' / 'runs')
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 4
    # More shares than experiments: some are empty, which is no failure.
    assert run.main(command(tmp_path / 'shared', '--shard', '9/9')) == 0
    assert 'share 9 of 9: 0 of 4 experiments' in capsys.readouterr().out


def test_very_many_shares_need_no_memory(tmp_path):
    grid = grid_of(tmp_path, 'majority', 'hemis', seeds=(0,))
    found = [share_of(grid, Shard(number, 999_999_999)) for number in (1, 2, 3, 999_999_999)]
    assert [*map(names, found)] == [['majority 0'], ['hemis 0'], [], []]
