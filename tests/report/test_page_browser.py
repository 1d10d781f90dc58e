"""The page in a browser: sorting, filtering, sliders and charts, and that nothing leaves it."""

import itertools
import shutil

import numpy as np
import pytest
from made_pages import HOSTILE, add, add_gallery, add_rooms, made, outcomes_of
from made_records import acer_of, make_failure, save

from benchmark.missing import subset_ids
from benchmark.records import store
from benchmark.report import statistics

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='needs chromium')
playwright = pytest.importorskip('playwright.sync_api', reason='needs playwright')

NAMES = ('rgb', 'depth', 'ir')
DRAWN = """() => [...document.querySelectorAll('.part')].every((part) =>
    part.matches('figure') ? part.dataset.drawn : part.querySelector('.scroll').children.length)"""
OPEN = """() => {
    document.querySelectorAll('details.section').forEach((d) => { d.open = true; });
    window.dispatchEvent(new Event('beforeprint'));
}"""


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as p:
        # The sandbox needs rights that containers lack; the page is our own.
        opened = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield opened
        opened.close()


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """Data sets of 0, 1, 3 and 19 methods, of 3 to 255 subsets, and with hostile names."""
    root = tmp_path_factory.mktemp('results')
    runs = root / 'runs'
    for label in ('one', 'other', 'third'):
        for seed in range(3):
            path = add(runs, label, seed, samples=100, log=True)
            if seed == 0 and label != 'third':
                add_gallery(path)
    record = make_failure('broken', 0, HOSTILE)
    record['dataset'] |= {'name': 'none'}
    save(runs, {**record, 'identity': store.identity(record)})
    for k in range(19):
        add(runs, f'm{k}:x={k}', 0, names=('a', 'b'), samples=20, name='many')
    add(runs, 'm', 0, names='abcdefgh', samples=20, name='wide')
    label = HOSTILE.replace('/', '|')
    names = (HOSTILE, f'{HOSTILE}2')
    for text in ('', ' 2'):
        add(runs, label + text, 0, names=names, samples=20, name='h', classes=[HOSTILE, 'live'])
    add_rooms(runs, 'm', 0)
    for label, seed in itertools.product('pqrs', range(2)):
        # Their means are multiples of 1/800, of which many lie between two printed numbers.
        add(runs, label, seed, names=('a', 'b'), samples=400, name='ties')
    text, _ = made(root)
    assert len(text) < 2_500_000
    return root


@pytest.fixture(scope='module')
def shown(browser, results):
    """The page with all charts drawn; what it said and asked for is in `told` and `asked`."""
    page = browser.new_page(viewport={'width': 360, 'height': 800})
    page.told, page.asked = [], []
    page.on('console', lambda m: page.told.append(m.text))
    page.on('pageerror', lambda e: page.told.append(str(e)))
    page.on('dialog', lambda d: page.told.append(d.message))
    page.on('request', lambda r: page.asked.append(r.url))
    page.goto(f'file://{results}/index.html')
    page.evaluate(OPEN)
    page.wait_for_function(DRAWN, timeout=60_000)
    return page


@pytest.fixture
def faces(shown):
    """The block of three methods."""
    return shown.locator('section.block', has=shown.locator('h2', has_text='faces: ACER'))


def names_in(table):
    return table.locator('tbody').first.locator('tr:visible th').all_inner_texts()


def test_every_chart_is_drawn_and_nothing_complains_or_leaves(shown, results):
    assert shown.told == []
    assert shown.asked == [f'file://{results}/index.html']
    assert shown.locator('.part .error').count() == 0
    figures = shown.locator('figure.part')
    assert figures.count() > 20
    assert shown.locator('figure.part .chart svg.marks').count() == figures.count()
    for text in figures.locator('.chart').evaluate_all('all => all.map((x) => x.ariaLabel)'):
        assert text


def test_the_page_cannot_send_a_request(shown):
    count = len(shown.asked)
    send = "() => fetch('https://example.org').then(() => 'sent', () => 'refused')"
    assert shown.evaluate(send) == 'refused'
    assert len(shown.asked) == count
    shown.told.clear()  # the refusal


def test_a_phone_scrolls_in_one_direction(shown):
    assert shown.evaluate('document.documentElement.scrollWidth') == 360


def test_hostile_names_are_shown_as_they_are(shown):
    block = shown.locator('section.block', has=shown.locator('h2', has_text='h: ACER'))
    assert HOSTILE.replace('/', '|') in names_in(block.locator('table.scores'))
    assert shown.locator('main b').count() == 0
    assert block.locator('svg text', has_text=HOSTILE[:12]).count() > 0


