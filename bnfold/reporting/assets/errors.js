"use strict";
/* Error against float64 at every fold site, and channel by channel. */
bn.ready(() => {
  const order = new Map();
  bn.data.graphs.after.nodes.forEach((node, place) => (node.outputs || []).forEach((name) => order.set(name, place)));
  const sites = bn.sites().sort((a, b) => (order.get(a.name) ?? 0) - (order.get(b.name) ?? 0)).map((tensor, number) => ({ ...tensor, number: number + 1 }));
  const pick = document.getElementById("site");
  bn.showChannels = () => {};
  if (!pick) return;
  if (!sites.length) {
    document.getElementById("errors").append(bn.el("p", { class: "empty" }, "No fold site was compared on its own: only the outputs were, and they are under “How it was verified”."));
    for (const id of ["sites", "ratios", "channels"]) document.getElementById(id).remove();
    pick.closest(".tools").remove();
    return;
  }
  const open = (name) => { pick.value = name; pick.dispatchEvent(new Event("change")); };
  const least = 1e-12; // an error of 0 has no place on a logarithmic axis
  const both = (tensor) => ["original", "folded"].map((which) => ({ number: tensor.number, name: tensor.name, which, error: Math.max(tensor[`rms_${which}`], least) }));
  const tip = (tensor) => `${tensor.operator} ${bn.shown(tensor.name, 60)}\noriginal ${bn.number(tensor.rms_original)}\nresult ${bn.number(tensor.rms_folded)}\nratio ${bn.number(tensor.ratio)}`;
  const clickable = (svg) => {
    svg.addEventListener("click", () => { if (svg.value) open(svg.value.name); });
    return svg;
  };
  const x = { label: "fold site, in the order of the graph", domain: [0.5, sites.length + 0.5], ticks: Math.min(sites.length, 10), tickFormat: (n) => (Number.isInteger(n) && n > 0 ? String(n) : "") };

  const axis = bn.log(sites.flatMap(both).map((d) => d.error));
  bn.chart("sites", "Error per fold site", "Root mean square error against float64, over that of the true values.", [["original", "original", ""], ["accent", "result", "full"]], (width) => clickable(Plot.plot({
    width, height: 270, marginLeft: 62, marginBottom: 40, style: { background: "none" }, x, y: axis.scale,
    marks: [
      ...bn.axisY(axis),
      Plot.ruleX(sites, { x: "number", y1: (t) => Math.max(t.rms_original, least), y2: (t) => Math.max(t.rms_folded, least), stroke: "var(--line)" }),
      Plot.dot(sites.flatMap(both), { x: "number", y: "error", stroke: (d) => (d.which === "original" ? "var(--original)" : "var(--accent)"), fill: (d) => (d.which === "original" ? "none" : "var(--accent)"), r: sites.length > 150 ? 2 : 3.5, strokeWidth: 1.6 }),
      Plot.tip(sites, Plot.pointerX({ x: "number", y: (t) => Math.max(t.rms_folded, least), title: tip, fill: "var(--card)", stroke: "var(--soft)" })),
    ],
  })));

  const top = Math.max(10, ...sites.map((t) => t.ratio * 1.2));
  const steep = top > 100 ? bn.log([0.5, ...sites.map((t) => Math.max(t.ratio, 0.1))]) : null;
  bn.chart("ratios", "Error over what rounding explains", "The worst channel of each site; 1 is as good as the original or as rounding once, above 8 is a FAIL.", [], (width) => clickable(Plot.plot({
    width, height: 270, marginLeft: steep ? 56 : 40, marginBottom: 40, style: { background: "none" }, x,
    y: steep ? steep.scale : { label: null, grid: true, domain: [0, top] },
    marks: [
      ...(steep ? bn.axisY(steep) : []),
      Plot.ruleY([8], { stroke: "var(--bad)", strokeDasharray: "5 4" }),
      Plot.text([8], { y: 8, frameAnchor: "right", dy: -8, text: () => "limit", fill: "var(--bad)" }),
      Plot.ruleX(sites, { x: "number", y1: steep ? steep.scale.domain[0] : 0, y2: (t) => Math.max(t.ratio, 0.1), stroke: "var(--accent)", strokeOpacity: 0.35 }),
      Plot.dot(sites, { x: "number", y: (t) => Math.max(t.ratio, steep ? 0.1 : 0), fill: (t) => (t.ok ? "var(--accent)" : "var(--bad)"), symbol: (t) => (t.ok ? "circle" : "diamond"), r: sites.length > 150 ? 2 : 3.5 }),
      Plot.tip(sites, Plot.pointerX({ x: "number", y: "ratio", title: tip, fill: "var(--card)", stroke: "var(--soft)" })),
    ],
  })));

  const detailed = sites.filter((tensor) => tensor.by_channel);
  pick.append(...detailed.map((t) => bn.el("option", { value: t.name }, `${t.number}  ${t.operator} ${bn.shown(t.name, 60)}`)));
  const channels = () => {
    const tensor = detailed.find((each) => each.name === pick.value);
    if (!tensor) return;
    const { original, folded, every } = tensor.by_channel, last = original.length - 1;
    const rows = (list, which) => list.map((error, i) => ({ which, at: every ? i : (100 * i) / last, error: Math.max(error, least) }));
    const axis = bn.log([...original, ...folded].map((error) => Math.max(error, least)));
    const say = every ? `Each of the ${original.length} channels of ${tensor.operator} ${bn.shown(tensor.name, 80)}, over the root mean square of its tensor's true values.`
      : `So many channels that their quantiles are shown: ${tensor.by_channel.channels} of ${tensor.operator} ${bn.shown(tensor.name, 80)}, from the least error to the largest.`;
    bn.chart("channels", "Error per channel", say, [["original", "original", ""], ["accent", "result", "full"]], (width) => Plot.plot({
      width, height: 240, marginLeft: 62, marginBottom: 40, style: { background: "none" },
      x: { label: every ? "channel" : "% of channels", ticks: every ? d3.ticks(0, Math.max(last, 1), Math.min(last + 1, width / 60)).filter(Number.isInteger) : 10, tickFormat: String }, y: axis.scale,
      marks: [
        ...bn.axisY(axis),
        Plot.dot(rows(original, "original"), { x: "at", y: "error", stroke: "var(--original)", r: original.length > 300 ? 2 : 3, strokeWidth: 1.4 }),
        Plot.dot(rows(folded, "folded"), { x: "at", y: "error", fill: "var(--accent)", r: original.length > 300 ? 1.6 : 2.6 }),
        Plot.tip(rows(folded, "folded"), Plot.pointerX({ x: "at", y: "error", title: (d) => `${every ? "channel" : "%"} ${bn.number(d.at)}\noriginal ${bn.number(original[every ? d.at : Math.round((d.at * last) / 100)])}\nresult ${bn.number(d.error)}`, fill: "var(--card)", stroke: "var(--soft)" })),
      ],
    }));
  };
  pick.addEventListener("change", channels);
  bn.showChannels = open;
  if (detailed.length) open(detailed.reduce((worst, each) => (each.ratio > worst.ratio ? each : worst)).name);
  else {
    document.getElementById("channels").remove();
    pick.closest(".tools").replaceChildren(bn.el("p", { class: "empty" }, "This verification holds no errors per channel: make it anew to have them."));
  }
});
