"""Holds the default recipe of users' arrays against logistic regression.

python tools/logistic.py [--sets two digits] [--data MINE.npz] [--out TABLE.md]
python tools/logistic.py --sets two --draw 1 --cfg-options vector_noise=0

On data that a linear model fits well, a network that is trained long enough and kept from
overfitting must not be worse than that model. For every data set this trains `modality_dropout`
with the defaults, and fits scikit-learn's logistic regression (the method `logistic`) to the same
training samples, for every single modality and for all together. The exit status is 1 if the
network is more than 1 point of accuracy worse somewhere.

The generated sets are normal distributions with one covariance for all classes, for which logistic
regression is the best model there is; `digits` and `quarters` are scikit-learn's pictures of
digits, cut into two or four vectors. A set of yours that has no test sample with all modalities is
split anew, several times, among its samples that have all of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
import contextlib  # noqa: E402
import datetime  # noqa: E402
import io  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from typing import NamedTuple  # noqa: E402

import numpy as np  # noqa: E402

from benchmark import run  # noqa: E402
from benchmark.engine.environment import commit  # noqa: E402
from benchmark.records import store  # noqa: E402
from benchmark.records.schema import Record, test_scores  # noqa: E402
from tools.digits import Arrays, cut  # noqa: E402

NETWORK, REFERENCE = 'modality_dropout', 'logistic'
TOLERANCE = 0.01
TEST = 20_000
"""Test samples of a generated set, so that an accuracy of 80 % is known within 0.6 points."""
RESPLITS = 4
"""How often a set without complete test samples is split anew."""


class Normal(NamedTuple):
    """A set of normal distributions.

    Attributes:
        train: Training samples; a quarter as many validate, and `TEST` test.
        features: Number of features of each modality.
        classes: Number of classes.
        apart: Mean distance of a class from the centre, in standard deviations.
    """

    train: int
    features: tuple[int, ...]
    classes: int
    apart: float


NORMAL = {
    'two': Normal(1100, (60, 40), 2, 2.0),
    'six': Normal(1100, (76, 216, 64, 47, 24, 6), 10, 3.5),
    'wide': Normal(200, (200, 150, 100), 3, 3.0),
    'large': Normal(8000, (50, 50), 5, 2.2),
}
PICTURES = {'digits': (2, 1), 'quarters': (2, 2)}
"""Name -> into how many rows and columns of vectors a picture of a digit is cut."""


def normal(spec: Normal, seed: int) -> Arrays:
    """Returns a set of normal distributions; half of the features say nothing."""
    rng = np.random.default_rng(seed)
    sizes = (spec.train, spec.train // 4, TEST)
    target = rng.integers(spec.classes, size=sum(sizes))
    found = {'target': target, 'split': np.repeat([0, 1, 2], sizes)}
    for k, d in enumerate(spec.features):
        means = rng.standard_normal((spec.classes, d)) * (rng.random(d) < 0.5)
        means *= spec.apart / np.sqrt(np.square(means).sum(1).mean())
        mixed = np.eye(d) + 0.3 * rng.standard_normal((d, d)) / np.sqrt(d)
        values = (means[target] + rng.standard_normal((len(target), d))) @ mixed
        values = values * rng.uniform(0.1, 10, d) + rng.uniform(-5, 5, d)
        found[f'inputs/view{k}'] = values.astype(np.float32)
    return found


def given(path: Path) -> Iterator[tuple[str, Arrays]]:
    """Yields a file's arrays, or new splits of its complete samples where none tests them."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    available = arrays.get('available', np.ones((len(arrays['split']), 1), bool)).astype(bool)
    complete = available.all(1)
    if complete[arrays['split'] == 2].any():
        yield path.stem, arrays
        return
    rows, n = np.flatnonzero(complete), len(arrays['split'])
    sizes = (len(rows) - 2 * (len(rows) // 5), len(rows) // 5, len(rows) // 5)
    for k in range(RESPLITS):
        chosen = np.random.default_rng(k).permutation(rows)
        new = {key: a[chosen] if a.shape[:1] == (n,) else a for key, a in arrays.items()}
        yield f'{path.stem}-{k}', {**new, 'split': np.repeat([0, 1, 2], sizes)}


def sets(names: list[str], files: list[Path], draw: int = 0) -> Iterator[tuple[str, Arrays]]:
    """Yields the name and the arrays of every set; `draw` is the seed of those that are drawn."""
    for name in names:
        told = f'{name}-{draw}' if draw else name
        if name in NORMAL:
            yield told, normal(NORMAL[name], draw)
        else:
            yield told, cut(*PICTURES[name], draw)
    for path in files:
        yield from given(path)


def scored(
    file: Path, results: Path, seeds: list[int], options: list[str]
) -> dict[str, list[Record]]:
    """Runs both methods on a file, the network with options; returns method -> its records."""
    common = ['--datasets', 'arrays', '--data-root', str(file), '--results', str(results)]
    told = io.StringIO()
    for method, chosen in ((REFERENCE, seeds[:1]), (NETWORK, seeds)):
        words = ['--methods', method, *common, '--seeds', *map(str, chosen), '--device', 'cpu']
        words += ['--cfg-options', *options] if options and method == NETWORK else []
        with contextlib.redirect_stdout(told):
            if run.main(words):
                raise SystemExit(told.getvalue())
    found: dict[str, list[Record]] = {}
    for record in store.scan(results / 'runs' / file.stem).complete.values():
        found.setdefault(record['method']['name'], []).append(record)
    return found


class Compared(NamedTuple):
    """The scores of both methods on one subset of the modalities of one set.

    Attributes:
        data: Name of the set.
        subset: A modality, or 'all'.
        reference: Accuracy of logistic regression.
        network: Accuracy of the network, one for each seed.
    """

    data: str
    subset: str
    reference: float
    network: tuple[float, ...]

    @property
    def gain(self) -> float:
        """How much better the network is, as the mean over its seeds."""
        return float(np.mean(self.network)) - self.reference

    @property
    def cells(self) -> tuple[str, ...]:
        """Data, subset, both accuracies, their range over seeds and their difference, in words."""
        low, mean, high = (100 * f(self.network) for f in (min, np.mean, max))
        numbers = f'{100 * self.reference:.2f}', f'{mean:.2f}', f'{low:.2f} to {high:.2f}'
        return self.data, self.subset, *numbers, f'{100 * self.gain:+.2f}'


def compare(name: str, found: dict[str, list[Record]]) -> list[Compared]:
    """Returns the comparison of one set, on single modalities and on all of them."""
    reference = test_scores(found[REFERENCE][0])
    modalities = found[REFERENCE][0]['dataset']['modalities']
    network = [test_scores(record) for record in found[NETWORK]]
    return [
        Compared(name, subset if subset in modalities else 'all', reference[subset],
                 tuple(scores[subset] for scores in network))
        for subset in (*modalities, '+'.join(modalities))
    ]  # fmt: skip


def by_set(rows: Sequence[Compared]) -> dict[tuple[str, str], float]:
    """Returns the mean difference of every set and subset, over the splits of a set."""
    gains: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        name, _, split = row.data.rpartition('-')
        gains.setdefault((name if split.isdigit() else row.data, row.subset), []).append(row.gain)
    return {key: float(np.mean(found)) for key, found in gains.items()}


def table(rows: Sequence[Compared], words: Sequence[str]) -> str:
    """Returns the comparison as Markdown, with the command that made it."""
    lines = [
        '# A network and logistic regression on vectors',
        '',
        f'Made by `{" ".join(["python tools/logistic.py", *words])}` from commit {commit()} on '
        f'{datetime.date.today()}, on a CPU. Accuracies in percent; the difference is that of the '
        'mean over seeds.',
        '',
        f'| data | given | `{REFERENCE}` | `{NETWORK}` | by seed | difference |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    return '\n'.join([*lines, *(f'| {" | ".join(row.cells)} |' for row in rows)]) + '\n'


def main(words: Sequence[str] | None = None) -> int:
    """Runs the comparison; returns 1 if the network is worse than the tolerance somewhere."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--sets', nargs='*', choices=[*NORMAL, *PICTURES],
                        help='default: all of them, or none beside --data')  # fmt: skip
    parser.add_argument('--data', nargs='*', type=Path, default=[], metavar='FILE.npz')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--draw', type=int, default=0, metavar='N',
                        help='seed of the generated sets and of the pictures\' split')  # fmt: skip
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
                        help='fields of the protocol for the network')  # fmt: skip
    parser.add_argument('--results', type=Path, metavar='FOLDER',
                        help='keeps the records, so that a second call goes on')  # fmt: skip
    parser.add_argument('--out', type=Path, metavar='FILE.md',
                        help='takes the comparison as a table')  # fmt: skip
    args = parser.parse_args(words)
    names = args.sets
    if names is None:
        names = [] if args.data else [*NORMAL, *PICTURES]
    rows: list[Compared] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, arrays in sets(names, args.data, args.draw):
            file = Path(folder) / f'{name}.npz'
            np.savez(file, **arrays)
            results = Path(args.results or folder, '_'.join(sorted(args.cfg_options)) or 'default')
            found = compare(name, scored(file, results, args.seeds, args.cfg_options))
            for row in found:
                print('  '.join(cell.ljust(14) for cell in row.cells), flush=True)
            rows += found
    means = by_set(rows)
    worst = min(means, key=lambda key: means[key])
    print(f'worst: {" ".join(worst)}, {100 * means[worst]:+.2f} points')
    if args.out:
        place = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        place.add_argument('--out')
        _, asked = place.parse_known_args(words)  # where the table goes changes nothing in it
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(table(rows, asked), encoding='utf-8')
    return int(means[worst] < -TOLERANCE)


if __name__ == '__main__':
    sys.exit(main())
