// The list of conversations: search, rename, export, delete.
import * as api from "./api.js";
import { announce, byId, button, download, element } from "./dom.js";
import { asMarkdown } from "./tree.js";

const DAY = 86_400_000;

function groupOf(seconds) {
  const days = (new Date().setHours(0, 0, 0, 0) - seconds * 1000) / DAY;
  if (days <= 0) return "Today";
  if (days <= 1) return "Yesterday";
  return days <= 7 ? "This week" : "Earlier";
}

const fileName = (title) => title.replace(/[^\p{L}\p{N} _-]+/gu, "").trim().slice(0, 60) || "conversation";

export class Sidebar {
  /** `changed(id)` and `removed(id)` are told of what was done, `failed(error)` of errors. */
  constructor({ changed, removed, failed }) {
    Object.assign(this, { changed, removed, failed, shown: null, latest: 0 });
    this.list = byId("conversations");
    if (matchMedia("(hover: none)").matches) byId("search").placeholder = "Search"; // No keys to press.
    byId("search").addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.refresh(), 150);
    });
    byId("search").addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "Enter") {
        event.preventDefault();
        const first = this.list.querySelector("a");
        if (event.key === "Enter") first?.click();
        else first?.focus();
      }
    });
    this.list.addEventListener("keydown", (event) => this.move(event));
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", ({ target }) => this.import(target));
  }

  move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || event.target.tagName !== "A") return;
    event.preventDefault();
    const links = [...this.list.querySelectorAll("a")];
    (links[links.indexOf(event.target) + step] ?? byId("search")).focus();
  }

  async refresh() {
    const search = byId("search").value.trim(), number = ++this.latest;
    try {
      const { conversations } = await api.get(`/page/conversations?search=${encodeURIComponent(search)}`);
      if (number === this.latest) this.draw(conversations, search);
    } catch (error) {
      if (search) this.failed(error); // Otherwise nobody has asked.
    }
  }

  draw(conversations, search) {
    let group = null;
    const rows = [];
    for (const each of conversations) {
      if (!search && groupOf(each.changed) !== group) {
        group = groupOf(each.changed);
        rows.push(element("li", { class: "group" }, group));
      }
      rows.push(this.row(each));
    }
    if (!rows.length) {
      rows.push(element("li", { class: "group" }, search ? "Nothing found" : "No conversations yet"));
    }
    if (search) announce(`${conversations.length} found`);
    this.list.replaceChildren(...rows);
  }

  row(each) {
    const link = element("a", { href: `#/c/${each.id}`, title: each.title },
      element("span", {}, each.title), each.snippet ? element("small", {}, each.snippet) : null);
    if (each.id === this.shown) link.setAttribute("aria-current", "page");
    const more = button("⋯", () => this.menu(each, row, more), {
      "aria-label": `Rename, export or delete ${each.title}`, "aria-expanded": "false",
    });
    const row = element("li", { class: "conversation" }, link, more);
    return row;
  }

  menu(each, row, more) {
    const old = row.querySelector(".menu");
    this.list.querySelectorAll(".menu").forEach((menu) => menu.remove());
    more.setAttribute("aria-expanded", String(!old));
    if (old) return;
    const menu = element("div", { class: "menu", role: "group", "aria-label": each.title },
      button("Rename", () => this.rename(each, row)),
      button("Export as Markdown", () => this.export(each, "md")),
      button("Export as JSON", () => this.export(each, "json")),
      button("Delete", () => this.delete(each, menu), { class: "quiet error" }),
    );
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      menu.remove();
      more.setAttribute("aria-expanded", "false");
      more.focus();
    });
    row.append(menu);
    menu.firstElementChild.focus();
  }

  rename(each, row) {
    const input = element("input", { value: each.title, "aria-label": "Title", maxLength: 200 });
    let ended = false;
    const end = async (keep) => {
      if (ended) return;
      ended = true;
      if (keep && input.value.trim() && input.value.trim() !== each.title) {
        await this.try(() => api.post(`/page/conversations/${each.id}`, { title: input.value }));
        this.changed(each.id);
      }
      this.refresh();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") end(true);
      if (event.key === "Escape") { event.stopPropagation(); end(false); }
    });
    input.addEventListener("blur", () => end(true));
    row.replaceChildren(input);
    input.focus();
    input.select();
  }

  async export(each, kind) {
    const whole = await this.try(() => api.get(`/page/conversations/${each.id}`));
    if (!whole) return;
    if (kind === "md") download(`${fileName(each.title)}.md`, "text/markdown", asMarkdown(whole));
    else download(`${fileName(each.title)}.json`, "application/json", JSON.stringify(whole, null, 2));
    this.refresh();
  }

  /** Keeps the conversation of a file that was exported as JSON, and shows it. */
  async import(input) {
    const [file] = input.files;
    if (!file) return;
    const found = await this.try(async () => {
      let content;
      try { content = JSON.parse(await file.text()); } catch { content = null; }
      if (content === null) throw new api.ServerError(400, `${file.name} is no chat that was exported as JSON.`);
      return api.post("/page/conversations", content);
    });
    input.value = ""; // So that the same file may be chosen again.
    if (found) location.hash = `#/c/${found.id}`;
    this.refresh();
  }

  delete(each, menu) {
    const sure = button("Delete for ever", async () => {
      if (await this.try(() => api.remove(`/page/conversations/${each.id}`))) {
        announce("Deleted");
        this.removed(each.id);
      }
      this.refresh();
    }, { class: "quiet error" });
    menu.replaceChildren(sure, button("Keep", () => this.refresh()));
    sure.focus();
  }

  async try(work) {
    try {
      return await work();
    } catch (error) {
      this.failed(error);
      return null;
    }
  }

  show(id) {
    this.shown = id;
    for (const link of this.list.querySelectorAll("a")) {
      if (link.hash === `#/c/${id}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }
}
