// Hand labels: accept, reject and name networks, with keys. Each change is saved in the study at once.

import { $, ask, css, make, number, showError, tint, visible } from "./common.js";
import { countFacts } from "./maps.js";
import { mapWithTools } from "./tools.js";
import { facts } from "./common.js";

export function startLabels(app) {
  if (!app.networks.length) {
    $("labels").replaceChildren(make("p", { className: "empty" }, "The study has no networks yet, so there is nothing to label."));
    return;
  }
  const tools = mapWithTools(app, $("label-map"), $("label-tools"), { threshold: app.study.threshold });
  let z = null;

  const row = () => app.networks[app.focus];

  async function show() {
    if (app.tab !== "labels") return;
    const k = app.focus;
    showError($("label-error"), null);
    drawDecision();
    try {
      const [map, about] = await Promise.all([app.map(k), ask(`api/networks/${k}`)]);
      if (k !== app.focus) return;
      z = map;
      tools.map.setValues(map);
      drawFacts();
      drawTokens(about);
      drawContexts(about);
    } catch (error) { showError($("label-error"), error); }
  }

  function drawFacts() {
    if (!z) return;
    facts($("label-facts"), [
      ...countFacts(app, app.focus, z, tools.threshold()),
      row().label ? ["suggested name", row().label] : null,
      row().flagged ? ["flag", "empty or unstable"] : null,
    ]);
  }

  function drawDecision() {
    $("label-title").textContent = `Network ${app.focus}`;
    if (document.activeElement !== $("label-name")) $("label-name").value = row().name;
    $("label-name").placeholder = row().label || "no name yet";
    for (const button of document.querySelectorAll("#labels [data-decision]")) {
      button.setAttribute("aria-pressed", String(button.dataset.decision === row().decision));
    }
    const n = app.networks.filter((one) => one.decision !== "undecided").length;
    const accepted = app.networks.filter((one) => one.decision === "accepted").length;
    $("label-progress").textContent = `${n} of ${app.networks.length} decided, ${accepted} accepted.`;
  }

  function drawTokens(about) {
    for (const [side, list, color] of [[1, $("tokens-pos"), "--pos"], [-1, $("tokens-neg"), "--neg"]]) {
      const own = about.tokens.filter((one) => one.side === side);
      const most = Math.max(...own.map((one) => Math.abs(one.mean)), 1e-9);
      list.replaceChildren(...own.map((one) => {
        const fill = make("span", { className: "fill" });
        fill.style.width = `${(100 * Math.abs(one.mean)) / most}%`;
        fill.style.background = css(color);
        return make("li", { title: `${one.n} occurrences` }, make("span", { className: "token" }, visible(String(one.token))),
          make("span", { className: "track" }, fill), make("span", { className: "value" }, number(one.mean, 1)));
      }));
      if (!own.length) list.replaceChildren(make("li", {}, "not known; find networks with repeats"));
    }
  }

  function drawContexts(about) {
    $("contexts").replaceChildren(...about.contexts.map((one) => {
      const token = make("b", {}, visible(one.token));
      token.style.background = tint(css(one.side > 0 ? "--pos" : "--neg"), 0.4);
      return make("li", {}, visible(one.before), token, visible(one.after), " ",
        make("span", { className: "where" }, `${number(one.value, 1)} sd, ${one.document}`));
    }));
  }

  async function save(change) {
    const k = app.focus;
    $("label-saved").textContent = "Saving …";
    try {
      Object.assign(app.networks[k], await ask(`api/labels/${k}`, change));
      $("label-saved").textContent = `Saved at ${new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`;
      showError($("label-error"), null);
      app.listNetworks();
      drawDecision();
      app.tell("labels");
    } catch (error) {
      $("label-saved").textContent = "";
      showError($("label-error"), error);
    }
  }

  for (const button of document.querySelectorAll("#labels [data-decision]")) {
    button.addEventListener("click", () => save({ decision: button.dataset.decision }));
  }
  $("label-name").addEventListener("change", () => save({ name: $("label-name").value }));
  $("label-name").addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "Escape") {
      if (event.key === "Escape") $("label-name").value = row().name;
      $("label-name").blur();
      event.preventDefault();
    }
  });
  $("label-back").addEventListener("click", () => app.look(app.focus - 1));
  $("label-on").addEventListener("click", () => app.look(app.focus + 1));
  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input:not([type=checkbox]), textarea, select, canvas, [role=tab]");
    if (app.tab !== "labels" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    const decision = { a: "accepted", r: "rejected", u: "undecided" }[key];
    if (decision) save({ decision });
    else if (key === "arrowdown" || key === "arrowright") app.look(app.focus + 1);
    else if (key === "arrowup" || key === "arrowleft") app.look(app.focus - 1);
    else if (key === "n") { $("label-name").focus(); $("label-name").select(); } else return;
    event.preventDefault();
  });
  tools.onThreshold = drawFacts;
  app.on("focus tab theme", () => requestAnimationFrame(show));
}
