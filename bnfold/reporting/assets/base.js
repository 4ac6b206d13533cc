"use strict";
/* What all parts of the page share: its data, elements that hold text only, and the node that is chosen. */
const bn = { data: JSON.parse(document.getElementById("data").textContent), listeners: [] };

/** An element; children are elements or text, never markup. Attributes that are null are left out. */
bn.el = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};

/** A name with what cannot be seen spelled out, and not too long. */
bn.shown = (text, longest = 300) => {
  const cut = text.length <= longest ? text : `${text.slice(0, longest / 2)} … ${text.slice(-longest / 2)}`;
  const hidden = (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  return cut.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu, hidden);
};
bn.name = (text) => bn.el("code", { class: "name", dir: "auto" }, bn.shown(text));
bn.words = (text) => bn.el("bdi", {}, bn.shown(text, 1000));

bn.RESULTS = {
  hoist: ["▲", "hoisted", "folded into what is before it"],
  sink: ["▼", "sunk", "folded into what is after it"],
  merge: ["◆", "merged", "merged with parallel branches"],
  gone: ["○", "gone", "gone; where to is not recorded"],
  kept: ["■", "kept", "kept"],
  left: ["□", "left", "still there, though it could be folded"],
};
bn.WAYS = { hoist: "not into what is before it", sink: "not into what is after it", merge: "not merged" };
bn.badge = (result) => bn.el("span", { class: `badge ${result}` }, `${bn.RESULTS[result][0]} ${bn.RESULTS[result][1]}`);

/** A number for people: three digits. */
bn.number = (value) => {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
};

/** Colours of the present theme by role. */
bn.colour = (role) => getComputedStyle(document.documentElement).getPropertyValue(`--${role}`).trim();

/** What is chosen: a node of the graph "before" or "after", by its place, and the affine node it stands for, if any. */
bn.chosen = { graph: "before", node: null, entry: null };
bn.choose = (graph, node, entry = null, by = null) => {
  const own = bn.data.nodes.findIndex((each) => graph === "before" ? each.before === node : each.after === node);
  bn.chosen = { graph, node, entry: entry ?? (own < 0 || node === null ? null : own) };
  for (const listener of bn.listeners) listener(bn.chosen, by);
};

/** An affine node: where it stood, or stands where the present graph still has it. */
bn.chooseEntry = (number, by = null) => {
  const entry = bn.data.nodes[number];
  const after = bn.chosen.graph === "after" && entry.after !== null;
  if (after) bn.choose("after", entry.after, number, by);
  else bn.choose("before", entry.before, number, by);
};

/** Tensors under a level of onnxruntime where fold sites are compared: optimization off, or each site cut out. */
bn.sites = () => {
  const levels = bn.data.verification ? bn.data.verification.levels : [];
  const sites = new Map();
  for (const level of levels.filter((each) => each.level !== "default")) {
    for (const tensor of level.tensors) {
      const known = sites.get(tensor.name);
      if (tensor.site && !tensor.moved && !(known && known.by_channel)) sites.set(tensor.name, tensor);
    }
  }
  return [...sites.values()];
};

/** The tensors of fold sites, which show how wrong an affine node became. */
bn.sitesOf = (entry) => {
  const nodes = bn.data.graphs.after.nodes;
  const names = new Set([entry.output, ...entry.homes.flatMap((place) => nodes[place].outputs || [])]);
  return bn.sites().filter((tensor) => names.has(tensor.name));
};

bn.ready = (part) => part();
