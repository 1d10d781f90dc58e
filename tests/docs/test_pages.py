"""What a reader of the pages does by hand: type what a picture shows, and follow links."""

import xml.etree.ElementTree as Xml
from pathlib import Path

from benchmark import tables

ROOT = Path(tables.__file__).resolve().parent.parent
DOCS = ROOT / 'docs'


def plain(text):
    return ''.join(text.split())


def test_the_picture_of_a_table_shows_a_command_of_a_clone_and_what_it_prints(tmp_path, capsys):
    texts = [e for e in Xml.parse(DOCS / 'pictures/table.svg').iter() if e.tag.endswith('}text')]
    (title,) = [e.text for e in texts if e.get('class') == 'table-title']
    shown = ''.join(e.text for e in texts if e.get('class') != 'table-title')
    python, script, folder, *words = title.split()
    assert (python, script, folder) == ('python', 'benchmark/tables.py', 'results/reference')
    # The committed folder stays as it is: its runs are read, and another one is written.
    assert tables.main([str(tmp_path), *words, '--runs', str(ROOT / folder / 'runs')]) == 0
    printed = capsys.readouterr().out.replace(str(tmp_path), folder)
    assert plain(shown) == plain(printed)
