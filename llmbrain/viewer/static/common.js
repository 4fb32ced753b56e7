// What all parts of the page share: requests, elements, the tooltip, numbers in words.

export const $ = (id) => document.getElementById(id);

/** Make an element: make("li", {className: "x"}, child, "text"). */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "data") Object.assign(element.dataset, value);
    else if (name.startsWith("aria") || name === "role" || name === "scope") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Ask the server; errors are sentences. `replaced` is true on errors of requests that a newer one replaced. */
export async function ask(path, body = null, options = {}) {
  let response;
  try {
    response = await fetch(path, body === null ? options : {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), ...options,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is ‘llmbrain view’ still running?");
  }
  const type = response.headers.get("content-type") || "";
  if (type.startsWith("application/octet-stream") && response.ok) return response.arrayBuffer();
  const found = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
  if (!response.ok) {
    const error = new Error(found.error || `The server answered ${response.status}.`);
    error.replaced = Boolean(found.replaced);
    throw error;
  }
  return found;
}

/** z-scores as the server packs them: int16 in hundredths. */
export async function askZ(path, options = {}) {
  const packed = new Int16Array(await ask(path, null, options));
  const values = new Float32Array(packed.length);
  for (let i = 0; i < packed.length; i++) values[i] = packed[i] / 100;
  return values;
}

export function showError(element, error) {
  if (error && (error.replaced || error.name === "AbortError")) return;
  element.hidden = !error;
  element.textContent = error ? error.message : "";
}

/** A number with a real minus sign. */
export function number(value, digits = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return value.toFixed(digits).replace(/^-(?=0(\.0*)?$)/, "").replace("-", "−");
}

export function signed(value, digits = 2) {
  return (value > 0 ? "+" : "") + number(value, digits);
}

export const thousands = (value) => value.toLocaleString("en-US");
export const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;

/** A token as people read it: signs for line breaks and tabs. */
export function visible(token) {
  return token.replaceAll("\\n", "⏎").replaceAll("\\t", "⇥");
}

/** The same inside running text: a line breaks after its sign. */
export function running(token) {
  return visible(token).replaceAll("⏎", "⏎\n");
}

export function isDark() {
  return document.documentElement.dataset.theme === "dark";
}

export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A colour mixed with transparency, for shades of words. */
export function tint(color, share) {
  return `color-mix(in srgb, ${color} ${Math.round(100 * Math.min(Math.max(share, 0), 1))}%, transparent)`;
}

const tip = $("tip");

/** Show a tooltip near a pointer event: lines are strings or [colour, text]. */
export function showTip(event, lines) {
  if (!lines) { tip.hidden = true; return; }
  tip.replaceChildren(...lines.map((line) => {
    const row = make("div");
    if (Array.isArray(line)) {
      const key = make("span", { className: "key" });
      key.style.background = line[0];
      row.append(key, line[1]);
    } else row.append(line);
    return row;
  }));
  tip.hidden = false;
  const target = event.target.getBoundingClientRect();
  const [x, y] = event.clientX === undefined ? [target.left + 20, target.top + 20] : [event.clientX, event.clientY];
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 6))}px`;
  tip.style.top = `${y + 18 + height > innerHeight ? y - height - 12 : y + 18}px`;
}

addEventListener("scroll", () => { tip.hidden = true; }, true);

/** Call a function once the last of many calls is `wait` milliseconds ago. */
export function settled(wait, call) {
  let timer = null;
  return (...values) => { clearTimeout(timer); timer = setTimeout(() => call(...values), wait); };
}

/** Rows of facts in a <dl>. */
export function facts(list, rows) {
  list.replaceChildren(...rows.filter(Boolean).map(([name, value]) => {
    const row = make("div");
    row.append(make("dt", {}, name), make("dd", {}, String(value)));
    return row;
  }));
}
