'use strict';
(() => {
  const page = JSON.parse(document.getElementById('data').textContent);
  const SHAPES = ['circle', 'square', 'diamond', 'triangle-up', 'cross', 'triangle-down', 'triangle-right'];
  const COLOURS = 8;
  /* Fields of charts that hold whole numbers. */
  const WHOLE = new Set(['k', 'seed', 'severity', 'front', 'low', 'high', 'epoch', 'coverage', 'n']);

  const make = (name, text, attributes = {}) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  /* A title of a row with the name of a method, which may be broken where the table of scores breaks it. */
  const titleOf = (name) => {
    const title = make('th', undefined, { scope: 'row' });
    const [first, ...others] = name.split(/(?<=[_:=])/);
    title.append(first ?? '', ...others.flatMap((text) => [make('wbr'), text]));
    return title;
  };
  /* Rounds as the tables do: of two numbers that are equally near, the one with an even last digit. */
  const fixed = (value, digits) => {
    const text = value.toFixed(digits);
    const between = (Math.abs(value) * 2 ** (digits + 1)) % 2 === 1;
    if (!between || Number(text.at(-1)) % 2 === 0) return text;
    return (value - Math.sign(value) * 0.5 * 10 ** -digits).toFixed(digits);
  };
  const shown = (value, digits) => (typeof value === 'number' ? fixed(value, digits) : value ?? '');
  const partOf = (element) => page.parts[element.dataset.part];
  const picked = (element) => [...element.querySelectorAll('[data-select]')].map((s) => s.value);

  /* Tables of scores: sorting and filtering. */

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent;
    return text !== '' && Number.isFinite(Number(text)) ? Number(text) : text;
  };
  const compare = (a, b) => {
    if (typeof a === 'number' && typeof b === 'number') return a - b;
    return String(a).localeCompare(String(b), 'en', { numeric: true });
  };
  const sort = (button) => {
    const title = button.closest('th');
    const table = button.closest('table');
    const up = title.getAttribute('aria-sort') !== 'ascending';
    for (const other of table.tHead.rows[0].cells) other.setAttribute('aria-sort', 'none');
    title.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const column = title.cellIndex;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [keyOf(row, column), row]);
    const empty = rows.filter(([key]) => key === '');
    const full = rows.filter(([key]) => key !== '');
    full.sort(([a], [b]) => (up ? compare(a, b) : compare(b, a)));
    body.append(...full.concat(empty).map(([, row]) => row));
  };

  const filter = (block) => {
    const words = block.querySelector('.filter').value.trim().toLowerCase();
    let count = 0;
    for (const row of block.querySelectorAll('tr[data-name]')) {
      row.hidden = !row.dataset.name.toLowerCase().includes(words);
      if (!row.hidden && row.closest('.scores')) count += 1;
    }
    const total = page.blocks[block.id].methods.length;
    block.querySelector('.count').value = words ? `${count} of ${total} methods` : '';
  };

  /* Tables with coloured cells. */

  const table = (caption, titles, rows) => {
    const made = make('table');
    const above = make('caption');
    above.append(make('span', caption));
    made.append(above);
    const head = made.createTHead().insertRow();
    for (const title of titles) head.append(make('th', title, { scope: 'col' }));
    const body = made.createTBody();
    for (const row of rows) body.append(row);
    return made;
  };

  const colour = (cell, value, kind, low, high) => {
    const cut = (x) => Math.min(1, Math.max(0, x));
    const place = high > low ? cut((value - low) / (high - low)) : 0;
    const size = cut(Math.abs(value) / (Math.max(Math.abs(low), Math.abs(high)) || 1));
    const share = { high: place, low: 1 - place, signed: size, against: size };
    const bad = kind === 'signed' ? value < 0 : kind === 'against' && value > 0;
    cell.style.setProperty('--hue', bad ? 'var(--bad)' : 'var(--good)');
    cell.style.setProperty('--share', `${Math.round(50 * share[kind])}%`);
  };

  const layerOf = (element, part) => {
    const keys = picked(element);
    const baseline = element.querySelector('[data-baseline]');
    if (baseline) baseline.parentElement.hidden = keys[0] !== 'difference';
    if (keys[0] !== 'difference') {
      return { values: part.layers[keys.join('/')], kind: part.colours[keys[0] ?? 0] ?? part.colours[0] };
    }
    const base = part.layers['0'][baseline.value];
    // Means over different subsets have no difference.
    const alike = (row, k) => part.over[k].every((s) => (row[s] === null) === (base[s] === null));
    const values = part.layers['0'].map((row) =>
      row.map((v, k) => (v === null || base[k] === null || !alike(row, k) ? null : v - base[k])));
    return { values, kind: part.sign > 0 ? 'signed' : 'against', signs: true };
  };

  const drawGrid = (element) => {
    const part = partOf(element);
    const target = element.querySelector('.scroll');
    const { values, kind, signs } = layerOf(element, part);
    if (!values) {
      target.replaceChildren(make('p', 'This was not tested.', { class: 'lacking' }));
      return;
    }
    // One outlier would leave all other cells with one colour.
    const known = values.flat().filter((v) => v !== null).sort((a, b) => a - b);
    const low = known[Math.floor(0.05 * (known.length - 1))];
    const high = known[Math.ceil(0.95 * (known.length - 1))];
    const rows = values.map((row, r) => {
      const line = make('tr', undefined, part.methods ? { 'data-name': part.rows[r] } : {});
      line.append(titleOf(part.rows[r]));
      line.cells[0].append(part.signs?.[r] ?? '');
      for (const value of row) {
        const cell = make('td', value === null ? '' : (signs && value > 0 ? '+' : '') + shown(value, part.digits));
        if (value !== null) colour(cell, value, kind, low, high);
        line.append(cell);
      }
      return line;
    });
    target.replaceChildren(table(part.text, [part.head, ...part.cols], rows));
    if (part.methods) filter(element.closest('.block'));
  };

  /* Charts. */

  const chosen = (block) => {
    const boxes = block.querySelectorAll('.chosen input');
    const all = page.blocks[block.id].methods.map((_, m) => m);
    return boxes.length ? [...boxes].filter((b) => b.checked).map((b) => Number(b.value)) : all;
  };

  const titled = (value, titles) => {
    if (typeof value === 'string') return value.startsWith('@') ? titles[value] ?? '' : value;
    if (Array.isArray(value)) return value.map((v) => titled(v, titles));
    if (value === null || typeof value !== 'object') return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, titled(v, titles)]));
  };

  const rowsOf = (element, part) => {
    const block = element.closest('.block');
    const names = page.blocks[block.id].methods;
    const wanted = new Set(part.all ? names.map((_, m) => m) : chosen(block));
    const keys = picked(element).map(Number);
    return part.rows
      .map((row) => Object.fromEntries(part.fields.map((field, k) => [field, row[k]])))
      .filter((row) => wanted.has(row.m) && part.selects.every((s, k) => row[s.field] === keys[k]))
      .map((row) => ({ ...row, method: names[row.m] }));
  };

  const scales = (spec, names, width) => {
    const set = (value) => {
      if (Array.isArray(value)) value.forEach(set);
      if (value === null || typeof value !== 'object') return;
      for (const [key, own] of Object.entries(value)) {
        if ((key === 'color' || key === 'shape') && own.field === 'method') {
          const range = names.map((_, k) => (key === 'color' ? `var(--c${(k % COLOURS) + 1})` : SHAPES[k % SHAPES.length]));
          own.scale = { domain: names, range };
          own.legend = { columns: Math.max(1, Math.floor(width / 230)) };
        } else set(own);
      }
    };
    set(spec);
  };

  const numbersOf = (part, rows) => {
    // Costs, learning rates and losses may be far below one hundredth; all others are scores.
    const free = (value) => (Math.abs(value) < 0.1 ? String(Number(value.toPrecision(3))) : fixed(value, 2));
    const told = (field, value) => {
      if (typeof value !== 'number' || WHOLE.has(field)) return value ?? '';
      if (field !== 'cost' && part.chart !== 'curves') return fixed(value, part.digits ?? 2);
      return Number.isInteger(value) ? String(value) : free(value);
    };
    const lines = rows.map((row) => {
      const line = make('tr');
      line.append(titleOf(row.method));
      // What is not on the front of costs and scores has the place 0 there.
      const cell = (field) => (field === 'front' && !row.front ? '' : told(field, row[field]));
      for (const [field] of part.columns) line.append(make('td', cell(field)));
      return line;
    });
    return table(part.text, ['method', ...part.columns.map(([, title]) => title)], lines);
  };

  const drawFigure = (element) => {
    const part = partOf(element);
    const target = element.querySelector('.chart');
    const rows = rowsOf(element, part);
    element.querySelector('.numbers .scroll').replaceChildren(numbersOf(part, rows));
    if (!rows.length) {
      target.replaceChildren(make('p', 'There is nothing to show for this choice.', { class: 'lacking' }));
      return;
    }
    const options = Object.fromEntries(part.selects.map((s, k) => [`@${k}`, s.options[Number(picked(element)[k])]]));
    const axes = { ...options, ...part.titles };
    if (part.log) axes['@x'] = options['@0'].split(' / ')[0];
    const spec = titled(page.charts[part.chart], axes);
    const names = [...new Set(rows.map((row) => row.method))];
    scales(spec, names, target.clientWidth);
    if (part.log) {
      const costs = rows.map((row) => row.cost);
      const x = spec.encoding.x;
      if (Math.max(...costs) > 8 * Math.min(...costs)) x.scale = { type: 'log', nice: false, padding: 30 };
      x.axis = { format: '~s', tickCount: 5 };
    }
    // A row of the data takes so much height, whatever the number of methods.
    if (spec.height.row) spec.height = spec.height.row * rows.length + 20;
    spec.description = part.text;
    spec.data = { values: rows };
    window.vegaEmbed(target, spec, { renderer: 'svg', actions: false, ast: true })
      .then(() => { element.dataset.drawn = names.length; })
      .catch((error) => {
        target.replaceChildren(make('p', `This chart cannot be drawn: ${error.message}`, { class: 'error' }));
      });
  };

  /* The expected score under failures. */

  const weigh = (part, fails) => part.masks.map((mask) =>
    mask.reduce((product, there, m) => product * (there ? 1 - fails[m] : fails[m]), 1));

  const expected = (scores, weights, fails, empty) => {
    const sum = scores.reduce((total, score, k) => total + score * weights[k], 0);
    if (empty !== null) return sum + empty * fails.reduce((product, p) => product * p, 1);
    return sum / weights.reduce((total, w) => total + w, 0);
  };

  const drawSliders = (element) => {
    const part = partOf(element);
    const names = page.blocks[element.closest('.block').id].methods;
    const fails = [...element.querySelectorAll('input')].map((input) => {
      input.nextElementSibling.value = `${input.value} %`;
      input.setAttribute('aria-valuetext', `${input.value} percent`);
      return Number(input.value) / 100;
    });
    const weights = weigh(part, fails);
    const found = Object.entries(part.values).map(([m, seeds]) => {
      const each = seeds.map((scores) => expected(scores, weights, fails, part.empty));
      const mean = each.reduce((a, b) => a + b, 0) / each.length;
      const spread = each.length < 2 ? null
        : Math.sqrt(each.reduce((a, b) => a + (b - mean) ** 2, 0) / (each.length - 1));
      return { name: names[m], mean, spread };
    }).filter((row) => Number.isFinite(row.mean));
    found.sort((a, b) => (part.higher ? b.mean - a.mean : a.mean - b.mean));
    const most = Math.max(...found.map((row) => row.mean));
    const rows = found.map((row) => {
      const line = make('tr', undefined, { 'data-name': row.name });
      const track = make('td', undefined, { class: 'track', 'aria-hidden': 'true' });
      const bar = make('span', undefined, { class: 'bar' });
      bar.style.width = `${(100 * row.mean) / (most || 1)}%`;
      track.append(bar);
      line.append(titleOf(row.name), make('td', shown(row.mean, part.digits)),
        make('td', shown(row.spread, part.digits)), track);
      return line;
    });
    const made = table(part.text, ['method', 'expected', '±', ''], rows);
    made.tHead.rows[0].cells[3].setAttribute('aria-hidden', 'true');
    element.querySelector('.scroll').replaceChildren(made);
    const percent = (p) => `${(100 * p).toFixed(1)} %`;
    const none = fails.reduce((product, p) => product * p, 1);
    element.querySelector('.summary').textContent = found.length
      ? `All modalities are there with a probability of ${percent(weights[weights.length - 1])}, none with ${percent(none)}. ${part.higher ? 'Highest' : 'Lowest'} expected score: ${found[0].name}, ${shown(found[0].mean, part.digits)}; differences are not tested.`
      : 'With every modality failing for certain there is nothing to expect.';
    filter(element.closest('.block'));
  };

  /* Pictures of samples: the columns of the chosen methods. */

  const showChosen = (block) => {
    const wanted = new Set(chosen(block));
    for (const cell of block.querySelectorAll('[data-method]')) {
      cell.hidden = !wanted.has(Number(cell.dataset.method));
    }
  };

  /* Parts are drawn when they come into sight, so that a long page opens at once. */

  const DRAW = { figure: drawFigure, grid: drawGrid, sliders: drawSliders };
  const drawn = new Set();
  const draw = (element) => {
    drawn.add(element);
    DRAW[partOf(element).kind](element);
  };
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        watch.unobserve(entry.target);
        draw(entry.target);
      }
    }
  }, { rootMargin: '200px' });

  for (const element of document.querySelectorAll('.part')) {
    watch.observe(element);
    element.addEventListener(partOf(element).kind === 'sliders' ? 'input' : 'change', () => draw(element));
  }
  for (const block of document.querySelectorAll('section.block[aria-labelledby]')) {
    block.querySelector('.filter').addEventListener('input', () => filter(block));
    showChosen(block);
    block.querySelector('.chosen')?.addEventListener('change', () => {
      showChosen(block);
      for (const element of block.querySelectorAll('figure.part')) if (drawn.has(element)) draw(element);
    });
  }
  for (const button of document.querySelectorAll('.sort')) button.addEventListener('click', () => sort(button));
  window.addEventListener('beforeprint', () => {
    for (const details of document.querySelectorAll('details.section')) details.open = true;
    for (const element of document.querySelectorAll('.part')) if (!drawn.has(element)) draw(element);
  });
})();
