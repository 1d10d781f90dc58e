"""Sphinx directive `catalogue`: parts of pages that are made from the source, see `pages`.

    ```{catalogue} methods
    ```

The argument is a key of `pages.PAGES`.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from pages import PAGES
from source import ROOT
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

READ = ('methods', 'datasets', 'benchmark', 'docs/_ext')
"""Folders whose changes make a page with the directive out of date."""


class Catalogue(SphinxDirective):
    """Parses what `PAGES` writes for its argument where the directive stands."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Returns the nodes of the generated text."""
        for folder in READ:
            for path in (ROOT / folder).rglob('*.py'):
                self.env.note_dependency(str(path))
        text = '\n'.join(PAGES[self.arguments[0]]())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directive."""
    app.add_directive('catalogue', Catalogue)
    return {'version': '1', 'parallel_read_safe': True, 'parallel_write_safe': True}
