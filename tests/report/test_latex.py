"""The tables are compiled by LaTeX, where there is one, and fit the page."""

import re
import shutil
import subprocess

import pytest
from made_records import SUBSETS, make_outcomes, make_record

from benchmark.report import writer
from benchmark.report.render import latex
from benchmark.report.table import Table

PAGE = r"""\documentclass{article}
\usepackage[a4paper,margin=2cm]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
%s
\end{document}
"""


@pytest.mark.skipif(shutil.which('pdflatex') is None, reason='needs pdflatex')
@pytest.mark.parametrize('kind', ['plain', 'transposed', 'gaps', 'baseline'])
def test_every_table_compiles_and_is_no_wider_than_the_page(kind, tmp_path):
    records, outcomes = [], {}
    for k in range(14):
        for seed in range(3):
            found = make_outcomes(dict.fromkeys(SUBSETS, 9 + 20 * k), [seed, k])
            label = f'method_{k}:a=1,b={{x}}&50%#~^\\|<'
            record = make_record(label, seed, found, protocol={'rates': 'rgb=0.5'})
            records.append(record)
            outcomes[record['identity']] = found
    made = writer.table(records, lambda r: outcomes[r['identity']], by_gaps=True)
    if kind == 'gaps':
        made = made.gaps
    made = Table(made.dataset, made.blocks, [], None, kind == 'transposed')
    text = latex(made)
    if kind == 'baseline':
        writer.write_baseline(tmp_path, made, records[0]['method']['label'])
        text = (tmp_path / 'tables' / 'faces-baseline.tex').read_text()
    (tmp_path / 'page.tex').write_text(PAGE % text)
    command = ['pdflatex', '-interaction=nonstopmode', '-halt-on-error', 'page.tex']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.search(r'Float too large|Missing character', done.stdout)
    wide = re.findall(r'Overfull .hbox .([0-9.]+)pt', done.stdout)
    assert not [w for w in wide if float(w) > 10]
