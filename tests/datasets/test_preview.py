"""Contact sheets that cannot be drawn are refused in one line."""

import types

import numpy as np
import pytest

from benchmark.dataset import Split
from benchmark.errors import UserError
from benchmark.method import Modality, Task
from datasets import preview
from datasets.preview import GAP, MARGIN, TEXT, TILE, main, picture, sheet


class Unreadable:
    """Rows of which none may be read."""

    def __getitem__(self, index):
        raise AssertionError(index)


def dataset(*modalities, lacking=()):
    split = Split(
        {
            m.name: Unreadable() if m in lacking else np.zeros((5, *m.shape), np.float32)
            for m in modalities
        },
        np.arange(5) % 2,
        np.tile([m not in lacking for m in modalities], (5, 1)),
        np.arange(5),
    )
    task = Task('made', 'classification', modalities, ('no', 'yes'), 'accuracy')
    return types.SimpleNamespace(name='made', notes=(), task=task, split=lambda name: split)


IMAGE, VECTOR = Modality('photo', (3, 8, 8)), Modality('pulse', (4,))


def test_images_alone_are_drawn_and_no_more_samples_than_there_are():
    found = sheet(dataset(IMAGE, VECTOR), 'train', 9)
    assert found.shape == (5 * (2 * TEXT + TILE + MARGIN), TILE + 2 * MARGIN, 3)


@pytest.mark.parametrize('count', [0, -1])
def test_the_number_of_samples_is_positive(count):
    with pytest.raises(UserError, match=rf'--count: expected a positive number, found {count}$'):
        sheet(dataset(IMAGE), 'train', count)


def test_a_data_set_without_images_is_refused():
    told = r'^made: expected a modality of images, found pulse \(vector\)$'
    with pytest.raises(UserError, match=told):
        sheet(dataset(VECTOR), 'train', 1)


def test_what_a_sample_lacks_is_drawn_as_a_gap_and_not_read():
    other = Modality('depth', (1, 8, 8))
    found = sheet(dataset(IMAGE, other, lacking=(other,)), 'train', 1)
    middle = found[2 * TEXT + TILE // 2]
    assert (middle[MARGIN + 5] == 0).all()
    assert (middle[TILE + 2 * MARGIN + MARGIN + 5] == GAP).all()


@pytest.mark.parametrize(
    ('kind', 'label', 'told'),
    [
        ('classification', 1, 'part003 (defect)'),
        ('multilabel', np.array([1, 1]), 'part003 (sound, defect)'),
        ('multilabel', np.array([0, 0]), 'part003 (none)'),
        ('regression', np.array([0.25, 12345.6]), 'part003 (0.25, 12345.6)'),
        ('segmentation', np.zeros((8, 8), int), 'part003'),
    ],
)
def test_a_row_has_one_title_with_the_name_of_the_sample_and_its_label(
    kind, label, told, monkeypatch
):
    shown, write = [], preview.write

    def noted(image, text):
        shown.append(text)
        return write(image, text)

    monkeypatch.setattr(preview, 'write', noted)
    made = dataset(IMAGE)
    made.task = Task('made', kind, (IMAGE,), ('sound', 'defect'), 'accuracy')
    split = Split(made.split('train').inputs, label[None] if np.ndim(label) else np.array([label]),
                  np.ones((1, 1), bool), np.array(['part003']))  # fmt: skip
    drawn = preview.row(made, split, 0)
    assert shown[-1] == told
    assert shown.count(told) == 1
    assert 'photo' in shown
    assert (drawn[:TEXT] == 0).any()


def test_values_that_are_not_finite_do_not_change_the_contrast_of_the_others():
    image = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    holes = image.copy()
    holes[0, 3, 3], holes[0, 3, 4] = np.nan, np.inf
    found, expected = picture(holes)[:: TILE // 8], picture(image)[:: TILE // 8]
    same = np.ones((8, TILE, 3), bool)
    same[3, 3 * TILE // 8 : 5 * TILE // 8] = False
    assert (found[same] == expected[same]).all()
    assert not found[~same].any()
    assert not picture(np.full((1, 8, 8), np.nan, np.float32)).any()


def test_a_file_that_is_no_png_or_cannot_be_written_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(preview, 'discover', lambda: None)
    monkeypatch.setattr(preview, 'lookup', lambda registry, name: None)
    monkeypatch.setattr(preview, 'open_data', lambda cls, options: dataset(IMAGE))
    monkeypatch.setattr(preview, 'resolve', lambda *words: {})

    def draw(out):
        monkeypatch.setattr('sys.argv', ['preview.py', 'made', str(out), '--count', '1'])
        main()

    with pytest.raises(UserError, match=r'sheet\.gif: expected the name of a PNG file'):
        draw(tmp_path / 'sheet.gif')
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'file/sheet\.png: cannot be written'):
        draw(tmp_path / 'file' / 'sheet.png')
    draw(tmp_path / 'sheet.PNG')
    assert (tmp_path / 'sheet.PNG').read_bytes().startswith(b'\x89PNG')
