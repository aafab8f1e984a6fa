"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const view = document.getElementById("view"), sheet = document.getElementById("sheet");
  const facts = document.getElementById("facts"), found = document.getElementById("found");
  const SVG = "http://www.w3.org/2000/svg";
  const home = new Map();     // number of a node -> the groups around it, the outermost first
  const groups = [];
  let scale = 1, hits = new Set(), chosen = null;
  const num = x => {                       // as the text writes it: 107, 0.5, 1.23e+06
    if (typeof x !== "number") return x ?? "";
    const [digits, power] = x.toExponential(2).split("e"), n = Math.abs(power);
    return x === 0 || power >= -4 && power < 3 ? String(+x.toPrecision(3)) : `${+digits}e${power[0]}${n < 10 ? "0" : ""}${n}`;
  };
  const make = (tag, name, text) => {
    const e = document.createElement(tag);
    if (name) e.className = name;
    if (text !== undefined) e.textContent = text;
    return e;
  };

  (function index(list, around) {
    for (const item of list.items) {
      if (item.node !== undefined) { home.set(item.node, around); continue; }
      item.element = null; item.shown = item.open;
      groups.push(item);
      for (const part of item.parts) index(part, [...around, item]);
    }
  })(data.tree, []);

  function open(list, budget) {            // from the outside in, as long as the screen suffices
    let level = list.items, count = level.length;
    while (level.length) {
      const inner = [];
      for (const item of level) {
        if (item.node !== undefined || (item.kind !== "module" && !item.shown)) continue;
        const size = item.parts.reduce((n, part) => n + part.items.length, 0);
        if (item.shown || count + size <= budget) {
          item.shown = true; count += size;
          for (const part of item.parts) inner.push(...part.items);
        }
      }
      level = inner;
    }
  }

  addEventListener("resize", () => resize());
  const places = new Map();                // number of a node -> its element, where it is drawn
  function drawList(list) {
    const box = make("div", "list");
    for (const row of list.layers) {
      const layer = make("div", "layer");
      for (const k of row) layer.append(draw(list.items[k]));
      box.append(layer);
    }
    return box;
  }
  function draw(item) {
    if (item.node !== undefined) return drawNode(item.node, item.name);
    const box = make("div", `group ${item.kind}${item.shown ? " open" : ""}`);
    const label = item.label.includes(",") ? `(${item.label})` : item.label;
    const named = item.kind === "repeat" ? `${item.parts.length} × ${label}` : item.label;
    const title = make("button", "title");
    title.append(make("b", "", `${item.shown ? "▾" : "▸"} ${named}`), " ", make("span", "soft", item.name));
    if (!item.shown) title.append(make("div", "soft", item.about), result(data.nodes[item.result]));
    title.setAttribute("aria-expanded", String(item.shown));
    title.onclick = () => { item.shown = !item.shown; render(); };
    box.append(title);
    item.element = box;
    if (item.shown) {
      const parts = make("div", "parts");
      for (const part of item.parts) parts.append(drawList(part));
      box.append(parts);
    }
    if (!item.shown && [...hits].some(i => home.get(i).includes(item))) box.classList.add("hit");
    return box;
  }
  function result(n) {                     // of an operator, or of the last one in a closed group
    const o = n.out[0], box = make("div"), both = make("div", "both");
    box.append(make("div", "soft", o.is + (n.out.length > 1 ? ` +${n.out.length - 1}` : "")));
    both.append(make("span", "forward", o.value ? "↓ " + num(o.value.norm) : ""),
                make("span", "backward", o.gradient ? "↑ " + num(o.gradient.norm) : ""));
    if (o.value || o.gradient) box.append(both);
    return box;
  }
  function drawNode(i, module) {
    const n = data.nodes[i], leaf = n.kind === "leaf";
    const box = make("div", `node${leaf ? " leaf" : ""}${hits.has(i) ? " hit" : ""}${chosen === i ? " chosen" : ""}`);
    box.append(make("b", "", n.name), leaf ? "" : make("span", "soft", ` #${i} ${module || ""}`));
    box.append(result(n));
    box.tabIndex = 0;
    box.onclick = () => { chosen = i; tell(i); document.querySelectorAll(".chosen").forEach(e => e.classList.remove("chosen"));
      box.classList.add("chosen"); };
    box.onkeydown = e => { if (e.key === "Enter") box.onclick(); };
    places.set(i, box);
    return box;
  }
  function tell(i) {
    const n = data.nodes[i], rows = [];
    n.out.forEach((o, k) => {
      rows.push([n.out.length > 1 ? `output ${k}` : "output", o.is]);
      for (const key of ["value", "gradient"]) if (o[key]) rows.push([key, Object.entries(o[key]).map(
        ([name, x]) => `${name} ${Array.isArray(x) ? JSON.stringify(x) : num(x)}`).join(", ")]);
    });
    if (n.in.length) rows.push(["inputs", n.in.map(e => e.is + (e.grad !== undefined ? ` (gradient ${num(e.grad)})` : "")).join(", ")]);
    if (n.saved === null) rows.push(["saved", "freed by a backward"]);
    else if (n.saved !== undefined) rows.push(["saved", n.saved.length ? `${n.saved.join("; ")}: ${n.saved_bytes}` : "nothing"]);
    if (n.bytes !== undefined) rows.push(["memory", n.bytes]);
    if (n.module) rows.push(["module", n.module]);
    if (n.line) rows.push(["line", n.line]);
    const table = make("table");
    for (const [name, text] of rows) {
      const tr = make("tr");
      tr.append(make("th", "", name), make("td", "", text));
      table.append(tr);
    }
    facts.replaceChildren(make("b", "", n.kind === "leaf" ? n.name : `${n.name} #${i}`), table);
  }
  function shownAt(i) {                    // the element that stands for a node: its own, or a closed group's
    for (const g of home.get(i) || []) if (!g.shown) return g.element;
    return places.get(i);
  }
  function wires() {
    const svg = document.createElementNS(SVG, "svg"), pairs = new Map();
    svg.id = "wires";
    svg.innerHTML = '<defs><marker id="af" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">' +
      '<path d="M0 0 8 4 0 8z" style="fill:var(--forward);stroke:none"/></marker><marker id="ab" viewBox="0 0 8 8" refX="8" refY="4" ' +
      'markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" style="fill:var(--backward);stroke:none"/></marker></defs>';
    const numbers = new Map(), number = e => { if (!numbers.has(e)) numbers.set(e, numbers.size); return numbers.get(e); };
    for (const [i, n] of Object.entries(data.nodes)) for (const e of n.in) {
      if (e.node === null) continue;
      const a = shownAt(e.node), b = shownAt(+i);
      if (!a || !b || a === b) continue;
      const key = number(a) + ":" + number(b), known = pairs.get(key);
      if (known) known.grad = undefined; else pairs.set(key, {a, b, grad: e.grad});
    }
    const origin = sheet.getBoundingClientRect(), at = new Map();
    const rect = e => { if (!at.has(e)) { const r = e.getBoundingClientRect();
      at.set(e, {x: (r.left - origin.left) / scale, y: (r.top - origin.top) / scale, w: r.width / scale, h: r.height / scale, ins: [], outs: []}); }
      return at.get(e); };
    const list = [...pairs.values()];
    for (const p of list) { p.ra = rect(p.a); p.rb = rect(p.b); p.ra.outs.push(p); p.rb.ins.push(p); }
    const middle = r => r.x + r.w / 2;
    for (const r of at.values()) {
      r.outs.sort((p, q) => middle(p.rb) - middle(q.rb)); r.ins.sort((p, q) => middle(p.ra) - middle(q.ra));
      r.outs.forEach((p, k) => { p.x1 = r.x + r.w * (k + 1) / (r.outs.length + 1); });
      r.ins.forEach((p, k) => { p.x2 = r.x + r.w * (k + 1) / (r.ins.length + 1); });
    }
    const out = [], taken = new Map();
    const solid = [...document.querySelectorAll(".node, .group:not(.open)")], many = solid.length > 400;
    if (!many) solid.forEach(rect);
    function lane(x1, y1, x2, y2, a, b) {  // where a vertical line meets no box
      const between = many ? [] : solid.filter(e => e !== a && e !== b).map(rect).filter(r => r.y < y2 - 20 && r.y + r.h > y1 + 20);
      const free = [x1, x2, (x1 + x2) / 2, ...between.flatMap(r => [r.x - 14, r.x + r.w + 14])]
        .filter(x => between.every(r => x <= r.x - 9 || x >= r.x + r.w + 9));
      free.sort((p, q) => Math.abs(p - x1) + Math.abs(p - x2) - Math.abs(q - x1) - Math.abs(q - x2));
      const x = free[0], beside = taken.get(Math.round(x)) || 0;
      taken.set(Math.round(x), beside + 1);
      return x + 14 * beside;
    }
    for (const {a, b, ra, rb, x1, x2, grad} of list) {
      const y1 = ra.y + ra.h, y2 = rb.y, l = y2 - y1 > 110 ? lane(x1, y1, x2, y2, a, b) : null;
      const curve = (a, b, c, d, x) => {
        const s = d > b ? 1 : -1, m = (d - b) * .45, t = Math.min(26, Math.abs(d - b) / 3) * s;
        return x === null ? `M${a} ${b} C${a} ${b + m} ${c} ${d - m} ${c} ${d}` :
          `M${a} ${b} C${a} ${b + t} ${x} ${b} ${x} ${b + t} L${x} ${d - t} C${x} ${d} ${c} ${d - t} ${c} ${d}`;
      };
      out.push(`<path class="f" marker-end="url(#af)" d="${curve(x1 - 3, y1, x2 - 3, y2, l === null ? null : l - 3)}"/>`,
               `<path class="b" marker-end="url(#ab)" d="${curve(x2 + 3, y2, x1 + 3, y1, l === null ? null : l + 3)}"/>`);
      if (grad !== undefined) out.push(`<text x="${(l === null ? x1 + (x2 - x1) * .8 : l) + 7}" y="${y1 + (y2 - y1) * (l === null ? .7 : .5) + 3}">${num(grad)}</text>`);
    }
    svg.insertAdjacentHTML("beforeend", out.join(""));
    sheet.append(svg);
  }
  function render() {
    places.clear();
    sheet.replaceChildren(drawList(data.tree));
    wires();
    resize();
  }
  function resize() {                      // a scaled element keeps its place: the scroll bars follow by margins
    sheet.style.transform = `scale(${scale})`;
    sheet.style.marginBottom = `${sheet.offsetHeight * (scale - 1)}px`;
    const spare = view.clientWidth - sheet.offsetWidth * scale;  // in the middle, where there is room
    sheet.style.marginLeft = `${Math.max(0, spare / 2)}px`;
    sheet.style.marginRight = `${Math.min(0, sheet.offsetWidth * (scale - 1))}px`;
  }
  function zoom(factor, x, y) {
    const before = scale, r = view.getBoundingClientRect();
    const px = (x ?? r.left + r.width / 2) - r.left, py = (y ?? r.top + r.height / 2) - r.top;
    scale = Math.min(4, Math.max(.05, scale * factor));
    const fx = (view.scrollLeft + px) / before, fy = (view.scrollTop + py) / before;
    resize();
    view.scrollLeft = fx * scale - px; view.scrollTop = fy * scale - py;
  }
  function fit() {
    scale = Math.max(.05, Math.min(1, view.clientWidth / sheet.offsetWidth, view.clientHeight / sheet.offsetHeight));
    resize();
    view.scrollLeft = view.scrollTop = 0;
  }
  function search(text) {
    const wanted = text.trim().toLowerCase();
    hits = new Set();
    if (wanted) for (const [i, n] of Object.entries(data.nodes)) {
      const groupsOf = home.get(+i) || [];
      if ([n.name, "#" + i, n.line || "", n.module || "", ...groupsOf.map(g => g.name)].some(s => s.toLowerCase().includes(wanted)))
        hits.add(+i);
    }
    found.textContent = wanted ? `${hits.size} found` : "";
    if (hits.size && hits.size <= 40) for (const i of hits) for (const g of home.get(i) || []) g.shown = true;
    render();
    const first = document.querySelector(".hit");
    if (first) first.scrollIntoView({block: "center", inline: "center"});
  }

  document.getElementById("search").oninput = e => search(e.target.value);
  document.getElementById("larger").onclick = () => zoom(1.25);
  document.getElementById("smaller").onclick = () => zoom(.8);
  document.getElementById("fit").onclick = fit;
  document.getElementById("open").onclick = () => {
    if (Object.keys(data.nodes).length > 3000 && !confirm("Unfold all? Thousands of operators take a while.")) return;
    for (const g of groups) g.shown = true;
    render();
  };
  document.getElementById("close").onclick = () => { for (const g of groups) g.shown = false; render(); };
  view.addEventListener("wheel", e => { if (e.ctrlKey || e.metaKey) { e.preventDefault(); zoom(e.deltaY < 0 ? 1.1 : .9, e.clientX, e.clientY); } },
    {passive: false});
  view.onpointerdown = e => {
    if (e.target.closest(".node, button")) return;
    view.classList.add("held");
    const x = e.clientX + view.scrollLeft, y = e.clientY + view.scrollTop;
    const move = m => { view.scrollLeft = x - m.clientX; view.scrollTop = y - m.clientY; };
    const end = () => { view.classList.remove("held"); removeEventListener("pointermove", move); removeEventListener("pointerup", end); };
    addEventListener("pointermove", move); addEventListener("pointerup", end);
  };
  open(data.tree, 60);
  render();
  fit();
  if (scale < .5) { scale = .5; resize(); }
  // for scripts that steer the page
  window.graph = {search, fit, zoom, groups, render, nodes: data.nodes};
})();
