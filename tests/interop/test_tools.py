"""Unmodified third-party tools, each in a whole tool loop over Responses or Messages.

``make interop`` runs it.  Tools in Python are installed into ``build/tools``, those for Node
into ``build/tools-node``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import harness
import pytest
from agent import ANSWER, agent
from mistaken_streams import Choice, random_choice, write_stream
from raw_server import RawServer
from scripted_provider import Script, Scripted

from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.items import Delta, Finish, ToolCall
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.chat.source import Source, from_deltas

pytestmark = [pytest.mark.interop, pytest.mark.timeout(900)]

BUILD = Path(__file__).parents[2] / "build"
PYTHON = ("openai-agents==0.24.0", "pydantic-ai-slim[openai,anthropic]==2.68.0",
          "langchain-openai==1.7.4", "langchain-anthropic==1.7.10", "llm==0.36")  # fmt: skip
NODE = ("@openai/codex@0.169.0", "@anthropic-ai/claude-code@2.1.197", "openai@6.49.0",
        "@anthropic-ai/sdk@1.14.0", "ai@6.0.326", "@ai-sdk/openai@3.0.141",
        "@ai-sdk/anthropic@3.0.140", "zod@4")  # fmt: skip


@pytest.fixture(scope="session")
def python() -> Path:
    """The Python that has the Python tools."""
    home = BUILD / "tools"
    stamp = home / "installed"
    if not stamp.exists() or stamp.read_text() != repr(PYTHON):
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([home / "bin" / "pip", "install", "-q", *PYTHON], check=True)
        stamp.write_text(repr(PYTHON))
    return home / "bin" / "python"


@pytest.fixture(scope="session")
def node() -> Path:
    """The folder that has the Node tools."""
    harness.require_tool("npm", "npm")
    home = BUILD / "tools-node"
    stamp = home / "installed"
    if not stamp.exists() or stamp.read_text() != repr(NODE):
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text('{"private": true}')
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", *NODE]
        subprocess.run(command, cwd=home, check=True)
        stamp.write_text(repr(NODE))
    return home


@pytest.fixture
def served(
    application: Callable[..., Application],
    scripted: Callable[[], Script],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[tuple[str, list[Any], Path]]:
    """The server's URL, the requests that it received, and the file that shell tools write."""
    ran = tmp_path / "ran"
    shell = f"echo ran > {ran}"
    calls = {
        "get_weather": {"city": "Oslo"},
        "exec_command": {"cmd": shell},
        "Bash": {"command": shell, "description": "writes a file"},
    }
    # keep_responses: the Vercel AI SDK names items of earlier steps, as OpenAI keeps them.
    with agent(lambda sections: application(sections, keep_responses="on"), monkeypatch, calls) as (
        url,
        received,
    ):
        yield url, received, ran


def run(command: list[Any], url: str, home: Path, **more: str) -> str:
    """Return the output of *command*, run with an environment of its own."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": "k",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "k",
        **more,
    }
    done = subprocess.run(
        command, cwd=home, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


AGENTS = """
from agents import Agent, Runner, function_tool
import asyncio
@function_tool
def get_weather(city: str) -> str:
    return "3 C"
agent = Agent(name="x", model="gpt-5", instructions="i", tools=[get_weather])
async def main():
    print((await Runner.run(agent, "weather?")).final_output)
    result = Runner.run_streamed(agent, "weather?")
    async for event in result.stream_events():
        pass
    print(result.final_output)
asyncio.run(main())
"""
PYDANTIC = """
from pydantic_ai import Agent
for model in ("openai:gpt-5", "openai-responses:gpt-5", "anthropic:claude-x"):
    agent = Agent(model)
    @agent.tool_plain
    def get_weather(city: str) -> str:
        return "3 C"
    print(agent.run_sync("weather?").output)
"""
LANGCHAIN = """
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
@tool
def get_weather(city: str) -> str:
    "The weather."
    return "3 C"
for model in (ChatOpenAI(model="gpt-5", use_responses_api=True), ChatAnthropic(model="claude-x")):
    bound = model.bind_tools([get_weather])
    turns = [HumanMessage("weather?")]
    turns.append(bound.invoke(turns))
    turns += [ToolMessage("3 C", tool_call_id=call["id"]) for call in turns[1].tool_calls]
    assert len(turns) == 3
    print(bound.invoke(turns).text)
    print("".join(str(piece.text) for piece in bound.stream(turns)))
