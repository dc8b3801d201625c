// Scales of heat: a number to one of ten colours. Known numbers only; what is unknown gets a pattern, not a colour.
(() => {
  "use strict";

  const STEPS = 10;

  const number = (value) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size < 1e-3 || size >= 1e5 ? value.toExponential(2) : String(+value.toPrecision(4));
    return text.replaceAll("-", "−");
  };

  /* What tokens can be coloured by. `of` gives null for what is unknown; 2 sides have a middle; `ofRow` is known
     only where the trainer has seen the token; `ends` are words instead of numbers. */
  const KINDS = {
    logprob: { name: "surprise (−log-prob)", of: (t) => (t.logprob === null ? null : Math.max(0, -t.logprob)) },
    entropy: { name: "entropy", of: (t) => t.entropy },
    advantage: { name: "advantage", of: (t) => t.advantage, sides: 2, ofRow: true },
    weight: { name: "coefficient (weight)", of: (t) => t.weight, ofRow: true },
    push: { name: "weight in the loss |A·w|", of: (t) => t.push, ofRow: true },
    ratio: { name: "ratio π/π_old (log₂)", of: (t) => (t.ratio > 0 ? Math.log2(t.ratio) : null), sides: 2, ofRow: true },
    clipped: { name: "clipped", of: (t) => (t.clipped === null ? null : Number(t.clipped)), ends: ["no", "yes"], ofRow: true },
  };

  /* One token in a hundred may lie beyond the scale, so that an outlier does not drown the rest. */
  const ceiling = (sizes) => {
    const most = sizes.at(-1) ?? 0;
    return sizes.length < 100 ? most : sizes[Math.floor(sizes.length * 0.99)] || most;
  };

  const stepOf = (share, sides) => {
    const step = sides === 2 ? 5 + 5 * share : STEPS * share;
    return Math.max(0, Math.min(STEPS - 1, Math.floor(share < 0 ? step : step - 1e-9)));
  };

  const scale = (values, kind) => {
    const known = values.filter((value) => value !== null);
    const sides = kind.sides === 2 || known.some((value) => value < 0) ? 2 : 1;
    if (!known.length) return { sides, low: null, high: null, classOf: () => "heat-none" };
    const sizes = known.map(Math.abs).sort((a, b) => a - b);
    const top = kind.ends ? 1 : ceiling(sizes);
    const beyond = sizes.at(-1) > top;
    const low = sides === 2 ? `${beyond ? "≤ " : ""}${number(-top)}` : "0";
    const high = `${beyond ? "≥ " : ""}${number(top)}`;
    const classOf = (value) => {
      if (value === null) return "heat-none";
      if (sides === 2 && value === 0) return "heat-zero";
      return `heat-${stepOf(top ? Math.max(-1, Math.min(1, value / top)) : 0, sides)}`;
    };
    return { sides, low: kind.ends?.[0] ?? low, high: kind.ends?.[1] ?? high, classOf };
  };

  window.aipoHeat = Object.freeze({ KINDS, STEPS, number, scale });
})();
