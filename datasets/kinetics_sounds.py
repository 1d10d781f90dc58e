"""Kinetics-Sounds: actions in sound and video frames."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.names import check_classes
from benchmark.registry import DATASETS
from datasets.common.families.audiovisual import (
    AudioVisual,
    Clip,
    Spectrogram,
)
from datasets.common.io.files import data_root, lines
from datasets.common.io.folders import entries, middle_frame
from datasets.common.io.paths import has_folder
from datasets.common.io.sounds import sounds_in

SOUND = Spectrogram(rate=16000, seconds=5.0, window=256, hop=128, standardised=False)
LONGER = dataclasses.replace(SOUND, seconds=10.0)
FOLDERS = {'train': ('audio/train', 'visual/train_img'), 'test': ('audio/test', 'visual/val_img')}


@DATASETS.register_module('kinetics_sounds')
class KineticsSounds(AudioVisual):
    """Kinetics-Sounds (Arandjelovic & Zisserman, ICCV 2017), in the layout of DMRNet.

    The root holds `audio/{train,test}/<class>/<clip>.wav`, the frames
    `visual/{train_img,val_img}/Image-01-FPS/<class>/<clip>/*.jpg`, and `class.txt` with one class
    per line (a blank in a class is '_' in the names of folders). Sound and frames are paired by
    class and name; DMRNet's code pairs them by their positions in two lists, which a lost file
    would shift. Recipe and inputs are those of DMRNet (ECCV 2024): a log spectrogram of 5 seconds,
    129 x 626 values, and one frame of 224 x 224 pixels. The 5 seconds are cut at random from the
    first 10 in training, and are the first 5 at test, where DMRNet's code cuts at random as well.
    Clips with names such as `<video>_000010_000020`, as Kinetics has them, are clustered by video;
    a clip of another name is its own cluster.

    Args:
        root: The folder.
        duplicates: Whether clips of two splits whose files are equal, and videos with
            clips in two splits, are reported or refused.
        **shared: The other options of `AudioVisual`.

    Raises:
        UserError: The root is not as above.
    """

    name = 'kinetics_sounds'
    licence = 'that of each video; the videos belong to the people who uploaded them'
    how_to_get = (
        'Take the clips of Kinetics whose classes class.txt lists; store their sound as '
        'audio/{train,test}/<class>/<clip>.wav and their frames as '
        'visual/{train_img,val_img}/Image-01-FPS/<class>/<clip>/*.jpg.'
    )

    def __init__(
        self,
        *,
        root: str = '',
        **shared: Any,
    ) -> None:
        folder = data_root('kinetics_sounds', root, self.how_to_get)
        named = folder / 'class.txt'
        classes = tuple(name.replace(' ', '_') for name in lines(named))
        check_classes(str(named), classes)
        aside: list[Path] = []
        train, test = (_clips(folder, classes, *FOLDERS[k], aside) for k in ('train', 'test'))
        super().__init__(train, test, folder, classes, SOUND, LONGER, aside, **shared)


def _clips(
    root: Path, classes: tuple[str, ...], audio: str, visual: str, aside: list[Path]
) -> list[Clip]:
    sounds, frames = root / audio, root / visual / 'Image-01-FPS'
    for folder in (sounds, frames):
        if not has_folder(folder):
            raise UserError(f'{folder}: expected a folder per class, found nothing there')
    clips = []
    for label, name in enumerate(classes):
        heard = sounds_in(sounds / name, aside)
        within = entries(frames / name) if has_folder(frames / name) else []
        seen = {f.name: f for f in within if f.is_dir()}
        aside += [f for f in within if not f.is_dir()]
        for clip in sorted(heard.keys() | seen.keys()):
            frame = middle_frame(seen[clip], aside) if clip in seen else None
            clips.append(Clip(f'{name}/{clip}', heard.get(clip), frame, label, _video(name, clip)))
    return clips


def _video(action: str, clip: str) -> str:
    """Returns the video that a clip was cut from, by the clip's name."""
    named = re.fullmatch(r'(.+)_\d{6}_\d{6}', clip)
    return named[1] if named else f'{action}/{clip}'
