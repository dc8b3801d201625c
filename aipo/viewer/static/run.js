/* A run's page: its curves lead to rollouts, and its form. */
(() => {
  "use strict";

  const FIELDS = ["text", "step", "task", "kind", "agent", "reward", "stop", "failed", "error", "group"];
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

  /* Curves: a click on a point lists its rollouts, and the steps of the list are marked in every chart. */
  const markChosen = () => window.aipoCharts?.mark(between(asked().get("step") ?? ""));

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

  bindForm();
  bindCurves();
  markChosen();
  window.aipoRun = { FIELDS, all, asked, between, find, make };
})();