def test_a_title_sorts_its_column_in_both_directions(shown, faces):
    table = faces.locator('table.scores')
    button = table.get_by_role('button', name='mean')
    place = table.locator('thead th').all_inner_texts().index(button.inner_text())
    orders = []
    for _ in range(2):
        button.focus()
        shown.keyboard.press('Enter')
        cells = table.locator(f'tbody.sortable tr > :nth-child({place + 1})')
        values = [float(v) for v in cells.evaluate_all('all => all.map((x) => x.dataset.value)')]
        orders.append(
            table.locator('th[aria-sort]:not([aria-sort=none])').all()[0].get_attribute('aria-sort')
        )
        assert values == sorted(values, reverse=len(orders) == 2)
    assert orders == ['ascending', 'descending']
    table.get_by_role('button', name='method').click()
    assert names_in(table) == ['one', 'other', 'third']


def test_the_filter_leaves_the_methods_that_it_names(shown, faces):
    faces.get_by_label('Filter methods').fill('OTH')
    assert names_in(faces.locator('table.scores')) == ['other']
    assert names_in(faces.locator('[id$=-heat] table')) == ['other']
    assert faces.locator('output.count').inner_text() == '1 of 3 methods'
    faces.get_by_label('Filter methods').fill('')
    assert len(names_in(faces.locator('table.scores'))) == 3


def test_sliders_give_the_expected_score(shown, faces):
    fails = {'rgb': 35, 'depth': 60, 'ir': 5}
    for name, percent in fails.items():
        faces.get_by_label(f'{name} fails with').fill(str(percent))
    absent = np.array(list(fails.values())) / 100
    expected = {}
    for label in ('one', 'other', 'third'):
        each = []
        for seed in range(3):
            outcomes = outcomes_of(NAMES, [seed, *label.encode()], samples=100)
            scores = {s: acer_of(outcomes, s) for s in subset_ids(NAMES)}
            each.append(100 * statistics.expected(scores, NAMES, absent, 0.5))
        expected[label] = np.mean(each), np.std(each, ddof=1)
    rows = faces.locator('[id$=-expected] tbody tr').all()
    found = [[cell.inner_text() for cell in row.locator('th, td').all()] for row in rows]
    order = sorted(expected, key=expected.get)
    assert [row[0] for row in found] == order
    for label, mean, std, _ in found:
        assert (float(mean), float(std)) == pytest.approx(expected[label], abs=0.006)
    slider = faces.get_by_label('ir fails with')
    slider.focus()
    shown.keyboard.press('ArrowRight')
    assert slider.get_attribute('aria-valuetext') == '6 percent'
    told = faces.locator('.summary').inner_text()
    assert f'Lowest expected score: {order[0]}' in told
    there = 100 * 0.65 * 0.4 * 0.94
    assert f'All modalities are there with a probability of {there:.1f} %' in told


def cells_of(grid):
    """The numbers of a table, (rows, columns)."""
    read = (
        'rows => rows.map((r) => [...r.querySelectorAll("td")].map((c) => Number(c.textContent)))'
    )
    return np.array(grid.locator('tbody tr').evaluate_all(read))


TEXTS = (
    """rows => rows.map((row) => [...row.cells].slice(1).map((cell) => cell.textContent.trim()))"""
)


def test_the_heatmap_and_the_charts_round_as_the_tables_do(shown):
    block = shown.locator('section.block', has=shown.locator('h2', has_text='ties: ACER'))
    printed = block.locator('table.scores tbody.sortable tr').evaluate_all(TEXTS)
    means = [[cell.partition(' ')[0] for cell in row] for row in printed]
    coloured = block.locator('[id$=-heat] tbody tr').evaluate_all(TEXTS)
    assert [row[: len(coloured[0])] for row in means] == coloured
    values = block.locator('table.scores td').evaluate_all(
        'all => all.map((x) => Number(x.dataset.value)).filter(Number.isFinite)'
    )
    assert sum(8 * value % 2 == 1 for value in values) > 5
    chart = block.locator('figure[id$=-lines] .numbers tbody tr').evaluate_all(TEXTS)
    # Missing, seed, score, mean and deviation; the columns of the table end in those by missing.
    columns = block.locator('table.scores thead th').all_inner_texts()[1:]
    places = [next(k for k, c in enumerate(columns) if f'missing {n}' in c) for n in (0, 1)]
    told = {(row[3], row[4]) for row in chart}
    assert told == {tuple(row[k].split(' ± ')) for row in printed for k in places}


