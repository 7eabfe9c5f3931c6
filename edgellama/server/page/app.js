// Puts the parts together: which conversation is shown, what is being written, keys and panels.
import * as api from "./api.js";
import { announce, byId, count } from "./dom.js";
import { Messages } from "./messages.js";
import { loadModels, pickModel } from "./models.js";
import { focusSearch, selectTab, toggleSettings, toggleSidebar } from "./panels.js";
import { buildSettings, checkedSettings, restoreSettings, showSettings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { shownPath } from "./tree.js";

const text = byId("text");
const tabs = new BroadcastChannel("edgellama");
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
let conversation = null;
let writing = null; // the shown reply that this tab asked for: {controller, id, text ...}
const running = new Map(); // replies that this tab asked for, also of conversations not shown, by id
let opened = 0; // counts what was opened, so that late answers are recognized

const messages = new Messages({
  edit: (message, content) => ask({ parent: message.parent, content }),
  regenerate: (message) => ask({ parent: message.parent }),
  goOn: (message) => ask({ parent: message.id, goes_on: true }),
  redraw,
  async show(leaf) {
    conversation.leaf = leaf;
    redraw();
    await attempt(() => api.post(`/page/conversations/${conversation.id}`, { leaf }));
  },
});
const sidebar = new Sidebar({ changed, removed, failed: (error) => notice(failure(error)) });

function redraw() {
  messages.draw(conversation, writing !== null);
  showFigures();
  document.title = conversation ? `${conversation.title} – edgellama` : "edgellama";
}

function showFigures() {
  const last = conversation ? shownPath(conversation).filter((each) => each.details.context_length).at(-1) : null;
  byId("context").hidden = !last;
  byId("speed").textContent = last?.details.tokens_per_second ? `${last.details.tokens_per_second.toFixed(1)} tokens/s` : "";
  if (!last) return;
  const { prompt_tokens: prompt, generated_tokens: generated, context_length: length } = last.details;
  const [, meter, label] = byId("context").children;
  meter.value = (prompt + generated) / length;
  label.textContent = `${count(prompt + generated)} of ${count(length)} tokens`;
}

function setWriting(value) {
  writing = value;
  byId("stop").hidden = value === null;
  byId("send").hidden = value !== null;
  byId("state").textContent = value === null ? "" : "Sent";
}

let again = null;

function notice(message, retry = null) {
  const box = byId("notice");
  box.hidden = !message;
  box.firstElementChild.textContent = message ?? "";
  box.lastElementChild.hidden = retry === null;
  again = retry;
}

byId("notice").lastElementChild.addEventListener("click", () => { const work = again; notice(null); work?.(); });

async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    notice(failure(error));
    return null;
  }
}

/** Asks for a reply: `content` under `parent`, another reply under it, or more of it. */
async function ask(what, restore = null) {
  if (writing) return;
  const settings = checkedSettings(() => toggleSettings(true));
  if (!settings) return;
  notice(null);
  const mine = { controller: new AbortController(), conversation: conversation?.id ?? null, id: null };
  const { signal } = mine.controller;
  setWriting(mine);
  redraw();
  const body = {
    conversation: conversation?.id ?? null, model: byId("model").value,
    ...settings.options, system: settings.system, ...what,
  };
  let outcome = null;
  try {
    for await (const event of api.events("/page/chat", body, signal)) {
      outcome = handle(event, mine) ?? outcome;
    }
    if (!outcome) throw new TypeError("the stream ended early");
  } catch (error) {
    if (mine.id === null) {
      // Nothing was begun: what was written goes back to where it can be sent again.
      if (writing === mine) restore?.();
      if (!signal.aborted) notice(failure(error), writing === mine ? () => ask(what, restore) : null);
    } else if (writing === mine) {
      if (!signal.aborted) notice(`${failure(error)} Looking for what was written …`);
      await recover(mine);
    }
  }
  running.delete(mine.id);
  if (writing === mine) finishWriting();
  else changed(mine.conversation);
}

const failure = (error) => (error instanceof api.ServerError ? error.message : "The connection to the server broke.");

