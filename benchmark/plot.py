"""Draws figures of recorded runs. `report/figures/` holds the code; this starts it."""

import sys
from pathlib import Path

if __name__ == '__main__':
    # The script's own folder must not be searched for modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.report.figures.command import main
from benchmark.streams import command

if __name__ == '__main__':
    command(main)
