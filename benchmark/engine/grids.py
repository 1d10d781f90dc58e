"""Grids: comparisons of several methods and settings that one command runs.

Some have a name here; others are read from a file (`benchmark.engine.grid_file`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmark.errors import UserError

EMBEDDED = ('synth_faces', 'synth_rooms')
"""The data sets of a command that names none."""


OPERATORS = (
    'concat', 'sum', 'mean', 'product', 'multiplicative', 'bilinear', 'tensor', 'low_rank', 'gated',
    'shifting', 'attention', 'mixture',
)  # fmt: skip
"""The operators of `fusion`; the methods are not imported before a command needs them."""

VARIED = (
    'mmanet', 'dmrnet', 'hemis', 'rfnet', 'mmformer', 'robustseg', 'shaspec', 'redcore', 'passion',
    'smil', 'actionmae',
)  # fmt: skip
"""Methods whose released code differs from the paper, or says what the paper leaves open.
`missing_prompts` is not among them: without pre-trained weights both of its variants stay at
chance."""

SEARCHED = (
    *(name for name in VARIED if name != 'hemis'),
    *('uhved', 'mmin', 'm3ae', 'distilled', 'searched_fusion', 'simmlm', 'ogm_ge'),
    *('gradient_blending', 'mmpareto', 'missing_prompts'),
)
"""Methods that have a search."""

SAME = ('concat', 'sum', 'tensor', 'low_rank')
"""Operators for which an absent modality is a plain zero anyway."""


@dataclass(frozen=True)
class NamedGrid:
    """What `--grid` runs, each method on each data set under each setting with each seed.

    All values are texts, as they are typed on the command line.

    Attributes:
        about: What it shows, in one line.
        methods: Specs of methods.
        seeds: The seeds, unless others are given.
        gaps: Training gaps as of `--gaps`; None for those of the protocol.
        vary: Option as of `--cfg-options` -> its values; every combination of them is a setting.
            Options that change together are joined by +, and so are their values.
        datasets: Specs of data sets, unless others are given; none for those of the command.
        options: Options as of `--cfg-options` that all settings share.
        tune: Trials of each method's search; None for no search.
        untuned: Leaves out the values that were found by earlier searches, as of `--untuned`.
        name: Its name, or that of the file which holds it.
        whole: The hash of the grid of which this one is a part (`on`).
    """

    about: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    gaps: tuple[str, ...] | None = None
    vary: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    tune: int | None = None
    untuned: bool = False
    name: str = ''
    whole: str = ''

    @property
    def settings(self) -> list[dict[str, str]]:
        """Every combination of the varied options; the last option changes fastest."""
        steps = [[joint(key, value) for value in values] for key, values in self.vary.items()]
        return [
            {key: value for part in parts for key, value in part.items()}
            for parts in itertools.product(*steps)
        ]

    @property
    def varied(self) -> dict[str, tuple[str, ...]]:
        """Each varied option alone -> its values."""
        return {
            key: tuple(joint(joined, value)[key] for value in values)
            for joined, values in self.vary.items()
            for key in joined.split('+')
        }

    def on(self, datasets: Sequence[str]) -> NamedGrid:
        """Returns the grid without what it says of those of its data sets that are not chosen.

        Args:
            datasets: Specs of the chosen data sets.
        """
        chosen = {spec.partition(':')[0] for spec in datasets}
        absent = {spec.partition(':')[0] for spec in self.datasets or EMBEDDED} - chosen
        vary, varied = {}, self.varied
        for joined in self.vary:
            keys = [k for k in joined.split('+') if k.rpartition('.')[0] not in absent]
            if keys:
                values = map('+'.join, zip(*(varied[key] for key in keys), strict=True))
                vary['+'.join(keys)] = tuple(dict.fromkeys(values))
        kept = {k: v for k, v in self.options.items() if k.rpartition('.')[0] not in absent}
        whole = self.origin['sha256']
        return dataclasses.replace(self, vary=vary, options=kept, whole=whole)

    def size(self, datasets: int = 0) -> int:
        """Returns how many experiments there are on some number of data sets, before trials."""
        settings = math.prod(map(len, self.vary.values()))
        each = len(self.methods) * len(self.seeds) * len(self.gaps or [''])
        return each * settings * (datasets or len(self.datasets) or 1)

    @property
    def origin(self) -> dict[str, str]:
        """Its name and the SHA-256 of what it runs, as records hold them.

        The hash does not depend on the text of a file: not on comments, layout, quotes, the order
        of keys, or `about`.
        """
        said = dataclasses.asdict(self)
        del said['name'], said['about'], said['whole']
        if not self.untuned:  # the hash of a grid from before this key came stays what it was
            del said['untuned']
        text = json.dumps(said, sort_keys=True)
        digest = self.whole or hashlib.sha256(text.encode()).hexdigest()
        return {'name': self.name, 'sha256': digest}


def field_of(key: str) -> str:
    """Returns what an option of --cfg-options sets, without the data set that it is for."""
    return key.rpartition('.')[2]


def joint(key: str, value: str) -> dict[str, str]:
    """Returns {option: value} of options that change together; one alone may hold any text.

    Raises:
        UserError: There are not as many values as options.
    """
    keys = key.split('+')
    values = value.split('+') if len(keys) > 1 else [value]
    if len(keys) != len(values):
        raise UserError(
            f'{key}: expected {len(keys)} values joined by +, one for each option, found {value!r}'
        )
    return dict(zip(keys, values, strict=True))


GRIDS = {
    'reference': NamedGrid(
        'the tables of the documentation, with five seeds',
        (
            'complete',
            'modality_dropout',
            'customized',
            'hemis',
            'uhved',
            'robustseg',
            'rfnet',
            'mmformer',
            'gmd',
            'mmin',
            'redcore',
            'shaspec',
            'lcr',
            'm3ae',
            'dmrnet',
            'distilled',
            'mmanet',
            'mmanet:alpha=0',
            'mmanet:variant=official',
            'early_fusion',
            'late_fusion',
            'fusion',
            'searched_fusion',
            'simmlm',
            'ogm_ge',
            'gradient_blending',
            'mmpareto',
            'passion',
            'actionmae',
            'smil',
            'masked',
            'contrastive',
            'missing_prompts',
            'majority',
            'mean_imputation',
            'logistic',
        ),
        seeds=(0, 1, 2, 3, 4),
    ),
    'mmanet-ablation': NamedGrid(
        'the parts of MMANet: losses of distillation, with and without MAR, and which are weak',
        (
            'modality_dropout',
            'distilled:loss=logits',
            # Typed, because a search found other values for this loss alone.
            'distilled:alpha=auto,loss=soft_target,temperature=2',
            *(f'distilled:loss={loss}' for loss in ('fitnet', 'at', 'sp', 'pkt', 'mad')),
            'mmanet:alpha=0',
            'mmanet:beta=0',
            'mmanet',
            'mmanet:weak=single',
            'mmanet:weak=all',
        ),
    ),
    'redcore-rates': NamedGrid(
        'RedCore and its equal supervision (rate=0) where more and more of the training is missing',
        ('modality_dropout', 'redcore', 'redcore:rate=0'),
        gaps=('complete', '0.1', '0.3', '0.5', '0.7', '0.9'),
    ),
    'sign-flip': NamedGrid(
        'one network for all subsets or one for each, by training samples and width',
        ('modality_dropout', 'customized', 'mmanet', 'mmin'),
        # Small data take more epochs, as whoever trains on them would give them. The images are
        # small so that 216 trainings take hours and not days.
        vary={'train+epochs': ('125+40', '500+20', '2000+10'), 'width': ('4', '8', '12')},
        options={'size': '32', 'val': '250', 'batch_size': '16'},
    ),
    'fusion': NamedGrid(
        'every fusion operator, with absent modalities left out and as plain zeros; late fusion',
        (
            *(f'fusion:fusion={operator}' for operator in OPERATORS),
            *(
                f'fusion:absent=zero,fusion={operator}'
                for operator in OPERATORS
                if operator not in SAME
            ),
            *(f'late_fusion:combine={rule}' for rule in ('mean', 'product', 'learned')),
        ),
    ),
    'variants': NamedGrid(
        'what released code does otherwise than its paper, with the same settings for both',
        tuple(f'{name}:variant={v}' for name in VARIED for v in ('paper', 'official')),
        # A search belongs to one variant: its values would be settings for that one alone.
        untuned=True,
    ),
    'untuned': NamedGrid(
        'every method that has a search, with the values of its paper or constructor',
        SEARCHED,
        untuned=True,
    ),
    'variance': NamedGrid(
        'what makes seeds differ less: averaged weights (EMA) and twice the epochs',
        ('modality_dropout', 'hemis'),
        seeds=(0, 1, 2, 3, 4),
        vary={
            'ema+synth_faces.epochs+synth_rooms.epochs': (
                '0+10+15',
                '0.98+10+15',
                '0+20+30',
            ),
        },
        datasets=EMBEDDED,
    ),
    'balance': NamedGrid(
        'methods that balance how modalities are learned, beside plain dropout',
        (
            'modality_dropout',
            'ogm_ge',
            'ogm_ge:modulation=ogm',
            'gradient_blending',
            'mmpareto',
            'mmpareto:pareto=false',
        ),
    ),
}
"""The grids by name. Rates 0.1 to 0.9 are those that RedCore's released scripts name (in steps of
0.1); the losses are those of MMANet's released code."""
