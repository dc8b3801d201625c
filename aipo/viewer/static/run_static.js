/* A run's page in a static site, where no server answers: all rows are in the page, and this chooses among them
   by the address, as the server does. */
(() => {
  "use strict";

  const { FIELDS, all, asked, between, find, make } = window.aipoRun;

  const within = (text, value) => {
    const ends = between(text);
    return value !== "" && (!ends || (ends[0] <= Number(value) && Number(value) <= ends[1]));
  };

  const MATCHES = {
    text: (row, value) => row.words.includes(value.toLowerCase()),
    step: (row, value) => within(value, row.step),
    task: (row, value) => row.task.includes(value),
    kind: (row, value) => row.kind === value,
    agent: (row, value) => JSON.parse(row.agents).includes(value),
    reward: (row, value) => within(value, row.reward),
    stop: (row, value) => row.stop === value,
    failed: (row, value) => row.failed === value,
    error: (row, value) => row.error.toLowerCase().includes(value.toLowerCase()),
    group: (row, value) => row.group === value,
  };

  const number = (name, missing = -Infinity) => (row) => (row[name] === "" ? missing : Number(row[name]));
  const rising = (name) => (row) => -number(name)(row);
  const consults = (row) => JSON.parse(row.agents).length;
  const name = (row) => row.row;
  // By the largest number, then the next one; names rise. Where rows are alike the order of the page stays.
  const ORDERS = {
    groups: {
      interesting: [],
      step: [rising("step"), name],
      newest: [number("step"), name],
      mixed: [number("spread"), number("step"), name],
      failed: [number("failed"), number("step"), name],
      consults: [number("consults"), number("step"), name],
    },
    traces: {
      newest: [],
      step: [rising("step")],
      reward: [rising("reward"), rising("step")],
      "-reward": [number("reward"), rising("step")],
      tokens: [number("tokens"), rising("step")],
      consults: [consults, rising("step")],
    },
  };

  const sorted = (rows, keys) => {
    const ranked = rows.map((row, place) => ({ row, place, by: keys.map((key) => key(row.dataset)) }));
    const compare = (a, b) => {
      const i = a.by.findIndex((value, k) => value !== b.by[k]);
      if (i < 0) return a.place - b.place;
      return typeof a.by[i] === "string" ? (a.by[i] < b.by[i] ? -1 : 1) : b.by[i] - a.by[i];
    };
    return ranked.sort(compare).map(({ row }) => row);
  };

  const link = (params, changes) => {
    const next = new URLSearchParams(params);
    for (const [name, value] of Object.entries(changes)) {
      if (value) next.set(name, value);
      else next.delete(name);
    }
    return `?${next}#rollouts`;
  };

  const fillForm = (params) => {
    for (const name of [...FIELDS, "view", "sort"]) {
      const field = document.getElementById("filters").elements[name];
      const value = params.get(name) ?? "";
      if (field.tagName === "SELECT" && value && ![...field.options].some((o) => o.value === value)) {
        field.add(new Option(value, value));
      }
      field.value = value;
    }
  };

  const showChips = (params) => {
    const used = FIELDS.filter((name) => params.get(name));
    const chips = used.map((name) => {
      const chip = make("a", "chip accent", `${name} ${params.get(name)} `);
      chip.href = link(params, { [name]: "", page: "" });
      chip.dataset.chip = name;
      chip.title = "remove this filter";
      const cross = make("span", "", "×");
      cross.setAttribute("aria-hidden", "true");
      chip.append(cross, make("span", "visually-hidden", ", remove"));
      const item = make("li");
      item.append(chip);
      return item;
    });
    document.getElementById("chips").replaceChildren(...chips);
  };

  const showLinks = (params, view, sort) => {
    for (const a of all("[data-view]")) {
      a.href = link(params, { view: a.dataset.view === "groups" ? "" : a.dataset.view, sort: "", page: "" });
      a.toggleAttribute("aria-current", a.dataset.view === view);
    }
    all("[data-of]").forEach((part) => (part.hidden = part.dataset.of !== view));
    for (const a of all("[data-sort]")) {
      a.href = link(params, { sort: a.dataset.sort, page: "" });
      a.toggleAttribute("aria-current", a.dataset.sort === sort);
    }
  };

  const showPages = (params, page, size, count) => {
    const nav = document.getElementById("pages");
    const button = (rel, text, to) => {
      const a = make("a", "button", text);
      a.rel = rel;
      a.href = link(params, { page: to > 1 ? String(to) : "" });
      return a;
    };
    const last = Math.min(page * size, count);
    const place = make("span", "soft", `${(page - 1) * size + 1} to ${last} of ${count}`);
    nav.replaceChildren(
      ...(page > 1 ? [button("prev", "← previous", page - 1)] : []),
      place,
      ...(last < count ? [button("next", "next →", page + 1)] : []),
    );
    nav.hidden = count <= size;
  };

  const choose = (sizes) => {
    const params = asked();
    const view = params.get("view") === "traces" ? "traces" : "groups";
    const sort = Object.hasOwn(ORDERS[view], params.get("sort")) ? params.get("sort") : Object.keys(ORDERS[view])[0];
    const wanted = FIELDS.filter((name) => params.get(name)).map((name) => [MATCHES[name], params.get(name)]);
    const traces = all("#traces tbody tr");
    const hits = traces.filter((row) => wanted.every(([match, value]) => match(row.dataset, value)));
    const groups = new Set(hits.map((row) => row.dataset.group));
    const chosen = view === "traces" ? hits : all("#groups tbody tr").filter((row) => groups.has(row.dataset.row));
    const rows = sorted(chosen, ORDERS[view][sort]);
    const size = sizes[view];
    const page = Math.min(Math.max(1, Number(params.get("page")) || 1), Math.max(1, Math.ceil(rows.length / size)));

    for (const name of ["groups", "traces"]) document.getElementById(name).closest(".wide").hidden = name !== view;
    find(`#${view} tbody`).replaceChildren(...rows.slice((page - 1) * size, page * size));
    document.getElementById("nothing").hidden = rows.length > 0;
    const [noun, verb] = rows.length === 1 ? [view.slice(0, -1), "matches"] : [view, "match"];
    document.getElementById("count").textContent = `${rows.length} ${noun}${wanted.length ? ` ${verb}` : ""}`;
    fillForm(params);
    showChips(params);
    showLinks(params, view, sort);
    showPages(params, page, size, rows.length);
  };

  const [groups, traces] = (find("[data-static]")?.dataset.static ?? "").split(" ").map(Number);
  if (groups && document.getElementById("traces")) choose({ groups, traces });
})();
