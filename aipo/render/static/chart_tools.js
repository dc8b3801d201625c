/* Two buttons in the caption of each chart that charts.js drew: one enlarges the chart, one saves its data as CSV. */
(() => {
  "use strict";

  const dialog = document.createElement("dialog");
  dialog.className = "chart-large";
  dialog.setAttribute("aria-label", "enlarged chart");
  const gap = document.createElement("div"); // keeps the chart's place on the page meanwhile

  const titleOf = (figure) => figure.querySelector("figcaption b").textContent;

  const enlarge = (figure) => {
    gap.style.height = `${figure.offsetHeight}px`;
    figure.replaceWith(gap);
    dialog.replaceChildren(figure);
    if (!dialog.isConnected) document.body.append(dialog);
    if (!dialog.open) dialog.showModal();
    label(figure);
    figure.querySelector("[role=slider]")?.focus();
  };

  const label = (figure) => {
    const button = figure.querySelector(".chart-tools button");
    if (button) button.textContent = dialog.contains(figure) ? "close" : "enlarge";
  };

  dialog.addEventListener("close", () => {
    const figure = dialog.querySelector("figure");
    gap.replaceWith(figure);
    label(figure);
    figure.querySelector(".chart-tools button").focus({ preventScroll: true });
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside the chart

  /* A live page brought new figures: the new one takes the old one's place in the dialog. */
  document.addEventListener("aipo:live", () => {
    if (!dialog.open) return;
    const title = titleOf(dialog);
    const fresh = [...document.querySelectorAll("figure[data-chart]")].find((f) => !dialog.contains(f) && titleOf(f) === title);
    if (fresh) enlarge(fresh);
  });

  /* CSV: a line for each x, or for each point where no line joins them. */
  const columnsOf = (line) => {
    const first = [[line.name, line.raw ?? line.y]];
    if (line.raw) first.push([`${line.name}, smoothed`, line.y]);
    if (line.low) first.push([`${line.name}, low`, line.low], [`${line.name}, high`, line.high]);
    return first;
  };

  const tableOf = (chart, spans) => {
    const wide = spans?.some(([first, last]) => first !== last);
    const names = wide ? ["first step", "last step"] : [chart.x_label.split(",")[0]];
    const rows = new Map();
    const width = names.length + chart.lines.reduce((sum, line) => sum + columnsOf(line).length, 0);
    for (const line of chart.lines) {
      const columns = columnsOf(line);
      line.x.forEach((x, i) => {
        const key = line.joined ? x : Symbol("a point of its own");
        if (!rows.has(key)) rows.set(key, { x, cells: Array(width).fill(null) });
        const { cells } = rows.get(key);
        (wide ? spans[i] : [x]).forEach((value, k) => (cells[k] = value));
        columns.forEach(([, values], k) => (cells[names.length + k] = values[i]));
      });
      names.push(...columns.map(([name]) => name));
    }
    return [names, ...[...rows.values()].sort((a, b) => a.x - b.x).map(({ cells }) => cells)];
  };

  const quoted = (cell) => (/[",\r\n]/.test(cell ?? "") ? `"${cell.replaceAll('"', '""')}"` : (cell ?? ""));

  const save = (chart, spans) => {
    const text = tableOf(chart, spans).map((cells) => cells.map(quoted).join(",") + "\r\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = `${chart.title.toLowerCase().replace(/[^\p{L}\p{N}@]+/gu, "-")}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  const button = (text, label, press) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.title = label;
    made.addEventListener("click", press);
    return made;
  };

  document.addEventListener("aipo:drawn", ({ target: figure, detail: data }) => {
    const chart = data.charts[Number(figure.dataset.chart)];
    if (!chart.lines.length) return;
    const tools = document.createElement("span");
    tools.className = "chart-tools";
    const open = () => dialog.contains(figure) || enlarge(figure);
    const toggle = () => (dialog.contains(figure) ? dialog.close() : enlarge(figure));
    tools.append(button("enlarge", `${chart.title}, large; Esc closes it`, toggle));
    tools.append(button("CSV", `save the data of ${chart.title} as CSV`, () => save(chart, data.spans)));
    const caption = figure.querySelector("figcaption");
    caption.prepend(tools);
    caption.querySelector("b").addEventListener("click", open);
    figure.addEventListener("aipo:enlarge", open);
    label(figure);
    if (dialog.contains(figure)) figure.querySelector("[role=slider]").focus();
  });
})();
