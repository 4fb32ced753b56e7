// The study's own NIfTI files in NiiVue, which is loaded only when this tab is opened.

import { $, ask, isDark, make, number, showError } from "./common.js";

const LARGE = 400e6; // bytes; of larger files only the first frames are read
const FEW_FRAMES = 100;
const CARD = { light: [0.992, 0.996, 0.996, 1], dark: [0.102, 0.125, 0.153, 1] };

export function startVolumes(app) {
  let nv = null, rows = [], starting = null;

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
      isColorbar: true, show3Dcrosshair: false, dragAndDropEnabled: false, isNearestInterpolation: true,
      backColor: CARD[isDark() ? "dark" : "light"], crosshairWidth: 0.6, loadingText: "", multiplanarShowRender: 0,
      fontColor: isDark() ? [0.8, 0.83, 0.86, 1] : [0.25, 0.3, 0.36, 1], textHeight: 0.03,
      fontMinPx: 11, crosshairColor: [0.9, 0.55, 0.1, 0.9], logLevel: "error",
    });
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
      for (const [i, row] of wanted.entries()) color(nv.volumes[i], row, i);
      nv.updateGLVolume();
      frames();
      $("place").textContent = "Drag to move the cross.";
      $("niivue").dataset.loaded = wanted.map((row) => row.id).join(" ");
    } catch (error) {
      showError($("volume-error"), new Error(`The volume cannot be shown: ${error.message || error}`));
      $("place").textContent = "";
    }
  }

  /** Signed maps get two colours with a common threshold; labels and masks keep one. */
  function color(volume, row, i) {
    if (/dseg|mask/.test(row.kind)) {
      volume.colormap = row.kind.includes("dseg") ? "actc" : "red";
      return;
    }
    const most = Math.max(Math.abs(volume.robust_min), Math.abs(volume.robust_max)) || Math.abs(volume.global_max) || 1;
    volume.colormap = "warm";
    volume.colormapNegative = "winter";
    volume.cal_min = i ? most / 2 : most / 10;
    volume.cal_max = most * 1.5;
    volume.cal_minNeg = -volume.cal_max;
    volume.cal_maxNeg = -volume.cal_min;
  }

  function frames() {
    const volume = nv.volumes[0];
    const n = volume.nFrame4D || 1;
    const row = rows.find((one) => one.id === $("volume").value);
    $("frame-bar").hidden = n < 2;
    $("frame").max = n - 1;
    $("frame").value = volume.frame4D || 0;
    $("frame-name").textContent = row.kind === "components" ? "network" : row.kind === "bold" ? "token" : "volume";
    note(n);
  }

  function note(n) {
    const first = $("frame-name").textContent === "network" ? 0 : 1;
    $("frame-note").textContent = `${Number($("frame").value) + first} of ${n}`;
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
    nv.drawScene();
  });
  app.on("tab", () => {
    if (app.tab !== "volumes" || starting) return;
    starting = begin().catch((error) => showError($("volume-error"), error));
  });
}