"""


@pytest.mark.parametrize(
    ("script", "answers"), [(AGENTS, 2), (PYDANTIC, 3), (LANGCHAIN, 4)],
    ids=["openai-agents", "pydantic-ai", "langchain"],
)  # fmt: skip
def test_python_library_finishes_a_tool_loop(
    served: Any, python: Path, tmp_path: Path, script: str, answers: int
) -> None:
    url, received, _ = served
    output = run([python, "-c", script], url, tmp_path, OPENAI_AGENTS_DISABLE_TRACING="1")
    assert output.split("\n")[:-1] == [ANSWER] * answers
    assert any(request.messages[-1]["role"] == "tool" for request in received)


def test_llm_prints_the_answer(served: Any, python: Path, tmp_path: Path) -> None:
    program = python.with_name("llm")
    output = run(
        [program, "-m", "gpt-5", "hello"], served[0], tmp_path, LLM_USER_PATH=str(tmp_path)
    )
    assert output.strip() == ANSWER


def test_codex_runs_the_command(served: Any, node: Path, tmp_path: Path) -> None:
    url, _, ran = served
    home = tmp_path / "codex"
    home.mkdir()
    (home / "config.toml").write_text(
        'model = "m"\nmodel_provider = "choreo"\nweb_search = "disabled"\n'
        f'[model_providers.choreo]\nname = "choreo"\nbase_url = "{url}/v1"\n'
        'wire_api = "responses"\n'
    )
    program = node / "node_modules" / ".bin" / "codex"
    options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    output = run([program, "exec", *options, "run it"], url, tmp_path, CODEX_HOME=str(home))
    assert ANSWER in output
    assert ran.read_text() == "ran\n"


MCP_SERVER = """
import json, sys
schema = {"type": "object", "properties": {"city": {"type": "string"}}}
tool = {"name": "weather", "description": "The weather of a city.", "inputSchema": schema}
for line in sys.stdin:
    asked = json.loads(line)
    version = asked.get("params", {}).get("protocolVersion")
    results = {
        "initialize": {"protocolVersion": version, "capabilities": {"tools": {}},
                       "serverInfo": {"name": "w", "version": "1"}},
        "tools/list": {"tools": [tool]},
        "tools/call": {"content": [{"type": "text", "text": "3 C in Oslo"}]},
    }
    if "id" in asked:
        result = results.get(asked["method"], {})
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


