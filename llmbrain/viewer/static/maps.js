// Maps to explore: one network, or one against another.

import { $, css, facts, isDark, make, number, percent, thousands } from "./common.js";
import { mapWithTools, networkOptions } from "./tools.js";

/** Draw the share of each layer's neurons above a threshold, positive to the right, negative to the left. */
export function drawProfile(canvas, geometry, parts) {
  const ratio = devicePixelRatio || 1;
  const [w, h] = [canvas.clientWidth, canvas.clientHeight];
  if (!w || !h) return;
  canvas.width = w * ratio;
  canvas.height = h * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const n = geometry.sizes.length;
  const most = Math.max(1e-9, ...parts.flatMap((part) => part.shares));
  const bottom = 18;
  const high = (h - bottom) / n;
  const left = 26;
  const twoSided = parts.some((part) => part.side < 0);
  const zero = twoSided ? left + (w - left) / 2 : left;
  const scale = ((twoSided ? (w - left) / 2 : w - left) - 4) / most;
  for (const part of parts) {
    context.fillStyle = part.color;
    part.shares.forEach((share, layer) => {
      const y = (n - 1 - layer) * high;
      context.fillRect(part.side < 0 ? zero - share * scale : zero, y + 0.5, share * scale, Math.max(high - 1, 1));
    });
  }
  context.strokeStyle = css("--muted");
  context.beginPath();
  context.moveTo(zero + 0.5, 0);
  context.lineTo(zero + 0.5, h - bottom);
  context.stroke();
  context.fillStyle = css("--muted");
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.textAlign = "right";
  const step = Math.max(1, Math.ceil(15 / high));
  for (let layer = 0; layer < n; layer += step) {
    context.fillText(geometry.layers[layer], left - 6, (n - layer - 0.5) * high);
  }
  context.fillText(percent(most), w - 2, h - 7);
  if (twoSided) { context.textAlign = "left"; context.fillText(percent(most), left + 2, h - 7); }
}

/** Neurons of each layer that pass a test, as shares. */
export function shares(geometry, offsets, test) {
  return geometry.sizes.map((size, layer) => {
    let n = 0;
    for (let i = offsets[layer]; i < offsets[layer + 1]; i++) if (test(i)) n += 1;
    return n / size;
  });
}

export function signedParts(geometry, offsets, z, threshold) {
  return [
    { side: 1, color: css("--pos"), shares: shares(geometry, offsets, (i) => z[i] > threshold) },
    { side: -1, color: css("--neg"), shares: shares(geometry, offsets, (i) => z[i] < -threshold) },
  ];
}

export function countFacts(app, network, z, threshold) {
  let [above, positive] = [0, 0];
  for (const value of z) {
    if (Math.abs(value) > threshold) { above += 1; positive += value > 0; }
  }
  const row = app.networks[network];
  return [
    [`neurons, |z| > ${number(threshold, 1)}`, thousands(above)],
    ["share of all", percent(above / z.length, 2)],
    ["of them positive", above ? percent(positive / above, 0) : "–"],
    ["peak layer", row.peak_layer],
    row.stability === null ? null : ["stability", number(row.stability)],
    row.variance === null ? null : ["share of variance", percent(row.variance, 2)],
    row.artefact ? ["artefact", row.artefact] : null,
  ];
}

export function startMaps(app) {
  const [a, b] = [$("map-a"), $("map-b")];
  if (!app.geometry || !app.networks.length) {
    $("map-note").textContent = "The study has no networks yet, so there is no map.";
    for (const id of ["map", "map-tools", "profile"]) $(id).hidden = true;
    return;
  }
  const tools = mapWithTools(app, $("map"), $("map-tools"), { threshold: app.study.threshold });
  const { offsets } = tools.map;
  let pair = null;
  tools.describe = (neuron) => (pair && pair.length > 1
    ? [`z ${number(pair[0][neuron.index])} and ${number(pair[1][neuron.index])}`]
    : [`z ${number(neuron.value)}`]);

  function names() { networkOptions(app, a); networkOptions(app, b, "nothing"); }

  async function show() {
    if (app.tab !== "maps") return;
    const [first, second] = [Number(a.value), b.value === "" ? null : Number(b.value)];
    const wanted = [first, ...(second === null || second === first ? [] : [second])];
    try {
      pair = await Promise.all(wanted.map((k) => app.map(k)));
    } catch (error) { $("map-note").textContent = error.message; return; }
    if (Number(a.value) !== first) return;
    draw(wanted);
  }

  function draw(wanted) {
    const threshold = tools.threshold();
    const [x, y] = pair;
    tools.signed(!y);
    if (!y) {
      tools.map.setValues(x);
      $("facts-title").textContent = app.title(wanted[0]);
      facts($("facts"), countFacts(app, wanted[0], x, threshold));
      drawProfile($("profile"), app.geometry, signedParts(app.geometry, offsets, x, threshold));
      $("map-note").textContent = app.study.order && tools.map.options.order === "display" ? app.study.order : "";
      return;
    }
    const colors = isDark() ? ["#6aaef0", "#f08a4b", "#ffffff"] : ["#2166ac", "#c8501e", "#111820"];
    const classes = new Float32Array(x.length);
    const counts = [0, 0, 0, 0];
    let [sx, sy, sxx, syy, sxy] = [0, 0, 0, 0, 0];
    for (let i = 0; i < x.length; i++) {
      const kind = (Math.abs(x[i]) > threshold ? 1 : 0) + (Math.abs(y[i]) > threshold ? 2 : 0);
      classes[i] = kind;
      counts[kind] += 1;
      sx += x[i]; sy += y[i]; sxx += x[i] * x[i]; syy += y[i] * y[i]; sxy += x[i] * y[i];
    }
    tools.map.setValues(classes, colors);
    const n = x.length;
    const r = (sxy - (sx * sy) / n) / Math.sqrt((sxx - (sx * sx) / n) * (syy - (sy * sy) / n));
    const dice = (2 * counts[3]) / Math.max(1, counts[1] + counts[2] + 2 * counts[3]);
    $("facts-title").textContent = `Network ${wanted[0]} against ${wanted[1]}`;
    facts($("facts"), [
      [`only ${wanted[0]}`, thousands(counts[1])], [`only ${wanted[1]}`, thousands(counts[2])],
      ["both", thousands(counts[3])], ["Dice overlap", number(dice)], ["correlation of the maps", number(r)],
    ]);
    $("map-note").replaceChildren(...[[0, `only ${wanted[0]}`], [1, `only ${wanted[1]}`], [2, "both"]].flatMap(
      ([i, text]) => {
        const key = make("span", { className: "key" });
        key.style.background = colors[i];
        return [key, `${text}   `];
      }));
    drawProfile($("profile"), app.geometry, [
      { side: -1, color: colors[0], shares: shares(app.geometry, offsets, (i) => Math.abs(x[i]) > threshold) },
      { side: 1, color: colors[1], shares: shares(app.geometry, offsets, (i) => Math.abs(y[i]) > threshold) },
    ]);
  }

  tools.onThreshold = show;
  a.addEventListener("change", () => app.look(Number(a.value)));
  b.addEventListener("change", show);
  app.on("focus", () => { a.value = app.focus; show(); });
  app.on("labels", names);
  app.on("tab theme", () => requestAnimationFrame(show));
  new ResizeObserver(() => pair && show()).observe($("profile"));
  names();
  a.value = app.focus;
}
