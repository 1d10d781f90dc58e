"""CREMA-D: acted emotions in sound and video frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.errors import unknown
from benchmark.registry import DATASETS
from datasets.common.families.audiovisual import (
    AudioVisual,
    Clip,
    Spectrogram,
)
from datasets.common.io.files import data_root, lines
from datasets.common.io.folders import middle_frame
from datasets.common.io.sounds import sounds_in

CLASSES = ('NEU', 'HAP', 'SAD', 'FEA', 'DIS', 'ANG')
SOUND = Spectrogram(rate=22050, seconds=3.0, window=512, hop=353, standardised=True)


@DATASETS.register_module('crema_d')
class CremaD(AudioVisual):
    """CREMA-D (Cao et al., IEEE TAC 2014) in the split of OGM-GE, 6,698 / 744 clips, six emotions.

    The root holds `AudioWAV/<clip>.wav`, `Image-01-FPS/<clip>/*.jpg`, and the lists `train.csv` and
    `test.csv` of OGM-GE and DMRNet, with lines `clip,EMOTION` and no header. The same speakers
    occur in the training and the test split, which `duplicates=refuse` therefore refuses. Recipe
    and inputs are those of DMRNet (ECCV 2024): a standardised log spectrogram of 257 x 188 values
    and one frame of 224 x 224 pixels, and encoders with random initial weights.

    Args:
        root: The folder.
        duplicates: Whether clips of two splits whose files are equal, and speakers with
            clips in two splits, are reported or refused.
        **shared: The other options of `AudioVisual`.

    Raises:
        UserError: The root is not as above.
    """

    name = 'crema_d'
    licence = 'Open Database License'
    how_to_get = (
        'Download CREMA-D from its authors, extract one frame per second into '
        'Image-01-FPS/<clip>/, and put the lists train.csv and test.csv of OGM-GE into the root.'
    )
    published_sizes = {'test': 744}

    def __init__(
        self,
        *,
        root: str = '',
        **shared: Any,
    ) -> None:
        folder = data_root('crema_d', root, self.how_to_get)
        aside: list[Path] = []
        sounds = sounds_in(folder / 'AudioWAV', aside)
        train, test = (
            _clips(folder, sounds, folder / f'{k}.csv', aside) for k in ('train', 'test')
        )
        super().__init__(train, test, folder, CLASSES, SOUND, SOUND, aside, **shared)


def _clips(root: Path, sounds: dict[str, Path], file: Path, aside: list[Path]) -> list[Clip]:
    clips = []
    for k, line in enumerate(lines(file), 1):
        name, _, emotion = line.partition(',')
        if emotion not in CLASSES:
            raise unknown(f'emotion in {file}, entry {k}:', emotion, CLASSES)
        frame = middle_frame(root / 'Image-01-FPS' / name, aside)
        # The name of a clip begins with the number of its actor.
        actor, label = name.partition('_')[0], CLASSES.index(emotion)
        clips.append(Clip(name, sounds.get(name), frame, label, actor))
    return clips