function handle(event, mine) {
  const isShown = writing === mine, isLast = event.type === "end" || event.type === "failed";
  if (event.type === "begun") {
    Object.assign(mine, { id: event.messages.at(-1).id, conversation: event.conversation });
    running.set(mine.id, mine.controller);
    if (isShown) begun(event);
    else changed(event.conversation);
  } else if (event.type === "state" && isShown) byId("state").textContent = event.text;
  else if (event.type === "text" && isShown) grow("text", event.text);
  else if (event.type === "thinking" && isShown) grow("reasoning", event.text);
  else if (isLast && isShown) {
    cancelAnimationFrame(mine.frame);
    replace(event.message);
    if (event.type === "failed") notice(event.error);
  }
  return isLast ? event : null;
}

function begun(event) {
  conversation ??= { id: event.conversation, title: event.title, messages: [], leaf: null };
  const known = new Set(event.messages.map((each) => each.id));
  conversation.messages = [...conversation.messages.filter((each) => !known.has(each.id)), ...event.messages];
  const reply = event.messages.at(-1);
  conversation.leaf = reply.id;
  Object.assign(writing, { text: reply.content, reasoning: reply.details.reasoning ?? "", pieces: 0 });
  location.hash = `#/c/${conversation.id}`;
  sidebar.show(conversation.id);
  redraw();
  changed(conversation.id);
}

function grow(kind, piece) {
  writing[kind] += piece;
  writing.pieces += 1;
  writing.first ??= performance.now();
  const seconds = (performance.now() - writing.first) / 1000;
  byId("state").textContent = kind === "text" ? "Writing" : "Thinking";
  if (seconds > 0.5) byId("speed").textContent = `${((writing.pieces - 1) / seconds).toFixed(1)} tokens/s`;
  writing.frame ??= schedule(writing);
}

/** Draws at most as often as the browser does, and less often where that takes long. */
function schedule(reply) {
  return requestAnimationFrame(() => {
    const started = performance.now();
    messages.think(reply.id, reply.reasoning, !reply.text);
    messages.update(reply.id, reply.text).forEach(announce);
    const spent = performance.now() - started;
    setTimeout(() => {
      reply.frame = null;
      const length = reply.text.length + reply.reasoning.length;
      if (writing === reply && reply.drawn !== length) { reply.drawn = length; reply.frame = schedule(reply); }
    }, Math.max(30, 3 * spent));
  });
}

function replace(message) {
  messages.think(message.id, message.details.reasoning, false);
  messages.update(message.id, message.content).forEach(announce);
  announce(messages.lastBlock(message.id));
  conversation.messages = conversation.messages.map((each) => (each.id === message.id ? message : each));
}

/** After a stop or a broken connection: what the server has kept. */
async function recover({ id, conversation: name, controller }) {
  for (let wait = 100, tries = 0; tries < 14; wait = Math.min(5000, wait * 1.6), tries += 1) {
    await pause(wait);
    try {
      const found = await api.get(`/page/conversations/${name}`);
      if (conversation?.id !== name) return;
      conversation = found;
      const reply = found.messages.find((each) => each.id === id);
      if (reply?.details.finish_reason === "writing") continue;
      if (!controller.signal.aborted) notice("The connection broke. This is what came.");
      return;
    } catch (error) {
      if (error instanceof api.ServerError && error.status === 404) return;
    }
  }
  notice("The server cannot be reached.", () => open(name));
}

function finishWriting() {
  const wasIn = document.activeElement;
  setWriting(null);
  redraw();
  if (conversation) changed(conversation.id);
  loadModels();
  if (wasIn === document.body || wasIn === byId("stop")) text.focus();
}

function submit() {
  const content = text.value;
  if (!content.trim() || writing) return;
  text.value = "";
  fit();
  const parent = conversation?.leaf ?? null;
  ask({ parent, content }, () => { text.value ||= content; fit(); text.focus(); });
}

/** Tells the list and other tabs. */
function changed(id) {
  if (!id) return;
  sidebar.refresh();
  tabs.postMessage(id);
  if (!writing && conversation?.id === id) reload();
}

