// What can be opened and closed: the list, the settings, the tabs, the theme.
import { byId } from "./dom.js";
import { Machine } from "./machine.js";

const machine = new Machine();
const isNarrow = () => matchMedia("(max-width: 800px)").matches;

/** Over everything else on a narrow screen, whose rest cannot be reached meanwhile. */
export function toggleSidebar(shown) {
  document.body.classList.toggle("with-sidebar", shown);
  byId("shade").hidden = !shown;
  document.querySelector("main").inert = shown;
  tellSidebar();
  if (shown) byId("close-sidebar").focus();
}

function tellSidebar() {
  const { classList } = document.body;
  const shown = isNarrow() ? classList.contains("with-sidebar") : !classList.contains("without-sidebar");
  byId("open-sidebar").setAttribute("aria-expanded", String(shown));
}

export function toggleSettings(shown) {
  byId("settings").hidden = !shown;
  byId("open-settings").setAttribute("aria-expanded", String(shown));
  if (shown) byId("settings").querySelector("textarea").focus();
  else byId("open-settings").focus();
}

export function selectTab(name) {
  for (const each of ["chat", "machine"]) {
    const tab = byId(`${each}-tab`);
    tab.setAttribute("aria-selected", String(each === name));
    tab.tabIndex = each === name ? 0 : -1;
    byId(each).hidden = each !== name;
  }
  if (name === "machine") machine.start();
  else machine.stop();
}

for (const name of ["chat", "machine"]) {
  const tab = byId(`${name}-tab`), other = name === "chat" ? "machine" : "chat";
  tab.addEventListener("click", () => selectTab(name));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    selectTab(other);
    byId(`${other}-tab`).focus();
  });
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("edgellama.theme", theme); } catch { /* storage is off */ }
}

/** Goes to the search field, wherever it is hidden. */
export function focusSearch() {
  toggleSidebar(isNarrow());
  document.body.classList.remove("without-sidebar");
  tellSidebar();
  byId("search").focus();
  byId("search").select();
}

byId("open-sidebar").addEventListener("click", () => {
  if (isNarrow()) toggleSidebar(true);
  else document.body.classList.toggle("without-sidebar");
  tellSidebar();
});
for (const id of ["close-sidebar", "shade"]) {
  byId(id).addEventListener("click", () => { toggleSidebar(false); byId("open-sidebar").focus(); });
}
matchMedia("(max-width: 800px)").addEventListener("change", () => toggleSidebar(false));
tellSidebar();
byId("open-settings").addEventListener("click", () => toggleSettings(byId("settings").hidden));
byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
