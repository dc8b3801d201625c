// Mathematics in the text, when somebody asks for it: $…$, $$…$$, \(…\), \[…\] and \boxed{…} become MathML.
// KaTeX is loaded then and not before. What it cannot read stays as it was written.
(() => {
  "use strict";

  const reader = document.getElementById("reader");
  const button = document.getElementById("math");
  const LONGEST = 2000;
  const MOST = 5000;
  const SLICE_MS = 30;
  const OPENING = /\$\$?|\\\(|\\\[|\\boxed\{/g;
  const CLOSING = { $$: "$$", $: "$", "\\(": "\\)", "\\[": "\\]" };
  const OPTIONS = { output: "mathml", trust: false, throwOnError: true, strict: "ignore", maxExpand: 200, maxSize: 20 };

  /* Where the brace closes that opens before `from`; -1 if it does not. */
  const closingBrace = (text, from) => {
    let depth = 1;
    for (let i = from; i < text.length; i++) {
      if (text[i] === "\\") i++;
      else if (text[i] === "{") depth++;
      else if (text[i] === "}" && --depth === 0) return i;
    }
    return -1;
  };

  /* Sums of money are no formulas: a dollar sign stands next to what it encloses, and no digit follows. */
  const isMoney = (tex, after) => /^\s|\s$/.test(tex) || /\d/.test(after ?? "");

  const formulaAt = (text, start, opening) => {
    const from = start + opening.length;
    const window_ = text.slice(from, from + LONGEST);
    if (opening === "\\boxed{") {
      const end = closingBrace(window_, 0);
      return end < 0 ? null : { start, end: from + end + 1, tex: text.slice(start, from + end + 1), display: false };
    }
    const closing = CLOSING[opening];
    const end = window_.indexOf(closing);
    const tex = window_.slice(0, Math.max(end, 0));
    if (!tex.trim() || tex.includes("\n\n")) return null;
    if (opening === "$" && isMoney(tex, window_[end + 1])) return null;
    return { start, end: from + end + closing.length, tex, display: opening === "$$" || opening === "\\[" };
  };

  const formulas = (text) => {
    const found = [];
    OPENING.lastIndex = 0;
    for (let match = OPENING.exec(text); match && found.length < MOST; match = OPENING.exec(text)) {
      const formula = formulaAt(text, match.index, match[0]);
      if (!formula) continue;
      found.push(formula);
      OPENING.lastIndex = formula.end;
    }
    return found;
  };

  const element = (formula, source) => {
    const span = document.createElement("span");
    span.className = "formula";
    span.dataset.source = source;
    span.title = source;
    if (formula.display) span.dataset.display = "";
    try {
      window.katex.render(formula.tex, span, { ...OPTIONS, displayMode: formula.display });
    } catch {
      return null;
    }
    return span;
  };

  const rewrite = (node) => {
    const text = node.data;
    const found = formulas(text);
    if (!found.length) return;
    const parts = document.createDocumentFragment();
    let at = 0;
    for (const formula of found) {
      const rendered = element(formula, text.slice(formula.start, formula.end));
      if (!rendered) continue;
      parts.append(text.slice(at, formula.start), rendered);
      at = formula.end;
    }
    parts.append(text.slice(at));
    node.replaceWith(parts);
  };

  const textNodes = () => {
    const nodes = [];
    for (const root of document.querySelectorAll("[data-math]")) {
      const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
      while (walk.nextNode()) if (/[$\\]/.test(walk.currentNode.data)) nodes.push(walk.currentNode);
    }
    return nodes;
  };

  /* A slice at a time, so that a long trace does not freeze the page. */
  const renderAll = (nodes) => {
    const until = performance.now() + SLICE_MS;
    while (nodes.length && performance.now() < until) rewrite(nodes.shift());
    if (nodes.length && on()) setTimeout(() => renderAll(nodes), 0);
    else reader.dataset.math = on() ? "shown" : "";
  };

  const restoreAll = () => {
    const parents = new Set();
    for (const span of document.querySelectorAll(".formula")) {
      parents.add(span.parentNode);
      span.replaceWith(span.dataset.source);
    }
    for (const parent of parents) parent.normalize();
    reader.dataset.math = "";
  };

  let loading = null;
  const load = () =>
    (loading ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = reader.dataset.katex;
      script.addEventListener("load", resolve);
      script.addEventListener("error", () => {
        loading = null;
        reject(new Error("katex.min.js could not be loaded"));
      });
      document.head.append(script);
    }));

  const on = () => button.getAttribute("aria-pressed") === "true";

  button.addEventListener("click", async () => {
    button.setAttribute("aria-pressed", String(!on()));
    if (!on()) return restoreAll();
    document.dispatchEvent(new CustomEvent("aipo:show", { detail: "text" }));
    try {
      await load();
      if (on() && !reader.dataset.math) renderAll(textNodes());
    } catch (error) {
      button.setAttribute("aria-pressed", "false");
      document.getElementById("said").textContent = error.message;
    }
  });
})();
