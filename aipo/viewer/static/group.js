// The group page: marks where rollouts leave another one than the majority.
(() => {
  "use strict";

  const data = JSON.parse(document.getElementById("branches").textContent);
  const cards = [...document.querySelectorAll(".rollout")];
  const names = cards.map((card) => card.querySelector(".name").textContent);
  const select = document.getElementById("reference");

  const leaves = (number, reference) => {
    const both = data.shared[number][reference];
    return both === data.shared[number][number] && both === data.shared[reference][reference] ? null : both;
  };

  const say = (number, reference, at) => {
    if (number === reference) return "the others are compared with it";
    return at === null ? `the same as ${names[reference]}` : `leaves ${names[reference]} at token ${at}`;
  };

  const mark = (reference) => {
    cards.forEach((card, number) => {
      const at = leaves(number, reference);
      card.querySelectorAll(".leaves").forEach((span) => span.classList.remove("leaves"));
      if (at !== null) card.querySelector(`[data-at~="${at}"]`)?.classList.add("leaves");
      card.querySelector("[data-where]").textContent = say(number, reference, at);
    });
    const most = reference === data.majority ? ", with whom most go at every token" : "";
    document.querySelector("[data-reference]").textContent = names[reference] + most;
  };

  document.getElementById("pick").hidden = false;
  select.addEventListener("change", () => mark(Number(select.value)));
  // A browser may bring back what was picked before.
  if (Number(select.value) !== data.majority) mark(Number(select.value));
})();
