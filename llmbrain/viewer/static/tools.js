// The controls under a map: view, order, threshold, zoom, legend. One function for all maps of the page.

import { isDark, make, number, showTip, settled, ask } from "./common.js";
import { NeuronMap, colorTable, mapColors } from "./map.js";

/** Make a map with its controls; returns {map, threshold(), onThreshold}. */
export function mapWithTools(app, canvas, box, options = {}) {
  const map = new NeuronMap(canvas, app.geometry, { dark: isDark(), ...options });
  const tools = { map, onThreshold: null, threshold: () => map.options.threshold };
  const legend = make("span", { className: "legend" });
  const bar = make("canvas", { width: 96, height: 1 });
  const [low, high] = [make("span"), make("span")];
  legend.append(low, bar, high, "z");
  const paint = () => {
    const colors = mapColors(isDark());
    const table = colorTable(colors.stops, 96);
    const [below] = colorTable([colors.below, colors.below], 2);
    const image = new ImageData(96, 1);
    const pixels = new Uint32Array(image.data.buffer);
    const { threshold, shown } = map.options;
    for (let i = 0; i < 96; i++) pixels[i] = Math.abs((i / 95) * 2 - 1) * shown <= threshold ? below : table[i];
    bar.getContext("2d").putImageData(image, 0, 0);
    low.textContent = number(-shown, 0);
    high.textContent = number(shown, 0);
  };
  const views = segments("Layout", [["lines", "layers × units"], ["sheets", "sheets"]], map.options.view,
    (view) => map.set({ view }));
  const orders = segments("Order of neurons", [["display", "display order"], ["natural", "natural"]],
    app.geometry.cells ? "display" : "natural", (order) => map.set({ order }));
  if (!app.geometry.cells) {
    orders.querySelector("button").disabled = true;
    orders.title = "The study has no display order yet. ‘llmbrain report’ computes it.";
  }
  const slider = make("input", { type: "range", min: 0, max: 10, step: 0.1, value: map.options.threshold });
  const shownThreshold = make("output", { className: "num" }, number(map.options.threshold, 1));
  slider.addEventListener("input", () => {
    map.set({ threshold: Number(slider.value) });
    shownThreshold.textContent = number(Number(slider.value), 1);
    paint();
    if (tools.onThreshold) tools.onThreshold(Number(slider.value));
  });
  slider.className = "threshold";
  const label = make("label", {}, "|z| above ", slider, shownThreshold);
  const zoom = make("span", { className: "segments", role: "group", "aria-label": "Zoom" });
  for (const [text, name, call] of [["−", "Zoom out", () => map.zoom(1 / 1.6)], ["+", "Zoom in", () => map.zoom(1.6)],
    ["whole", "Show the whole map", () => map.reset()]]) {
    const button = make("button", { type: "button", "aria-label": name, title: name }, text);
    button.addEventListener("click", call);
    zoom.append(button);
  }
  box.replaceChildren(views, orders, label, zoom, legend);
  paint();
  app.on("theme", () => { map.set({ dark: isDark() }); paint(); });
  map.onHover = hover(app, tools);
  tools.signed = (on) => { legend.hidden = !on; label.hidden = false; };
  return tools;
}

/** Show a neuron and its networks under the pointer. */
function hover(app, tools) {
  const known = new Map();
  let latest = -1;
  const fetchNetworks = settled(60, async (index, event, lines) => {
    if (index !== latest || !app.networks.length) return;
    try {
      if (!known.has(index)) known.set(index, (await ask(`api/neurons/${index}`)).networks);
    } catch { return; }
    if (index !== latest) return;
    const rows = known.get(index).filter((row) => Math.abs(row.z) >= 2);
    const names = rows.map((row) => [app.color(row.network), `${app.title(row.network)}: z ${number(row.z, 1)}`]);
    showTip(event, [...lines, ...(names.length ? names : ["in no network (|z| < 2)"])]);
  });
  return (neuron, event) => {
    latest = neuron ? neuron.index : -1;
    if (!neuron) { showTip(event, null); return; }
    const z = tools.describe ? tools.describe(neuron) : [`z ${number(neuron.value, 2)}`];
    const lines = [`layer ${neuron.layer}, unit ${neuron.unit}`, ...z];
    showTip(event, lines);
    fetchNetworks(neuron.index, event, lines);
  };
}

/** A row of buttons of which one is pressed. */
export function segments(name, choices, first, call) {
  const box = make("span", { className: "segments", role: "group", "aria-label": name });
  for (const [value, text] of choices) {
    const button = make("button", { type: "button", "aria-pressed": String(value === first) }, text);
    button.addEventListener("click", () => {
      for (const other of box.children) other.setAttribute("aria-pressed", String(other === button));
      call(value);
    });
    box.append(button);
  }
  return box;
}

/** Fill a <select> with networks. */
export function networkOptions(app, select, first = null) {
  const before = select.value;
  select.replaceChildren(...(first === null ? [] : [make("option", { value: "" }, first)]),
    ...app.networks.map((row) => make("option", { value: row.network }, app.title(row.network))));
  if ([...select.options].some((option) => option.value === before)) select.value = before;
}
