/* Draws the charts of a page with uPlot, from the data that aipo/render/charts.py wrote.
   Hover shows values, dragging zooms, a double click shows everything again, a click on a name hides its line.
   Arrow keys move the pointer from point to point. chart_tools.js enlarges charts and saves their data. */
(() => {
  "use strict";

  const HEIGHT = 190;
  const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
  const drawn = new Map(); // title → { plot, figure, chart, hidden }
  let data = { charts: [] };
  let marked = null;
  let keyed = null; // the chart whose pointer the keys moved last; a mouse that moves takes over

  const make = (tag, css = "", ...children) => {
    const element = document.createElement(tag);
    if (css) element.className = css;
    element.append(...children);
    return element;
  };

  /* Colours: a canvas wants them resolved, so an element is asked what they are in this theme. */
  const probe = make("i");
  probe.hidden = true;
  let resolved = new Map();
  const colour = (name) => {
    if (!resolved.has(name)) {
      if (!probe.isConnected) document.body.append(probe);
      probe.style.color = `var(--${name})`;
      resolved.set(name, getComputedStyle(probe).color);
    }
    return resolved.get(name);
  };
  const faint = (name, alpha) => colour(name).replace(/^rgba?\(([^,]+,[^,]+,[^,)]+).*$/, `rgba($1, ${alpha})`);

  const swatch = (name) => {
    const dot = make("span", "swatch");
    dot.style.background = `var(--${name})`;
    return dot;
  };

  const number = (value) => {
    if (value === null || value === undefined) return "–";
    return value && Math.abs(value) < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  };

  /* Series of a line: itself, its raw values and the ends of its band; points that may share an x are one series each. */
  const parts = (line) => {
    const stroke = () => colour(line.colour);
    const hidden = { points: { show: false } };
    if (!line.joined) {
      const dot = { stroke, paths: () => null, points: { show: true, size: 8, width: 1, stroke: () => colour("page"), fill: stroke } };
      return line.x.map((x, i) => ({ table: [[x], [line.y[i]]], series: [dot] }));
    }
    const main = { stroke, width: 2, dash: line.dash, points: { size: 5, fill: stroke, ...(line.x.length <= 8 ? { show: true } : {}) } };
    if (line.x.length > 8) main.points.show = (plot, i) => lonely(plot.data[i]);
    const table = [line.x];
    const series = [];
    if (line.low) {
      table.push(line.high, line.low);
      series.push({ ...hidden, width: 0 }, { ...hidden, width: 0 });
    }
    if (line.raw) {
      table.push(line.raw);
      series.push({ ...hidden, stroke: () => faint(line.colour, 0.3), width: 1 });
    }
    table.push(line.y);
    series.push(main);
    return [{ table, series, band: line.low ? () => faint(line.colour, 0.15) : null }];
  };

  /* A single value among gaps would be invisible without its point. */
  const lonely = (values) => values.filter((value) => value !== null && value !== undefined).length === 1;

  /* uPlot's data and series of a chart. The axis' ends are a table without values. */
  const assemble = (chart) => {
    const tables = [[chart.x_range ?? [], ...(chart.x_range ? [[undefined, undefined]] : [[]])]];
    const [series, bands, owners] = [[{}, { show: false }], [], [null, null]];
    for (const line of chart.lines) {
      for (const part of parts(line)) {
        if (part.band) bands.push({ series: [series.length, series.length + 1], fill: part.band });
        tables.push(part.table);
        series.push(...part.series);
        owners.push(...part.series.map(() => line));
      }
    }
    return { values: uPlot.join(tables), series, bands, owners };
  };

  const yRange = (chart) => (plot, low, high) => {
    if (chart.y_range) return chart.y_range;
    if (low === null) return [0, 1];
    const [bottom, top] = [Math.min(0, low), Math.max(0, high)];
    return [bottom < 0 ? bottom * 1.05 : 0, top > 0 ? top * 1.05 : bottom < 0 ? 0 : 1];
  };

  const axis = (more) => ({ stroke: () => colour("soft"), font: FONT, ticks: { show: false }, grid: { show: false }, ...more });

  /* In a dialog a chart fills the window. */
  const heightOf = (figure) => (figure.closest("dialog") ? Math.max(HEIGHT, Math.round(innerHeight * 0.62)) : HEIGHT);

  const options = (chart, parts, figure) => {
    const whole = chart.lines.every((line) => line.x.every(Number.isInteger));
    const xs = [...new Set(chart.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    return {
      width: figure.clientWidth,
      height: heightOf(figure),
      series: parts.series,
      bands: parts.bands,
      padding: [8, 16, 0, 0],
      legend: { show: false },
      scales: { x: { time: false, ...(chart.log ? { distr: 3, log: 2 } : {}) }, y: { range: yRange(chart) } },
      axes: [
        axis({
          size: 20, gap: 4, label: chart.x_label, labelSize: 16, labelFont: FONT, labelGap: 2,
          ...(chart.log ? { splits: () => xs, values: (_, at) => at.map(String), filter: (_, at) => at }
            : { values: (_, at) => at.map((v) => (whole && !Number.isInteger(v) ? "" : String(v))) }),
        }),
        axis({ size: 42, gap: 4, values: (_, at) => at.map(number), grid: { show: true, stroke: () => colour("line"), width: 1 } }),
      ],
      cursor: {
        y: false,
        points: { show: false },
        drag: { x: true, y: false, dist: 6 },
        ...(data.sync ? { sync: { key: "aipo" } } : {}),
      },
      hooks: { setCursor: [show], setScale: [mark], setSize: [mark] },
    };
  };

  /* Hover. */
  const tip = make("div", "chart-tip");
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  let pointer = [0, 0];
  const hide = () => (tip.hidden = true);

  const of = (plot) => [...drawn.values()].find((one) => one.plot === plot);

  /* The index of the point that is nearest to `x`. */
  const nearest = (xs, x) => xs.reduce((best, at, i) => (Math.abs(at - x) < Math.abs(xs[best] - x) ? i : best), 0);

  /* The same, or null where the line has not begun yet or has ended: its last value is no value of `x`. */
  const pointAt = (line, x) => {
    const at = nearest(line.x, x);
    const [first, last] = [line.x[0], line.x[line.x.length - 1]];
    const gap = line.x.length > 1 ? (last - first) / (line.x.length - 1) / 2 : 0;
    return x < first - gap || x > last + gap ? null : at;
  };

  const heading = (chart, x, at) => {
    if (!data.spans) return `${chart.x_label.split(",")[0]} ${number(x)}`;
    const [first, last] = data.spans[at];
    return first === last ? `step ${first}` : `steps ${first} to ${last}`;
  };

  const row = (line, i) => {
    const band = line.low && i !== null ? [" ", make("small", "", `[${number(line.low[i])}, ${number(line.high[i])}]`)] : [];
    const cells = [make("td", "", swatch(line.colour), line.name), make("td", "", number((line.raw ?? line.y)[i]), ...band)];
    if (line.raw) cells.push(make("td", "", number(line.y[i])));
    return make("tr", "", ...cells);
  };

  const columns = () => make("tr", "", ...["", "value", "smoothed"].map((name) => make("th", "", name)));

  const shownLines = (one) => one.chart.lines.filter((line) => !one.hidden.has(line.name));
  const longest = (lines) => lines.reduce((a, b) => (b.x.length > a.x.length ? b : a));

  const dotUnder = (one, plot) => {
    let best = null;
    for (const line of shownLines(one)) {
      line.x.forEach((x, i) => {
        const far = Math.hypot(plot.valToPos(x, "x") - plot.cursor.left, plot.valToPos(line.y[i], "y") - plot.cursor.top);
        if (!best || far < best.far) best = { far, line, i };
      });
    }
    return best && best.far < 30 ? best : null;
  };

  const show = (plot) => {
    const one = of(plot);
    if (!one || (one !== keyed && !plot.over.matches(":hover"))) return;
    if (plot.cursor.left < 0) return hide();
    const { chart } = one;
    const lines = shownLines(one);
    const table = make("table");
    let head;
    if (lines.some((line) => line.joined)) {
      const x = plot.posToVal(plot.cursor.left, "x");
      const main = longest(lines);
      const at = nearest(main.x, x);
      head = heading(chart, main.x[at], at);
      if (lines.some((line) => line.raw)) table.append(columns());
      for (const line of lines) table.append(row(line, pointAt(line, main.x[at])));
    } else {
      const dot = dotUnder(one, plot);
      if (!dot) return hide();
      head = `${chart.x_label.split(",")[0]}: ${number(dot.line.x[dot.i])}`;
      table.append(row(dot.line, dot.i));
    }
    tip.replaceChildren(make("b", "", head), table);
    if (data.hint) tip.append(make("p", "", data.hint));
    const said = [...table.rows].filter((cells) => cells.querySelector("td")).map((cells) => {
      const [name, value, smoothed] = [...cells.cells].map((cell) => cell.textContent);
      return smoothed === undefined ? `${name} ${value}` : `${name} ${value}, smoothed ${smoothed}`;
    });
    plot.root.setAttribute("aria-valuetext", [head, ...said].join(", "));
    (plot.root.closest("dialog") ?? document.body).append(tip); // what is outside of an open dialog is behind it
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = pointer[0] + 16 + width > innerWidth ? pointer[0] - 16 - width : pointer[0] + 16;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(8, Math.min(pointer[1] - 20, innerHeight - height - 8))}px`;
  };

  /* Keys. The places of the pointer: the points of the longest line, or every point where no line joins them. */
  const stops = (one) => {
    const { min, max } = one.plot.scales.x;
    const lines = shownLines(one);
    const path = lines.some((line) => line.joined) ? [longest(lines)] : lines;
    const all = path.flatMap((line) => line.x.map((x, i) => ({ x, y: line.joined ? null : line.y[i] })));
    return all.filter(({ x }) => min <= x && x <= max).sort((a, b) => a.x - b.x);
  };

  const stepBy = (one, by) => {
    const { plot } = one;
    const all = stops(one);
    if (!all.length) return;
    const away = plot.cursor.left >= 0 ? nearest(all.map(({ x }) => x), plot.posToVal(plot.cursor.left, "x")) : by > 0 ? -1 : all.length;
    const at = Math.max(0, Math.min(all.length - 1, (keyed === one ? one.at : away) + by));
    [keyed, one.at] = [one, at];
    const left = plot.valToPos(all[at].x, "x");
    const top = all[at].y === null ? plot.over.clientHeight / 3 : plot.valToPos(all[at].y, "y");
    const box = plot.over.getBoundingClientRect();
    pointer = [box.left + left, box.top + top];
    plot.root.setAttribute("aria-valuemax", all.length);
    plot.root.setAttribute("aria-valuenow", at + 1);
    plot.setCursor({ left, top });
  };

  const STEPS = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input, select, textarea")) return;
    const all = [...drawn.values()];
    const focused = all.find(({ plot }) => plot.root === document.activeElement);
    const one = focused ?? all.find(({ plot }) => plot.over.matches(":hover"));
    if (!one) return;
    if (Object.hasOwn(STEPS, event.key)) stepBy(one, STEPS[event.key]);
    else if (event.key === "Enter" && focused && (focused === keyed || !data.hint)) choose(one, one.plot.cursor.left);
    else return;
    event.preventDefault();
  });

  /* A part of the horizontal axis that the page marks, in every chart. */
  const mark = (plot) => {
    const over = plot.over;
    over?.querySelector(".chosen")?.remove();
    const { min, max } = plot.scales.x;
    if (!marked || !over || min === undefined || min === null) return;
    const [first, last] = [Math.max(marked[0] - 0.5, min), Math.min(marked[1] + 0.5, max)];
    if (first >= last) return;
    const place = make("div", "chosen");
    place.style.left = `${plot.valToPos(first, "x")}px`;
    place.style.width = `${plot.valToPos(last, "x") - plot.valToPos(first, "x")}px`;
    over.prepend(place);
  };

  /* Tells the page which point was chosen; where points lead nowhere, the chart itself was. */
  const choose = ({ plot, figure, chart }, left) => {
    if (!data.hint) return figure.dispatchEvent(new CustomEvent("aipo:enlarge", { bubbles: true }));
    const at = nearest(chart.lines[0].x, plot.posToVal(left, "x"));
    figure.dispatchEvent(new CustomEvent("aipo:point", { bubbles: true, detail: data.spans[at] }));
  };

  /* A click, which is no drag, chooses the point under it. */
  const bindClick = (one) => {
    const { plot } = one;
    let from = null;
    plot.over.addEventListener("mousedown", (event) => (from = [event.clientX, event.clientY]));
    plot.over.addEventListener("click", (event) => {
      if (!from || Math.hypot(event.clientX - from[0], event.clientY - from[1]) > 5) return;
      choose(one, event.offsetX);
    });
  };

  const names = (one) => {
    const list = make("ul", "chart-names");
    for (const line of one.chart.lines) {
      const button = make("button", "", swatch(line.colour), line.name);
      button.type = "button";
      button.style.color = `var(--${line.colour})`;
      const press = () => button.setAttribute("aria-pressed", String(!one.hidden.has(line.name)));
      press();
      button.addEventListener("click", () => {
        if (!one.hidden.delete(line.name)) one.hidden.add(line.name);
        press();
        apply(one);
      });
      list.append(make("li", "", button));
    }
    return list;
  };

  const apply = (one) => {
    one.owners.forEach((line, i) => line && one.plot.setSeries(i, { show: !one.hidden.has(line.name) }));
  };

  const shape = (chart) => JSON.stringify(chart.lines.map((line) => [line.name, line.colour, Boolean(line.raw), Boolean(line.low), line.joined || line.x.length]));

  const zoomed = ({ plot }) => {
    const [xs, { min, max }] = [plot.data[0], plot.scales.x];
    return min > xs[0] || max < xs[xs.length - 1];
  };

  /* Fills a figure: anew, or with the plot that stood there before a live update, whose zoom stays. */
  const draw = (figure) => {
    const chart = data.charts[Number(figure.dataset.chart)];
    if (!chart.lines.length) {
      figure.append(make("p", "empty", "nothing recorded"));
      return;
    }
    const assembled = assemble(chart);
    let one = drawn.get(chart.title);
    if (one && shape(one.chart) === shape(chart)) {
      const keep = zoomed(one);
      Object.assign(one, { chart, figure, owners: assembled.owners });
      figure.append(names(one), one.plot.root);
      one.plot.setData(assembled.values, !keep);
      if (keep) one.plot.redraw();
      mark(one.plot);
      return;
    }
    const hidden = one?.hidden ?? new Set();
    one?.plot.destroy();
    one = { chart, figure, hidden, owners: assembled.owners };
    figure.append(names(one));
    one.plot = new uPlot(options(chart, assembled, figure), assembled.values, figure);
    const said = { role: "slider", tabindex: 0, "aria-label": `chart: ${chart.title}`, "aria-valuemin": 1, "aria-valuenow": 1 };
    const many = { "aria-valuemax": stops(one).length, "aria-valuetext": "the arrow keys read its points" };
    for (const [name, value] of Object.entries({ ...said, ...many })) one.plot.root.setAttribute(name, value);
    one.plot.root.addEventListener("blur", hide);
    drawn.set(chart.title, one);
    bindClick(one);
    apply(one);
    mark(one.plot);
  };

  /* A chart is drawn when it has a width: not before a fold is opened. */
  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const width = Math.floor(target.clientWidth);
      if (!width) continue;
      if (!target.dataset.drawn) {
        target.dataset.drawn = "yes";
        draw(target);
        target.dispatchEvent(new CustomEvent("aipo:drawn", { bubbles: true, detail: data }));
      }
      const one = [...drawn.values()].find((other) => other.figure === target);
      const height = heightOf(target);
      if (one && (one.plot.width !== width || one.plot.height !== height)) one.plot.setSize({ width, height });
      one?.plot.syncRect(true); // it may have moved
    }
  });

  const start = () => {
    const block = document.getElementById("charts-data");
    if (!block) return;
    data = JSON.parse(block.textContent);
    if (!tip.isConnected) document.body.append(tip);
    hide();
    sizes.disconnect();
    for (const figure of document.querySelectorAll("figure[data-chart]")) sizes.observe(figure);
  };

  const recolour = () => {
    resolved = new Map();
    for (const { plot } of drawn.values()) plot.redraw(false, true);
  };

  document.addEventListener("pointermove", (event) => {
    pointer = [event.clientX, event.clientY];
    keyed = null;
    if (!(event.target instanceof Element) || !event.target.closest(".u-over")) hide();
  }, true);
  document.documentElement.addEventListener("pointerleave", hide);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  new MutationObserver(recolour).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  document.addEventListener("aipo:live", start);
  document.addEventListener("DOMContentLoaded", start);

  window.aipoCharts = {
    /* Marks [first, last] of the horizontal axis; null marks nothing. */
    mark(ends) {
      marked = ends;
      for (const { plot } of drawn.values()) mark(plot);
    },
    plots: () => [...drawn.values()].map((one) => one.plot),
  };
})();
