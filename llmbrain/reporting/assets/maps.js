// The maps of the report: NeuronMap (above) in the place of the pictures, with a threshold, two views, zoom and hover.
// The values come with the page, as two bytes per neuron; `scale` is the value of 32767.
(function () {
  "use strict";
  const holder = document.getElementById("map-data");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);

  function bytes(text, Type) {
    const raw = atob(text);
    const buffer = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) buffer[i] = raw.charCodeAt(i);
    return new Type(buffer.buffer);
  }
  const geometry = { sizes: data.sizes, layers: data.layers, shape: data.shape };
  if (data.cells) {
    geometry.cells = bytes(data.cells, Uint32Array);
    geometry.rank = bytes(data.rank, Uint32Array);
  }
  function isDark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
  }
  const shared = { threshold: data.threshold, view: "sheets", order: data.cells ? "display" : "natural" };
  const open = [];
  const format = (value) => value.toFixed(1).replace("-", "−");

  // one map per card, made when its card is first seen
  function start(box) {
    if (box.dataset.started) return;
    box.dataset.started = "yes";
    const one = data.maps[box.dataset.map];
    const values = Float32Array.from(bytes(one.values, Int16Array), (v) => (v * one.scale) / 32767);
    const canvas = document.createElement("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", box.querySelector("img").alt + " Arrow keys move from neuron to neuron, plus and minus zoom.");
    const tip = document.createElement("p");
    tip.className = "map-tip note";
    tip.setAttribute("aria-live", "polite");
    const bar = document.createElement("div");
    bar.className = "map-tools";
    bar.innerHTML = '<label>|z| above <input type="range" min="0" max="10" step="0.1"> <output></output></label>' +
      '<span class="group"><button type="button" class="quiet" data-do="in" aria-label="Zoom in">+</button>' +
      '<button type="button" class="quiet" data-do="out" aria-label="Zoom out">−</button>' +
      '<button type="button" class="quiet" data-do="all">All</button></span>' +
      '<span class="group"><button type="button" class="quiet" data-do="view"></button>' +
      (geometry.cells ? '<button type="button" class="quiet" data-do="order"></button>' : "") + "</span>";
    box.append(bar, canvas, tip);
    box.classList.add("live");
    const map = new NeuronMap(canvas, geometry, { ...shared, dark: isDark() });
    map.setValues(values);
    const idle = "Point at a neuron. Double-click or Ctrl + wheel zooms, a drag moves the map.";
    tip.textContent = idle;
    map.onHover = (neuron) => {
      tip.textContent = neuron ? `Layer ${neuron.layer}, unit ${neuron.unit}: z = ${format(neuron.value)}` : idle;
    };
    const slider = bar.querySelector("input");
    const named = { view: bar.querySelector('[data-do="view"]'), order: bar.querySelector('[data-do="order"]') };
    const entry = {
      map,
      show() {
        map.set({ ...shared, dark: isDark() });
        slider.value = shared.threshold;
        let over = 0;
        for (const v of values) over += Math.abs(v) > shared.threshold;
        bar.querySelector("output").textContent = `${shared.threshold.toFixed(1)}: ${over.toLocaleString("en")} neurons`;
        named.view.textContent = shared.view === "sheets" ? "Lines" : "Sheets";
        if (named.order) named.order.textContent = shared.order === "display" ? "Natural order" : "Sorted order";
      },
    };
    slider.addEventListener("input", () => { shared.threshold = parseFloat(slider.value); all(); });
    bar.addEventListener("click", (event) => {
      const what = event.target.dataset.do;
      if (what === "in") map.zoom(1.8);
      else if (what === "out") map.zoom(1 / 1.8);
      else if (what === "all") map.reset();
      else if (what === "view") { shared.view = shared.view === "sheets" ? "lines" : "sheets"; all(); }
      else if (what === "order") { shared.order = shared.order === "display" ? "natural" : "display"; all(); }
    });
    open.push(entry);
    entry.show();
  }
  function all() { open.forEach((entry) => entry.show()); }

  const boxes = document.querySelectorAll("[data-map]");
  const seen = new IntersectionObserver((entries) => {
    entries.forEach((entry) => { if (entry.isIntersecting) start(entry.target); });
  }, { rootMargin: "200px" });
  boxes.forEach((box) => seen.observe(box));
  const theme = document.getElementById("theme");
  if (theme) theme.addEventListener("click", () => setTimeout(all, 0));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
})();
