// What a model thinks before it says anything: a block that can be folded.
import { element } from "./dom.js";

export class ThinkingView {
  /** Stands before `body` once there is anything. */
  constructor(body) {
    this.body = body;
    this.text = element("div", { class: "thought" });
    this.label = element("summary", {}, "Thinking");
    this.box = element("details", { class: "thinking" }, this.label, this.text);
    this.label.addEventListener("click", () => { this.isChosen = true; });
  }

  /** Shows the thinking; open while nothing else is there, unless somebody has folded it. */
  update(text, isThinking) {
    if (!text) return;
    if (!this.box.isConnected) this.body.before(this.box);
    if (this.text.textContent !== text) this.text.textContent = text;
    this.label.textContent = isThinking ? "Thinking \u2026" : "Thinking";
    if (!this.isChosen) this.box.open = isThinking;
  }
}
