// A model beside a Node or Electron program: one process, one port, one key, gone with its parent.
//
//   const { startSidecar } = require("./sidecar");
//   const model = await startSidecar("smollm2");
//   for await (const text of model.chat([{ role: "user", content: "Hello" }])) show(text);
//   model.stop();
//
// In Electron this belongs to the main process: start it when the app is ready, stop it in
// app.on("before-quit"), and hand pieces of text to the window with webContents.send. Windows never
// see port or key. If the app dies in any other way, the model ends too: the server watches the
// parent's process and the pipe to its own standard input.

const { spawn } = require("node:child_process");
const { createInterface } = require("node:readline");

async function startSidecar(model, { command = ["edgellama"], options = [] } = {}) {
  const [program, ...words] = command;
  const child = spawn(
    program,
    [...words, "serve", model, "--port", "0", "--parent-pid", String(process.pid), ...options],
    { stdio: ["pipe", "pipe", "inherit"] },
  );
  const { url, token } = await firstLine(child);
  const stop = () => child.kill();
  return { url, token, child, stop, chat: (messages, more) => chat(url, token, messages, more) };
}

// The one line that the server writes when it is ready: {"host", "port", "url", "token"}.
function firstLine(child) {
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`edgellama ended with code ${code}`)));
    createInterface({ input: child.stdout }).once("line", (line) => resolve(JSON.parse(line)));
  });
}

// Pieces of a reply as they come; leaving the loop early ends the model's work, too.
async function* chat(url, token, messages, more = {}) {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ messages, stream: true, ...more }),
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  let rest = "";
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const data = JSON.parse(line.slice(6));
      if (data.error) throw new Error(data.error.message);
      if (data.choices[0]?.delta.content) yield data.choices[0].delta.content;
    }
  }
}

module.exports = { startSidecar };
