// The page of a trace: which view of the context is shown, links into it, and copying.
// Other scripts say `aipo:show` to have a view shown, and hear `aipo:shown` when one is.
(() => {
  "use strict";

  const reader = document.getElementById("reader");
  const byId = (id) => document.getElementById(id);
  const copy = byId("copy");
  const raw = byId("raw");
  const unfold = byId("unfold");
  const cards = [...reader.querySelectorAll(".aipo-consult")];

  const show = (view) => {
    reader.dataset.view = view;
    for (const pane of reader.querySelectorAll("[data-pane]")) pane.hidden = pane.dataset.pane !== view;
    for (const button of reader.querySelectorAll("button[data-view]"))
      button.setAttribute("aria-pressed", String(button.dataset.view === view));
    if (unfold) unfold.hidden = view !== "text";
    document.dispatchEvent(new CustomEvent("aipo:shown", { detail: view }));
  };

  /* Segments and consults lie in the text, maybe in a closed card. A segment that is nothing but a request is
     shown by the card that follows. */
  const reveal = (target) => {
    show("text");
    const element = target.textContent.trim() ? target : (target.nextElementSibling ?? target);
    for (let card = target.closest("details"); card; card = card.parentElement.closest("details")) card.open = true;
    reader.querySelectorAll(".hit").forEach((old) => old.classList.remove("hit"));
    element.classList.add("hit");
    const tall = element.getBoundingClientRect().height > innerHeight / 2;
    element.scrollIntoView({ block: tall ? "start" : "center" });
  };

  const follow = (hash) => {
    const element = /^#(s\d+|consult-\d+|unasked)$/.test(hash) ? byId(hash.slice(1)) : null;
    if (element) reveal(element);
    return Boolean(element);
  };

  const allOpen = () => cards.every((card) => card.open);
  const nameUnfold = () => (unfold.textContent = allOpen() ? "close all consults" : "open all consults");

  const say = (text) => {
    byId("said").textContent = text;
    setTimeout(() => (byId("said").textContent = ""), 2500);
  };

  const exact = () => JSON.parse(byId("tokens-data").textContent).exact ?? raw.textContent;

  const copyRaw = async () => {
    try {
      await navigator.clipboard.writeText(exact());
      say("copied");
    } catch {
      show("raw"); // a page may not be allowed to; then it is one key away
      getSelection().selectAllChildren(raw);
      say("selected: copy it with your keyboard");
    }
  };

  for (const button of reader.querySelectorAll(".reader-bar [hidden]")) button.hidden = false;
  reader.querySelector(".switch").addEventListener("click", (event) => {
    const button = event.target.closest("button[data-view]");
    if (button) show(button.dataset.view);
  });
  copy.addEventListener("click", copyRaw);
  if (unfold) {
    unfold.addEventListener("click", () => {
      const open = !allOpen();
      for (const card of cards) card.open = open;
    });
    for (const card of cards) card.addEventListener("toggle", nameUnfold);
  }

  document.addEventListener("aipo:show", (event) => show(event.detail));
  addEventListener("hashchange", () => follow(location.hash));
  // A second click on the same link changes no address, but has to lead there all the same.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a");
    const href = link?.getAttribute("href");
    if (href?.startsWith("#") && href === location.hash) follow(href);
  });
  follow(location.hash);
})();
