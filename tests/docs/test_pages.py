"""What a reader of the pages does by hand: type what a picture shows, and follow links."""

import re
import xml.etree.ElementTree as Xml
from pathlib import Path

import pytest

from benchmark import tables
from benchmark.engine.grids import GRIDS
from benchmark.records import store

ROOT = Path(tables.__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
PAGES = [
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md')),
    *(p for p in sorted(DOCS.rglob('*.md')) if 'build' not in p.relative_to(DOCS).parts),
]
GENERATED = {'methods.md': 'method-', 'datasets.md': 'dataset-'}
"""Page whose sections on single methods or data sets are built, and says so -> their anchors."""


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


def anchors(page):
    """The anchors that headings have where the page is read in the repository."""
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S)
    found = re.findall(r'^#+ (.*)$', text, re.M)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in found}


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_links_to_headings_lead_somewhere_in_the_repository(page):
    for file, anchor in re.findall(r'\]\(([\w./-]*)#([^)]*)\)', page.read_text()):
        target = (page.parent / file).resolve() if file else page
        built = GENERATED.get(target.name)
        if built is None or not anchor.startswith(built):
            assert anchor in anchors(target), f'{file}#{anchor}'


def test_the_page_on_options_names_every_grid():
    told = (DOCS / 'options.md').read_text().partition('`--grid NAME|FILE`')[2]
    told = told.partition('```sh')[0]
    assert [name for name in GRIDS if f'`{name}`' not in told] == []


@pytest.mark.parametrize('name', [store.RECORD, *store.BESIDE])
def test_the_page_on_records_names_each_file_of_a_run_and_of_an_earlier_record(name):
    text = (DOCS / 'record.md').read_text()
    assert re.search(rf'^  {re.escape(name)} ', text, re.M)
    stem, dot, suffix = name.partition('.')
    assert f'`{stem}-<identity>{dot}{suffix}`' in text
    assert f'`{name}`' in (DOCS / 'tutorials/student.md').read_text()
