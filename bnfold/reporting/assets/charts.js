"use strict";
/* What the charts share: they are drawn by Observable Plot as SVG, in the colours of the page, as wide as their place. */
bn.charts = [];

/** A chart in a figure: its heading, a sentence, a key, and the drawing, which follows the width of the figure. */
bn.chart = (id, heading, sentence, keys, draw) => {
  const place = document.getElementById(id);
  if (!place) return;
  const key = keys.map(([role, words, look]) => bn.el("li", {}, bn.el("i", { style: `--key: var(--${role})`, class: look || "" }), words));
  const frame = bn.el("div");
  place.replaceChildren(bn.el("h3", {}, heading), bn.el("p", {}, sentence), ...(key.length ? [bn.el("ul", { class: "keys" }, ...key)] : []), frame);
  const paint = () => {
    const svg = draw(Math.max(frame.clientWidth, 260));
    for (const part of svg.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label"); // a picture is one thing
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${heading}. ${sentence}`);
    frame.replaceChildren(svg);
  };
  paint();
  let width = frame.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(frame.clientWidth - width) > 4) { width = frame.clientWidth; paint(); }
  }).observe(frame);
};

/** A logarithmic axis for these values: powers of ten, or 1, 2 and 5 times them where there are few. */
bn.log = (values) => {
  const [low, high] = d3.extent(values), room = high > low ? 1.12 : 2, domain = [low / room, high * room];
  const decades = Math.log10(domain[1] / domain[0]), steps = decades > 3 ? [1] : decades > 0.9 ? [1, 2, 5] : decades > 0.4 ? [1, 2, 3, 5, 7] : [1, 2, 3, 4, 5, 6, 7, 8, 9];
  const powers = d3.range(Math.floor(Math.log10(domain[0])), Math.ceil(Math.log10(domain[1])) + 1);
  const ticks = powers.filter((p) => decades < 9 || p % 3 === 0).flatMap((p) => steps.map((step) => step * 10 ** p));
  return { scale: { type: "log", domain, label: null, axis: null }, ticks: ticks.filter((tick) => tick >= domain[0] && tick <= domain[1]) };
};
bn.axisY = ({ ticks }) => [Plot.gridY(ticks), Plot.axisY(ticks, { text: ticks.map(bn.power), label: null })];
bn.axisX = ({ ticks }) => [Plot.axisX(ticks, { text: ticks.map(bn.power), label: null })];

/** `10⁻⁶`, `2·10⁻⁶`, or the number itself where that is short. */
bn.power = (value) => {
  const exponent = Math.floor(Math.log10(value) + 1e-9), digits = Math.round(value / 10 ** exponent);
  if (exponent > -3 && exponent < 4) return String(Number(value.toPrecision(3)));
  return `${digits === 1 ? "" : `${digits}·`}10${[...String(exponent)].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("")}`;
};
