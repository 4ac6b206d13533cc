"use strict";
/* Runs in a worker. A network is long: it is cut where few edges cross, and each piece is laid out by dagre alone. */
const LEAST = 6, USUAL = 12, MOST = 22, FULL = 140; // ranks of a piece, and nodes from which it is cut anyway

/** The longest path to each node; one that reads nothing stands just before the first that reads it. */
const rankOf = (count, edges) => {
  const into = Array.from({ length: count }, () => []), out = Array.from({ length: count }, () => []);
  for (const [a, b] of edges) { out[a].push(b); into[b].push(a); }
  const waits = into.map((list) => list.length), rank = new Array(count).fill(0);
  const queue = [...waits.keys()].filter((node) => !waits[node]);
  for (let i = 0; i < queue.length; i++) {
    for (const b of out[queue[i]]) {
      rank[b] = Math.max(rank[b], rank[queue[i]] + 1);
      if (!--waits[b]) queue.push(b);
    }
  }
  for (let a = 0; a < count; a++) if (!into[a].length && out[a].length) rank[a] = Math.max(0, Math.min(...out[a].map((b) => rank[b])) - 1);
  return rank;
};

/** The last rank of each piece. */
const cuts = (rank, edges) => {
  const last = rank.reduce((a, b) => Math.max(a, b), 0), counts = new Array(last + 1).fill(0), steps = new Array(last + 2).fill(0);
  for (const r of rank) counts[r]++;
  for (const [a, b] of edges) { steps[Math.min(rank[a], rank[b])]++; steps[Math.max(rank[a], rank[b])]--; }
  let open = 0;
  const crossing = counts.map((_, r) => (open += steps[r]));
  const ranks = [];
  for (let start = 0; start <= last;) {
    let best = null, nodes = 0;
    for (let r = start; r <= last && r - start < MOST && (nodes < FULL || best === null); r++) {
      nodes += counts[r];
      const far = Math.abs(r - start + 1 - USUAL), cost = crossing[r] * 4 + far;
      if (r === last) { best = { r, cost: 0 }; break; }
      if ((r - start + 1 >= LEAST || nodes >= FULL) && (best === null || cost < best.cost)) best = { r, cost };
    }
    ranks.push(best.r);
    start = best.r + 1;
  }
  return ranks;
};

/** Positions inside one piece, its first rank at y = 0, and where its edges bend. */
const placed = (nodes, edges, size) => {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "TB", nodesep: 14, ranksep: 16, edgesep: 6 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const node of nodes) graph.setNode(String(node), { width: size[0], height: size[1] });
  for (const [a, b] of edges) graph.setEdge(String(a), String(b));
  dagre.layout(graph);
  const bends = edges.map(([a, b]) => [a, b, graph.edge(String(a), String(b)).points.slice(1, -1).map(({ x, y }) => [x, y])]);
  return { at: new Map(nodes.map((node) => [node, [graph.node(String(node)).x, graph.node(String(node)).y]])), bends };
};

/** Each piece: its nodes with their x and y, its height, and its left and right from the line of the whole. */
const pieces = ({ count, edges, size }) => {
  const rank = rankOf(count, edges), ends = cuts(rank, edges), places = new Map(), made = [];
  const piece = rank.map((r) => { let low = 0, high = ends.length - 1; while (low < high) { const mid = (low + high) >> 1; if (ends[mid] >= r) high = mid; else low = mid + 1; } return low; });
  const nodes = ends.map(() => []), inner = ends.map(() => []), across = ends.map(() => []);
  piece.forEach((p, node) => nodes[p].push(node));
  for (const edge of edges) (piece[edge[0]] === piece[edge[1]] ? inner : across)[piece[edge[1]]].push(edge);
  ends.forEach((_, p) => {
    const { at: own, bends } = placed(nodes[p], inner[p], size);
    const gaps = across[p].filter(([a]) => piece[a] === p - 1).map(([a, b]) => places.get(a)[0] - own.get(b)[0]);
    const xs = [...own.values()].map(([x]) => x), middle = (Math.min(...xs) + Math.max(...xs)) / 2;
    const shift = gaps.length ? gaps.reduce((a, b) => a + b, 0) / gaps.length : -middle;
    for (const [node, [x, y]] of own) places.set(node, [x + shift, y]);
    const all = nodes[p].map((node) => [node, ...places.get(node)]);
    const height = Math.max(...all.map(([, , y]) => y)) + size[1] / 2;
    const edges = bends.filter(([, , points]) => points.length > 1).map(([a, b, points]) => [a, b, points.map(([x, y]) => [x + shift, y])]);
    made.push({ nodes: all, edges, height, left: Math.min(...all.map(([, x]) => x)) - size[0] / 2, right: Math.max(...all.map(([, x]) => x)) + size[0] / 2 });
  });
  return made;
};

onmessage = (event) => postMessage(pieces(event.data));
