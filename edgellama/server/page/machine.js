// The second tab: what the machine has, and what is made of it.
import * as api from "./api.js";
import { announce, button, byId, bytes, count, element } from "./dom.js";

const EVERY_MS = 1500;

function fact(name, value, note, kind) {
  return element("div", { class: "fact" }, element("dt", {}, kind ? element("span", { class: `key ${kind}` }) : null, name), element("dd", {}, value,
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
    this.speeds = new Map();
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
      const reason = error instanceof api.ServerError ? error.message : "The server does not answer; it is asked again and again.";
      this.box.replaceChildren(element("p", { class: "note", role: "status" }, reason));
    }
  }

  draw(found) {
    const totals = found.totals;
    const speed = totals.decode_seconds ? totals.generated_tokens / totals.decode_seconds : null;
    const focused = document.activeElement?.id;
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
      element("ol", { class: "answers" }, ...found.answers.map((each) => element("li", {}, `${each.model}: ${each.state}`))),
      element("h2", {}, "Models in memory"),
      ...(found.models.length ? found.models.map((each) => this.model(each)) : [element("p", { class: "note" }, "None is loaded.")]),
    );
    if (focused) byId(focused)?.focus();
  }

  async measure(name, from) {
    from.disabled = true;
    try {
      const { bytes_per_second: speed } = await api.post("/page/read-speed", { model: name });
      this.speeds.set(name, speed);
      announce(`${bytes(speed)} a second`);
    } catch (error) {
      this.speeds.set(name, error.message);
    }
    await this.refresh();
  }

  /** What a plain read of the weights reaches, and how many tokens a second that allows. */
  speed(each) {
    const speed = this.speeds.get(each.name);
    const ask = button(speed ? "Measure again" : "Measure", () => this.measure(each.name, ask), { id: `measure-${each.name}` });
    const told = typeof speed === "number" ? [`${bytes(speed)}/s `, element("small", {}, `at most ${(speed / each.file_bytes).toFixed(0)} tokens/s`)]
      : [speed ?? "", ask];
    return element("div", { class: "fact" }, element("dt", {}, "Bandwidth"), element("dd", {}, ...told, typeof speed === "number" ? ask : null));
  }

  model(each) {
    const inUse = each.sessions.reduce((sum, session) => sum + session.num_bytes, 0);
    const total = Math.max(each.predicted_bytes, each.file_bytes + each.prompt_cache_bytes + inUse);
    return element("article", { class: "card" },
      element("div", { class: "row" }, element("h3", { class: "grow" }, each.name),
        element("span", {}, each.num_uses ? `in use ${each.num_uses}×` : "idle")),
      bar(`${bytes(each.file_bytes)} weights, ${bytes(inUse)} sessions, ${bytes(each.prompt_cache_bytes)} prompt cache`,
        [["weights", each.file_bytes], ["sessions", inUse], ["cache", each.prompt_cache_bytes]], total),
      element("dl", { class: "facts" },
        fact("Weights", bytes(each.file_bytes), null, "weights"),
        fact("Prompt cache", bytes(each.prompt_cache_bytes), "of earlier texts", "cache"),
        ...each.sessions.map((session, index) => fact(`Session ${index + 1}`, bytes(session.num_bytes),
          `${count(session.num_tokens)} tokens`, "sessions")),
        fact("Predicted", bytes(each.predicted_bytes), `with a text of ${count(each.predicted_tokens)} tokens`),
        fact("Context", `${count(each.context_length)} tokens`),
        this.speed(each),
      ));
  }
}
