"""UPMC Food-101: photos of dishes with the titles of the web pages that show them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.errors import UserError, unknown
from benchmark.names import check_classes
from benchmark.registry import DATASETS
from datasets.common.families.image_text import ImageText, Pair
from datasets.common.io.files import data_root, text
from datasets.common.io.splits import held_out, set_apart

HELD_OUT = 5000 / 67972
"""Share of the published training split that validates: as many samples as in MMBT."""

Row = tuple[str, str, str]


@DATASETS.register_module('food101')
class Food101(ImageText):
    """UPMC Food-101 (Wang et al., ICMEW 2015), 67,972 / 22,716 samples of 101 dishes.

    The root holds the photos `images/{train,test}/<dish>/<dish>_<number>.jpg` and the tables
    `texts/train_titles.csv` and `texts/test_titles.csv`, without a header and with the columns
    photo, title and dish, such as `apple_pie_0.jpg,best apple pie recipe,apple_pie`. The published
    training split is divided: about 5,000 samples, chosen by the hash of their names, validate.
    MMBT (Kiela et al., 2019) validates with 5,000 as well, but its list is not part of the data.

    Photos come from the web. A photo that is missing or cannot be read in full is an error; with
    `gaps=true` it is a gap in the data, as is an empty title. The data do not tell which samples
    come from one page, so that tests of significance take every sample for one of its own.

    Titles become vectors of the weights of words (TF-IDF, scikit-learn), fitted on the training
    split alone, because no language model is at hand without a download: the papers use BERT or
    ViLT, which know more of words than these data do, so that their scores are no target here.
    `text=FILE.npz` takes features that you have computed yourself: the arrays `id` with names such
    as `apple_pie/apple_pie_0`, and `features` (N, D), standardised by the training samples.

    Photos are prepared as by MMBT. Its ResNet-152 with ImageNet weights is not used, and no paper
    trains encoders such as these, so that the recipe is the benchmark's default. The layout was
    taken from code that reads the data, the numbers of samples from missing-aware prompts (Lee et
    al., CVPR 2023); no copy of the data was at hand.

    Args:
        root: The folder that holds images and texts.
        text: Whether titles become vectors of words (`tfidf`), or the features of an .npz file
            below the root, e.g. `bert.npz`.
        gaps: Whether a sample without photo or title is taken as a gap in the data; if not, it is
            an error.
        **shared: The other options of `ImageText`.

    Raises:
        UserError: The root is not as above.
    """

    name = 'food101'
    licence = 'research only; the photos and titles belong to the pages that they come from'
    how_to_get = (
        'Download UPMC Food-101 from visiir.isir.upmc.fr, or its copy upmcfood101 at Kaggle; the '
        'root holds the folders images and texts.'
    )
    published_sizes = {'test': 22716}

    def __init__(
        self,
        *,
        root: str = '',
        **shared: Any,
    ) -> None:
        folder = data_root('food101', root, self.how_to_get)
        rows = {split: list(_rows(folder, split)) for split in ('train', 'test')}
        classes = tuple(sorted({dish for *_, dish in rows['train']}))
        check_classes(str(_table(folder, 'train')), classes)
        published = [_pair(folder, 'train', row, classes) for row in rows['train']]
        train, val = set_apart(published, lambda pair: held_out(pair.id, HELD_OUT))
        test = [_pair(folder, 'test', row, classes) for row in rows['test']]
        super().__init__({'train': train, 'val': val, 'test': test}, folder, classes, (), **shared)
        self.task = self._task('classification', classes, 'accuracy')


def _table(root: Path, split: str) -> Path:
    return root / 'texts' / f'{split}_titles.csv'


def _rows(root: Path, split: str) -> Iterator[Row]:
    """Yields photo, title and dish of each row of a table."""
    file = _table(root, split)
    reader = csv.reader(io.StringIO(text(file, 'a table of titles'), newline=''))
    try:
        for row in filter(None, reader):
            if len(row) != 3 or not row[0].strip() or not row[2].strip():
                expected = f'photo, title and dish in line {reader.line_num}'
                told = ', '.join(map(repr, row))[:100]
                raise UserError(f'{file}: expected {expected}, found {told}')
            yield row[0].strip(), row[1], row[2].strip()
    except csv.Error as error:
        raise UserError(
            f'{file}: expected a table, found in line {reader.line_num}: {error}'
        ) from None


def _pair(root: Path, split: str, row: Row, classes: tuple[str, ...]) -> Pair:
    photo, title, dish = row
    if dish not in classes:
        raise unknown(f'dish in {_table(root, split)}', dish, classes)
    place = root / 'images' / split / dish / photo
    return Pair(f'{dish}/{Path(photo).stem}', place, title, (classes.index(dish),))
