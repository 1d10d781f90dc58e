"""Contact sheets that cannot be drawn are refused in one line."""

import types

import numpy as np
import pytest

from benchmark.dataset import Split
from benchmark.errors import UserError
from benchmark.method import Modality, Task
from datasets.preview import MARGIN, TEXT, TILE, sheet


def dataset(*modalities):
    split = Split(
        {m.name: np.zeros((5, *m.shape), np.float32) for m in modalities},
        np.arange(5) % 2,
        np.ones((5, len(modalities)), bool),
        np.arange(5),
    )
    task = Task('made', 'classification', modalities, ('no', 'yes'), 'accuracy')
    return types.SimpleNamespace(name='made', task=task, split=lambda name: split)


IMAGE, VECTOR = Modality('photo', (3, 8, 8)), Modality('pulse', (4,))


def test_images_alone_are_drawn_and_no_more_samples_than_there_are():
    found = sheet(dataset(IMAGE, VECTOR), 'train', 9)
    assert found.shape == (5 * (TEXT + TILE + MARGIN), TILE + 2 * MARGIN, 3)


@pytest.mark.parametrize('count', [0, -1])
def test_the_number_of_samples_is_positive(count):
    with pytest.raises(UserError, match=rf'--count: expected a positive number, found {count}$'):
        sheet(dataset(IMAGE), 'train', count)


def test_a_data_set_without_images_is_refused():
    with pytest.raises(UserError, match='made: expected a modality of images, found none'):
        sheet(dataset(VECTOR), 'train', 1)