def test_codex_calls_a_tool_that_it_has_searched_for(
    served: Any, node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It defers the tools of MCP servers with models that it knows."""

    def answer(request: ChatRequest) -> Source:
        results = [one["content"] for one in request.messages if one["role"] == "tool"]
        names = [tool["function"]["name"] for tool in request.body["tools"]]
        calls = [("tool_search", '{"query": "weather of a city"}'), (names[-1], '{"city": "Oslo"}')]
        if len(results) == len(calls):
            return from_deltas([Delta(results[-1]), Finish()])
        call = ToolCall(0, f"call_{len(results)}", *calls[len(results)])
        return from_deltas([Delta(tool_calls=[call]), Finish("tool_calls")])

    monkeypatch.setattr(Scripted, "script", staticmethod(answer))
    home, server = tmp_path / "codex", tmp_path / "server.py"
    home.mkdir()
    server.write_text(MCP_SERVER)
    (home / "config.toml").write_text(
        'model = "gpt-5.5"\nmodel_provider = "choreo"\nweb_search = "disabled"\n'
        f'[model_providers.choreo]\nname = "choreo"\nbase_url = "{served[0]}/v1"\n'
        'wire_api = "responses"\n'
        f'[mcp_servers.w]\ncommand = "{sys.executable}"\nargs = ["{server}"]\n'
    )
    program = node / "node_modules" / ".bin" / "codex"
    options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    output = run([program, "exec", *options, "go"], served[0], tmp_path, CODEX_HOME=str(home))
    assert "3 C in Oslo" in output


def test_claude_code_runs_the_command(served: Any, node: Path, tmp_path: Path) -> None:
    url, _, ran = served
    program = node / "node_modules" / ".bin" / "claude"
    more = {"IS_SANDBOX": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    options = ["--model", "claude-x", "--dangerously-skip-permissions"]
    output = run([program, "-p", "run it", *options], url, tmp_path, **more)
    assert output.strip() == ANSWER
    assert ran.read_text() == "ran\n"


NODE_SDKS = """
import OpenAI from "openai";
import Anthropic from "@anthropic-ai/sdk";
const url = process.argv[2];
const openai = new OpenAI({baseURL: url + "/v1", apiKey: "k", maxRetries: 0});
const anthropic = new Anthropic({baseURL: url, apiKey: "k", maxRetries: 0});
const schema = {type: "object", properties: {city: {type: "string"}}, required: ["city"],
  additionalProperties: false};
{
  const tools = [{type: "function", name: "get_weather", parameters: schema, strict: true}];
  const stream = openai.responses.stream({model: "m", input: "weather?", tools});
  const first = await stream.finalResponse();
  const outputs = first.output.filter(item => item.type === "function_call").map(item =>
    ({type: "function_call_output", call_id: item.call_id, output: "3 C"}));
  const input = [{role: "user", content: "weather?"}, ...first.output, ...outputs];
  console.log((await openai.responses.create({model: "m", input, tools})).output_text);
}
{
  const started = await openai.responses.create(
    {model: "m", input: "hi", background: true, stream: true});
  let id, last;
  for await (const event of started) {
    id ??= event.response.id;
    last = event.sequence_number;
    if (last === 3) break;
  }
  for await (const event of await openai.responses.retrieve(
    id, {stream: true, starting_after: last})) {
    if (event.sequence_number !== ++last) throw new Error("a gap");
    if (event.type === "response.completed")
      console.log(event.response.output[0].content[0].text);
  }
}
{
  const tools = [{name: "get_weather", input_schema: schema}];
  const messages = [{role: "user", content: "weather?"}];
  const request = {model: "m", max_tokens: 99, tools};
  const first = await anthropic.messages.stream({...request, messages}).finalMessage();
  const results = first.content.filter(block => block.type === "tool_use").map(block =>
    ({type: "tool_result", tool_use_id: block.id, content: "3 C"}));
  messages.push({role: "assistant", content: first.content}, {role: "user", content: results});
  console.log((await anthropic.messages.create({...request, messages})).content[0].text);
}
"""
AI_SDK = """
import {generateText, streamText, tool, stepCountIs} from "ai";
import {createOpenAI} from "@ai-sdk/openai";
import {createAnthropic} from "@ai-sdk/anthropic";
import {z} from "zod";
globalThis.AI_SDK_LOG_WARNINGS = false;
const settings = {baseURL: process.argv[2] + "/v1", apiKey: "k"};
const get_weather = tool({
  description: "w", inputSchema: z.object({city: z.string()}), execute: async () => "3 C"});
const openai = createOpenAI(settings)("gpt-5");
const models = [[openai, {}], [openai, {openai: {store: false}}],
  [createAnthropic(settings)("claude-x"), {}]];
for (const [model, providerOptions] of models) {
  const request = {model, prompt: "weather?", tools: {get_weather}, stopWhen: stepCountIs(3),
    maxOutputTokens: 500, providerOptions};
  console.log((await generateText(request)).text);
  const result = streamText(request);
  await result.consumeStream();
  console.log(await result.text);
}
"""


def run_node(node: Path, home: Path, script: str, url: str) -> list[str]:
    """Return the lines that *script* prints."""
    program = node / f"{home.name}.mjs"  # where its imports are found
    program.write_text(script)
    try:
        return run(["node", program, url], url, home).split("\n")[:-1]
    finally:
        program.unlink()


@pytest.mark.parametrize(
    ("script", "answers"), [(NODE_SDKS, 3), (AI_SDK, 6)], ids=["sdks", "vercel-ai"]
)
def test_node_library_finishes_a_tool_loop(
    served: Any, node: Path, tmp_path: Path, script: str, answers: int
) -> None:
    url, received, _ = served
    assert run_node(node, tmp_path, script, url) == [ANSWER] * answers
    assert any(request.messages[-1]["role"] == "tool" for request in received)


def test_vercel_ai_finishes_a_tool_loop_of_a_provider_with_responses(
    served: Any, application: Callable[..., Application], node: Path, tmp_path: Path
) -> None:
    """It refers to the items of the provider's answer, which only this server keeps."""
    url, received, _ = served
    section = {"type": "openai", "models": "*", "base_url": f"{url}/v1", "api_key": "k"}
    section["apis"] = "chat, responses"
    with harness.Server(application({"up": section}, keep_responses="on")) as server:
        assert run_node(node, tmp_path, AI_SDK, server.url) == [ANSWER] * 6
    assert any(request.messages[-1]["role"] == "tool" for request in received)


REPAIRED = """
import json
from langchain_openai import ChatOpenAI
model = ChatOpenAI(model="m", use_responses_api=False, max_retries=0)
def show(message):
    calls = [[call["name"], call["args"]] for call in message.tool_calls]
    reason = message.response_metadata["finish_reason"]
    print(json.dumps([message.text, calls, reason, message.usage_metadata["input_tokens"]]))
for _ in range(COUNT):
    whole = None
    for piece in model.stream("hi", stream_usage=True):
        whole = piece if whole is None else whole + piece
    show(whole)
    show(model.invoke("hi"))
"""


def test_langchain_reads_repaired_streams(python: Path, tmp_path: Path) -> None:
    count = 60
    choices: list[Choice] = []
    answers: list[bytes] = []
    for seed in range(count):
        random = Random(seed)
        choices.append(random_choice(random))
        events = write_stream(random, [choices[-1]])[1]
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        answers += 2 * [head + b"".join(events)]
    with RawServer.playing(lambda request: answers.pop(0)) as playback:
        section = {"type": "openai", "base_url": f"{playback.url}/v1", "models": "*"}
        app = harness.make_app(sections={"provider up": section})
        with harness.Server(app) as server:
            script = REPAIRED.replace("COUNT", str(count))
            output = run([python, "-c", script], server.url, tmp_path).splitlines()
        app.close()
    wanted = [
        ["".join(one.text), [[name, json.loads(text)] for name, text in one.calls], one.finish, 3]
        for one in choices
        for _ in range(2)
    ]
    assert list(map(json.loads, output)) == wanted
