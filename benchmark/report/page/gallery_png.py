"""Pictures of samples as PNG files, one for each sample: the rows of the page, for slides."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from benchmark.files import writing
from benchmark.report.page.view import Part

TILE, LARGE, GAP, LINE = 96, 160, 10, 18
"""Sides of a picture in a row and above the rows, space around it, height of a line of text."""

FIRST, BAR, NAME = 150, 80, 130
"""Widths of the first column, of a full bar, and of the name of a class."""

TOLD = {
    'drop': 'Chosen for its large drop from all modalities to the worst subset: an extreme case.',
    'disagreement': 'Chosen for a large disagreement between the subsets: an extreme case.',
    'random': 'Chosen at random. One sample proves nothing.',
}

TEXT, QUIET, PALE, TRUE, OTHER = '#1a1a1a', '#595959', '#c8c8c8', '#0072b2', '#8a8a8a'


def write(folder: Path, part: Part) -> list[Path]:
    """Writes `<rule>-<number>-<sample>.png` for each sample.

    Args:
        folder: Takes the files.
        part: What the page shows (`benchmark.report.page.gallery.part`).

    Returns:
        The files.

    Raises:
        UserError: A file cannot be written.
    """
    made = []
    for group in part['groups']:
        for number, sample in enumerate(group['samples'], 1):
            name = re.sub(r'[^\w.-]+', '-', sample['name'])[:60].strip('-.')
            path = folder / f'{group["rule"]}-{number}-{name}.png'
            with writing(path) as file:
                _Sheet(part, TOLD[group['rule']], sample).image.save(file, 'PNG', optimize=True)
            made.append(path)
    return made


class _Sheet:
    """The picture of one sample.

    Args:
        part: What the page shows.
        told: How the sample was chosen.
        sample: The sample.
    """

    def __init__(self, part: Part, told: str, sample: Mapping[str, Any]) -> None:
        self.part, self.sample = part, sample
        bars = max((len(c['bars']) for r in sample['rows'] for _, c in r['cells'] if c), default=0)
        self.wide = NAME + BAR + 60 if bars else 2 * (TILE + GAP) + 60
        self.high = max(TILE + LINE, (bars + 2) * LINE if bars else 0) + GAP
        columns = FIRST + len(sample['modalities']) * (TILE + GAP)
        strip = (len(sample['inputs']) + 2) * (LARGE + GAP)
        width = max(columns + len(sample['methods']) * self.wide, strip, 640) + GAP
        legend = LINE * len(part['legend'])
        above = 3 * LINE + max(LARGE + LINE, legend) + 3 * GAP
        height = above + LINE + len(sample['rows']) * self.high + GAP
        self.image = Image.new('RGB', (width, height), 'white')
        self.draw = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(size=13)
        self._head(told)
        self._rows(above, columns)

    def _text(self, x: int, y: int, text: str, room: int, colour: str = TEXT) -> None:
        """Writes a text, cut where there is no room for it."""
        while text and self.draw.textlength(text, self.font) > room:
            text = text[:-2] + '…' if len(text) > 2 else ''
        self.draw.text((x, y), text, colour, self.font)

    def _tile(self, x: int, y: int, side: int, key: str) -> None:
        """Draws a picture as large as it fits, without a change of its pixels."""
        picture = Image.open(io.BytesIO(base64.b64decode(self.part['pictures'][key])))
        scale = side / max(picture.size)
        wide, high = (max(1, round(scale * n)) for n in picture.size)
        shown = picture.convert('RGBA').resize((wide, high), Image.Resampling.NEAREST)
        self.image.paste(shown, (x, y), shown)

    def _hatched(self, x: int, y: int, side: int, word: str) -> None:
        """Draws a hatched field with a word."""
        for k in range(0, 2 * side, 8):
            low, high = max(0, k - side), min(k, side)
            self.draw.line((x + low, y + high, x + high, y + low), PALE)
        self.draw.rectangle((x, y, x + side - 1, y + side - 1), outline=QUIET)
        half, middle = int(self.draw.textlength(word, self.font)) // 2, side // 2
        left, top = x + middle - half, y + middle - 8
        self.draw.rectangle((left - 3, top - 1, left + 2 * half + 3, top + 17), 'white')
        self.draw.text((left, top), word, TEXT, self.font)

    def _head(self, told: str) -> None:
        sample, room = self.sample, self.image.width - 2 * GAP
        truth = f'; truth: {sample["truth"]}' if sample['truth'] else ''
        value = f'; {sample["value"]}' if sample['value'] else ''
        self._text(GAP, GAP, f'{sample["name"]}{truth}{value}', room)
        self._text(GAP, GAP + LINE, told, room, QUIET)
        x, y = GAP, 3 * LINE
        shown = [(m, sample['inputs'].get(m)) for m in sample['modalities']]
        shown += [('truth', sample['map'])] if sample['map'] else []
        for name, picture in shown:
            if picture:
                self._tile(x, y, LARGE, picture['key'])
            else:
                self._hatched(x, y, LARGE, 'not recorded')
            self._text(x, y + LARGE + 2, name, LARGE, QUIET)
            x += LARGE + GAP
        for k, (name, colour) in enumerate(self.part['legend']):
            self.draw.rectangle((x, y + k * LINE + 2, x + 12, y + k * LINE + 14), colour, QUIET)
            self._text(x + 18, y + k * LINE, name, self.image.width - x - 18)

    def _rows(self, top: int, columns: int) -> None:
        sample, y = self.sample, top
        self._text(GAP, y, 'given', FIRST, QUIET)
        for k, name in enumerate(sample['modalities']):
            self._text(FIRST + k * (TILE + GAP), y, name, TILE, QUIET)
        for k, (_, name) in enumerate(sample['methods']):
            self._text(columns + k * self.wide, y, name, self.wide - GAP, QUIET)
        y += LINE
        for row in sample['rows']:
            self.draw.line((GAP, y, self.image.width - GAP, y), PALE)
            self._text(GAP, y + GAP // 2, row['subset'], FIRST - 2 * GAP)
            for k, name in enumerate(sample['modalities']):
                place, picture = FIRST + k * (TILE + GAP), sample['inputs'].get(name)
                if picture and name in row['given']:
                    self._tile(place, y + GAP // 2, TILE, picture['key'])
                else:
                    word = 'withheld' if picture else 'not recorded'
                    self._hatched(place, y + GAP // 2, TILE, word)
            for k, (_, cell) in enumerate(row['cells']):
                self._cell(columns + k * self.wide, y + GAP // 2, cell)
            y += self.high

    def _cell(self, x: int, y: int, cell: Mapping[str, Any] | None) -> None:
        room = self.wide - GAP
        if cell is None:
            self._text(x, y, 'not tested', room, QUIET)
            return
        if not cell['bars']:
            for k, tile in enumerate(cell['tiles']):
                self._tile(x + k * (TILE + GAP), y, TILE, tile['key'])
            self._text(x, y + TILE, cell['error'], room)
            return
        self._text(x, y, f'{"right" if cell["right"] else "wrong"}: {cell["answer"]}', room)
        for k, bar in enumerate(cell['bars'], 1):
            top, left = y + k * LINE, x + NAME
            self._text(x, top, bar['name'] + ' (true)' * bar['true'], NAME - GAP)
            self.draw.rectangle((left, top + 4, left + BAR, top + 12), outline=PALE)
            end = left + round(BAR * bar['share'] / 100)
            self.draw.rectangle((left, top + 4, end, top + 12), TRUE if bar['true'] else OTHER)
            self._text(left + BAR + 4, top, f'{bar["share"]} %', 56)
        self._text(x, y + (len(cell['bars']) + 1) * LINE, cell['error'], room, QUIET)
