"""How Sphinx builds the documentation: `sphinx-build -W --keep-going -n docs docs/build/html`.

Nothing of the project is imported, so PyTorch need not be installed.
"""

import sys
from pathlib import Path

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
