"use strict";
/* Next to the graph: what is known of the node that is chosen. */
bn.ready(() => {
  const place = document.getElementById("details"), el = bn.el;
  const graphs = bn.data.graphs, nodes = bn.data.nodes;
  const list = (items) => el("ul", {}, ...items.map((item) => el("li", {}, item)));
  const part = (title, ...content) => [el("h4", {}, title), ...content];
  const called = (node) => `${node.op || node.kind} ${node.name || (node.outputs || [])[0] || ""}`;
  const jump = (graph, at) => el("button", { class: "jump name", type: "button", onclick: () => bn.choose(graph, at, null, "details") }, bn.shown(called(graphs[graph].nodes[at]), 120));

  const result = (entry) => {
    const parts = [el("p", {}, `${bn.RESULTS[entry.result][2][0].toUpperCase()}${bn.RESULTS[entry.result][2].slice(1)}.`)];
    if (entry.homes.length) parts.push(...part("Its constants are now in", list(entry.homes.map((at) => jump("after", at)))));
    else if (entry.into.length) parts.push(...part("Its constants are now in", list(entry.into.map(bn.name))));
    if (entry.through.length) parts.push(...part("On the way through", list(entry.through.slice(0, 40).map(bn.name))));
    for (const reason of entry.reasons) {
      parts.push(...part(bn.WAYS[reason.way] + ", because", el("p", {}, bn.words(reason.words), " ", el("code", { class: "code" }, bn.shown(reason.code)))));
    }
    return parts;
  };

  const errors = (entry) => bn.sitesOf(entry).flatMap((tensor) => {
    const row = (title, a, b) => el("tr", {}, el("th", { scope: "row" }, title), el("td", { class: "number" }, bn.number(a)), el("td", { class: "number" }, bn.number(b)));
    const head = el("tr", {}, el("td"), el("th", { scope: "col", class: "number" }, "original"), el("th", { scope: "col", class: "number" }, "result"));
    const table = el("table", {}, el("thead", {}, head), el("tbody", {},
      row("relative rms error", tensor.rms_original, tensor.rms_folded), row("largest absolute error", tensor.max_abs_original, tensor.max_abs_folded)));
    const ratio = el("p", {}, `${bn.number(tensor.ratio)} times what rounding explains; limit ${tensor.limit}.`);
    const link = tensor.by_channel ? el("p", {}, el("a", { href: "#channels", onclick: () => bn.showChannels(tensor.name) }, "Channel by channel")) : null;
    return part("Error at the fold site", bn.name(tensor.name), table, ratio, link);
  });

  const channels = (entry) => {
    const norm = bn.data.channels.nodes.find((each) => each.output === entry.output);
    if (!norm) return [];
    const span = (q) => `${bn.number(q[0])} to ${bn.number(q[4])}, median ${bn.number(q[2])}`;
    const dead = norm.dead ? `${norm.dead} of ${norm.channels} are dead: ${norm.dead_channels.join(", ")}${norm.dead > norm.dead_channels.length ? ", …" : ""}` : `${norm.channels}, none dead`;
    return part("Channels", el("p", {}, dead), el("p", {}, `scale factor: ${span(norm.factor)}`), el("p", {}, `variance: ${span(norm.var)}`));
  };

  const tensors = (graph, node) => {
    const stored = graphs[graph].constants, said = (name) => el("span", {}, bn.name(name), stored[name] ? ` ${stored[name]}` : "");
    const inputs = (node.inputs || []).filter(Boolean), outputs = node.outputs || [];
    return [...(inputs.length ? part("Inputs", list(inputs.map(said))) : []), ...(outputs.length ? part("Outputs", list(outputs.map(said))) : [])];
  };
  const attributes = (node) => {
    const rows = Object.entries(node.attributes || {});
    return rows.length ? part("Attributes", list(rows.map(([key, value]) => el("span", {}, bn.name(key), ` ${bn.shown(value, 120)}`)))) : [];
  };
  const inside = (graph, node) => {
    if (node.inside === undefined) return [];
    return part("In the body of", typeof node.inside === "number" ? jump(graph, node.inside) : bn.name(node.inside));
  };
  const guests = (graph, at) => {
    if (graph !== "after") return [];
    const sources = nodes.filter((entry) => entry.homes.includes(at));
    return sources.length ? part("Holds the constants of", list(sources.map((entry) => entry.before === null ? bn.name(entry.output) : jump("before", entry.before)))) : [];
  };

  const empty = () => place.classList.add("none") || place.replaceChildren(el("h3", {}, "Details"), el("p", { class: "note" }, "Choose a node: click it, or use the arrow keys in the graph, the coloured strip, or the table below."));
  const show = ({ graph, node: at, entry: number }) => {
    if (at === null && number === null) return empty();
    place.classList.remove("none");
    const node = at === null ? { kind: "node", op: nodes[number].operator, name: nodes[number].node } : graphs[graph].nodes[at];
    const own = number === null ? null : nodes[number], stands = own && (own.before === at && graph === "before" || own.after === at && graph === "after");
    const title = el("h3", {}, bn.el("bdi", {}, bn.shown(node.op || node.kind, 80)), own && (stands || at === null) ? bn.badge(own.result) : null);
    const facts = own && (stands || at === null) ? [...result(own), ...errors(own), ...channels(own)] : [];
    place.replaceChildren(title, el("p", {}, bn.name(node.name || (node.outputs || [""])[0])), ...facts, ...guests(graph, at), ...tensors(graph, node), ...attributes(node), ...inside(graph, node));
    place.scrollTop = 0;
  };
  bn.listeners.push(show);
  empty();
});
