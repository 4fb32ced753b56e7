// The study's own NIfTI files in NiiVue, which is loaded only when this tab is opened.

import { $, ask, isDark, make, number, showError } from "./common.js";

const LARGE = 400e6; // bytes; of larger files only the first frames are read
const FEW_FRAMES = 100;
const CARD = { light: [0.992, 0.996, 0.996, 1], dark: [0.102, 0.125, 0.153, 1] };

const COLORMAPS = { // from weak to strong, as in the maps of the page
  "llmbrain warm": [[248, 200, 170], [233, 143, 98], [200, 80, 30], [122, 35, 8]],
  "llmbrain cool": [[175, 208, 235], [110, 166, 212], [33, 102, 172], [10, 47, 92]],
};

/** A colour map of NiiVue: the colours, and below the threshold a grey, or nothing. */
function colormap(stops, grey) {
  const n = stops.length;
  const all = [grey || stops[0], ...stops];
  return {
    R: all.map((c) => c[0]), G: all.map((c) => c[1]), B: all.map((c) => c[2]), A: all.map((_, i) => (i || grey ? 255 : 0)),
    I: all.map((_, i) => (i ? Math.max(1, Math.round((255 * (i - 1)) / (n - 1))) : 0)),
  };
}

const base = () => `llmbrain ${isDark() ? "dark" : "light"}`;

