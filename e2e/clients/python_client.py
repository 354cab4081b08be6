"""Drives the unmodified Python MCP client through a list of steps and prints what it saw as JSON.

The task (how to connect, which era, which steps) comes on standard input; clients.py describes it. This file decides
nothing: it calls the SDK and reports.
"""

import asyncio
import json
import sys
import warnings
from contextlib import AsyncExitStack

import mcp_types as types
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError

ERAS = {"legacy": "legacy", "modern": "2026-07-28", "auto": "auto"}
CALL_SECONDS = 60


def wire(model):
    """Gives a model the member names and omissions it has on the wire."""
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)


class Driver:
    """One connected client together with all that reached it unasked."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.notifications = []
        self.asked = []
        self.http_statuses = []
        self.subscriptions = AsyncExitStack()

    async def run(self, steps):
        """Connects, takes every step in order, and reports; a failed step does not end the run."""
        async with AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(self.client(await self.transport(stack)))
            except Exception as error:
                return {"connect_error": self.failure(error)}
            self.connection = client
            await stack.enter_async_context(self.subscriptions)
            info = client.server_info
            return {
                "protocol": client.protocol_version,
                "server": wire(info) if info else None,
                "capabilities": wire(client.server_capabilities),
                "steps": [await self.take(step) for step in steps],
                "notifications": self.notifications,
                "asked": self.asked,
            }

    async def transport(self, stack):
        if self.arguments["stdio"]:
            command, *rest = self.arguments["stdio"]
            return StdioServerParameters(command=command, args=rest, env=self.arguments["env"])
        key = self.arguments["key"]
        http = create_mcp_http_client(headers={"Authorization": f"Bearer {key}"} if key else None)
        http.event_hooks = {"response": [self.saw_response]}
        await stack.enter_async_context(http)
        return streamable_http_client(self.arguments["url"], http_client=http)

    def client(self, transport):
        answers = self.arguments["answers"]
        return Client(
            transport,
            mode=ERAS[self.arguments["era"]],
            read_timeout_seconds=CALL_SECONDS,
            client_info=types.Implementation(name="e2e-python", version="1.0.0"),
            message_handler=self.saw_message,
            sampling_callback=self.sample if "sampling" in answers else None,
            elicitation_callback=self.elicit if "elicitation" in answers else None,
            list_roots_callback=self.roots if "roots" in answers else None,
        )

    async def saw_response(self, response):
        self.http_statuses.append(response.status_code)

    async def saw_message(self, message):
        if isinstance(message, Exception):
            self.notifications.append({"method": "error", "params": {"message": str(message)}})
        elif message.method != "notifications/progress":
            self.notifications.append(wire(message))

    async def sample(self, _context, params):
        self.asked.append({"method": "sampling/createMessage", "params": wire(params)})
        return types.CreateMessageResult.model_validate(self.arguments["reply"]["sampling"])

    async def elicit(self, _context, params):
        self.asked.append({"method": "elicitation/create", "params": wire(params)})
        return types.ElicitResult.model_validate(self.arguments["reply"]["elicitation"])

    async def roots(self, _context):
        self.asked.append({"method": "roots/list", "params": {}})
        return types.ListRootsResult.model_validate(self.arguments["reply"]["roots"])

    async def take(self, step):
        try:
            return {"ok": await getattr(self, "do_" + step["op"])(step)}
        except Exception as error:
            return {"error": self.failure(error)}

    def failure(self, error):
        while isinstance(error, BaseExceptionGroup) and error.exceptions:
            error = error.exceptions[0]
        found = {"type": type(error).__name__, "message": str(error)}
        if isinstance(error, MCPError):
            found["code"] = error.error.code
            found["data"] = error.error.data
        refused = [status for status in self.http_statuses if status >= 400]
        if refused:
            found["http_status"] = refused[-1]
        return found

    async def pages(self, method, member):
        listed, cursor = [], None
        while True:
            page = wire(await method(cursor=cursor))
            listed += page[member]
            cursor = page.get("nextCursor")
            if cursor is None:
                return listed

    async def do_list_tools(self, _step):
        return await self.pages(self.connection.list_tools, "tools")

    async def do_list_resources(self, _step):
        return await self.pages(self.connection.list_resources, "resources")

    async def do_list_resource_templates(self, _step):
        return await self.pages(self.connection.list_resource_templates, "resourceTemplates")

    async def do_list_prompts(self, _step):
        return await self.pages(self.connection.list_prompts, "prompts")

    async def do_call_tool(self, step):
        progress = []

        async def on_progress(done, total, _message):
            progress.append([done, total])

        call = self.connection.call_tool(
            step["name"], step.get("arguments", {}), progress_callback=on_progress if step.get("progress") else None
        )
        try:
            result = wire(await asyncio.wait_for(call, step.get("cancel_after", CALL_SECONDS)))
        except TimeoutError:
            return {"cancelled": True}
        return result | {"progress": progress}

    async def do_read_resource(self, step):
        return wire(await self.connection.read_resource(step["uri"]))

    async def do_get_prompt(self, step):
        return wire(await self.connection.get_prompt(step["name"], step.get("arguments")))

    async def do_complete(self, step):
        by_type = {"ref/prompt": types.PromptReference, "ref/resource": types.ResourceTemplateReference}
        ref = by_type[step["ref"]["type"]].model_validate(step["ref"])
        return wire(await self.connection.complete(ref, step["argument"], step.get("context")))

    async def do_ping(self, _step):
        return wire(await self.connection.send_ping())

    async def do_set_level(self, step):
        return wire(await self.connection.set_logging_level(step["level"]))

    async def do_subscribe(self, step):
        if self.connection.protocol_version < ERAS["modern"]:
            return wire(await self.connection.subscribe_resource(step["uri"]))
        stream = self.connection.listen(resource_subscriptions=[step["uri"]])
        return wire((await self.subscriptions.enter_async_context(stream)).honored)

    async def do_unsubscribe(self, step):
        if self.connection.protocol_version < ERAS["modern"]:
            return wire(await self.connection.unsubscribe_resource(step["uri"]))
        await self.subscriptions.aclose()
        return {}

    async def do_await(self, step):
        """Waits until a notification of one method has come; says whether it did within the time."""
        for _ in range(int(step["seconds"] * 20)):
            if any(seen["method"] == step["method"] for seen in self.notifications):
                return True
            await asyncio.sleep(0.05)
        return False


def main():
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    task = json.load(sys.stdin)
    print(json.dumps(asyncio.run(Driver(task["connect"]).run(task["steps"]))))


if __name__ == "__main__":
    main()
