// Runs before the page is drawn, so that it never flashes in the other theme.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("edgellama.theme"); } catch { /* storage is off */ }
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();
