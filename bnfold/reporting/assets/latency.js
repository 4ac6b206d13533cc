"use strict";
/* Speed-ups with their intervals, and how single runs are spread. */
bn.ready(() => {
  const bench = bn.data.bench;
  if (!bench) return;
  const setting = (cell) => [cell.level, cell.provider, cell.mode, ...cell.dims.map((each) => each.join("=")), ...(cell.cuda_graph ? ["CUDA graph"] : [])].map((part) => bn.shown(String(part))).join(", ");
  const cells = bench.cells.map((cell) => ({ ...cell, words: setting(cell) }));
  const bound = (interval, key) => interval[key] ?? interval.estimate;
  const lines = (cell) => [{ kind: "A / B", ...cell.speedup, dots: cell.log_ratios }, { kind: "A / A", ...cell.control, dots: cell.log_controls }];
  const ratios = cells.flatMap((cell) => lines(cell).flatMap((d) => [bound(d, "low"), bound(d, "high"), ...d.dots.map(Math.exp)]));
  const [low, high] = d3.extent([...ratios, 1 - bench.margin, 1 + bench.margin]), room = (high - low) * 0.04;
  const colour = (d) => (d.kind === "A / B" ? "var(--accent)" : "var(--original)");
  const heading = (words) => Plot.text([words], { frameAnchor: "top-left", dy: -18, dx: -40, text: (d) => d, fill: "var(--soft)" });
  bn.chart("speedups", "How many times as fast", `A / B above 1: the result is faster. A / A is noise. Band: ±${100 * bench.margin} %, a difference that is none. ${bench.launches} launches.`,
    [["accent", "A / B with its 95 % interval", "full"], ["original", "A / A, the control", "full"]], (width) => bn.el("div", {}, ...cells.map((cell) => Plot.plot({
      width, height: 106, marginLeft: 44, marginRight: 16, marginTop: 24, style: { background: "none" },
      x: { label: null, grid: true, domain: [low - room, high + room], tickFormat: (v) => `${v}×`, ticks: Math.max(3, Math.min(8, width / 70)) }, y: { label: null, axis: null, domain: ["A / B", "A / A"] },
      marks: [
        Plot.rectX([1], { x1: 1 - bench.margin, x2: 1 + bench.margin, fill: "var(--line)", fillOpacity: 0.6 }),
        Plot.ruleX([1], { stroke: "var(--soft)" }),
        Plot.ruleY(lines(cell), { y: "kind", x1: (d) => bound(d, "low"), x2: (d) => bound(d, "high"), stroke: colour, strokeWidth: 2.5 }),
        Plot.dot(lines(cell).flatMap((d) => d.dots.map((log) => ({ kind: d.kind, ratio: Math.exp(log) }))), { y: "kind", x: "ratio", stroke: colour, strokeOpacity: 0.55, r: 2.5 }),
        Plot.dot(lines(cell), { y: "kind", x: "estimate", fill: colour, symbol: "diamond", r: 5 }),
        heading(cell.words),
        Plot.tip(lines(cell), Plot.pointer({ y: "kind", x: "estimate", title: (d) => `${cell.words}\n${d.kind} ${bn.number(d.estimate)} [${bn.number(d.low)}, ${bn.number(d.high)}]`, fill: "var(--card)", stroke: "var(--soft)" })),
      ],
    }))));

  if (!bn.data.runs) return document.getElementById("runs").remove();
  const bars = bn.data.runs.flatMap((run) => Object.entries(run.models).flatMap(([model, times]) =>
    times.counts.map((count, i) => ({ words: setting(run), model, ms: (run.edges[i] + run.edges[i + 1]) / 2, share: count / times.runs }))));
  const names = { original: "var(--original)", folded: "var(--accent)" };
  const beyond = bn.data.runs.flatMap((run) => Object.values(run.models)).reduce((sum, each) => sum + each.beyond, 0);
  bn.chart("runs", "Single runs", `Share of all runs of a model by their time; ${beyond} of the slowest runs are not drawn.`, [["original", "A, the original", "full square"], ["accent", "B, the result", "full square"]], (width) => {
    const plots = bn.data.runs.map((run) => {
      const words = setting(run), own = bars.filter((bar) => bar.words === words && names[bar.model]);
      return Plot.plot({
        width, height: 150, marginLeft: 44, marginTop: 22, style: { background: "none" }, x: { label: "ms" }, y: { label: null, percent: true, ticks: 3, grid: true },
        marks: [
          Plot.areaY(own, { x: "ms", y: "share", z: "model", fill: (d) => names[d.model], fillOpacity: 0.22, curve: "step" }),
          Plot.lineY(own, { x: "ms", y: "share", z: "model", stroke: (d) => names[d.model], strokeWidth: 1.6, curve: "step" }),
          heading(words),
        ],
      });
    });
    return bn.el("div", {}, ...plots);
  });
});
