"use strict";
/* Scale factors and variances of all BatchNormalization channels; dead ones in a colour of their own. */
bn.ready(() => {
  const { histograms, nodes, channels } = bn.data.channels;
  const bars = ({ edges, live, dead }) => live.flatMap((count, i) => [
    { x1: 10 ** edges[i], x2: 10 ** edges[i + 1], y1: 0, y2: count, kind: "live" },
    { x1: 10 ** edges[i], x2: 10 ** edges[i + 1], y1: count, y2: count + dead[i], kind: "dead" },
  ]).filter((bar) => bar.y2 > bar.y1);
  const draw = (id, heading, words, key) => {
    const histogram = histograms[key], zero = histogram.zero ? ` ${histogram.zero} are exactly 0 and have no place on this axis.` : "";
    const shown = bars(histogram), axis = bn.log([10 ** histogram.edges[0], 10 ** histogram.edges[histogram.edges.length - 1]]);
    bn.chart(id, heading, words + zero, [["accent", "live", "full square"], ["bad", "dead", "full square"]], (width) => Plot.plot({
      width, height: 240, marginLeft: 52, marginBottom: 40, style: { background: "none" },
      x: axis.scale,
      y: { label: "channels", grid: true, domain: [0, Math.max(1, ...shown.map((bar) => bar.y2))] },
      marks: [
        ...bn.axisX(axis),
        Plot.rect(shown, { x1: "x1", x2: "x2", y1: "y1", y2: "y2", fill: (d) => (d.kind === "live" ? "var(--accent)" : "var(--bad)"), insetLeft: 0.5, insetRight: 0.5 }),
        Plot.ruleY([0], { stroke: "var(--soft)" }),
        Plot.tip(shown, Plot.pointerX({ x1: "x1", x2: "x2", y: "y2", title: (d) => `${bn.number(d.x1)} to ${bn.number(d.x2)}\n${d.y2 - d.y1} ${d.kind}`, fill: "var(--card)", stroke: "var(--soft)" })),
      ],
    }));
  };
  draw("factors", "Scale factors", `|scale| / √(variance + ε) of ${channels} channels.`, "factor");
  draw("variances", "Variances", `The stored variance of ${channels} channels.`, "var");

  const place = document.getElementById("dead"), dying = nodes.filter((node) => node.dead);
  if (!place || !dying.length) return;
  const cell = (text, kind) => bn.el("td", kind ? { class: kind } : {}, text);
  const row = (node) => bn.el("tr", {}, bn.el("th", { scope: "row" }, bn.name(node.node || node.output)), cell(`${node.dead} of ${node.channels}`, "number"),
    cell(node.dead_channels.join(", ") + (node.dead > node.dead_channels.length ? ", …" : "")));
  const head = ["BatchNormalization", "Dead", "Channels"].map((title, i) => bn.el("th", { scope: "col", class: i === 1 ? "number" : null }, title));
  place.append(bn.el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Dead channels" },
    bn.el("table", {}, bn.el("caption", { class: "unseen" }, "Dead channels"), bn.el("thead", {}, bn.el("tr", {}, ...head)), bn.el("tbody", {}, ...dying.map(row)))));
});