function removed(id) {
  tabs.postMessage(id);
  if (conversation?.id === id) newChat();
}

tabs.onmessage = ({ data }) => {
  sidebar.refresh();
  if (!writing && conversation?.id === data) reload();
};

/** Reads the shown conversation again, and follows a reply that another tab has asked for. */
async function reload() {
  const number = opened, { id } = conversation;
  for (;;) {
    let found;
    try {
      found = await api.get(`/page/conversations/${id}`);
    } catch (error) {
      if (number === opened && !writing && error.status === 404) newChat();
      return;
    }
    if (number !== opened || writing || conversation?.id !== id) return;
    const before = JSON.stringify([conversation.messages, conversation.leaf, conversation.title]);
    conversation = found;
    const isEdited = byId("messages").querySelector(".editing");
    if (!isEdited && before !== JSON.stringify([found.messages, found.leaf, found.title])) redraw();
    const written = found.messages.find((each) => each.details.finish_reason === "writing");
    byId("stop").hidden = !running.has(written?.id);
    if (!written) return;
    await pause(400);
  }
}

async function open(id) {
  leave();
  const number = ++opened;
  const found = await attempt(() => api.get(`/page/conversations/${id}`));
  if (number !== opened) return;
  if (!found) { location.hash = ""; return; }
  notice(null);
  conversation = found;
  showSettings(found.settings);
  pickModel(found.settings.model);
  sidebar.show(id);
  redraw();
  toggleSidebar(false);
  reload();
}

function newChat() {
  leave();
  opened += 1;
  if (conversation) restoreSettings();
  conversation = null;
  notice(null);
  sidebar.show(null);
  if (location.hash) history.pushState(null, "", location.pathname);
  redraw();
  toggleSidebar(false);
  selectTab("chat");
  text.focus();
}

/** What is being written goes on, unseen. */
function leave() {
  if (writing) setWriting(null);
}

function stop() {
  if (writing) writing.controller.abort();
  else for (const each of conversation?.messages ?? []) running.get(each.id)?.abort();
}

function fit() {
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight, innerHeight * 0.4)}px`;
  byId("send").disabled = !text.value.trim();
}

document.addEventListener("keydown", (event) => {
  const command = event.ctrlKey || event.metaKey;
  if (command && event.key.toLowerCase() === "k") { event.preventDefault(); focusSearch(); }
  else if (command && event.shiftKey && event.key.toLowerCase() === "o") { event.preventDefault(); newChat(); }
  else if (event.key === "Escape" && !byId("key").open) {
    if (!byId("stop").hidden) stop();
    else if (!byId("settings").hidden) toggleSettings(false);
    else if (document.activeElement === byId("search") && byId("search").value) { byId("search").value = ""; sidebar.refresh(); }
    else { toggleSidebar(false); text.focus(); }
  }
});

text.addEventListener("keydown", (event) => {
  // Safari says of the Enter that ends a composition only by its code that it belongs to it.
  const composes = event.isComposing || event.keyCode === 229;
  if (event.key === "Enter" && !event.shiftKey && !composes) { event.preventDefault(); submit(); }
  if (event.key === "ArrowUp" && !text.value && !writing) {
    const edits = byId("messages").querySelectorAll("button.edit");
    if (edits.length) { event.preventDefault(); edits[edits.length - 1].click(); }
  }
});
text.addEventListener("input", fit);
byId("composer").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
byId("stop").addEventListener("click", stop);
byId("new-chat").addEventListener("click", newChat);

function follow() {
  const id = location.hash.match(/^#\/c\/([0-9a-f]+)$/)?.[1];
  if (id && id !== conversation?.id) { selectTab("chat"); open(id); }
  else if (!id && conversation && !writing) newChat();
}

addEventListener("hashchange", follow);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !writing && conversation) { sidebar.refresh(); reload(); }
});

buildSettings(() => toggleSettings(false));
fit();
redraw();
if (await loadModels() === 0) notice("There is no model yet; fetch one: edgellama pull smollm2");
sidebar.refresh();
follow();
text.focus();
document.body.dataset.ready = "true";
