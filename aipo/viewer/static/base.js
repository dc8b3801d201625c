/* What every page can do: theme, keys, and keeping itself up to date. */
(() => {
  "use strict";

  const THEMES = ["auto", "light", "dark"];
  const POLL_MS = 1500;

  const stored = () => {
    try {
      const name = localStorage.getItem("aipo-theme");
      return THEMES.includes(name) ? name : "auto";
    } catch {
      return "auto"; // a page from a file may have no storage
    }
  };

  const setTheme = (name) => {
    document.documentElement.dataset.theme = name;
    try {
      localStorage.setItem("aipo-theme", name);
    } catch {
      /* it then lasts as long as the page */
    }
  };

  // Before anything is painted: this script is loaded in the head, and not deferred.
  document.documentElement.dataset.theme = stored();

  const bindTheme = () => {
    const button = document.getElementById("theme");
    const show = () => (button.textContent = `theme: ${document.documentElement.dataset.theme}`);
    button.hidden = false;
    button.addEventListener("click", () => {
      const next = (THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length;
      setTheme(THEMES[next]);
      show();
    });
    show();
  };

  const rows = () => [...document.querySelectorAll("[data-row]")].filter((row) => row.getClientRects().length);

  const move = (by) => {
    const all = rows();
    if (!all.length) return;
    const at = all.indexOf(document.activeElement?.closest("[data-row]"));
    const next = at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + by, 0), all.length - 1);
    if (!all[next].hasAttribute("tabindex")) all[next].tabIndex = -1;
    all[next].focus({ preventScroll: true });
    all[next].scrollIntoView({ block: "nearest" });
  };

  const follow = (selector) => {
    const link = document.querySelector(selector);
    if (link) link.click();
    return Boolean(link);
  };

  const focusSearch = () => {
    const field = document.querySelector("[data-search]");
    field?.focus();
    field?.select?.();
    return Boolean(field);
  };

  const openRow = (target) => {
    if (!target.matches("[data-row]")) return false;
    const link = target.matches("a[href]") ? target : target.querySelector("a[href]");
    link?.click();
    return Boolean(link);
  };

  const KEYS = {
    j: () => move(1),
    k: () => move(-1),
    n: () => follow('a[rel~="next"]'),
    p: () => follow('a[rel~="prev"]'),
    "/": focusSearch,
    "?": () => document.getElementById("keys").showModal(),
  };

  const typing = (element) =>
    element.matches('textarea, select, [contenteditable], input:not([type="checkbox"], [type="radio"], [type="range"])');

  const bindKeys = () => {
    let going = false;
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      if (event.key === "Escape" && document.activeElement?.matches("[data-search]")) document.activeElement.blur();
      if (!(event.target instanceof Element) || typing(event.target)) return;
      if (document.querySelector("dialog[open]")) return;
      if (going) {
        going = false;
        if (/^[a-z]$/.test(event.key) && follow(`[data-go="${event.key}"]`)) event.preventDefault();
        return;
      }
      if (event.key === "g") {
        going = true;
        return;
      }
      if (event.key === "Enter") {
        if (openRow(event.target)) event.preventDefault();
        return;
      }
      if (Object.hasOwn(KEYS, event.key) && KEYS[event.key]() !== false) event.preventDefault();
    });
    const help = document.getElementById("help");
    help.hidden = false;
    help.addEventListener("click", KEYS["?"]);
  };

  /* What a reader did to the old part of a page, so that it can be done to the new one. */
  const remember = (part) => ({
    open: [...part.querySelectorAll("details[id]")].map((d) => [d.id, d.open]),
    values: [...part.querySelectorAll("input[id], select[id]")].map((f) => [f.id, f.checked, f.value]),
    scrolled: [...part.querySelectorAll("[id]")]
      .filter((e) => e.scrollTop || e.scrollLeft)
      .map((e) => [e.id, e.scrollTop, e.scrollLeft]),
    focus: part.contains(document.activeElement) && {
      id: document.activeElement.id,
      row: document.activeElement.closest("[data-row]")?.dataset.row,
    },
  });

  const restore = (part, state) => {
    const find = (id) => (id ? part.querySelector(`#${CSS.escape(id)}`) : null);
    for (const [id, open] of state.open) if (find(id)) find(id).open = open;
    for (const [id, checked, value] of state.values) {
      const field = find(id);
      if (!field) continue;
      if (field.matches('[type="radio"], [type="checkbox"]')) field.checked = checked;
      else field.value = value;
    }
    for (const [id, top, left] of state.scrolled) find(id)?.scrollTo(left, top);
    if (!state.focus) return;
    const row = state.focus.row && part.querySelector(`[data-row="${CSS.escape(state.focus.row)}"]`);
    const target = find(state.focus.id) ?? row;
    if (target && target === row && !row.hasAttribute("tabindex")) row.tabIndex = -1;
    target?.focus({ preventScroll: true });
  };

  const update = async () => {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const old = document.getElementById("live");
    const fresh = page.getElementById("live");
    if (!old || !fresh) return;
    const state = remember(old);
    old.replaceWith(document.adoptNode(fresh));
    restore(fresh, state);
    document.dispatchEvent(new CustomEvent("aipo:live"));
  };

  const keepUpToDate = () => {
    const address = document.body.dataset.live;
    if (!address) return;
    const pulse = document.getElementById("pulse");
    // What changes between the making of the page and the first look must not be missed.
    let known = document.body.dataset.version ?? null;
    const look = async () => {
      try {
        if (!document.hidden) {
          const answer = await (await fetch(address, { cache: "no-store" })).json();
          const version = String(answer.version);
          if (known !== null && version !== known) await update();
          known = version;
          // "live" is said of runs that go on; a page of finished ones is kept up to date, too.
          const running = document.getElementById("live")?.dataset.running === "yes";
          pulse.classList.remove("lost");
          pulse.classList.toggle("idle", !running);
          pulse.lastChild.data = running ? "live" : "up to date";
        }
      } catch {
        pulse.classList.add("lost");
        pulse.lastChild.data = "not connected";
      }
      setTimeout(look, POLL_MS);
    };
    look();
  };

  document.addEventListener("DOMContentLoaded", () => {
    bindTheme();
    bindKeys();
    keepUpToDate();
  });
})();
