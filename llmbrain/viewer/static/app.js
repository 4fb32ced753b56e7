// The page: its state, the list of networks, the tabs, the theme.

import { $, ask, askZ, css, isDark, make, number, thousands } from "./common.js";
import { startLabels } from "./labels.js";
import { startLesions } from "./lesions.js";
import { startMaps } from "./maps.js";
import { startRead } from "./read.js";
import { startVolumes } from "./volumes.js";

const MOST_CHOSEN = 8; // as many as there are colours that nobody confuses
const ASK_STATE = 1000; // milliseconds between questions while the model loads

class App extends EventTarget {
  study = null;
  geometry = null; // what NeuronMap takes
  chosen = []; // numbers of networks, in the order of their colours
  focus = 0;
  tab = "read";
  maps = new Map();

  tell(name) { this.dispatchEvent(new Event(name)); }

  on(names, call) { for (const name of names.split(" ")) this.addEventListener(name, call); }

  get networks() { return this.study ? this.study.networks : []; }

  color(network) {
    const at = this.chosen.indexOf(network);
    if (at < 0) return css("--muted");
    const color = this.study.series[at];
    return isDark() ? `color-mix(in oklab, ${color} 78%, white)` : color;
  }

  title(network) {
    const row = this.networks[network];
    const name = row.name || row.label;
    return name ? `${network} · ${name}` : `network ${network}`;
  }

  /** z-scored map of a network, kept once loaded. */
  async map(network) {
    if (!this.maps.has(network)) this.maps.set(network, askZ(`api/networks/${network}/map`));
    return this.maps.get(network);
  }

  choose(network, on) {
    if (on && !this.chosen.includes(network)) {
      this.chosen.push(network);
      if (this.chosen.length > MOST_CHOSEN) this.chosen.shift();
    } else if (!on) this.chosen = this.chosen.filter((k) => k !== network);
    this.listNetworks();
    this.tell("chosen");
  }

  look(network) {
    if (!this.networks.length) return;
    this.focus = (network + this.networks.length) % this.networks.length;
    this.listNetworks();
    this.tell("focus");
  }

  listNetworks() {
    const list = $("networks");
    const active = document.activeElement;
    const again = list.contains(active) ? [active.dataset.network, active.tagName] : null;
    list.replaceChildren(...this.networks.map((row) => this.networkItem(row)));
    $("networks-title").textContent = this.networks.length ? `Networks, ${this.chosen.length} chosen` : "Networks";
    if (again) list.querySelector(`${again[1]}[data-network="${again[0]}"]`)?.focus();
  }

  networkItem(row) {
    const k = row.network;
    const box = make("input", {
      type: "checkbox", checked: this.chosen.includes(k), data: { network: k },
    });
    box.setAttribute("aria-label", `Show network ${k}`);
    box.addEventListener("change", () => this.choose(k, box.checked));
    // a token that begins with a space is not broken after its quote
    const title = (row.name || row.label || "unnamed").replace(/(^|\s)' /g, "$1'\u00a0");
    const name = make("span", { className: row.name ? "name named" : "name" }, title);
    const button = make("button", { type: "button", data: { network: k }, title: describe(row) },
      make("span", { className: "k" }, String(k)), name);
    button.addEventListener("click", () => {
      if (!this.chosen.includes(k)) this.choose(k, true);
      this.look(k);
    });
    const mark = make("span", { className: `mark ${row.decision}` });
    mark.textContent = { accepted: "✓", rejected: "✕" }[row.decision] || (row.flagged || row.artefact ? "°" : "");
    if (mark.textContent === "°") mark.title = row.artefact ? `artefact: ${row.artefact}` : "flagged: empty or unstable";
    const item = make("li", {}, box, button, mark);
    if (this.chosen.includes(k)) item.style.setProperty("--swatch", this.color(k));
    item.classList.toggle("focused", k === this.focus);
    item.classList.toggle("rejected", row.decision === "rejected");
    return item;
  }
}

function describe(row) {
  const parts = [`${thousands(row.n_neurons || 0)} neurons`, `peak in layer ${row.peak_layer}`];
  if (row.stability !== null) parts.push(`stability ${number(row.stability)}`);
  if (row.artefact) parts.push(`artefact: ${row.artefact}`);
  return parts.join(", ");
}

const app = new App();

function showState(state) {
  const words = {
    absent: "no model", loading: "loading the model …", ready: "model ready", failed: "no model: see below",
  };
  $("state").textContent = words[state.state];
  $("state").className = `pill ${state.state}`;
  const before = app.study.state.state;
  app.study.state = state;
  if (state.state === "failed") showMessages([...app.study.messages, `The model could not be opened: ${state.message}`]);
  if (before !== state.state) app.tell("state");
}

function showMessages(messages) {
  $("messages").replaceChildren(...messages.map((text) => make("p", { className: "message" }, text)));
}

async function follow() {
  while (app.study.state.state === "loading") {
    await new Promise((done) => setTimeout(done, ASK_STATE));
    try { showState(await ask("api/state")); } catch (error) { showMessages([error.message]); }
  }
}

function showTab(name) {
  app.tab = name;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const on = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", on);
    tab.tabIndex = on ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !on;
  }
  history.replaceState(null, "", `#${name}`);
  app.tell("tab");
}

function startTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => showTab(tab.id.slice(4)));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(i + step + tabs.length) % tabs.length];
      showTab(next.id.slice(4));
      next.focus();
    });
  });
  const wanted = location.hash.slice(1);
  showTab(tabs.some((tab) => tab.id === `tab-${wanted}`) ? wanted : "read");
}

function startTheme() {
  const media = matchMedia("(prefers-color-scheme: dark)");
  let own = null;
  const apply = () => {
    const dark = own ?? media.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    $("theme").textContent = dark ? "Light" : "Dark";
    $("theme").setAttribute("aria-label", `Switch to ${dark ? "light" : "dark"} colours`);
    if (app.study) app.listNetworks();
    app.tell("theme");
  };
  media.addEventListener("change", apply);
  $("theme").addEventListener("click", () => { own = !isDark(); apply(); });
  apply();
}

async function start() {
  startTheme();
  try {
    app.study = await ask("api/study");
  } catch (error) {
    $("title").textContent = "The study cannot be shown";
    showMessages([error.message]);
    return;
  }
  const { study } = app;
  $("title").textContent = study.model;
  document.title = `${study.model} · llmbrain viewer`;
  if (study.geometry) {
    const order = new Int32Array(await ask("api/order"));
    const half = order.length / 2;
    app.geometry = { ...study.geometry };
    if (half) Object.assign(app.geometry, { cells: order.subarray(0, half), rank: order.subarray(half) });
    const neurons = study.geometry.sizes.reduce((a, b) => a + b, 0);
    $("subtitle").textContent = `on the corpus “${study.corpus}” · ${study.geometry.sizes.length} layers, `
      + `${thousands(neurons)} neurons (${study.geometry.site}) · ${study.networks.length} networks`;
  } else $("subtitle").textContent = `on the corpus “${study.corpus}”`;
  showMessages(study.messages);
  const usable = study.networks.filter((row) => !row.flagged && !row.artefact && row.decision !== "rejected");
  app.chosen = (usable.length ? usable : study.networks).slice(0, 4).map((row) => row.network);
  app.focus = app.chosen[0] ?? 0;
  $("networks-note").textContent = study.networks.length
    ? "Ticked networks are shown; a click on a name opens it. ° flagged" : "There are none yet.";
  if (matchMedia("(max-width: 1000px)").matches) $("networks-box").open = false;
  app.listNetworks();
  for (const begin of [startRead, startMaps, startLesions, startLabels, startVolumes]) begin(app);
  startTabs();
  showState(study.state);
  follow();
  document.body.dataset.ready = "true";
}

start();
