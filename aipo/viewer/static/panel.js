// The graph panel: pointing at a node shows its visits in the timeline, and the other way round.
(() => {
  "use strict";

  const connect = (panel) => {
    const parts = [...panel.querySelectorAll("[data-node]")];
    const show = (node) => {
      for (const part of parts) part.classList.toggle("shown", node !== null && part.dataset.node === node);
    };
    const nodeOf = (event) => event.target.closest("[data-node]")?.dataset.node ?? null;
    panel.addEventListener("pointerover", (event) => show(nodeOf(event)));
    panel.addEventListener("pointerleave", () => show(null));
    panel.addEventListener("focusin", (event) => show(nodeOf(event)));
    panel.addEventListener("focusout", () => show(null));
  };

  document.querySelectorAll("[data-panel]").forEach(connect);
})();
