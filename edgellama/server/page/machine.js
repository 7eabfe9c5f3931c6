// The second tab: what the machine has, and what is made of it.
import * as api from "./api.js";
import { byId, bytes, count, element } from "./dom.js";

const EVERY_MS = 1500;

function fact(name, value, note) {
  return element("div", { class: "fact" }, element("dt", {}, name), element("dd", {}, value,
    note ? element("small", {}, note) : null));
}

function bar(label, parts, total) {
  return element("div", { class: "bar", role: "img", "aria-label": label }, ...parts.map(([kind, size]) => {
    const part = element("span", { class: kind });
    part.style.width = `${Math.min(100, (100 * size) / total)}%`;
    return part;
  }));
}

export class Machine {
  constructor() {
    this.box = byId("machine");
  }

  start() {
    this.stop();
    this.refresh();
    this.timer = setInterval(() => { if (!document.hidden) this.refresh(); }, EVERY_MS);
  }

  stop() {
    clearInterval(this.timer);
  }

  async refresh() {
    try {
      this.draw(await api.get("/page/machine"));
    } catch (error) {
      this.box.replaceChildren(element("p", { class: "note" }, `Nothing can be shown: ${error.message}`));
    }
  }

  draw(found) {
    const totals = found.totals;
    const speed = totals.decode_seconds ? totals.generated_tokens / totals.decode_seconds : null;
    this.box.replaceChildren(
      element("h2", {}, "Machine"),
      element("dl", { class: "facts" },
        fact("Processor", found.processor, `${found.num_threads} threads, ${found.tier}`),
        fact("Free memory", bytes(found.available_bytes)),
        fact("This server", bytes(found.peak_bytes), "at most so far, models included"),
        fact("Replies", count(totals.texts ?? 0), `${count(totals.generated_tokens ?? 0)} tokens`),
        fact("Speed", speed ? `${speed.toFixed(1)} tokens/s` : "none yet", "of one text, on average"),
      ),
      element("h2", {}, "Queue"),
      element("dl", { class: "facts" },
        fact("Being written", `${found.running} of ${found.parallel}`),
        fact("Waiting", `${found.waiting} of ${found.max_waiting}`),
      ),
      element("h2", {}, "Models in memory"),
      ...(found.models.length ? found.models.map((each) => this.model(each)) : [element("p", { class: "note" }, "None is loaded.")]),
    );
  }

  model(each) {
    return element("article", { class: "card" },
      element("div", { class: "row" }, element("h3", { class: "grow" }, each.name),
        element("span", {}, each.num_uses ? `in use ${each.num_uses}×` : "idle")),
      element("dl", { class: "facts" },
        fact("Weights", bytes(each.file_bytes)),
        fact("All predicted", bytes(each.predicted_bytes), "with one text"),
        fact("Prompt cache", bytes(each.prompt_cache_bytes)),
        fact("Context", `${count(each.context_length)} tokens`),
      ));
  }
}
