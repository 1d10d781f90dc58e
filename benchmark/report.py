"""Makes the page of recorded runs. The folder of the same name holds the code; this starts it."""

import sys
from pathlib import Path

if __name__ == '__main__':
    # The script's own folder must not be searched for modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.report.page.command import main
from benchmark.streams import command

if __name__ == '__main__':
    command(main)
