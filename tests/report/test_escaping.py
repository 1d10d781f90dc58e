"""Text from data never acts in Markdown, LaTeX, CSV or the terminal."""

import csv
import io

import pytest
from made_records import ID, SUBSETS, make_failure, make_outcomes, make_record

from benchmark.report import captions, escaping, writer
from benchmark.report.render import csv as to_csv
from benchmark.report.render import latex, markdown, terminal

HOSTILE = '=cmd()|<script>[x](y)\x1b[2J\x07`*b*\r\nnext$#'
OUTCOMES = make_outcomes(dict.fromkeys(SUBSETS, 9))


@pytest.fixture
def table():
    record = make_record(HOSTILE, 0, OUTCOMES)
    failed = make_failure(HOSTILE, 1, HOSTILE)
    return writer.table([record], lambda r: OUTCOMES, [failed])


@pytest.mark.parametrize('render', [markdown, latex, to_csv, terminal])
def test_no_format_holds_control_characters(render, table):
    text = render(table)
    assert 'cmd()' in text
    assert all(c.isprintable() or c == '\n' for c in text)


def test_markdown_has_no_markup_of_data(table):
    text = markdown(table)
    assert '<script' not in text
    assert r'\[x\](y)' in text
    cells = next(line for line in text.splitlines() if line.startswith('| =cmd()'))
    header = next(line for line in text.splitlines() if line.startswith('| method'))
    assert cells.replace(r'\|', '').count('|') == header.count('|')


def test_latex_has_no_commands_of_data(table):
    text = latex(table)
    assert r'next\$\#' in text
    assert r'\textbar{}\textless{}script\textgreater{}' in text


def test_csv_has_no_formula(table):
    (row,) = csv.DictReader(io.StringIO(to_csv(table)))
    assert row['method'].startswith("'=cmd()")
    for start in '=+-@':
        assert escaping.csv(f'{start}1') == f"'{start}1"
    assert escaping.csv(' \t=1') == "'=1"
    assert escaping.csv('rgb=0.2') == 'rgb=0.2'


def test_an_underscore_within_a_word_stays():
    assert escaping.markdown('modality_dropout _x_ a & b') == r'modality_dropout \_x\_ a &amp; b'


def test_whatever_one_file_raises_it_is_named_and_the_others_stand():
    records = [make_record(label, 0, OUTCOMES) for label in ('good', 'bad')]

    def load(record):
        if record['method']['label'] == 'bad':
            raise ZeroDivisionError('odd file')
        return OUTCOMES

    made = writer.table(records, load)
    assert [row.label for row in made.blocks[0].rows] == ['good']
    (problem,) = made.problems
    assert f'bad {ID} seed 0: ZeroDivisionError: odd file' in problem
    assert captions.notes(made.blocks[0]) == []