export function startVolumes(app) {
  let nv = null, rows = [], starting = null, notes = [];

  function loadScript() {
    return new Promise((done, fail) => {
      const script = make("script", { src: "static/niivue-0.69.0.umd.js" });
      script.onload = done;
      script.onerror = () => fail(new Error("NiiVue could not be loaded."));
      document.head.append(script);
    });
  }

  async function begin() {
    rows = await ask("api/volumes");
    if (!rows.length) throw new Error("The study holds no NIfTI file yet.");
    const options = () => rows.map((row) => make("option", { value: row.id }, shortName(row)));
    $("volume").replaceChildren(...options());
    $("overlay").replaceChildren(make("option", { value: "" }, "nothing"), ...options());
    await loadScript();
    nv = new globalThis.niivue.Niivue({
      // a volume has no left, right or front: axis 0 is the layer
      isOrientationTextVisible: false, isOrientCube: false, isCornerOrientationText: false, isRuler: false,
      isColorbar: false, show3Dcrosshair: false, dragAndDropEnabled: false, isNearestInterpolation: true,
      backColor: CARD[isDark() ? "dark" : "light"], crosshairWidth: 0.12, loadingText: "", multiplanarShowRender: 0,
      fontColor: isDark() ? [0.8, 0.83, 0.86, 1] : [0.25, 0.3, 0.36, 1], textHeight: 0.03,
      fontMinPx: 11, crosshairColor: [0.9, 0.55, 0.1, 0.9], logLevel: "error",
    });
    for (const [name, stops] of Object.entries(COLORMAPS)) nv.addColormap(name, colormap(stops));
    nv.addColormap("llmbrain light", colormap(COLORMAPS["llmbrain warm"], [236, 239, 242]));
    nv.addColormap("llmbrain dark", colormap(COLORMAPS["llmbrain warm"], [38, 47, 56]));
    await nv.attachToCanvas($("niivue"));
    if (!nv.gl) throw new Error("This browser has no WebGL2, which NiiVue needs. The tab Maps works without it.");
    nv.onLocationChange = place;
    nv.setSliceType(3);
    await open();
  }

  function shortName(row) {
    const name = row.name.replace(/^sub-[^_]+_(ses-[^_]+_)?task-[^_]+_/, "");
    return `${name}  (${row.bytes > 1e6 ? `${(row.bytes / 1e6).toFixed(0)} MB` : `${Math.ceil(row.bytes / 1e3)} kB`})`;
  }

  async function open() {
    showError($("volume-error"), null);
    const wanted = [$("volume").value, $("overlay").value].filter(Boolean)
      .map((id) => rows.find((row) => row.id === id));
    $("place").textContent = "Loading …";
    try {
      await nv.loadVolumes(wanted.map((row, i) => ({
        url: new URL(`volumes/${row.id}/${row.name}`, location.href).href, name: row.name,
        colormap: i ? "warm" : "gray", opacity: i ? 0.8 : 1,
        ...(row.bytes > LARGE ? { limitFrames4D: FEW_FRAMES } : {}),
      })));
      notes = [];
      for (const [i, row] of wanted.entries()) color(nv.volumes[i], row, i);
      nv.updateGLVolume();
      frames();
      $("volume-note").textContent = notes.length ? `${notes.join(". ")}.` : "";
      $("place").textContent = "Drag to move the cross.";
      $("niivue").dataset.loaded = wanted.map((row) => row.id).join(" ");
    } catch (error) {
      showError($("volume-error"), new Error(`The volume cannot be shown: ${error.message || error}`));
      $("place").textContent = "";
    }
  }

  /** Signed maps get two colours above a threshold of standard deviations; labels and masks keep one. */
  function color(volume, row, i) {
    if (/dseg|mask/.test(row.kind)) {
      volume.colormap = row.kind.includes("dseg") ? "actc" : "red";
      return;
    }
    const sd = spread(volume.img);
    const times = /components|statmap/.test(row.kind) || i ? 3 : 1;
    volume.colormap = i ? "llmbrain warm" : base();
    volume.colormapNegative = "llmbrain cool";
    volume.cal_min = times * sd;
    volume.cal_max = 8 * sd;
    volume.cal_minNeg = -8 * sd;
    volume.cal_maxNeg = -times * sd;
    notes.push(`${i ? "Overlay" : "Volume"}: coloured where the value differs from 0 by more than ${Number((times * sd).toPrecision(3))}`
      + ` (${times} standard deviation${times > 1 ? "s" : ""})`);
  }

  /** Standard deviation about 0 of up to a million values. */
  function spread(values) {
    const step = Math.max(1, Math.floor(values.length / 1e6));
    let [sum, n] = [0, 0];
    for (let at = 0; at < values.length; at += step) {
      if (values[at]) { sum += values[at] ** 2; n += 1; }
    }
    return Math.sqrt(sum / Math.max(n, 1)) || 1;
  }

  function frames() {
    const volume = nv.volumes[0];
    const n = volume.nFrame4D || 1;
    const row = rows.find((one) => one.id === $("volume").value);
    $("frame-bar").hidden = n < 2;
    $("frame").max = n - 1;
    $("frame").value = volume.frame4D || 0;
    $("frame-name").textContent = row.kind.includes("components") ? "network" : row.kind === "bold" ? "token" : "volume";
    note(n);
  }

  function note(n) {
    const at = Number($("frame").value);
    const networks = $("frame-name").textContent === "network"; // they are numbered from 0
    $("frame-note").textContent = networks ? `${at} (0 to ${n - 1})` : `${at + 1} of ${n}`;
  }

  function place(location) {
    const { geometry } = app;
    const value = location.values?.[0];
    if (!value || !geometry) return;
    const [layer, row, col] = value.vox || location.vox;
    const unit = row * geometry.shape[2] + col;
    const size = geometry.sizes[layer];
    const where = size === undefined || unit >= size
      ? "no neuron (padding)" : `layer ${geometry.layers[layer]}, unit ${unit}`;
    const over = location.values[1] ? `, overlay ${number(location.values[1].value, 3)}` : "";
    $("place").textContent = `${where}: ${number(value.value, 3)}${over}`;
  }

  $("volume").addEventListener("change", open);
  $("overlay").addEventListener("change", open);
  $("frame").addEventListener("input", () => {
    const volume = nv.volumes[0];
    nv.setFrame4D(volume.id, Number($("frame").value));
    note(volume.nFrame4D);
  });
  for (const button of document.querySelectorAll("[data-slices]")) {
    button.addEventListener("click", () => {
      for (const other of document.querySelectorAll("[data-slices]")) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      nv?.setSliceType(Number(button.dataset.slices));
    });
  }
  app.on("theme", () => {
    if (!nv) return;
    nv.opts.backColor = CARD[isDark() ? "dark" : "light"];
    nv.opts.fontColor = isDark() ? [0.8, 0.83, 0.86, 1] : [0.25, 0.3, 0.36, 1];
    const first = nv.volumes[0];
    if (first?.colormapNegative) first.colormap = base();
    nv.updateGLVolume();
  });
  app.on("tab", () => {
    if (app.tab !== "volumes" || starting) return;
    starting = begin().catch((error) => showError($("volume-error"), error));
  });
}
