// Elements without markup: text given here is always text.

export const byId = (id) => document.getElementById(id);

/** An element with properties, listeners ("onclick"), attributes (others) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (name in made && typeof value !== "object") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const button = (label, onclick, properties = {}) =>
  element("button", { type: "button", class: "quiet", onclick, ...properties }, label);

/** Tells screen readers something without moving anything. */
export function announce(text) {
  const live = byId("live");
  live.append(element("p", {}, text));
  while (live.childElementCount > 8) live.firstElementChild.remove();
}

export async function copyText(text, from) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers keep the clipboard from pages that came over plain HTTP from another machine.
    const field = element("textarea", { value: text, class: "hidden" });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  const before = from.textContent;
  from.textContent = "Copied";
  announce("Copied");
  setTimeout(() => { from.textContent = before; }, 1200);
}

export function download(name, type, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const UNITS = ["B", "kB", "MB", "GB", "TB"];

export function bytes(number) {
  if (number === null || number === undefined) return "unknown";
  let unit = 0;
  while (number >= 1000 && unit < UNITS.length - 1) { number /= 1000; unit += 1; }
  return `${number < 10 && unit > 1 ? number.toFixed(2) : number < 100 && unit > 1 ? number.toFixed(1) : Math.round(number)} ${UNITS[unit]}`;
}

export const count = (number) => Math.round(number).toLocaleString("en");
