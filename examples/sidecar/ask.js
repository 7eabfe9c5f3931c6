// node ask.js "Why is the sky blue?" [MODEL] -- the answer as it comes, then the end.

const { startSidecar } = require("./sidecar");

async function main() {
  const [question = "Why is the sky blue?", name = "smollm2"] = process.argv.slice(2);
  const command = (process.env.EDGELLAMA_COMMAND ?? "edgellama").split(" ");
  const model = await startSidecar(name, { command });
  const messages = [{ role: "user", content: question }];
  for await (const text of model.chat(messages, { model: name, temperature: 0, max_tokens: 60 })) {
    process.stdout.write(text);
  }
  process.stdout.write("\n");
  model.stop();
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
