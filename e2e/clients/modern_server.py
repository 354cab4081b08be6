"""A small server that speaks both eras, with the names of server-everything.

No published reference server answers in the modern era yet, so this one stands in for it: it proves the drivers
without a gateway, and it is the modern upstream behind which legacy clients are bridged. Its protocol is the SDK's.
"""

import argparse
import asyncio
from typing import Annotated

import mcp_types as types
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, ListRoots, Resolve, Sample
from pydantic import BaseModel

DOCUMENT = "demo://resource/static/document/architecture.md"
DEPARTMENTS = ("Engineering", "Sales", "Marketing", "Support")

server = MCPServer(name="e2e-modern", version="1.0.0")


class Person(BaseModel):
    name: str
    check: bool = False
    integer: int = 0


class Weather(BaseModel):
    temperature: float
    conditions: str
    humidity: float


def ask_person() -> Elicit[Person]:
    return Elicit("Please provide inputs for the following fields:", Person)


def ask_model(prompt: str) -> Sample:
    question = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=prompt))
    return Sample([question], max_tokens=100)


def ask_roots() -> ListRoots:
    return ListRoots()


@server.tool(name="echo", structured_output=False)
def echo(message: str) -> str:
    return f"Echo: {message}"


@server.tool(name="get-sum", structured_output=False)
def get_sum(a: int, b: int) -> str:
    return f"The sum of {a} and {b} is {a + b}."


@server.tool(name="get-structured-content")
def get_structured_content(location: str) -> Weather:
    return Weather(temperature=36, conditions="Light rain / drizzle", humidity=82)


@server.tool(name="get-tiny-image", structured_output=False)
def get_tiny_image() -> list[types.ContentBlock]:
    return [types.ImageContent(type="image", data="iVBORw0KGgo=", mime_type="image/png")]


@server.tool(name="trigger-long-running-operation", structured_output=False)
async def long_operation(duration: float, steps: int, ctx: Context) -> str:
    for done in range(1, steps + 1):
        await asyncio.sleep(duration / steps)
        await ctx.report_progress(done, steps)
    return f"Long running operation completed. Duration: {duration:g} seconds, Steps: {steps}."


@server.tool(name="trigger-elicitation-request", structured_output=False)
def elicitation(person: Annotated[Person, Resolve(ask_person)]) -> str:
    return f"User inputs:\n- Name: {person.name}\n- Favorite Integer: {person.integer}"


@server.tool(name="trigger-sampling-request", structured_output=False)
def sampling(prompt: str, reply: Annotated[types.CreateMessageResult, Resolve(ask_model)]) -> str:
    return f"LLM sampling result: {reply.model_dump_json()}"


@server.tool(name="get-roots-list", structured_output=False)
def roots(found: Annotated[types.ListRootsResult, Resolve(ask_roots)]) -> str:
    return "\n".join(f"{root.name}: {root.uri}" for root in found.roots)


@server.tool(name="toggle-subscriber-updates", structured_output=False)
async def toggle_updates(ctx: Context) -> str:
    await ctx.notify_resource_updated(DOCUMENT)
    return "Sent one update"


@server.resource(DOCUMENT, name="architecture.md", mime_type="text/markdown")
def document() -> str:
    return "# Architecture\n"


@server.resource("demo://resource/dynamic/text/{resourceId}", name="Dynamic Text Resource", mime_type="text/plain")
def dynamic_text(resourceId: str) -> str:
    return f"Resource {resourceId}: This is a plaintext resource"


@server.prompt(name="simple-prompt")
def simple_prompt() -> str:
    return "This is a simple prompt without arguments."


@server.prompt(name="args-prompt")
def args_prompt(city: str, state: str = "") -> str:
    return f"What's weather in {city}, {state}?" if state else f"What's weather in {city}?"


@server.prompt(name="completable-prompt")
def completable_prompt(department: str, name: str) -> str:
    return f"Please promote {name} to the head of the {department} team."


@server.completion()
async def complete(ref, argument, context):
    if isinstance(ref, types.PromptReference) and argument.name == "department":
        found = [d for d in DEPARTMENTS if d.startswith(argument.value)]
        return types.Completion(values=found, total=len(found), has_more=False)
    if isinstance(ref, types.ResourceTemplateReference) and argument.value.isdigit():
        return types.Completion(values=[argument.value], total=1, has_more=False)
    return types.Completion(values=[], total=0, has_more=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, help="serve HTTP on this port of 127.0.0.1 instead of stdio")
    port = parser.parse_args().port
    if port is None:
        server.run("stdio")
    else:
        server.run("streamable-http", host="127.0.0.1", port=port)


if __name__ == "__main__":
    main()
