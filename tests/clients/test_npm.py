"""The npm packages openai and ollama, in Node.

EDGELLAMA_NPM names a folder in which ``npm install openai ollama`` was run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from clients.conftest import Served

OPENAI = """
const OpenAI = require("openai").default;
const client = new OpenAI({ baseURL: process.env.URL + "/v1", apiKey: process.env.KEY });
const asked = { model: "smollm2", temperature: 0, max_tokens: 12,
                messages: [{ role: "user", content: "Name a colour." }] };
(async () => {
  const whole = (await client.chat.completions.create(asked)).choices[0].message.content;
  let text = "";
  for await (const piece of await client.chat.completions.create({ ...asked, stream: true }))
    text += piece.choices[0]?.delta?.content ?? "";
  const vector = (await client.embeddings.create({ model: "smollm2", input: "A cat." })).data[0];
  let status = 0;
  try { await client.chat.completions.create({ ...asked, model: "none" }); }
  catch (error) { status = error.status; }
  console.log(JSON.stringify({ whole, text, width: vector.embedding.length, status }));
})();
"""
OLLAMA = """
const { Ollama } = require("ollama");
const headers = { Authorization: "Bearer " + process.env.KEY };
const client = new Ollama({ host: process.env.URL, headers });
const asked = { model: "smollm2", options: { temperature: 0, num_predict: 12 },
                messages: [{ role: "user", content: "Name a colour." }] };
(async () => {
  const whole = (await client.chat(asked)).message.content;
  let text = "";
  for await (const piece of await client.chat({ ...asked, stream: true }))
    text += piece.message.content;
  const found = await client.embed({ model: "smollm2", input: "A cat." });
  let status = 0;
  try { await client.chat({ ...asked, model: "none" }); }
  catch (error) { status = error.status_code; }
  console.log(JSON.stringify({ whole, text, width: found.embeddings[0].length, status }));
})();
"""


@pytest.mark.parametrize(("package", "script"), [("openai", OPENAI), ("ollama", OLLAMA)])
def test_package(served: Served, package: str, script: str) -> None:
    """Whole and in pieces give the same text; a model that is not there is a 404."""
    folder = Path(os.environ.get("EDGELLAMA_NPM", "."), "node_modules")
    node = shutil.which("node")
    if node is None or not (folder / package).is_dir():
        pytest.skip(f"no {package} in {folder}, or no node")
    environment = {**os.environ, "NODE_PATH": str(folder), "URL": served.url, "KEY": served.key}
    result = subprocess.run(
        [node, "-e", script], env=environment, capture_output=True, text=True, check=True
    )
    told = json.loads(result.stdout)
    assert told["whole"] == told["text"] != ""
    assert told["width"] == 576 and told["status"] == 404
