"use strict";
/* The network as a graph: cytoscape draws it; positions come from a worker, wrapped into columns as a newspaper is. */
bn.ready(() => {
  const box = document.getElementById("graph"), wait = document.getElementById("wait");
  const SIZE = [128, 30], GAP = 16, APART = 46, MOST = 10000;
  const shapes = { input: "ellipse", output: "ellipse" };
  const entries = { before: new Map(), after: new Map() };
  bn.data.nodes.forEach((entry, number) => {
    if (entry.before !== null) entries.before.set(entry.before, number);
    if (entry.after !== null) entries.after.set(entry.after, number);
  });
  const homes = new Set(bn.data.nodes.flatMap((entry) => entry.homes));
  let cy = null, shown = null;
  const laid = {};

  const short = (text) => { const shown = bn.shown(text, 60); return shown.length > 17 ? `${shown.slice(0, 16)}…` : shown; };
  const label = (node, result) => (result ? `${bn.RESULTS[result][0]} ` : "") + short(node.op === "BatchNormalization" ? "BatchNorm" : node.op || node.name);
  const elements = (key) => {
    const graph = bn.data.graphs[key];
    const nodes = graph.nodes.map((node, place) => {
      const number = entries[key].get(place), result = number === undefined ? "" : bn.data.nodes[number].result;
      const home = key === "after" && homes.has(place) ? "home" : "";
      return { data: { id: `n${place}`, place, label: label(node, result) }, classes: `${node.kind} ${result} ${home}`, pannable: true };
    });
    const edges = graph.edges.map(([a, b], number) => ({ data: { id: `e${number}`, source: `n${a}`, target: `n${b}` }, pannable: true }));
    return { nodes, edges };
  };

  const style = () => {
    const results = Object.keys(bn.RESULTS).map((result) => ({
      selector: `node.${result}`,
      style: { "background-color": bn.colour(result), color: bn.colour("on-result"), "font-weight": 600 },
    }));
    const framed = { "border-width": 3.5, "border-color": bn.colour("home"), "font-weight": 600 };
    return [
      { selector: "node", style: { shape: "round-rectangle", width: SIZE[0], height: SIZE[1], label: "data(label)", "text-valign": "center", "font-size": 13, "font-family": "system-ui, sans-serif", color: bn.colour("ink"), "background-color": bn.colour("node"), "min-zoomed-font-size": 6 } },
      { selector: "node.input, node.output", style: { shape: "ellipse", "background-color": bn.colour("card"), "border-width": 1.5, "border-color": bn.colour("soft") } },
      ...results,
      { selector: "node.kept, node.left", style: { shape: "cut-rectangle" } },
      { selector: "node.home", style: framed },
      { selector: "edge", style: { width: 1.6, "line-color": bn.colour("edge"), "target-arrow-color": bn.colour("edge"), "target-arrow-shape": "triangle", "arrow-scale": 0.75, "curve-style": "straight" } },
      { selector: "edge.bent", style: { "curve-style": "round-segments", "edge-distances": "node-position", "segment-radii": [10], "segment-weights": (edge) => edge.data("weights"), "segment-distances": (edge) => edge.data("distances") } },
      { selector: "edge.turn", style: { "line-style": "dashed", "line-dash-pattern": [4, 4], width: 1.3 } },
      { selector: "node.dim", style: { opacity: 0.25 } },
      { selector: "node.chosen", style: { "border-width": 5, "border-color": bn.colour("ink") } },
      { selector: "edge.near", style: { width: 3, "line-color": bn.colour("ink"), "target-arrow-color": bn.colour("ink"), "z-index": 9 } },
    ];
  };

  /** As many columns as show the network largest in the room there is. */
  const wrapped = (pieces) => {
    const room = [Math.max(box.clientWidth, 300), Math.max(box.clientHeight, 300)], heights = pieces.map((p) => p.height + GAP);
    const total = heights.reduce((a, b) => a + b, 0);
    let best = null;
    for (let wanted = 1; wanted <= Math.min(pieces.length, 80); wanted++) {
      const columns = [[]];
      let filled = 0;
      pieces.forEach((piece, i) => {
        if (filled && filled + heights[i] / 2 > total / wanted) { columns.push([]); filled = 0; }
        columns[columns.length - 1].push(piece);
        filled += heights[i];
      });
      const widths = columns.map((c) => Math.max(...c.map((p) => p.right)) - Math.min(...c.map((p) => p.left)));
      const height = Math.max(...columns.map((c) => c.reduce((sum, p) => sum + p.height + GAP, 0)));
      const zoom = Math.min(room[0] / (widths.reduce((a, b) => a + b + APART, 0)), room[1] / height);
      if (!best || zoom > best.zoom * 1.02) best = { zoom, columns, widths };
    }
    return best;
  };

  const positions = (pieces) => {
    const { columns, widths } = wrapped(pieces), places = new Map();
    let x = 0;
    places.bends = new Map();
    columns.forEach((column, number) => {
      const left = Math.min(...column.map((p) => p.left));
      let y = 0;
      for (const piece of column) {
        for (const [node, px, py] of piece.nodes) places.set(node, { x: x + px - left, y: y + py, column: number, gutter: x - APART / 2 });
        for (const [a, b, points] of piece.edges) places.bends.set(`${a} ${b}`, points.map(([px, py]) => [x + px - left, y + py]));
        y += piece.height + GAP;
      }
      x += widths[number] + APART;
    });
    return places;
  };

  /** Where an edge bends: as dagre says or, to another column, dashed through the gutter before it. */
  const route = (at, a, b, key) => {
    if (a.column === b.column) return at.bends.get(key) || [];
    const above = b.y - SIZE[1] / 2 - 9, next = b.column - a.column === 1;
    const leave = next ? [[b.gutter, a.y]] : [[a.x, a.y + SIZE[1] / 2 + 8], [b.gutter, a.y + SIZE[1] / 2 + 8]];
    return [...leave, [b.gutter, above], [b.x, above]];
  };

  /** Points as cytoscape has them: how far along the line from node to node, and how far from it. */
  const segments = (a, b, points) => {
    const [dx, dy] = [b.x - a.x, b.y - a.y], square = dx * dx + dy * dy || 1, length = Math.sqrt(square);
    return {
      weights: points.map(([x, y]) => ((x - a.x) * dx + (y - a.y) * dy) / square),
      distances: points.map(([x, y]) => ((y - a.y) * dx - (x - a.x) * dy) / length),
    };
  };
  const bend = (at) => cy.batch(() => cy.edges().forEach((edge) => {
    const places = [edge.source().data("place"), edge.target().data("place")], [a, b] = places.map((place) => at.get(place));
    const points = route(at, a, b, places.join(" "));
    edge.data(segments(a, b, points));
    edge.toggleClass("bent", points.length > 0);
    edge.toggleClass("turn", a.column !== b.column);
  }));

  const draw = (key) => {
    const at = positions(laid[key]);
    cy.batch(() => {
      cy.elements().remove();
      cy.add(elements(key));
      cy.nodes().positions((node) => { const p = at.get(node.data("place")); return { x: p.x, y: p.y }; });
    });
    bend(at);
    shown = key;
    for (const button of document.querySelectorAll("[data-graph]")) button.setAttribute("aria-pressed", String(button.dataset.graph === key));
    cy.fit(undefined, 24);
    wait.hidden = true;
    highlight(bn.chosen);
  };

  /** A picture for paper: all of the network, in the colours that print has, ready before the page is laid out. */
  const still = () => {
    if (!cy) return;
    cy.style(style());
    const picture = cy.renderer().bufferCanvasImage({ full: true, maxWidth: 2000, maxHeight: 1800, bg: bn.colour("card") });
    if (document.getElementById("still")) document.getElementById("still").remove();
    picture.id = "still";
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", `The network, ${shown} the fold`);
    box.after(picture);
  };

  const worker = () => {
    const code = document.getElementById("worker").textContent;
    return new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  };
  const lay = (key) => new Promise((done) => {
    if (laid[key]) return done();
    const hand = worker(), graph = bn.data.graphs[key];
    hand.onmessage = (event) => { laid[key] = event.data; hand.terminate(); done(); };
    hand.onerror = () => { wait.textContent = "This viewer does not lay out graphs; open the page in a browser."; };
    hand.postMessage({ count: graph.nodes.length, edges: graph.edges.map(([a, b]) => [a, b]), size: SIZE });
  });
  bn.showGraph = async (key) => {
    if (shown === key) return;
    wait.hidden = false;
    await lay(key);
    if (shown !== key) draw(key);
  };

  const highlight = ({ graph, node }) => cy.batch(() => {
    cy.elements(".chosen, .near").removeClass("chosen near");
    if (node !== null && graph === shown) cy.$id(`n${node}`).addClass("chosen").connectedEdges().addClass("near");
  });
  const show = (chosen, by) => {
    if (chosen.node === null || shown !== chosen.graph) return;
    const node = cy.$id(`n${chosen.node}`);
    highlight(chosen);
    const small = by !== "graph" && cy.zoom() < 0.45;
    const duration = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 160;
    if (small || !inView(node)) cy.animate({ center: { eles: node }, zoom: small ? 0.75 : cy.zoom(), duration });
  };
  const inView = (node) => {
    const p = node.renderedPosition();
    return p.x > 30 && p.y > 30 && p.x < box.clientWidth - 30 && p.y < box.clientHeight - 30;
  };
  bn.listeners.push(async (chosen, by) => {
    if (!cy || chosen.node === null) return;
    await bn.showGraph(chosen.graph);
    show(chosen, by);
  });

  /** Along the edges with the arrow keys; sideways among those at the same height. */
  const go = (key) => {
    const now = bn.chosen.graph === shown && bn.chosen.node !== null ? cy.$id(`n${bn.chosen.node}`) : null;
    if (!now || !now.length) return cy.nodes()[0];
    if (key === "ArrowDown") return now.outgoers("node")[0];
    if (key === "ArrowUp") return now.incomers("node")[0];
    const side = key === "ArrowRight" ? 1 : -1, p = now.position();
    const level = cy.nodes().filter((n) => Math.abs(n.position().y - p.y) < SIZE[1] && (n.position().x - p.x) * side > 1);
    return level.sort((a, b) => Math.abs(a.position().x - p.x) - Math.abs(b.position().x - p.x))[0];
  };
  const step = (by) => {
    const places = [...entries[shown].keys()].sort((a, b) => a - b);
    const at = bn.chosen.node ?? -1, next = by > 0 ? places.find((p) => p > at) : places.findLast((p) => p < at);
    if (next !== undefined) bn.choose(shown, next, null, "keys");
  };
  const zoom = (by) => cy.zoom({ level: cy.zoom() * by, renderedPosition: { x: box.clientWidth / 2, y: box.clientHeight / 2 } });
  const fit = () => draw(shown);
  const keys = { n: () => step(1), p: () => step(-1), "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fit };
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !cy) return;
    if (event.key.startsWith("Arrow")) {
      const next = go(event.key);
      if (next && next.length) bn.choose(shown, next.data("place"), null, "graph");
    } else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
  });
  document.getElementById("zoom-in").onclick = () => zoom(1.35);
  document.getElementById("zoom-out").onclick = () => zoom(0.74);
  document.getElementById("fit").onclick = fit;
  for (const button of document.querySelectorAll("[data-graph]")) {
    button.onclick = () => {
      const key = button.dataset.graph, entry = bn.chosen.entry === null ? null : bn.data.nodes[bn.chosen.entry];
      bn.showGraph(key).then(() => {
        if (!entry) return;
        const place = key === "before" ? entry.before : entry.after ?? entry.homes[0] ?? null;
        if (place !== null) bn.choose(key, place, bn.chosen.entry, "toggle");
      });
    };
  }

  /** Every node whose name, operator or tensors hold the words; Enter goes from one to the next. */
  const find = document.getElementById("find"), count = document.getElementById("matches");
  let hits = [], hit = -1;
  const search = () => {
    const word = find.value.trim().toLowerCase(), nodes = bn.data.graphs[shown].nodes;
    const has = (node) => [node.name, node.op, ...(node.inputs || []), ...(node.outputs || [])].some((each) => each && each.toLowerCase().includes(word));
    hits = word ? [...nodes.keys()].filter((place) => has(nodes[place])) : [];
    hit = -1;
    count.textContent = word ? `${hits.length} found` : "";
    const set = new Set(hits);
    cy.batch(() => cy.nodes().forEach((node) => { node.toggleClass("dim", Boolean(word) && !set.has(node.data("place"))); }));
  };
  find.addEventListener("input", search);
  find.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !hits.length) return;
    hit = (hit + (event.shiftKey ? hits.length - 1 : 1)) % hits.length;
    count.textContent = `${hit + 1} of ${hits.length}`;
    bn.choose(shown, hits[hit], null, "search");
  });

  const begin = async () => {
    const most = Math.max(...Object.values(bn.data.graphs).map((graph) => graph.nodes.length));
    if (most > MOST) {
      wait.textContent = `${most} nodes are too many to draw; the table lists all that are affine.`;
      document.documentElement.dataset.ready = String(Math.round(performance.now()));
      return;
    }
    await lay("before");
    cy = cytoscape({ container: box, style: style(), elements: [], minZoom: 0.02, maxZoom: 3, autoungrabify: true, boxSelectionEnabled: false, hideEdgesOnViewport: bn.data.graphs.before.nodes.length > 1500, textureOnViewport: bn.data.graphs.before.nodes.length > 1500 });
    cy.on("tap", "node", (event) => bn.choose(shown, event.target.data("place"), null, "graph"));
    draw("before");
    bn.cy = cy;
    document.documentElement.dataset.ready = String(Math.round(performance.now()));
  };
  const recolour = () => { if (cy) cy.style(style()); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  matchMedia("print").addEventListener("change", (print) => (print.matches ? still() : recolour()));
  setTimeout(begin);
});
