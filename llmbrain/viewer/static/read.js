// Type and watch: words shaded by networks, their time courses, the map of the moment. Also scrolls recorded runs.

import {
  $, ask, askZ, css, make, number, running, settled, showError, showTip, tint, visible,
} from "./common.js";
import { mapWithTools, networkOptions } from "./tools.js";

const FULL = 4; // |z| of the strongest shade
const WAIT = 350; // milliseconds of silence before a text is read
const SAMPLE = "The lighthouse keeper counted 12 ships before midnight. “Three more,” she said, and wrote the number down.\n"
  + "def total(ships):\n    return sum(ship.weight for ship in ships)";

export function startRead(app) {
  const view = { kind: "text", data: null, at: 0, address: null, timer: null };
  const words = $("words");
  const moment = app.geometry
    ? mapWithTools(app, $("moment"), $("moment-tools"), { threshold: 1, shown: 6 }) : null;

  // -- reading ----------------------------------------------------------------------------------------------------
  async function readText() {
    const text = $("text").value;
    showError($("read-error"), null);
    if (!text.trim()) { empty("Type or paste a text above."); return; }
    const { state } = app.study.state;
    if (state === "absent") { empty("Without a model, only recorded runs can be shown."); return; }
    if (state === "failed") { empty("The model could not be opened, so only recorded runs can be shown."); return; }
    if (state === "loading") { $("read-note").textContent = "The text is read as soon as the model is loaded …"; return; }
    $("read-note").textContent = "Reading …";
    const started = performance.now();
    try {
      const data = await ask("api/read", { text });
      if (view.kind !== "text") return;
      const seconds = (performance.now() - started) / 1000;
      const cut = data.cut ? `, the first ${data.tokens.length} tokens` : "";
      $("read-note").textContent = `${data.tokens.length} tokens in ${number(seconds, 1)} s${cut}`;
      show(data, `api/readings/${data.id}/moments`);
    } catch (error) {
      showError($("read-error"), error);
      if (!error.replaced) $("read-note").textContent = "";
    }
  }

  async function readRun() {
    showError($("read-error"), null);
    const run = $("run").value;
    if (!run) { empty("There is no recorded run."); return; }
    $("read-note").textContent = `Opening run ${run} …`;
    try {
      const data = await ask(`api/runs/${run}`);
      if (view.kind !== "run" || $("run").value !== run) return;
      $("read-note").textContent = `${data.tokens.length} recorded tokens`;
      show(data, `api/runs/${run}/moments`);
    } catch (error) { showError($("read-error"), error); $("read-note").textContent = ""; }
  }

  function empty(sentence) {
    view.data = null;
    words.replaceChildren(make("span", { className: "ghost" }, sentence));
    $("read-note").textContent = "";
    $("token").max = 0;
    $("token-note").textContent = "";
    $("moment-title").textContent = "Map of the moment";
    if (moment) moment.map.setValues(null);
    drawCourses();
  }

  function show(data, address) {
    const sameLength = view.data && view.data.tokens.length === data.tokens.length;
    Object.assign(view, { data, address });
    view.at = sameLength ? view.at : view.kind === "text" ? data.tokens.length - 1 : 0;
    $("token").max = data.tokens.length - 1;
    words.replaceChildren(...data.tokens.map((token, i) => make("span", { data: { i } }, running(token))));
    shade();
    go(view.at, false);
  }

  // -- the token in focus -------------------------------------------------------------------------------------------
  function go(at, scroll = true) {
    if (!view.data) return;
    view.at = Math.max(0, Math.min(at, view.data.tokens.length - 1));
    words.querySelector(".at")?.classList.remove("at");
    const span = words.children[view.at];
    span.classList.add("at");
    if (scroll) keepInSight(span);
    $("token").value = view.at;
    const token = visible(view.data.tokens[view.at]).trim() || "␣";
    const surprise = view.data.surprisal[view.at];
    $("token-note").textContent = `${view.at + 1} of ${view.data.tokens.length}`;
    $("moment-title").textContent = `Map of the moment: “${token}”, surprisal ${number(surprise, 1)} nats`;
    drawCourses();
    loadMoment();
  }

  function keepInSight(span) {
    const [top, height] = [span.offsetTop, span.offsetHeight];
    if (top < words.scrollTop || top + height > words.scrollTop + words.clientHeight) {
      words.scrollTop = top - words.clientHeight / 2;
    }
  }

  let loading = null;
  const loadMoment = settled(15, async () => {
    if (!moment || !view.data) return;
    loading?.abort();
    loading = new AbortController();
    try {
      moment.map.setValues(await askZ(`${view.address}/${view.at}`, { signal: loading.signal }));
    } catch (error) { showError($("read-error"), error); }
  });

  // -- words --------------------------------------------------------------------------------------------------------
  /** The network that shades a token, and its z. */
  function strongest(i) {
    const only = $("shade").value;
    let best = null;
    for (const k of only === "" ? app.chosen : [Number(only)]) {
      const z = view.data.courses[k]?.[i];
      if (z !== undefined && z !== null && (best === null || Math.abs(z) > Math.abs(best.z))) best = { k, z };
    }
    return best;
  }

  function shade() {
    if (!view.data) return;
    const oneNetwork = $("shade").value !== "" || app.chosen.length === 1;
    for (const span of words.children) {
      const found = strongest(Number(span.dataset.i));
      if (!found) { span.style.background = ""; continue; }
      const color = oneNetwork ? (found.z > 0 ? css("--pos") : css("--neg")) : app.color(found.k);
      span.style.background = Math.abs(found.z) < 0.5 ? "" : tint(color, (0.62 * Math.abs(found.z)) / FULL);
    }
  }

  function tipOf(i) {
    const { data } = view;
    const lines = [`“${visible(data.tokens[i]).trim() || "␣"}”, surprisal ${number(data.surprisal[i], 2)} nats`];
    if (data.documents) lines.push(data.documents[i]);
    for (const k of app.chosen) lines.push([app.color(k), `${app.title(k)}: z ${number(data.courses[k]?.[i], 1)}`]);
    return lines;
  }

  words.addEventListener("pointermove", (event) => {
    const i = event.target.dataset?.i;
    showTip(event, i === undefined || !view.data ? null : tipOf(Number(i)));
    if (i !== undefined && !view.timer && event.pointerType === "mouse") go(Number(i), false);
  });
  words.addEventListener("pointerleave", (event) => showTip(event, null));
  words.addEventListener("click", (event) => {
    if (event.target.dataset?.i !== undefined) go(Number(event.target.dataset.i));
  });
  words.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 10, ArrowLeft: -1, ArrowUp: -10 }[event.key];
    const end = { Home: 0, End: Infinity }[event.key];
    if (step === undefined && end === undefined) return;
    event.preventDefault();
    go(end ?? view.at + step);
  });

  // -- time courses ---------------------------------------------------------------------------------------------------
  const canvas = $("courses");
  const MARGIN = 4;
  const SCALE = 50; // pixels at the right end for the largest value of each course
  const LABEL = 17; // pixels above a course for its name

  function rows() {
    const found = [{ name: "surprisal (nats)", values: view.data.surprisal, color: css("--muted"), floor: true }];
    for (const k of app.chosen) {
      if (view.data.courses[k]) found.push({ name: app.title(k), values: view.data.courses[k], color: app.color(k) });
    }
    return found;
  }

  function drawCourses() {
    const high = 56;
    const n = view.data ? 1 + app.chosen.length : 1;
    canvas.style.height = `${n * high + 6}px`;
    const ratio = devicePixelRatio || 1;
    const [w, h] = [canvas.clientWidth, n * high + 6];
    if (!w) return;
    canvas.width = w * ratio;
    canvas.height = h * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.clearRect(0, 0, w, h);
    if (!view.data) return;
    const total = view.data.tokens.length;
    const x = (i) => MARGIN + ((i + 0.5) / total) * (w - MARGIN - SCALE);
    const wide = Math.max(1, (w - MARGIN - SCALE) / total);
    context.fillStyle = css("--strong");
    context.fillRect(x(view.at) - wide / 2, 0, wide, h);
    rows().forEach((row, r) => drawRow(context, row, r * high + 3, high - 4, x, w));
    context.strokeStyle = css("--ink");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x(view.at), 0);
    context.lineTo(x(view.at), h);
    context.stroke();
  }

  function drawRow(context, row, top, high, x, w) {
    const known = row.values.filter((v) => v !== null);
    const most = Math.max(row.floor ? 4 : 3, ...known.map(Math.abs));
    const plot = high - LABEL;
    const zero = row.floor ? top + high : top + LABEL + plot / 2;
    const scale = (row.floor ? plot : plot / 2 - 1) / most;
    context.strokeStyle = css("--rule");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(0, zero + 0.5);
    context.lineTo(w - SCALE, zero + 0.5);
    context.stroke();
    context.strokeStyle = row.color;
    context.fillStyle = row.color;
    context.lineWidth = 1.6;
    context.lineJoin = "round";
    context.beginPath();
    let started = false;
    row.values.forEach((value, i) => {
      if (value === null) { started = false; return; }
      const y = zero - value * scale;
      if (started) context.lineTo(x(i), y); else context.moveTo(x(i), y);
      started = true;
    });
    context.stroke();
    const value = row.values[view.at];
    if (value !== null) {
      context.beginPath();
      context.arc(x(view.at), zero - value * scale, 3, 0, 2 * Math.PI);
      context.fill();
    }
    const text = `${row.name}   ${row.floor ? "" : "z "}${number(value, 1)}`;
    context.font = "600 12px system-ui, sans-serif";
    context.textBaseline = "top";
    context.fillStyle = row.floor ? css("--muted") : row.color;
    context.fillText(text, 6, top);
    context.fillStyle = css("--muted");
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "right";
    context.fillText(row.floor ? number(most, 1) : `±${number(most, 1)}`, w - 4, top);
    context.textAlign = "left";
  }

  function tokenAt(event) {
    const bounds = canvas.getBoundingClientRect();
    const share = (event.clientX - bounds.left - MARGIN) / (bounds.width - MARGIN - SCALE);
    return Math.max(0, Math.min(view.data.tokens.length - 1, Math.floor(share * view.data.tokens.length)));
  }

  canvas.addEventListener("pointermove", (event) => {
    if (!view.data) return;
    const i = tokenAt(event);
    showTip(event, tipOf(i));
    if (!view.timer) go(i);
  });
  canvas.addEventListener("pointerdown", (event) => { if (view.data) go(tokenAt(event)); });
  canvas.addEventListener("pointerleave", (event) => showTip(event, null));
  new ResizeObserver(drawCourses).observe(canvas.parentElement);

  // -- playing, sources -------------------------------------------------------------------------------------------------
  function play(on) {
    clearInterval(view.timer);
    view.timer = null;
    $("play").setAttribute("aria-pressed", String(on));
    $("play").textContent = on ? "❚❚ Pause" : "▶ Play";
    if (!on || !view.data) return;
    if (view.at >= view.data.tokens.length - 1) go(0);
    view.timer = setInterval(() => {
      if (!view.data || view.at >= view.data.tokens.length - 1) play(false); else go(view.at + 1);
    }, 180);
  }
  $("play").addEventListener("click", () => play(view.timer === null));
  $("token").addEventListener("input", () => go(Number($("token").value)));

  function source(kind) {
    play(false);
    view.kind = kind;
    view.data = null;
    $("source-text").setAttribute("aria-pressed", String(kind === "text"));
    $("source-run").setAttribute("aria-pressed", String(kind === "run"));
    $("text").hidden = kind !== "text";
    $("run-controls").hidden = kind !== "run";
    if (kind === "text") readText(); else readRun();
  }
  $("source-text").addEventListener("click", () => source("text"));
  $("source-run").addEventListener("click", () => source("run"));
  $("run").append(...app.study.runs.map(({ run }) => make("option", { value: run }, String(run))));
  $("run").addEventListener("change", readRun);
  const turn = (step) => {
    const select = $("run");
    if (!select.options.length) return;
    select.selectedIndex = (select.selectedIndex + step + select.options.length) % select.options.length;
    readRun();
  };
  $("run-back").addEventListener("click", () => turn(-1));
  $("run-on").addEventListener("click", () => turn(1));
  $("text").addEventListener("input", settled(WAIT, readText));
  $("shade").addEventListener("change", shade);

  function refreshNames() {
    networkOptions(app, $("shade"), "the strongest chosen network");
    shade();
    drawCourses();
  }
  app.on("chosen theme labels", refreshNames);
  app.on("tab", () => { if (app.tab !== "read") play(false); else requestAnimationFrame(drawCourses); });
  app.on("state", () => { if (view.kind === "text") readText(); });
  refreshNames();
  if (app.study.state.state === "absent" && app.study.runs.length) source("run");
  else { $("text").value = SAMPLE; $("lesion-text").value = SAMPLE; source("text"); }
}
