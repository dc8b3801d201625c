/* A run's page: its curves lead to rollouts, and its form. */
(() => {
  "use strict";

  /* The address: what is empty is not in it. */
  const params = () => new URLSearchParams(location.search);

  const go = (changes) => {
    const next = params();
    next.delete("page");
    for (const [name, value] of Object.entries(changes)) {
      if (value) next.set(name, value);
      else next.delete(name);
    }
    location.assign(`?${next}#rollouts`);
  };

  const submit = (form) => {
    const values = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim()]));
    go(values);
  };

  /* Curves: a click on a point lists its rollouts, and the steps of the list are marked in every chart. */
  const markChosen = () => window.aipoCharts?.mark(between(params().get("step") ?? ""));

  const bindCurves = () => {
    document.addEventListener("aipo:point", ({ detail: [first, last] }) => {
      go({ step: first === last ? `${first}` : `${first}..${last}` });
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

  if (!document.getElementById("filters")) return; // a static site has nothing to choose
  bindForm();
  bindCurves();
  markChosen();
})();
