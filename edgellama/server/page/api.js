// The way to the server: JSON, streams of events, and the key if there is one.
import { byId } from "./dom.js";

const KEY = "edgellama.key";

export class ServerError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

let asking = null;

/** Asks for the key once, however many requests need it. */
function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key"), text = byId("key-text"), use = byId("key-use");
    const done = () => {
      if (!text.value.trim()) return;
      sessionStorage.setItem(KEY, text.value.trim());
      text.value = "";
      dialog.close();
      asking = null;
      resolve();
    };
    dialog.oncancel = (event) => event.preventDefault();
    use.onclick = done;
    text.onkeydown = (event) => { if (event.key === "Enter") done(); };
    dialog.showModal();
  });
  return asking;
}

async function send(method, path, body, signal) {
  for (;;) {
    const headers = {};
    const key = sessionStorage.getItem(KEY);
    if (key) headers.authorization = `Bearer ${key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const answer = await fetch(path, {
      method, headers, signal, cache: "no-store", credentials: "omit",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (answer.ok) return answer;
    if (answer.status === 401) { await askForKey(); continue; }
    const told = await answer.json().catch(() => ({}));
    const error = told.error ?? {};
    throw new ServerError(answer.status, error.message ?? `The server answered ${answer.status}`, error.code);
  }
}

export const get = async (path) => (await send("GET", path)).json();
export const post = async (path, body) => (await send("POST", path, body)).json();
export const remove = async (path) => (await send("DELETE", path)).json();

/** The events of a stream. Ends by an error if the connection breaks before the last one. */
export async function* events(path, body, signal) {
  const answer = await send("POST", path, body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    pending += value;
    const blocks = pending.split("\n\n");
    pending = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data: ")) yield JSON.parse(block.slice(6));
    }
  }
}
