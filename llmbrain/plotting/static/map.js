// Maps over the neurons of a model on a canvas: zoom, pan, threshold, hover. An ES module without dependencies, used by
// the viewer and by the report, which writes it into its page.
//
//   const map = new NeuronMap(canvas, {sizes, layers, shape, cells, rank});
//   map.setValues(float32Array);         // one value per neuron, in the flat order of the recording
//   map.set({threshold: 3, view: "sheets", order: "display"});
//   map.onHover = (neuron, event) => {}; // neuron: {index, layer, unit, value} or null
//
// `cells` and `rank` (Topography.cells and Topography.rank()) are the display order; both are optional.

const LIGHT = {
  stops: ["#0a2f5c", "#2166ac", "#6ea6d4", "#c5dcee", "#f6f6f4", "#f8d3bd", "#e98f62", "#c8501e", "#7a2308"],
  below: "#f1f3f5", ink: "#1d2733", muted: "#566271", rule: "#d9dee5",
};
const DARK = {
  stops: ["#b5dcff", "#6aaef0", "#2f74bd", "#1f4468", "#1c232b", "#5c3219", "#b3561f", "#f08a4b", "#ffcda8"],
  below: "#1f272f", ink: "#e7ebf0", muted: "#a3afbc", rule: "#333d48",
};
const GAP = 2; // cells between two sheets
const MARGIN = 30; // pixels for the numbers of the layers

export function mapColors(dark) {
  return dark ? DARK : LIGHT;
}

/** Table of 256 colours, packed as a canvas stores them, from a list of CSS colours. */
export function colorTable(stops, n = 256) {
  const rgb = stops.map(parseColor);
  const table = new Uint32Array(n);
  for (let i = 0; i < n; i++) {
    const at = (i / (n - 1)) * (rgb.length - 1);
    const low = Math.min(Math.floor(at), rgb.length - 2);
    const part = at - low;
    const mix = rgb[low].map((v, c) => Math.round(v + (rgb[low + 1][c] - v) * part));
    table[i] = pack(mix);
  }
  return table;
}

function parseColor(hex) {
  const number = parseInt(hex.slice(1), 16);
  return [(number >> 16) & 255, (number >> 8) & 255, number & 255];
}

