"""The built pages, where Sphinx is installed; PyTorch is not needed here.

python -m pytest --noconftest tests/docs/test_built.py
"""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

for package in ('sphinx', 'myst_parser', 'furo'):
    pytest.importorskip(package)

ROOT = Path(__file__).resolve().parents[2]
LOADS = {'script': 'src', 'link': 'href', 'img': 'src', 'iframe': 'src', 'source': 'src'}


@pytest.fixture(scope='module')
def html(tmp_path_factory):
    """The folder of the pages, built with every warning as an error."""
    out = tmp_path_factory.mktemp('html')
    options = ['-W', '--keep-going', '-n', '-q', '-d', str(out / '.doctrees')]
    command = [sys.executable, '-m', 'sphinx', *options, str(ROOT / 'docs'), str(out)]
    # Whatever the environment holds: a build that imported torch would fail.
    guard = out / 'guard'
    guard.mkdir()
    (guard / 'torch.py').write_text('raise ImportError("the documentation needs no torch")\n')
    found = subprocess.run(command, env={'PYTHONPATH': str(guard)}, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return out


def registered(folder):
    """Names in the decorators of a folder, by searching the text."""
    files = (ROOT / folder).glob('[!_]*.py')
    pattern = rf"@{folder.upper()}\.register\w*\('(\w+)'\)"
    return {name for f in files for name in re.findall(pattern, f.read_text())}


@pytest.mark.parametrize('folder', ['methods', 'datasets'])
def test_every_method_and_data_set_has_a_section(folder, html):
    text = (html / f'{folder}.html').read_text()
    names = registered(folder)
    assert names
    assert {n for n in names if f'id="{folder[:-1]}-{n.replace("_", "-")}"' not in text} == set()


class Loads(HTMLParser):
    """Collects what a page loads and where it links to."""

    def __init__(self):
        super().__init__()
        self.loaded, self.linked = [], []

    def handle_starttag(self, tag, attrs):
        address = dict(attrs).get(LOADS.get(tag, ''))
        if address and dict(attrs).get('rel') not in ('canonical', 'next', 'prev'):
            self.loaded.append(address)
        if tag == 'a':
            self.linked.append(dict(attrs).get('href', ''))


def test_pages_load_nothing_from_another_host(html):
    found = Loads()
    pages = list(html.rglob('*.html'))
    assert len(pages) > 12
    for page in pages:
        found.feed(page.read_text())
    assert [a for a in found.loaded if re.match(r'\w+:|//', a) and not a.startswith('data:')] == []
    outside = {a for a in found.linked if re.match(r'\w+:|//', a)}
    assert {a for a in outside if not a.startswith('https://')} == set()
    for sheet in [*html.rglob('*.css'), *html.rglob('*.svg')]:
        assert not re.search(r'(@import|url\()\s*["\']?(https?:)?//', sheet.read_text()), sheet


def test_results_include_the_generated_tables(html):
    text = (html / 'results.html').read_text()
    for dataset in ('synth_faces', 'synth_rooms'):
        table = (ROOT / f'results/reference/tables/{dataset}.md').read_text()
        cells = re.findall(r'\d+\.\d\d ± \d+\.\d\d', table)
        assert cells
        assert all(cell in text for cell in cells)
