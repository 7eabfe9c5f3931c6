"""npm packages, in Node.

EDGELLAMA_NPM names a folder in which ``npm install openai ollama @anthropic-ai/sdk ai
@ai-sdk/openai-compatible @ai-sdk/openai @ai-sdk/anthropic ollama-ai-provider-v2`` was run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

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
ANTHROPIC = """
const Anthropic = require("@anthropic-ai/sdk").default;
const client = new Anthropic({ baseURL: process.env.URL, apiKey: process.env.KEY });
const asked = { model: "smollm2", max_tokens: 12, temperature: 0,
                messages: [{ role: "user", content: "Name a colour." }] };
(async () => {
  const whole = (await client.messages.create(asked)).content[0].text;
  const text = await client.messages.stream(asked).finalText();
  const counted = await client.messages.countTokens({ model: "smollm2", messages: asked.messages });
  const { betaTool } = require("@anthropic-ai/sdk/helpers/beta/json-schema");
  const properties = { city: { enum: ["Rome", "Oslo"] } };
  const inputSchema = { type: "object", properties, required: ["city"] };
  let city = "";
  const run = (input) => { city = input.city; return "Sun."; };
  const tools = [betaTool({ name: "weather", description: "Tell it.", inputSchema, run })];
  const tool_choice = { type: "any", disable_parallel_tool_use: true };
  await client.beta.messages.toolRunner(
    { ...asked, max_tokens: 60, tools, tool_choice, max_iterations: 2 });
  let status = 0;
  try { await client.messages.create({ ...asked, model: "none" }); }
  catch (error) { status = error.status; }
  console.log(JSON.stringify({ whole, text, counted: counted.input_tokens, city, status }));
})();
"""
AI_SDK = """
const { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } = require("ai");
const apiKey = process.env.KEY, baseURL = process.env.URL + "/v1";
const models = {
  compatible: () => require("@ai-sdk/openai-compatible").createOpenAICompatible(
    { name: "edgellama", baseURL, apiKey, supportsStructuredOutputs: true })("smollm2"),
  responses: () => require("@ai-sdk/openai").createOpenAI({ baseURL, apiKey })("smollm2"),
  anthropic: () => require("@ai-sdk/anthropic").createAnthropic({ baseURL, apiKey })("smollm2"),
  ollama: () => require("ollama-ai-provider-v2").createOllama({
    baseURL: process.env.URL + "/api", headers: { Authorization: "Bearer " + apiKey } })("smollm2"),
};
const of = (name, values) => jsonSchema({ type: "object", properties: { [name]: { enum: values } },
                                          required: [name], additionalProperties: false });
(async () => {
  const model = models[process.env.PROVIDER]();
  const asked = { model, prompt: "Name a colour.", temperature: 0, maxOutputTokens: 12 };
  const whole = (await generateText(asked)).text;
  let text = "";
  for await (const piece of streamText(asked).textStream) text += piece;
  const schema = of("colour", ["red", "blue"]);
  const { object } = await generateObject({ ...asked, schema, maxOutputTokens: 60 });
  const weather = tool({ description: "The weather.", inputSchema: of("city", ["Oslo", "Rome"]),
                         execute: async ({ city }) => "sunny in " + city });
  const steps = await generateText({ ...asked, tools: { weather }, maxOutputTokens: 60,
    stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : "required" }) });
  console.log(JSON.stringify({ whole, text, colour: object.colour,
                               told: steps.steps[0].toolResults[0].output }));
})();
"""


def told_by(served: Served, script: str, *packages: str, **variables: str) -> Any:
    """What a script prints as JSON; the test is skipped without its packages."""
    folder = Path(os.environ.get("EDGELLAMA_NPM", "."), "node_modules")
    node = shutil.which("node")
    if node is None or not all((folder / package).is_dir() for package in packages):
        pytest.skip(f"no {packages} in {folder}, or no node")
    environment = {**os.environ, "NODE_PATH": str(folder), "URL": served.url, "KEY": served.key}
    result = subprocess.run(
        [node, "-e", script],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout)


@pytest.mark.parametrize(("package", "script"), [("openai", OPENAI), ("ollama", OLLAMA)])
def test_package(served: Served, package: str, script: str) -> None:
    """Whole and in pieces give the same text; a model that is not there is a 404."""
    told = told_by(served, script, package)
    assert told["whole"] == told["text"] != ""
    assert told["width"] == 576 and told["status"] == 404


def test_anthropic_package(served: Served) -> None:
    """Messages whole and streamed, counts, the tool runner, and a model that is not there."""
    told = told_by(served, ANTHROPIC, "@anthropic-ai/sdk")
    assert told["whole"] == told["text"] != ""
    assert told["counted"] > 0 and told["status"] == 404
    assert told["city"] in ("Rome", "Oslo")


@pytest.mark.parametrize(
    ("provider", "package"),
    [
        ("compatible", "@ai-sdk/openai-compatible"),
        ("responses", "@ai-sdk/openai"),
        ("anthropic", "@ai-sdk/anthropic"),
        ("ollama", "ollama-ai-provider-v2"),
    ],
)
def test_ai_sdk(served: Served, provider: str, package: str) -> None:
    """Vercel's: texts whole and streamed, an object by its schema, a tool that is called."""
    told = told_by(served, AI_SDK, "ai", package, PROVIDER=provider)
    assert told["whole"] == told["text"] != ""
    assert told["colour"] in ("red", "blue") and told["told"].startswith("sunny in ")
