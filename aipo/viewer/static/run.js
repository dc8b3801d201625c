/* A run's page: what its curves say at a step, and its form. */
(() => {
  "use strict";

  const FIELDS = ["text", "step", "task", "kind", "agent", "reward", "stop", "failed", "error", "group"];
  const SVG = "http://www.w3.org/2000/svg";
  const find = (selector) => document.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  const make = (tag, css, text = "") => {
    const element = document.createElement(tag);
    if (css) element.className = css;
    element.textContent = text;
    return element;
  };

  /* The address: what is empty is not in it. */
  const asked = () => new URLSearchParams(location.search);

  const go = (changes) => {
    const params = asked();
    params.delete("page");
    for (const [name, value] of Object.entries(changes)) {
      if (value) params.set(name, value);
      else params.delete(name);
    }
    location.assign(`?${params}#rollouts`);
  };

  const submit = (form) => {
    const values = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim()]));
    go(values);
  };

  /* Curves. */
  let data = null;

  const curves = () => {
    if (data === null) {
      const block = document.getElementById("curves-data");
      data = block ? JSON.parse(block.textContent) : { steps: [], charts: [] };
    }
    return data;
  };

  const middle = ([first, last]) => (first + last) / 2;

  /* Of a chart's horizontal axis: pixels of its drawing for a step. */
  const pixel = (chart, step) => {
    const { left, right, wide } = curves().frame;
    return left + ((step - chart.low) / (chart.high - chart.low)) * (wide - left - right);
  };

  /* Which point of the curves the pointer is nearest to; -1 outside of the drawing's axes. */
  const pointed = (figure, event) => {
    const { steps, frame, charts } = curves();
    const chart = charts[Number(figure.dataset.chart)];
    const box = figure.querySelector("svg").getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * frame.wide;
    if (!chart || x < frame.left - 6 || x > frame.wide - frame.right + 6) return -1;
    const far = (i) => Math.abs(pixel(chart, middle(steps[i])) - x);
    return steps.reduce((best, _, i) => (best < 0 || far(i) < far(best) ? i : best), -1);
  };

  const upright = (chart, step) => {
    const { top, bottom, high } = curves().frame;
    const x = pixel(chart, step).toFixed(1);
    const line = document.createElementNS(SVG, "path");
    line.setAttribute("class", "cross");
    line.setAttribute("d", `M${x} ${top}V${high - bottom}`);
    return line;
  };

  const named = ([first, last]) => (first === last ? `step ${first}` : `steps ${first} to ${last}`);
  const range = ([first, last]) => (first === last ? `${first}` : `${first}..${last}`);
  const short = (value) => {
    if (value === null) return "–";
    return value && Math.abs(value) < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  };

  const tip = make("div", "tip");
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");

  const hide = () => {
    tip.hidden = true;
    all(".cross").forEach((line) => line.remove());
  };

  const show = (figure, at, event) => {
    const { steps, charts } = curves();
    all(".cross").forEach((line) => line.remove());
    for (const other of all("[data-chart]")) {
      const chart = charts[Number(other.dataset.chart)];
      other.querySelector("svg").append(upright(chart, middle(steps[at])));
    }
    const table = make("table");
    for (const line of charts[Number(figure.dataset.chart)].lines) {
      const row = table.insertRow();
      row.insertCell().append(make("span", `swatch ${line.colour}`), line.name);
      row.insertCell().textContent = short(line.y[at]);
    }
    tip.replaceChildren(make("b", "", named(steps[at])), table, make("p", "", "click: its rollouts"));
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const right = event.clientX + 16 + width > innerWidth;
    tip.style.left = `${right ? event.clientX - 16 - width : event.clientX + 16}px`;
    tip.style.top = `${Math.max(8, Math.min(event.clientY - 20, innerHeight - height - 8))}px`;
  };

  /* The steps that the list is of, marked in every chart. */
  const markChosen = () => {
    const ends = between(asked().get("step") ?? "");
    all(".chosen").forEach((mark) => mark.remove());
    if (!ends || !curves().steps.length) return;
    const { top, bottom, high } = curves().frame;
    for (const figure of all("[data-chart]")) {
      const chart = curves().charts[Number(figure.dataset.chart)];
      const [first, last] = [Math.max(ends[0] - 0.5, chart.low), Math.min(ends[1] + 0.5, chart.high)];
      if (first >= last) continue;
      const mark = document.createElementNS(SVG, "rect");
      const place = { x: pixel(chart, first), width: pixel(chart, last) - pixel(chart, first), y: top };
      mark.setAttribute("class", "chosen");
      for (const [name, value] of Object.entries({ ...place, height: high - bottom - top })) {
        mark.setAttribute(name, value.toFixed(1));
      }
      figure.querySelector("svg").append(mark);
    }
  };

  const bindCurves = () => {
    document.body.append(tip);
    document.addEventListener("pointermove", (event) => {
      const figure = event.target instanceof Element ? event.target.closest("[data-chart]") : null;
      const at = figure ? pointed(figure, event) : -1;
      if (at < 0) hide();
      else show(figure, at, event);
    });
    document.documentElement.addEventListener("pointerleave", hide);
    document.addEventListener("click", (event) => {
      const figure = event.target.closest("[data-chart]");
      const at = figure ? pointed(figure, event) : -1;
      if (at >= 0) go({ step: range(curves().steps[at]) });
    });
  };

  /* `3`, `3..7`, `..7` or `3..` as two numbers; null for anything else. */
  const between = (text) => {
    if (!text.trim()) return null;
    const parts = text.split("..");
    const [low, high] = parts.length === 1 ? [text, text] : parts;
    const ends = [low.trim() ? Number(low) : -Infinity, high.trim() ? Number(high) : Infinity];
    return parts.length > 2 || ends.some(Number.isNaN) || ends[0] > ends[1] ? null : ends;
  };

  const bindForm = () => {
    document.addEventListener("submit", (event) => {
      if (event.target.id !== "filters") return;
      event.preventDefault();
      submit(event.target);
    });
    document.addEventListener("change", (event) => {
      if (event.target.matches("#filters select")) submit(event.target.form);
    });
  };

  bindForm();
  bindCurves();
  markChosen();
  document.addEventListener("aipo:live", () => {
    data = null;
    hide();
    markChosen();
  });
  window.aipoRun = { FIELDS, all, asked, between, find, make };
})();