function pack([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** Number of sheets per row: full rows if possible, close to an aspect of the whole (width over height). */
export function mosaicLayout(nSheets, rows, cols, aspect) {
  let best = Infinity, chosen = 1;
  for (let across = 1; across <= nSheets; across++) {
    const down = Math.ceil(nSheets / across);
    const shape = Math.abs(Math.log((across * (cols + GAP)) / (down * (rows + GAP)) / aspect));
    const off = shape + (1.5 * (across * down - nSheets)) / nSheets;
    if (off < best) { best = off; chosen = across; }
  }
  return chosen;
}

export class NeuronMap {
  constructor(canvas, geometry, options = {}) {
    this.canvas = canvas;
    this.geometry = geometry;
    this.offsets = [0];
    for (const size of geometry.sizes) this.offsets.push(this.offsets[this.offsets.length - 1] + size);
    this.nNeurons = this.offsets[this.offsets.length - 1];
    this.values = null;
    this.classes = null; // colours of classes 1, 2, ... ; values are then numbers of classes
    this.options = { threshold: 0, shown: 8, view: "lines", order: "display", dark: false, ...options };
    this.box = null; // visible part: [left, top, right, bottom] in cells
    this.cursor = null;
    this.onHover = null;
    this.onPick = null;
    this._layout();
    this._listen();
    this._observer = new ResizeObserver(() => { this._layout(); this.draw(); });
    this._observer.observe(canvas);
  }

  /** Show one value per neuron; with `classes`, a list of colours, the values are numbers of classes. */
  setValues(values, classes = null) {
    this.values = values;
    this.classes = classes;
    this.draw();
  }

  /** Change options: threshold, shown (value of the full colour), view, order, dark. */
  set(options) {
    const before = this.options;
    this.options = { ...before, ...options };
    const moved = ["view", "order"].some((name) => this.options[name] !== before[name]);
    if (moved) { this._layout(); this.box = null; this.cursor = null; }
    this.draw();
  }

  /** Zoom by a factor around a point in cells; 1 or less than the whole resets. */
  zoom(factor, x = null, y = null) {
    const [left, top, right, bottom] = this._box();
    const [cx, cy] = [x ?? (left + right) / 2, y ?? (top + bottom) / 2];
    const width = Math.max((right - left) / factor, Math.min(4, this.width));
    const height = Math.max((bottom - top) / factor, Math.min(2, this.height));
    if (width >= this.width && height >= this.height) { this.box = null; this.draw(); return; }
    const l = cx - ((cx - left) * width) / (right - left);
    const t = cy - ((cy - top) * height) / (bottom - top);
    this.box = this._inside(l, t, width, height);
    this.draw();
  }

  reset() { this.box = null; this.draw(); }

  pan(dx, dy) {
    const [left, top, right, bottom] = this._box();
    this.box = this.box && this._inside(left + dx, top + dy, right - left, bottom - top);
    this.draw();
  }

  destroy() { this._observer.disconnect(); }

  /** The neuron at an index: {index, layer, unit, value}, or null. */
  neuron(index) {
    if (index === null || index === undefined || index < 0) return null;
    let low = 0, high = this.geometry.sizes.length - 1;
    while (low < high) { // the last layer that begins at or before the index
      const middle = (low + high + 1) >> 1;
      if (this.offsets[middle] <= index) low = middle; else high = middle - 1;
    }
    const value = this.values ? this.values[index] : null;
    return { index, layer: this.geometry.layers[low], unit: index - this.offsets[low], value };
  }

  // -- layout ---------------------------------------------------------------------------------------------------
  _layout() {
    const { sizes, shape, cells, rank } = this.geometry;
    const [nLayers, rows, cols] = shape;
    const sorted = this.options.order === "display" && Boolean(cells);
    if (this.options.view === "sheets") {
      const aspect = (this.canvas.clientWidth || 2) / (this.canvas.clientHeight || 1);
      this.across = mosaicLayout(nLayers, rows, cols, aspect);
      this.width = this.across * (cols + GAP) - GAP;
      this.height = Math.ceil(nLayers / this.across) * (rows + GAP) - GAP;
    } else {
      this.width = Math.max(...sizes);
      this.height = nLayers;
    }
    this.index = new Int32Array(this.width * this.height).fill(-1);
    this.where = new Int32Array(this.nNeurons);
    for (let layer = 0; layer < nLayers; layer++) {
      const start = this.offsets[layer];
      for (let unit = 0; unit < sizes[layer]; unit++) {
        const neuron = start + unit;
        let place;
        if (this.options.view === "sheets") {
          const cell = sorted ? cells[neuron] : unit;
          const top = Math.floor(layer / this.across) * (rows + GAP) + Math.floor(cell / cols);
          place = top * this.width + (layer % this.across) * (cols + GAP) + (cell % cols);
        } else {
          place = (nLayers - 1 - layer) * this.width + (sorted ? rank[neuron] : unit);
        }
        this.index[place] = neuron;
        this.where[neuron] = place;
      }
    }
  }

  _box() { return this.box || [0, 0, this.width, this.height]; }

  _inside(left, top, width, height) {
    const l = Math.min(Math.max(left, 0), Math.max(this.width - width, 0));
    const t = Math.min(Math.max(top, 0), Math.max(this.height - height, 0));
    return [l, t, Math.min(l + width, this.width), Math.min(t + height, this.height)];
  }

  /** Where the cells are drawn, in device pixels: [x, y, width, height]. */
  _frame() {
    const ratio = window.devicePixelRatio || 1;
    const margin = this.options.view === "lines" ? MARGIN * ratio : 0;
    const [wide, high] = [this.canvas.width - margin, this.canvas.height];
    if (this.options.view === "lines") return [margin, 0, wide, high];
    const [left, top, right, bottom] = this._box();
    const scale = Math.min(wide / (right - left), high / (bottom - top));
    const [w, h] = [Math.floor((right - left) * scale), Math.floor((bottom - top) * scale)];
    return [Math.floor((wide - w) / 2), Math.floor((high - h) / 2), w, h];
  }

  // -- drawing --------------------------------------------------------------------------------------------------
  draw() {
    if (this._waiting) return;
    this._waiting = true;
    requestAnimationFrame(() => { this._waiting = false; this._draw(); });
  }

  _draw() {
    const { canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (!w || !h) return;
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, w, h);
    const frame = this._frame();
    if (frame[2] < 1 || frame[3] < 1) return;
    context.putImageData(this._picture(context, frame[2], frame[3]), frame[0], frame[1]);
    this._write(context, frame, ratio);
    this._point(context, frame, ratio);
  }

  _picture(context, wide, high) {
    const image = context.createImageData(wide, high);
    const pixels = new Uint32Array(image.data.buffer);
    const [left, top, right, bottom] = this._box();
    const colors = mapColors(this.options.dark);
    const below = pack(parseColor(colors.below));
    const paint = this.classes ? this._classPaint(below) : this._signedPaint(colors, below);
    const columns = edges(left, right, wide, this.width);
    const rows = edges(top, bottom, high, this.height);
    let before = -1;
    for (let y = 0; y < high; y++) {
      const [a, b] = [rows[2 * y], rows[2 * y + 1]];
      if (y && b === a + 1 && a === before) { // the same row of cells as the pixel above
        pixels.copyWithin(y * wide, (y - 1) * wide, y * wide);
        continue;
      }
      before = b === a + 1 ? a : -1;
      for (let x = 0; x < wide; x++) {
        pixels[y * wide + x] = paint(columns[2 * x], columns[2 * x + 1], a, b);
      }
    }
    return image;
  }

  /** Colour of the strongest of the cells of a pixel. */
  _signedPaint(colors, below) {
    const table = colorTable(colors.stops);
    const { values, index, width } = this;
    const { threshold, shown } = this.options;
    return (x0, x1, y0, y1) => {
      let strongest = 0, found = false;
      for (let y = y0; y < y1; y++) {
        for (let x = x0; x < x1; x++) {
          const neuron = index[y * width + x];
          if (neuron < 0) continue;
          found = true;
          const value = values ? values[neuron] : 0;
          if (Math.abs(value) > Math.abs(strongest)) strongest = value;
        }
      }
      if (!found) return 0;
      if (Math.abs(strongest) <= threshold) return below;
      const share = Math.max(-1, Math.min(1, strongest / shown));
      return table[Math.round(((share + 1) / 2) * 255)];
    };
  }

  /** Colour of the largest class number of the cells of a pixel. */
  _classPaint(below) {
    const table = this.classes.map((color) => pack(parseColor(color)));
    const { values, index, width } = this;
    return (x0, x1, y0, y1) => {
      let largest = -1;
      for (let y = y0; y < y1; y++) {
        for (let x = x0; x < x1; x++) {
          const neuron = index[y * width + x];
          if (neuron >= 0) largest = Math.max(largest, values[neuron]);
        }
      }
      return largest < 0 ? 0 : largest === 0 ? below : table[largest - 1];
    };
  }

  _write(context, [x, y, w, h], ratio) {
    const colors = mapColors(this.options.dark);
    const [left, top, right, bottom] = this._box();
    const { layers, shape } = this.geometry;
    const scale = h / (bottom - top);
    context.fillStyle = colors.muted;
    context.font = `${11 * ratio}px system-ui, sans-serif`;
    if (this.options.view === "lines") {
      context.textAlign = "right";
      context.textBaseline = "middle";
      const step = Math.max(1, Math.ceil((16 * ratio) / scale));
      for (let layer = 0; layer < layers.length; layer += step) {
        const at = y + (layers.length - 1 - layer + 0.5 - top) * scale;
        if (at > 4 * ratio && at < h - 4 * ratio) context.fillText(layers[layer], x - 6 * ratio, at);
      }
      return;
    }
    const [, rows, cols] = shape;
    const wide = w / (right - left);
    context.textAlign = "left";
    context.textBaseline = "top";
    context.lineWidth = ratio;
    context.strokeStyle = colors.rule;
    for (let layer = 0; layer < layers.length; layer++) {
      const [col, row] = [(layer % this.across) * (cols + GAP), Math.floor(layer / this.across) * (rows + GAP)];
      const [px, py] = [x + (col - left) * wide, y + (row - top) * scale];
      if (px + cols * wide < x || py + rows * scale < y || px > x + w || py > y + h) continue;
      context.strokeRect(px, py, cols * wide, rows * scale);
      const text = String(layers[layer]);
      const under = context.measureText(text).width + 6 * ratio;
      if (px < x - 1 || py < y - 1 || under > cols * wide * 0.6) continue;
      context.globalAlpha = 0.78;
      context.fillStyle = colors.below;
      context.fillRect(px, py, under, 15 * ratio);
      context.globalAlpha = 1;
      context.fillStyle = colors.muted;
      context.fillText(text, px + 3 * ratio, py + 2 * ratio);
    }
  }

  _point(context, [x, y, w, h], ratio) {
    if (this.cursor === null) return;
    const [left, top, right, bottom] = this._box();
    const [column, row] = [this.cursor % this.width, Math.floor(this.cursor / this.width)];
    const px = x + ((column + 0.5 - left) / (right - left)) * w;
    const py = y + ((row + 0.5 - top) / (bottom - top)) * h;
    if (px < x || px > x + w || py < y || py > y + h) return;
    context.strokeStyle = mapColors(this.options.dark).ink;
    context.lineWidth = 1.5 * ratio;
    context.beginPath();
    context.arc(px, py, Math.max(5 * ratio, (0.7 * w) / (right - left)), 0, 2 * Math.PI);
    context.stroke();
  }

  // -- pointer and keys -----------------------------------------------------------------------------------------
  /** Position of a pointer event in cells, or null outside. */
  cellAt(event) {
    const ratio = window.devicePixelRatio || 1;
    const bounds = this.canvas.getBoundingClientRect();
    const [x, y, w, h] = this._frame();
    const [px, py] = [(event.clientX - bounds.left) * ratio - x, (event.clientY - bounds.top) * ratio - y];
    if (px < 0 || py < 0 || px >= w || py >= h) return null;
    const [left, top, right, bottom] = this._box();
    return [left + (px / w) * (right - left), top + (py / h) * (bottom - top)];
  }

  /** The neuron under a pointer: the strongest one within the pixel. */
  _under(event) {
    const at = this.cellAt(event);
    if (!at) return null;
    const [left, , right] = this._box();
    const reach = Math.max(1, Math.ceil(((right - left) / Math.max(this.canvas.clientWidth, 1)) * 1.5));
    const row = Math.min(Math.floor(at[1]), this.height - 1);
    const first = Math.max(0, Math.floor(at[0] - reach / 2 + 0.5));
    let chosen = -1, most = -1;
    for (let x = first; x < Math.min(first + reach, this.width); x++) {
      const neuron = this.index[row * this.width + x];
      const size = neuron < 0 ? -1 : Math.abs(this.values ? this.values[neuron] : 0);
      if (size > most) { most = size; chosen = neuron; }
    }
    return chosen < 0 ? null : chosen;
  }

  _listen() {
    const { canvas } = this;
    let drag = null;
    const tell = (index, event) => { if (this.onHover) this.onHover(this.neuron(index), event); };
    canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.clientX, y: event.clientY, moved: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag && this.box && event.buttons) {
        const ratio = window.devicePixelRatio || 1;
        const [, , w, h] = this._frame();
        const [left, top, right, bottom] = this._box();
        this.pan(((drag.x - event.clientX) * ratio * (right - left)) / w,
          ((drag.y - event.clientY) * ratio * (bottom - top)) / h);
        drag = { x: event.clientX, y: event.clientY, moved: true };
        tell(null, event);
        return;
      }
      tell(this._under(event), event);
    });
    canvas.addEventListener("pointerup", (event) => {
      const moved = drag && drag.moved;
      drag = null;
      const index = moved ? null : this._under(event);
      if (index !== null && this.onPick) this.onPick(this.neuron(index), event);
    });
    canvas.addEventListener("pointerleave", (event) => { drag = null; tell(null, event); });
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the page
      event.preventDefault();
      const at = this.cellAt(event);
      if (at) this.zoom(Math.exp(-event.deltaY / 200), at[0], at[1]);
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => {
      const at = this.cellAt(event);
      if (at) this.zoom(event.shiftKey ? 0.5 : 2, at[0], at[1]);
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (step) this._move(step, event.shiftKey ? 10 : 1, event);
      else if (event.key === "+" || event.key === "=") this.zoom(1.6, ...this._center());
      else if (event.key === "-") this.zoom(1 / 1.6, ...this._center());
      else if (event.key === "0" || event.key === "Escape") { this.cursor = null; tell(null, event); this.reset(); }
      else return;
      event.preventDefault();
    });
    canvas.addEventListener("blur", (event) => { this.cursor = null; tell(null, event); this.draw(); });
  }

  _strongest() {
    let best = 0;
    if (this.values) this.values.forEach((v, i) => { if (Math.abs(v) > Math.abs(this.values[best])) best = i; });
    return best;
  }

  _center() {
    if (this.cursor === null) return [null, null];
    return [this.cursor % this.width, Math.floor(this.cursor / this.width)];
  }

  /** Move the keyboard's cursor to the next cell that holds a neuron; it begins at the strongest one. */
  _move([dx, dy], times, event) {
    if (this.cursor === null) this.cursor = this.where[this._strongest()];
    let [x, y] = this._center();
    const holds = (a, b) => a >= 0 && b >= 0 && a < this.width && b < this.height;
    for (let n = 0; n < times; n++) {
      let [a, b] = [x + dx, y + dy];
      while (holds(a, b) && this.index[b * this.width + a] < 0) { a += dx; b += dy; } // across gaps
      if (!holds(a, b)) break;
      [x, y] = [a, b];
    }
    this.cursor = y * this.width + x;
    const [left, top, right, bottom] = this._box();
    if (this.box && (x < left || x >= right || y < top || y >= bottom)) {
      this.box = this._inside(x - (right - left) / 2, y - (bottom - top) / 2, right - left, bottom - top);
    }
    if (this.onHover) this.onHover(this.neuron(this.index[this.cursor]), event);
    this.draw();
  }
}

/** First and one past the last cell of each of `n` pixels, in one array. */
function edges(start, stop, n, most) {
  const found = new Int32Array(2 * n);
  const step = (stop - start) / n;
  for (let i = 0; i < n; i++) {
    const a = Math.min(Math.floor(start + i * step), most - 1);
    found[2 * i] = a;
    found[2 * i + 1] = Math.min(Math.max(a + 1, Math.floor(start + (i + 1) * step)), most);
  }
  return found;
}
