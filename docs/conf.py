"""How Sphinx builds the documentation: `sphinx-build -W --keep-going -n docs docs/build/html`.

Nothing of the project is imported, so PyTorch need not be installed.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / '_ext'))

project = 'Incomplete multimodal learning: one benchmark'
author = 'the contributors'
copyright = f'2026, {author}. Apache-2.0'  # noqa: A001
release = version = '0.1.0'

extensions = ['myst_parser', 'catalogue']
exclude_patterns = ['build', '_ext', 'requirements.txt']
nitpicky = True

myst_heading_anchors = 3
myst_enable_extensions = ['deflist', 'colon_fence']
# A relative link to a folder or file of the repository would break in the built pages.
myst_all_links_external = False

html_theme = 'furo'
html_title = 'Incomplete multimodal learning'
html_static_path = ['_static']
html_css_files = ['extra.css']
html_show_sourcelink = False
html_show_sphinx = False
pygments_style = 'friendly'
pygments_dark_style = 'github-dark'

CONTENTS = {
    'Tutorials': [f'tutorials/{who}' for who in ('student', 'engineer', 'physician', 'cluster')],
    'Reference': ['options', 'layouts', 'external', 'methods', 'datasets', 'record'],
    'How numbers come about': ['protocol', 'statistics', 'robustness', 'results'],
    'The project': ['architecture', 'glossary', 'changelog'],
}
"""Heading in the sidebar -> the pages beneath it."""


def _add_contents(_app: Any, page: str, text: list[str]) -> None:
    """Adds the sidebar to the first page, whose source is also read where nothing builds it."""
    if page == 'index':
        for heading, pages in CONTENTS.items():
            names = '\n'.join(pages)
            text[0] += f'\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{names}\n```\n'


def setup(app: Any) -> None:
    """Is called by Sphinx when a build starts."""
    app.connect('source-read', _add_contents)
