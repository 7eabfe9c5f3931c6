// Messages of the shown path, with what can be done to each.
import { byId, button, copyText, count, element } from "./dom.js";
import { MarkdownView } from "./markdown.js";
import { ThinkingView } from "./thinking.js";
import { childrenOf, leafBelow, shownPath } from "./tree.js";

const UNFINISHED = {
  length: "The reply reached its longest length.",
  context: "The context is full.",
  cancelled: "Stopped.",
  timeout: "The time was up.",
  constraint: "The schema has no way on.",
  failed: "The reply broke off.",
};

export class Messages {
  /** `actions`: edit(message, text), regenerate(message), goOn(message), show(leaf). */
  constructor(actions) {
    this.actions = actions;
    this.box = byId("messages");
    this.views = new Map();
    this.thoughts = new Map();
    this.sticks = true;
    this.box.addEventListener("scroll", () => {
      this.sticks = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 60;
    }, { passive: true });
  }

  draw(conversation, busy) {
    this.views.clear();
    this.thoughts.clear();
    const path = conversation ? shownPath(conversation) : [];
    this.box.replaceChildren(...(path.length ? path.map((each) => this.message(conversation, each, busy, each === path.at(-1)))
      : [element("div", { class: "welcome" }, element("h2", {}, "What shall we talk about?"),
        element("p", {}, "Everything stays on the machine that serves this page."))]));
    this.scroll(true);
  }

  message(conversation, message, busy, isLast) {
    const isUser = message.role === "user";
    const body = element("div", { class: "body" });
    if (isUser) body.textContent = message.content;
    else {
      const view = new MarkdownView(body);
      view.update(message.content);
      this.views.set(message.id, view);
    }
    const name = isUser ? "You" : message.details.model || "Assistant";
    const box = element("article", { class: `message ${message.role}`, "aria-label": name, "data-id": message.id },
      element("h2", { class: isUser ? "hidden" : "name" }, name), body);
    if (!isUser) {
      const thinking = new ThinkingView(body);
      thinking.update(message.details.reasoning, busy && isLast && !message.content);
      this.thoughts.set(message.id, thinking);
    }
    if (!isUser) box.append(...this.state(message, busy, isLast));
    box.append(this.tools(conversation, message, busy, box));
    return box;
  }

  state(message, busy, isLast) {
    const { finish_reason: reason, error } = message.details;
    if (reason === "writing" || (busy && isLast)) return [element("div", { class: "writing", "aria-hidden": "true" }, "●")];
    const told = error ?? UNFINISHED[reason] ?? (reason ? null : message.content || message.details.reasoning ? UNFINISHED.failed : "Nothing came.");
    return told && reason !== "stop" ? [element("p", { class: "note" }, told)] : [];
  }

  tools(conversation, message, busy, box) {
    const tools = element("div", { class: "tools row" });
    const siblings = childrenOf(conversation.messages, message.parent);
    if (siblings.length > 1) {
      const at = siblings.findIndex((each) => each.id === message.id);
      const go = (step) => this.actions.show(leafBelow(conversation.messages, siblings[at + step].id));
      tools.append(
        button("‹", () => go(-1), { "aria-label": "Previous version", disabled: busy || at === 0 }),
        element("span", { class: "version" }, `${at + 1} / ${siblings.length}`),
        button("›", () => go(1), { "aria-label": "Next version", disabled: busy || at === siblings.length - 1 }),
      );
    }
    const copy = button("Copy", () => copyText(message.content, copy));
    tools.append(copy);
    if (message.role === "user") {
      tools.append(button("Edit", () => this.edit(message, box), { disabled: busy, class: "quiet edit" }));
    } else {
      tools.append(button("Regenerate", () => this.actions.regenerate(message), { disabled: busy }));
      const { finish_reason: reason } = message.details;
      if (["cancelled", "length", "timeout", "failed", undefined].includes(reason) && (message.content || message.details.reasoning)
        && message.id === conversation.leaf) {
        tools.append(button("Continue", () => this.actions.goOn(message), { disabled: busy }));
      }
      tools.append(element("span", { class: "figures" }, figures(message.details)));
    }
    return tools;
  }

  edit(message, box) {
    const text = element("textarea", { value: message.content, "aria-label": "Edit the message" });
    const end = () => this.actions.redraw();
    const send = () => { if (text.value.trim()) this.actions.edit(message, text.value); };
    text.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { event.stopPropagation(); end(); }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
    });
    const grow = () => { text.style.height = "auto"; text.style.height = `${text.scrollHeight + 2}px`; };
    text.addEventListener("input", grow);
    box.replaceChildren(text, element("div", { class: "row" }, element("span", { class: "grow" }),
      button("Cancel", end), button("Send", send, { class: "" })));
    box.classList.add("editing");
    grow();
    text.focus();
  }

  /** Shows what a reply has become; gives the blocks that are whole now. */
  update(id, text) {
    const whole = this.views.get(id)?.update(text) ?? [];
    this.scroll();
    return whole;
  }

  /** Shows what a model thinks, or has thought. */
  think(id, text, isThinking) {
    this.thoughts.get(id)?.update(text, isThinking);
    this.scroll();
  }

  lastBlock(id) {
    return this.views.get(id)?.lastText ?? "";
  }

  scroll(always = false) {
    if (always) this.sticks = true;
    if (this.sticks) this.box.scrollTop = this.box.scrollHeight;
  }
}

function figures(details) {
  if (!details.generated_tokens) return "";
  const parts = [`${count(details.generated_tokens)} tokens`];
  if (details.tokens_per_second) parts.unshift(`${details.tokens_per_second.toFixed(1)} tokens/s`);
  if (details.first_token_seconds) parts.push(`first after ${details.first_token_seconds.toFixed(2)} s`);
  if (details.dropped_messages) parts.push(`${details.dropped_messages} oldest messages left out`);
  return parts.join(" · ");
}
