// The token view: one element per token, built when it is first asked for, from the data in the page.
(() => {
  "use strict";

  const list = document.getElementById("token-list");
  const heatChoice = document.getElementById("heat");
  const rowChoice = document.getElementById("row");
  const inspector = document.getElementById("inspector");
  const scale = document.getElementById("scale");
  const heaviest = document.getElementById("heaviest");
  const heat = window.aipoHeat;
  const { number } = heat;
  const UNKNOWN = "not recorded";
  const SHORTEST = 200; // tokens of a part
  const LONGEST = 2000;
  const HEAVIEST = 10; // tokens of the list

  const make = (tag, className, ...children) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children);
    return element;
  };

  const linkTo = (position, className, text) => {
    const link = make("a", className, text);
    link.href = `#t${position}`;
    return link;
  };

  let data = null;
  let segments = []; // { data, start, end }
  let elements = []; // of tokens, by position
  let row = null; // { data, at: Int32Array from position to place in the values, or -1; clipped: Set }
  let current = -1;

  const read = () => {
    data = JSON.parse(document.getElementById("tokens-data").textContent);
    let start = 0;
    segments = data.segments.map((segment) => {
      const end = start + segment.ids.length;
      const entry = { data: segment, start, end };
      start = end;
      return entry;
    });
  };

  const total = () => segments.at(-1)?.end ?? 0;
  const segmentOf = (position) => segments.findIndex((s) => position < s.end);

  const take = (choice) => {
    const chosen = data.rows[choice];
    if (!chosen) return null;
    const at = new Int32Array(total()).fill(-1);
    let place = 0;
    for (const [first, count] of chosen.at) for (let i = 0; i < count; i++) at[first + i] = place++;
    return { data: chosen, at, clipped: new Set(chosen.clipped) };
  };

  /* |A·w| of a token of a row. A segment's role tells its agents' tokens; a distilled row has none. */
  const push = (entry, place, segment) => {
    const weight = entry.weights[place];
    const ignored = segment.role === "agent" && entry.agent_advantage !== entry.advantage;
    const advantage = ignored ? entry.agent_advantage : (segment.advantage ?? entry.advantage);
    return weight === null ? null : Math.abs(weight * advantage);
  };

  /* Everything that is known of one token; null is what is not. */
  const token = (position, n = segmentOf(position)) => {
    const { data: segment, start } = segments[n];
    const i = position - start;
    const place = row ? row.at[position] : -1;
    const inRow = place >= 0;
    return {
      position,
      segment,
      number: n,
      id: segment.ids[i],
      text: segment.texts ? segment.texts[i] : null,
      logprob: segment.logprobs ? segment.logprobs[i] : null,
      entropy: segment.entropies ? segment.entropies[i] : null,
      advantage: row && !inRow ? null : segment.role === "prompt" ? null : (segment.advantage ?? (row ? row.data.advantage : data.advantage)),
      weight: inRow ? row.data.weights[place] : null,
      push: inRow ? push(row.data, place, segment) : null,
      trained: inRow && row.data.logprobs ? row.data.logprobs[place] : null,
      ratio: inRow && row.data.ratios ? row.data.ratios[place] : null,
      clipped: inRow ? row.clipped.has(place) : null,
      inRow,
    };
  };

  const tokens = () => segments.flatMap((s, n) => s.data.ids.map((_, i) => token(s.start + i, n)));

  /* Who a token of a row counts for. */
  const sourceOf = (entry, segment) => (entry.kind === "distilled" ? "distilled" : segment.label);

  const SIGNS = { "\n": "↵\n", "\t": "⇥\t" };
  const shownText = (text) => text.replace(/[\n\t]/g, (sign) => SIGNS[sign]);

  const ownClass = (segment) => (segment.texts ? segment.colour : `${segment.colour} number`);

  const tokenElement = (segment, i, position) => {
    const text = segment.texts ? shownText(segment.texts[i]) : String(segment.ids[i]);
    const element = make("b", ownClass(segment), text || "·");
    element.dataset.t = position;
    elements[position] = element;
    return element;
  };

  /* Parts are laid out only when they come into view: they end with a line, or, if it has no end, anywhere. */
  const endsPart = (count, text) => count >= LONGEST || (count >= SHORTEST && text?.endsWith("\n"));

  const build = () => {
    for (const entry of segments) {
      const section = make("section", "", make("h3", "", make("span", entry.data.colour, entry.data.label)));
      let part = make("div", "part");
      entry.data.ids.forEach((_, i) => {
        part.append(tokenElement(entry.data, i, entry.start + i));
        if (!endsPart(part.childElementCount, entry.data.texts?.[i])) return;
        section.append(part);
        part = make("div", "part");
      });
      if (part.hasChildNodes()) section.append(part);
      list.append(section);
    }
  };

  const option = (select, value, text) => {
    const element = make("option", "", text);
    element.value = value;
    select.append(element);
  };

  const start = () => {
    if (data) return;
    read();
    option(heatChoice, "", "who wrote it");
    for (const [value, kind] of Object.entries(heat.KINDS)) option(heatChoice, value, kind.name);
    if (data.rows.length) data.rows.forEach((entry, i) => option(rowChoice, i, entry.name));
    else option(rowChoice, "", UNKNOWN);
    rowChoice.disabled = data.rows.length < 2;
    row = take(0);
    list.dataset.heat = "";
    build();
    listHeaviest();
    // Of the prompt there is little to know.
    const first = segments.find((s) => s.data.role !== "prompt" && s.end > s.start)?.start ?? 0;
    if (elements[first]) elements[first].tabIndex = 0;
    inspect(first);
  };

  /* Colours by one of the numbers; which ones there are, heat.js knows. */
  const legend = ({ low, high }) => {
    scale.replaceChildren();
    if (low === null) {
      scale.textContent = UNKNOWN;
      return;
    }
    const bars = make("span", "bars");
    for (let step = 0; step < heat.STEPS; step++) bars.append(make("i", `heat-${step}`));
    const rest = row && heat.KINDS[heatChoice.value].ofRow ? "no value in this row" : UNKNOWN;
    scale.append(make("span", "", low), bars, make("span", "", high), make("i", "none heat-none"), make("span", "", rest));
  };

  const paint = () => {
    const kind = heat.KINDS[heatChoice.value];
    list.dataset.heat = heatChoice.value;
    scale.replaceChildren();
    if (!kind) return;
    const all = tokens();
    const values = all.map(kind.of);
    const painted = heat.scale(values, kind);
    list.dataset.sides = scale.dataset.sides = painted.sides;
    all.forEach((t, i) => {
      elements[i].className = `${ownClass(t.segment)} ${painted.classOf(values[i])}${i === current ? " on" : ""}`;
    });
    legend(painted);
  };

  /* One token */
  const quoted = (text) => text.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥") || "(no text of its own)";
  const named = (t) => (t.text === null ? `id ${t.id}` : quoted(t.text));

  /* π_old/μ as the trainer took it: what is left of the weight without the ratio. */
  const corrected = (t) => {
    if (t.clipped) return "not told, since clipped";
    return t.weight === 0 ? "0, masked" : number(t.weight / t.ratio);
  };

  const share = (value, of) => (value === null || !of ? null : `${number(+((100 * value) / of).toPrecision(3))} %`);

  const facts = (t) => {
    const known = (value) => (value === null ? null : number(value));
    const out = t.inRow || !row ? null : "not in this row";
    const ratio = t.trained === null || t.logprob === null ? null : number(Math.exp(t.trained - t.logprob));
    return [
      ["position", `${t.position} (of ${total()})`],
      ["segment", `${t.number}, ${t.segment.label}`],
      ["role", t.segment.role],
      ["id", String(t.id)],
      ["log-prob", known(t.logprob)],
      ["probability", t.logprob === null ? null : number(Math.min(1, Math.exp(t.logprob)))],
      ["entropy", known(t.entropy)],
      ["policy version", t.segment.version === null ? null : String(t.segment.version)],
      ["advantage", out ?? known(t.advantage)],
      ["coefficient", out ?? known(t.weight)],
      ["weight in the loss |A·w|", out ?? known(t.push)],
      ["share of the rollout", out ?? share(t.push, row?.data.of_rollout)],
      ["share of the step", out ?? share(t.push, row?.data.of_step)],
      ["π in this row", out ?? (t.trained === null ? null : number(Math.exp(t.trained)))],
      ["π in this row / recorded", out ?? ratio],
      ["ratio π/π_old", out ?? (t.inRow && t.ratio === null ? "only of policy tokens" : known(t.ratio))],
      ["correction π_old/μ", out ?? (t.ratio > 0 ? corrected(t) : t.inRow ? "only of policy tokens" : null)],
      ["clipped", out ?? (t.clipped === null ? null : t.clipped ? "yes" : "no")],
    ];
  };

  const inspect = (position) => {
    if (position < 0 || position >= total()) {
      inspector.replaceChildren(make("p", "soft", "There is no token."));
      return;
    }
    const t = token(position);
    const lines = facts(t).map(([name, value]) =>
      make("div", "", make("dt", "", name), make("dd", value === null ? "unknown" : "", value ?? UNKNOWN)),
    );
    inspector.replaceChildren(make("h3", "", named(t)), make("dl", "", ...lines), linkTo(position, "", "link to this token"));
    elements[current]?.classList.remove("on");
    current = position;
    elements[current]?.classList.add("on");
  };

  /* Who weighs how much in the rollout: all rows of this optimizer step, so that the shares add up to 1. */
  const sources = () => {
    const sums = new Map();
    for (const entry of data.rows.filter((r) => r.optimizer_step === row.data.optimizer_step)) {
      let place = 0;
      for (const [first, count] of entry.at)
        for (let i = 0; i < count; i++, place++) {
          const { data: segment } = segments[segmentOf(first + i)];
          const name = sourceOf(entry, segment);
          sums.set(name, (sums.get(name) ?? 0) + (push(entry, place, segment) ?? 0));
        }
    }
    return [...sums].filter(([, sum]) => sum > 0).sort((a, b) => b[1] - a[1]);
  };

  const cells = (tag, ...values) => make("tr", "", ...values.map((value, i) => make(tag, i > 1 ? "num" : "", value)));

  /* The tokens that weigh most, of the row that was chosen. */
  const listHeaviest = () => {
    const title = make("h3", "", "Weigh most in the loss");
    if (!row) {
      heaviest.replaceChildren(title, make("p", "small soft", "Not recorded: no token of this rollout was trained (it is from an evaluation, or its advantage is 0), or train.token_stats was off."));
      return;
    }
    const top = tokens().filter((t) => t.push > 0).sort((a, b) => b.push - a.push || a.position - b.position).slice(0, HEAVIEST);
    const unknown = row.data.of_step === null ? " The share of the step was not recorded." : "";
    const note = top.length ? `Shares of the gradient weight Σ|A·w|, without the KL term.${unknown}` : "No token of this row weighs anything.";
    const by = sources().map(([name, sum]) => `${name} ${share(sum, row.data.of_rollout)}`).join(" · ");
    heaviest.replaceChildren(title, make("p", "small soft", note));
    if (by) heaviest.append(make("p", "small", `this rollout in update ${row.data.optimizer_step}: ${by}`));
    if (!top.length) return;
    const head = make("thead", "", cells("th", "token", "by", "|A·w|", "of rollout", "of step"));
    const lines = top.map((t) => {
      const shares = [share(t.push, row.data.of_rollout) ?? "–", share(t.push, row.data.of_step) ?? "–"];
      return cells("td", linkTo(t.position, "mono", named(t)), sourceOf(row.data, t.segment), number(t.push), ...shares);
    });
    heaviest.append(make("div", "wide", make("table", "", head, make("tbody", "", ...lines))));
  };

  const focus = (position) => {
    const next = elements[Math.max(0, Math.min(total() - 1, position))];
    if (!next) return;
    list.querySelector('[tabindex="0"]')?.removeAttribute("tabindex");
    next.tabIndex = 0;
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  };

  const positionOf = (event) => {
    const element = event.target.closest?.("[data-t]");
    return element ? Number(element.dataset.t) : -1;
  };

  const MOVES = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -Infinity, End: Infinity };

  const follow = () => {
    const match = /^#t(\d+)$/.exec(location.hash);
    if (!match) return;
    document.dispatchEvent(new CustomEvent("aipo:show", { detail: "tokens" }));
    focus(Number(match[1]));
    elements[current]?.scrollIntoView({ block: "center" });
  };

  list.addEventListener("pointerover", (event) => positionOf(event) >= 0 && inspect(positionOf(event)));
  list.addEventListener("focusin", (event) => positionOf(event) >= 0 && inspect(positionOf(event)));
  list.addEventListener("click", (event) => positionOf(event) >= 0 && focus(positionOf(event)));
  list.addEventListener("keydown", (event) => {
    const by = MOVES[event.key];
    if (by === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    focus(current + by);
  });
  heatChoice.addEventListener("change", paint);
  rowChoice.addEventListener("change", () => {
    row = take(Number(rowChoice.value));
    paint();
    listHeaviest();
    inspect(current);
  });
  document.addEventListener("aipo:shown", (event) => event.detail === "tokens" && start());
  addEventListener("hashchange", follow);
  follow();
})();
