// Options of replies: what is left empty is the model's own.
import { byId, button, element } from "./dom.js";

const NUMBERS = [
  ["temperature", "Temperature", "Randomness; 0 always takes the likeliest word", 0, null, 0.1],
  ["top_p", "Top p", "Among the likeliest words of this total probability", 0, 1, 0.05],
  ["top_k", "Top k", "Among this many likeliest words; 0 for all", 0, null, 1],
  ["min_p", "Min p", "Without words below this part of the likeliest one's probability", 0, 1, 0.01],
  ["repeat_penalty", "Repeat penalty", "Weakens words that came lately; 1 for not at all", 0.1, null, 0.05],
  ["max_tokens", "Longest reply", "In tokens", 1, null, 1],
  ["max_reasoning_tokens", "Longest thinking", "In tokens, of models that think; then they answer", 0, null, 1],
  ["seed", "Seed", "The same seed gives the same reply", 0, null, 1],
];
const THINKING = [["", "As the model does"], ["on", "Think first"], ["off", "Answer at once"]];
const KEPT = "edgellama.settings";
const areas = {};
const inputs = {};

function labelled(id, name, hint, field) {
  field.id = `option-${id}`;
  field.setAttribute("aria-describedby", `hint-${id}`);
  return element("div", { class: "option" }, element("label", { for: field.id }, name), field,
    element("small", { id: `hint-${id}` }, hint));
}

function area(id, name, hint, rows) {
  areas[id] = element("textarea", { rows, spellcheck: false, oninput: keep });
  return labelled(id, name, hint, areas[id]);
}

function thinkingField() {
  inputs.think = element("select", { onchange: keep },
    ...THINKING.map(([value, label]) => element("option", { value }, label)));
  return inputs.think;
}

export function buildSettings(close) {
  const panel = byId("settings");
  panel.append(
    element("div", { class: "row" }, element("h2", { class: "grow" }, "Settings"),
      button("✕", close, { "aria-label": "Close the settings" })),
    area("system", "System prompt", "What the model is told before everything", 4),
    element("div", { class: "grid" }, ...NUMBERS.map(([id, name, hint, min, max, step]) => {
      inputs[id] = element("input", { type: "number", min, max, step: "any", inputMode: "decimal",
        placeholder: "default", oninput: keep });
      inputs[id].step = step < 1 ? "any" : "1";
      return labelled(id, name, hint, inputs[id]);
    })),
    labelled("think", "Thinking", "For models that can think before they answer", thinkingField()),
    area("stop", "Stop at", "Texts before which the reply ends, one a line", 2),
    area("schema", "JSON Schema", "The reply is JSON that follows it, always", 6),
    element("p", { id: "settings-error", role: "alert", class: "error" }),
    button("Reset", () => { showSettings({}); keep(); }, { class: "" }),
  );
  restoreSettings();
}

/** What was last chosen for new chats. */
export function restoreSettings() {
  try {
    showSettings(JSON.parse(localStorage.getItem(KEPT) ?? "{}"));
  } catch {
    showSettings({}); // What was kept is no JSON, or storage is off.
  }
}

function keep() {
  byId("settings-error").textContent = "";
  try {
    localStorage.setItem(KEPT, JSON.stringify(readSettings()));
  } catch { /* not valid yet, or storage is off */ }
}

/** Options as a request has them; an Error that says which field is wrong. */
export function readSettings() {
  const options = {};
  for (const [id, name] of NUMBERS) {
    const input = inputs[id];
    if (!input.checkValidity()) throw new Error(`${name}: ${input.validationMessage}`);
    if (input.value !== "") options[id] = Number(input.value);
  }
  if (inputs.think.value) options.think = inputs.think.value === "on";
  const stop = areas.stop.value.split("\n").filter((line) => line !== "");
  if (stop.length) options.stop = stop;
  if (areas.schema.value.trim()) {
    try {
      options.schema = JSON.parse(areas.schema.value);
    } catch (error) {
      throw new Error(`JSON Schema: ${error.message}`);
    }
    if (options.schema === null || typeof options.schema !== "object") {
      throw new Error("JSON Schema: it is no object");
    }
  }
  return { system: areas.system.value, options };
}

export function showSettings({ system = "", options = {} }) {
  areas.system.value = system;
  for (const [id] of NUMBERS) inputs[id].value = options[id] ?? "";
  const think = options.think ?? options.reasoning;
  inputs.think.value = { true: "on", false: "off" }[think] ?? "";
  areas.stop.value = (options.stop ?? []).join("\n");
  areas.schema.value = options.schema ? JSON.stringify(options.schema, null, 2) : "";
}

/** Options now; where one is wrong, the panel opens and says so. */
export function checkedSettings(open) {
  try {
    return readSettings();
  } catch (error) {
    open();
    byId("settings-error").textContent = error.message;
    return null;
  }
}
