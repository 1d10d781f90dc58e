"""The layouts of papers' tables, as data: which rows of ours stand beside which published ones.

Where the text of a paper could not be read, its layout is that of the comparison, and no number of
a table is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Column:
    """A method of a layout.

    Attributes:
        spec: The method as of `--methods`, with the options that differ from its defaults.
        published: Names of rows in `results/published`; the first one that the data set has is
            shown.
    """

    spec: str
    published: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A table of a paper.

    Attributes:
        about: Paper and table, and what the table shows.
        columns: The methods in order.
        rows: Whether the rows are subsets at test, or missing rates in training.
        drop: Whether a last column tells what the second method loses against the first.
        kind: The kind of data that the table is of, '' for any.
        modalities: The number of modalities that the table is of, 0 for any.
        rates: The missing rates in training, '' for none, where these are the rows.
    """

    about: str
    columns: tuple[Column, ...]
    rows: Literal['subsets', 'rates'] = 'subsets'
    drop: bool = False
    kind: Literal['', 'classification', 'segmentation'] = ''
    modalities: int = 0
    rates: tuple[str, ...] = ()


CUSTOMIZED = Column('customized', ('Customized (SF)', 'Customized (ESANet)'))
UNIFIED = Column('modality_dropout', ('Unified (SF-MD)', 'Unified (ESANet-MD)', 'Modality dropout'))
HEMIS = Column('hemis', ('HeMIS',))
LCR = Column('lcr', ('LCR',))
RFNET = Column('rfnet', ('RFNet',))
MMFORMER = Column('mmformer', ('mmFormer',))
MMANET = Column('mmanet', ('MMANet', 'MMANet, first run'))

LOSSES = (
    'loss=logits',
    'alpha=auto,loss=soft_target,temperature=2',  # a search found other values for faces
    *(f'loss={loss}' for loss in ('fitnet', 'at', 'sp', 'pkt', 'mad')),
)

LAYOUTS = {
    # MMANet, Table 1: one network for each subset against one for all, ACER on CASIA-SURF.
    'mmanet-table1': Layout(
        'MMANet (Wei et al., CVPR 2023, arXiv 2304.08028), Table 1: one network for each subset '
        '("customized") against one for all subsets ("unified")',
        (CUSTOMIZED, UNIFIED),
        drop=True,
    ),
    # MMANet, comparison on CASIA-SURF and CeFA: five methods against the unified network.
    'mmanet-classification': Layout(
        'MMANet (Wei et al., CVPR 2023, arXiv 2304.08028), comparison of methods in classification',
        (UNIFIED, HEMIS, LCR, RFNET, MMFORMER, MMANET),
        kind='classification',
    ),
    # MMANet, comparison on NYUv2 and Cityscapes: with one network for each subset, too.
    'mmanet-segmentation': Layout(
        'MMANet (Wei et al., CVPR 2023, arXiv 2304.08028), comparison of methods in segmentation',
        (CUSTOMIZED, UNIFIED, HEMIS, LCR, RFNET, MMFORMER, MMANET),
        kind='segmentation',
    ),
    # MMANet, ablation of distillation: MAD against the losses that its released code holds. No
    # number of the paper was found. The runs are those of the grid mmanet-ablation.
    'mmanet-distillation': Layout(
        'MMANet (Wei et al., CVPR 2023, arXiv 2304.08028), ablation of the loss of distillation',
        (Column('modality_dropout'), *(Column(f'distilled:{loss}') for loss in LOSSES)),
    ),
    # MMANet, ablation of MAD and MAR: neither, MAR alone (alpha=0), MAD alone (beta=0), both, and
    # other rules for weak subsets. No number of the paper was found. Grid mmanet-ablation.
    'mmanet-mar': Layout(
        'MMANet (Wei et al., CVPR 2023, arXiv 2304.08028), ablation of MAD and MAR: alpha=0 leaves '
        'out MAD, beta=0 leaves out MAR, and weak says which subsets MAR takes for weak',
        tuple(
            map(
                Column,
                (
                    'modality_dropout',
                    'mmanet:alpha=0',
                    'mmanet:beta=0',
                    'mmanet',
                    'mmanet:weak=single',
                    'mmanet:weak=all',
                ),
            )
        ),
    ),
    # DMRNet, comparison of methods. Its text was not at hand; the methods are those of its released
    # code and of papers that quote it, the numbers are quoted or stand in the authors' logs.
    'dmrnet': Layout(
        'DMRNet (Wei et al., ECCV 2024), comparison of methods',
        (
            UNIFIED,
            LCR,
            RFNET,
            MMFORMER,
            Column('shaspec', ('ShaSpec',)),
            MMANET,
            Column('dmrnet', ('DMRNet',)),
        ),
    ),
    # RedCore, one missing rate for all modalities in training, all subsets at test. Its text was
    # not at hand, and no number of it was found; the rates are those of its released scripts. The
    # runs are those of the grid redcore-rates.
    'redcore-rates': Layout(
        'RedCore (Sun et al., AAAI 2024), missing rates in training; rate=0 is equal supervision',
        tuple(map(Column, ('modality_dropout', 'redcore', 'redcore:rate=0'))),
        rows='rates',
        rates=('', '0.1', '0.3', '0.5', '0.7', '0.9'),
    ),
    # RFNet, Dice of each tumour region on the 15 subsets of four modalities. The subsets are those
    # of a third party (protocol C), where the file has them; the means of the authors' README
    # (protocol A) stand elsewhere.
    'rfnet-subsets': Layout(
        'RFNet (Ding et al., ICCV 2021), comparison on the 15 subsets of four modalities',
        tuple(
            Column(spec, (f'{name}, protocol C', f'{name}, protocol A'))
            for spec, name in (
                ('hemis', 'HeMIS'),
                ('uhved', 'U-HVED'),
                ('robustseg', 'RobustSeg'),
                ('rfnet', 'RFNet'),
            )
        ),
        kind='segmentation',
        modalities=4,
    ),
}
"""Name -> layout."""
