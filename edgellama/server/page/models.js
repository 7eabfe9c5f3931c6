// The picker of models: each with the memory that it takes, or why it does not run here.
import * as api from "./api.js";
import { byId, bytes } from "./dom.js";

const KEPT = "edgellama.model";
const picker = byId("model");

function described(each, available) {
  if (each.error) return each.error;
  if (each.is_loaded) return `${bytes(each.predicted_bytes)}, loaded`;
  const fits = available === null || each.predicted_bytes <= available;
  return `${bytes(each.predicted_bytes)}${fits ? "" : ", does not fit"}`;
}

/** Fills the picker; gives how many models there are, null where the server cannot be asked. */
export async function loadModels() {
  // Whatever is sent next tells why, if this fails.
  const found = await api.get("/page/models").catch(() => null);
  if (!found) return null;
  let wanted = picker.value;
  try { wanted ||= localStorage.getItem(KEPT); } catch { /* storage is off */ }
  picker.replaceChildren(...found.models.map((each) => {
    const memory = described(each, found.available_bytes);
    const option = new Option(`${each.name} · ${(each.type ?? "").toUpperCase()} · ${memory}`, each.name);
    option.disabled = Boolean(each.error);
    return option;
  }));
  pickModel(wanted);
  return found.models.length;
}

/** Picks a model, if it is still there. */
export function pickModel(name) {
  if ([...picker.options].some((each) => each.value === name)) picker.value = name;
}

picker.addEventListener("change", () => {
  try { localStorage.setItem(KEPT, picker.value); } catch { /* storage is off */ }
});