def test_the_heatmap_shows_differences_to_a_baseline(shown, faces):
    heat = faces.locator('[id$=-heat]')
    plain = cells_of(heat)
    heat.get_by_label('Show').select_option(label='difference to a baseline')
    heat.get_by_label('Baseline').select_option(label='other')
    found = cells_of(heat)
    np.testing.assert_allclose(found, plain - plain[1], atol=0.011)
    assert abs(found[0]).max() > 1
    hue = "all => all.map((x) => x.style.getPropertyValue('--hue'))"
    hues = heat.locator('tbody tr').first.locator('td').evaluate_all(hue)
    # A lower ACER is better.
    assert hues == ['var(--bad)' if v > 0 else 'var(--good)' for v in found[0]]
    heat.get_by_label('Show').select_option(index=0)


def test_pictures_are_shown_for_the_chosen_methods_and_need_no_request(shown, faces):
    column = faces.locator('.answers th', has_text='other')
    first = faces.locator('.answers .tile[role=img]').first
    assert 'url("data:image/png' in first.evaluate('e => getComputedStyle(e).backgroundImage')
    assert column.is_visible()
    box = faces.get_by_role('checkbox', name='other')
    box.uncheck()
    assert not column.is_visible()
    assert faces.locator('.answers th', has_text='one').first.is_visible()
    box.check()
    assert column.is_visible()


def test_charts_show_the_chosen_methods_and_their_numbers(shown, faces):
    chart = faces.locator('figure[id$=-lines]')
    assert chart.get_attribute('data-drawn') == '3'
    faces.get_by_label('other', exact=True).uncheck()
    shown.wait_for_function('(x) => x.dataset.drawn === "2"', arg=chart.element_handle())
    texts = chart.locator('svg .role-legend text').all_text_contents()
    assert texts == ['one', 'third']
    chart.get_by_text('Numbers of this chart').click()
    assert set(names_in(chart.locator('table'))) == {'one', 'third'}
    faces.get_by_label('other', exact=True).check()


def test_a_select_shows_other_rows(shown, faces):
    grid = faces.locator('[id$=-confusion]')
    before = grid.locator('tbody').inner_text()
    grid.get_by_label('Subset').select_option(label='rgb')
    assert grid.locator('tbody').inner_text() != before
    cost = faces.locator('figure[id$=-pareto]')
    cost.get_by_label('Cost', exact=True).select_option(label='FLOPs on rgb / score there')
    shown.wait_for_function(
        "(x) => x.querySelector('svg').textContent.includes('FLOPs on rgb')",
        arg=cost.element_handle(),
    )
    assert shown.told == []


def test_tables_and_inputs_have_names(shown):
    nameless = """() => [
        ...[...document.querySelectorAll('input, select')].filter((x) => !x.labels.length),
        ...[...document.querySelectorAll('table')].filter((x) => !x.caption?.textContent),
        ...[...document.querySelectorAll('th')].filter((x) => !x.scope),
        ...[...document.querySelectorAll('[role=region]')].filter((x) => !x.ariaLabel),
    ].map((x) => x.outerHTML.slice(0, 200))"""
    assert shown.evaluate(nameless) == []


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_has_contrast_in_both_schemes(scheme, shown):
    shown.emulate_media(color_scheme=scheme)
    names = ['ground', 'text', 'quiet', 'link', *(f'c{k}' for k in range(1, 9))]
    read = """(names) => names.map((name) =>
        getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim())"""
    ground, *inks = [luminance(c) for c in shown.evaluate(read, names)]
    ratios = [(max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) for ink in inks]
    # WCAG 2.1 asks for 4.5 in text and 3 in graphics.
    assert min(ratios[:3]) >= 4.5
    assert min(ratios[3:]) >= 3


def luminance(colour):
    """Relative luminance of #rrggbb, as WCAG 2.1 defines it."""
    parts = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_printing_opens_and_draws_everything(browser, results):
    page = browser.new_page()
    page.goto(f'file://{results}/index.html')
    assert not page.evaluate(DRAWN)
    page.pdf(path=results / 'page.pdf')
    page.wait_for_function(DRAWN, timeout=60_000)
    assert page.locator('details.section:not([open])').count() == 0
    page.close()


def test_without_javascript_the_tables_are_there(browser, results):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f'file://{results}/index.html')
    assert page.locator('table.scores').count() == 6
    assert 'need JavaScript' in page.locator('noscript').first.inner_text()
    context.close()
