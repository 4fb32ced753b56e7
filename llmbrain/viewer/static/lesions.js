// The lesion playground: the same text in the intact model, with a lesion, and with one matched control.

import {
  $, ask, css, make, number, percent, running, showError, showTip, signed, thousands, tint, visible,
} from "./common.js";

const CONDITIONS = ["intact", "lesion", "control"];

export function startLesions(app) {
  const { study } = app;
  const fill = (select, rows) => select.replaceChildren(
    ...rows.map((row) => make("option", { value: row.name, title: row.summary || "" }, row.name)));
  fill($("kind"), study.kinds);
  fill($("positions"), study.positions);
  fill($("control"), study.controls);
  $("control").value = "layer";
  $("lesion-threshold").value = study.threshold;
  $("new-tokens").max = study.limits.new_tokens;
  for (const [i, mask] of study.masks.entries()) {
    $("target").append(make("option", { value: `mask ${i}` }, `${mask.name} (${thousands(mask.n_neurons)} neurons)`));
  }
  let newest = 0;

  function adapt() {
    for (const label of document.querySelectorAll("#lesion-form [data-for]")) {
      label.hidden = label.dataset.for !== $("target").value;
    }
    const kind = study.kinds.find((one) => one.name === $("kind").value);
    $("value-label").hidden = !kind.needs_value;
    const chosen = app.chosen.length ? `network${app.chosen.length > 1 ? "s" : ""} ${app.chosen.join(", ")}` : "no network";
    const control = study.controls.find((one) => one.name === $("control").value);
    $("kind-note").textContent = `${kind.summary} Chosen: ${chosen}. Control: ${control.summary || control.name}.`;
    $("strength-note").textContent = number(Number($("strength").value));
    $("silence").disabled = study.state.state !== "ready";
    $("silence").title = study.state.state === "ready" ? "" : "This needs the model.";
    if (["absent", "failed"].includes(study.state.state)) {
      $("lesion-empty").textContent = "Without a model, nothing can be lesioned. Start the viewer with the model.";
    }
  }

  function request() {
    const target = $("target").value;
    const found = {
      text: $("lesion-text").value, how: $("kind").value, strength: Number($("strength").value),
      positions: $("positions").value, control: $("control").value, seed: Number($("seed").value),
      new_tokens: Number($("new-tokens").value),
    };
    if (!$("value-label").hidden) found.value = Number($("value").value);
    if (target === "typed") return { ...found, neurons: $("typed").value };
    if (target.startsWith("mask ")) return { ...found, mask: Number(target.slice(5)) };
    if (target === "top") return { ...found, networks: [...app.chosen], top: Number($("top").value) };
    return { ...found, networks: [...app.chosen], threshold: Number($("lesion-threshold").value) };
  }

  async function run(event) {
    event.preventDefault();
    const number_ = ++newest;
    const asked = request();
    showError($("lesion-error"), null);
    $("silence").textContent = "Working …";
    $("lesion-result").setAttribute("aria-busy", "true");
    try {
      const found = await ask("api/lesion", asked);
      if (number_ !== newest) return;
      $("lesion-empty").hidden = true;
      $("lesion-result").hidden = false;
      showLead(found, asked);
      showWords(found);
      showNext(found);
      $("silence").textContent = "Writing …";
      await writeOn(asked, number_);
    } catch (error) {
      if (number_ === newest) showError($("lesion-error"), error);
    } finally {
      if (number_ === newest) {
        $("silence").textContent = "Lesion";
        $("lesion-result").removeAttribute("aria-busy");
      }
    }
  }

  function showLead(found, asked) {
    const { means } = found;
    const change = (name) => signed(means[name] - means.intact, 3);
    const what = asked.how === "zero" && asked.strength === 1 ? "Silencing" : `Lesion “${asked.how}” of`;
    const shared = found.n_shared ? ` (${thousands(found.n_shared)} of them shared with the lesion)` : "";
    $("lesion-lead").textContent = `${what} ${thousands(found.n_neurons)} neurons changes the loss of ${found.n_scored} `
      + `tokens from ${number(means.intact, 3)} by ${change("lesion")} nats per token; as many other neurons, matched by `
      + `${found.control}${shared}, by ${change("control")}.`
      + (found.cut ? ` Only the first ${found.tokens.length} tokens of the text were read.` : "")
      + " One control shows what to expect by chance, not how often: for a test, use ‘llmbrain lesion’.";
  }

  function showWords(found) {
    const deltas = {};
    let most = 0.5;
    for (const name of ["lesion", "control"]) {
      deltas[name] = wordSums(found, name);
      const sizes = deltas[name].map(Math.abs).sort((x, y) => x - y);
      most = Math.max(most, sizes[Math.floor(0.97 * (sizes.length - 1))] || 0);
    }
    for (const name of ["lesion", "control"]) {
      const box = $(`words-${name}`);
      box.replaceChildren(...found.tokens.map((token, i) => {
        const span = make("span", { data: { i } }, running(token));
        const delta = deltas[name][found.words[i]];
        const color = delta > 0 ? css("--pos") : css("--neg");
        if (Math.abs(delta) > 0.03 * most) span.style.background = tint(color, (0.65 * Math.abs(delta)) / most);
        return span;
      }));
      box.onpointermove = (event) => {
        const i = event.target.dataset?.i;
        if (i === undefined) { showTip(event, null); return; }
        const word = found.words[i];
        const text = found.tokens.filter((_, j) => found.words[j] === word).join("");
        showTip(event, [`“${visible(text).trim()}”: ${signed(deltas[name][word])} nats`,
          ...CONDITIONS.map((one) => `${one}: ${number(sum(found, one, word))} nats`)]);
      };
      box.onpointerleave = (event) => showTip(event, null);
    }
    $("loss-scale").replaceChildren(
      key("--pos"), `harder to predict, full colour at +${number(most, 1)} nats; `, key("--neg"),
      "easier to predict. A word’s loss is the sum over its tokens.");
  }

  function key(name) {
    const found = make("span", { className: "key" });
    found.style.background = css(name);
    return found;
  }

  function sum(found, condition, word) {
    return found.losses[condition].reduce((total, v, i) => total + (found.words[i] === word && v !== null ? v : 0), 0);
  }

  function wordSums(found, condition) {
    const totals = new Array(Math.max(...found.words) + 1).fill(0);
    found.losses[condition].forEach((v, i) => {
      if (v !== null) totals[found.words[i]] += v - found.losses.intact[i];
    });
    return totals;
  }

  function showNext(found) {
    const most = Math.max(...found.next.flatMap((row) => CONDITIONS.map((name) => row[name])), 1e-9);
    $("next").tBodies[0].replaceChildren(...found.next.map((row) => {
      const line = make("tr", {}, make("td", { className: "token" }, visible(row.token).trim() ? visible(row.token) : "␣"));
      for (const name of CONDITIONS) {
        const fillBar = make("span", { className: "fill" });
        fillBar.style.width = `${(100 * row[name]) / most}%`;
        fillBar.style.background = { intact: css("--muted"), lesion: css("--pos"), control: css("--neg") }[name];
        line.append(make("td", {}, percent(row[name]), make("span", { className: "track" }, fillBar)));
      }
      return line;
    }));
  }

  async function writeOn(asked, number_) {
    const columns = CONDITIONS.map((condition) => {
      const text = make("p", { className: "given" }, "…");
      return { condition, text, box: make("div", {}, make("h3", {}, condition), text) };
    });
    $("written").replaceChildren(...columns.map((column) => column.box));
    await Promise.all(columns.map(async ({ condition, text }) => {
      try {
        const found = await ask("api/write", { ...asked, condition });
        if (number_ !== newest) return;
        const whole = asked.text.trimEnd();
        const ending = whole.length > 40 ? `… ${whole.slice(-40).replace(/^\S*\s+/, "")}` : whole;
        text.className = "";
        text.replaceChildren(make("span", { className: "given" }, ending), found.text || "(the text ends here)");
      } catch (error) {
        if (!error.replaced) text.textContent = error.message;
      }
    }));
  }

  $("lesion-form").addEventListener("submit", run);
  $("lesion-form").addEventListener("input", adapt);
  app.on("chosen state", adapt);
  adapt();
}
