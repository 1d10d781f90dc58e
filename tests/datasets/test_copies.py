"""What counts as a copy of a sample of an earlier split, and how it is told."""

import pytest

from benchmark.errors import UserError
from datasets.common.io.copies import COMMON, copies, of_modalities


def splits(train, val=None, test=None):
    return {'train': train, 'val': val or {}, 'test': test or {}}


def test_copies_are_equal_in_all_modalities_that_both_have():
    train = {
        'whole': {'rgb': 'a', 'ir': 'b'},
        'gap': {'rgb': 'c'},
        'empty': {},
    }
    test = {
        'same': {'rgb': 'a', 'ir': 'b'},
        'part': {'ir': 'b'},
        'more': {'rgb': 'c', 'ir': 'd'},
        'other': {'rgb': 'a', 'ir': 'd'},
        'apart': {'ir': 'e'},
        'none': {},
    }
    found = copies('x', splits(train, test=test))
    pairs = 'same (train: whole), part (train: whole), more (train: gap)'
    assert found == [f'3 of 6 samples of test are copies of training samples: {pairs}']


def test_copies_of_validation_samples_are_told_as_well():
    found = copies('x', splits({}, {'v': {'m': 'a'}}, {'t': {'m': 'a'}}), what='case')
    assert found == ['1 of 1 cases of test are copies of validation cases: t (val: v)']


def test_content_that_many_samples_share_makes_no_copies():
    # All infrared images are black.
    train = {f's{k}': {'rgb': f'r{k}', 'ir': 'black'} for k in range(COMMON + 1)}
    test = {'new': {'ir': 'black'}, 'old': {'rgb': 'r3'}}
    assert copies('x', splits(train, test=test)) == [
        '1 of 2 samples of test are copies of training samples: old (train: s3)'
    ]
    # Where it is all that there is, equal samples are copies all the same.
    every = {f's{k}': {'ir': 'black'} for k in range(COMMON + 1)}
    assert copies('x', splits(every, test={'new': {'ir': 'black'}}))


def test_at_most_three_are_named_and_they_may_be_refused():
    train = {f'a{k}': {'m': str(k)} for k in range(5)}
    contents = splits(train, {f'b{k}': {'m': str(k)} for k in range(5)})
    (told,) = copies('x', contents)
    assert told.endswith('b0 (train: a0), b1 (train: a1), b2 (train: a2), ...')
    with pytest.raises(UserError) as caught:
        copies('x', contents, 'refuse')
    assert str(caught.value) == f'x: duplicates=refuse: expected no copies, found {told}'
    with pytest.raises(UserError, match="unknown value of duplicates 'refused'; did you mean"):
        copies('x', splits({}), 'refused')


def test_modalities_that_a_sample_lacks_have_no_hash():
    found = of_modalities(['a', 'b'], {'rgb': ['1', ''], 'ir': ['2', '3']})
    assert found == {'a': {'rgb': '1', 'ir': '2'}, 'b': {'ir': '3'}}


def test_names_of_samples_are_only_read():
    splits = {'train': {'\x1b[31m': {'a': '1'}}, 'val': {'\nb': {'a': '1'}}, 'test': {}}
    (told,) = copies('x', splits)
    assert told.isprintable()
