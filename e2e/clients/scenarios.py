"""The scenarios: which steps a client takes at a place, what each must give, and which records it must leave."""

import base64
from dataclasses import dataclass, field
from pathlib import Path

from clients import Endpoint

DOCUMENT = "demo://resource/static/document/architecture.md"
TEMPLATE = "demo://resource/dynamic/text/{resourceId}"
PROGRESS_STEPS = 4
NOTIFICATION_SECONDS = 8
GREETING = "hello from the disk\n"


@dataclass(frozen=True)
class Place:
    """One way to reach one server, and the names the server's parts have there.

    The server is named as in the records; None if that name is not for the test to choose.
    """

    name: str
    endpoint: Endpoint
    server: str | None
    prefix: str = ""
    uri_prefix: str = ""
    can_subscribe: bool = True
    can_log: bool = True
    directory: Path | None = None
    may_write: bool = True


@dataclass
class Script:
    """Steps with the check of each; what a scenario function builds."""

    place: Place
    answers: tuple[str, ...] = ()
    steps: list = field(default_factory=list)
    checks: list = field(default_factory=list)
    closing: list = field(default_factory=list)
    calls: list = field(default_factory=list)

    def step(self, label, check, **step):
        """Adds a step; check takes its result and says whether it is as it must be. Errors fail it."""
        self.steps.append(step)
        self.checks.append((label, lambda taken: "ok" in taken and check(taken["ok"])))

    def tool(self, name, label, check, arguments=None, **more):
        """Adds a call that must be allowed."""
        self.calls.append((name, "allow"))
        self.step(label, check, op="call_tool", name=self.place.prefix + name, arguments=arguments or {}, **more)

    def refused_tool(self, name, label, arguments):
        """Adds a call that the gateway must deny, or, without one, the server itself."""
        self.calls.append((name, "deny"))
        self.steps.append({"op": "call_tool", "name": self.place.prefix + name, "arguments": arguments})
        self.checks.append((label, refused))

    def finally_(self, label, check):
        """Adds a check of the whole report, or of the world outside it."""
        self.closing.append((label, check))

    def uri(self, uri):
        return self.place.uri_prefix + uri


def text(result):
    return "\n".join(part["text"] for part in result["content"] if part["type"] == "text")


def says(expected):
    return lambda result: not result.get("isError") and expected in text(result)


def refused(taken):
    return "error" in taken or taken["ok"].get("isError") is True


def failed_in_tool(result):
    return result.get("isError") is True


def names(listed):
    return {entry["name"] for entry in listed}


def rises(result):
    """The last event may be missing: the TypeScript SDK v2 drops progress that comes in one read with the result."""
    whole = [[done, PROGRESS_STEPS] for done in range(1, PROGRESS_STEPS + 1)]
    return result["progress"] in (whole, whole[:-1])


def tools(place, _client):
    """Lists and calls tools with every kind of result."""
    script = Script(place)
    wanted = {place.prefix + name for name in ("echo", "get-sum", "get-tiny-image", "get-structured-content")}
    script.step("tools/list names the tools", lambda listed: wanted <= names(listed), op="list_tools")
    if place.prefix:
        script.step(
            "tools/list prefixes every name",
            lambda listed: all("__" in name for name in names(listed) if not name.startswith("countersign_")),
            op="list_tools",
        )
    script.tool("echo", "echo answers", says("Echo: grüß dich ✓"), {"message": "grüß dich ✓"})
    script.tool("get-sum", "get-sum adds", says("is 42."), {"a": 40, "b": 2})
    script.tool(
        "get-structured-content",
        "structured content passes the client's schema check",
        lambda result: result["structuredContent"]["temperature"] == 36,
        {"location": "Chicago"},
    )
    script.tool("get-tiny-image", "an image comes whole", has_png)
    script.steps.append({"op": "call_tool", "name": place.prefix + "no-such-tool", "arguments": {}})
    script.checks.append(("an unknown tool is refused", refused))
    return script


def has_png(result):
    images = [part for part in result["content"] if part["type"] == "image"]
    return len(images) == 1 and base64.b64decode(images[0]["data"], validate=True).startswith(b"\x89PNG")


def progress(place, client):
    """Follows a long call's progress and cancels another one."""
    script = Script(place)
    name = "trigger-long-running-operation"
    script.tool(name, "progress rises to the end", rises, {"duration": 0.6, "steps": PROGRESS_STEPS}, progress=True)
    script.tool(
        name,
        "a call can be cancelled",
        lambda result: result == {"cancelled": True},
        {"duration": 60, "steps": 2},
        cancel_after=0.5,
    )
    script.tool("echo", "the connection lives on after it", says("Echo: still here"), {"message": "still here"})
    if not client.is_modern():
        script.step("ping is answered", lambda result: result == {}, op="ping")
    return script


def asks(place, client):
    """Answers what the server asks during a call: in legacy by requests, in modern by input_required."""
    script = Script(place, answers=("sampling", "elicitation", "roots"))
    script.tool("trigger-elicitation-request", "an elicitation is answered", says("Ada Lovelace"))
    script.tool(
        "trigger-sampling-request",
        "a sampling request is answered",
        says("sampled by the e2e client"),
        {"prompt": "why?"},
    )
    script.tool("get-roots-list", "a roots request is answered", says("file:///e2e/root"))
    wanted = {"elicitation/create", "sampling/createMessage"}
    if not client.is_modern():
        # Without sessions of their own, clients of one agent share the server's, which remembers the roots.
        wanted.add("roots/list")
    script.finally_("the client was asked", lambda report: wanted <= {asked["method"] for asked in report["asked"]})
    return script


def resources(place, _client):
    """Lists and reads resources."""
    script = Script(place)
    uri = script.uri(DOCUMENT)
    script.step(
        "resources/list names the document",
        lambda listed: uri in {entry["uri"] for entry in listed},
        op="list_resources",
    )
    script.step(
        "a document is read",
        lambda result: result["contents"][0]["uri"] == uri and "Architecture" in result["contents"][0]["text"],
        op="read_resource",
        uri=uri,
    )
    template = script.uri(TEMPLATE)
    script.step(
        "templates/list names the template",
        lambda listed: template in {entry["uriTemplate"] for entry in listed},
        op="list_resource_templates",
    )
    script.step(
        "a resource of the template is read",
        lambda result: "Resource 7" in result["contents"][0]["text"],
        op="read_resource",
        uri=template.replace("{resourceId}", "7"),
    )
    script.steps.append({"op": "read_resource", "uri": script.uri("demo://resource/no/such")})
    script.checks.append(("a missing resource is an error", lambda taken: "code" in taken.get("error", {})))
    return script


def subscriptions(place, _client):
    """Hears of a change to a subscribed resource."""
    script = Script(place)
    uri = script.uri(DOCUMENT)
    update = "notifications/resources/updated"
    script.step("a subscription is accepted", lambda result: isinstance(result, dict), op="subscribe", uri=uri)
    script.tool("toggle-subscriber-updates", "updates start", lambda result: not result.get("isError"))
    script.step("an update arrives", lambda came: came is True, op="await", method=update, seconds=NOTIFICATION_SECONDS)
    script.step("the subscription ends", lambda result: isinstance(result, dict), op="unsubscribe", uri=uri)
    script.tool("toggle-subscriber-updates", "updates stop", lambda result: not result.get("isError"))
    script.finally_(
        "updates name the resource subscribed to",
        lambda report: {seen["params"]["uri"] for seen in report["notifications"] if seen["method"] == update} == {uri},
    )
    return script


def prompts(place, _client):
    """Lists, gets and completes prompts."""
    script = Script(place)
    simple, filled, completed = (place.prefix + n for n in ("simple-prompt", "args-prompt", "completable-prompt"))
    script.step("prompts/list names them", lambda listed: {simple, filled} <= names(listed), op="list_prompts")
    script.step(
        "a prompt is given",
        lambda result: "simple prompt" in result["messages"][0]["content"]["text"],
        op="get_prompt",
        name=simple,
    )
    script.step(
        "a prompt takes arguments",
        lambda result: "Vienna" in result["messages"][0]["content"]["text"],
        op="get_prompt",
        name=filled,
        arguments={"city": "Vienna"},
    )
    script.step(
        "an argument of a prompt is completed",
        lambda result: result["completion"]["values"] == ["Sales", "Support"],
        op="complete",
        ref={"type": "ref/prompt", "name": completed},
        argument={"name": "department", "value": "S"},
    )
    script.step(
        "an argument of a template is completed",
        lambda result: result["completion"]["values"] == ["12"],
        op="complete",
        ref={"type": "ref/resource", "uri": script.uri(TEMPLATE)},
        argument={"name": "resourceId", "value": "12"},
    )
    return script


def logging(place, _client):
    """Sets the level and hears the log (legacy only: the modern era has no such method)."""
    script = Script(place)
    message = "notifications/message"
    script.step("the level is set", lambda result: result == {}, op="set_level", level="debug")
    script.tool("toggle-simulated-logging", "the log starts", lambda result: not result.get("isError"))
    script.step(
        "a message arrives",
        lambda came: came is True,
        op="await", method=message, seconds=NOTIFICATION_SECONDS,
    )
    script.tool("toggle-simulated-logging", "the log stops", lambda result: not result.get("isError"))
    return script


def everything(place, client):
    """The scenarios of server-everything that this client can take at this place."""
    yield tools
    yield progress
    yield asks
    yield resources
    yield prompts
    if place.can_subscribe or client.is_modern():
        yield subscriptions
    if place.can_log and not client.is_modern():
        yield logging


def files(place, client):
    """Reads and writes files; what is not permitted is neither shown nor done."""
    script = Script(place)
    inside = place.directory
    outside = inside.parent / "outside"
    own = f"{client.sdk}-{client.era}-{place.name.replace('/', '-').replace(' ', '-')}.txt"
    before = snapshot(outside)
    script.step(
        "tools/list shows only what is permitted",
        lambda listed: {"read_text_file", "list_directory"} <= bare(place, listed)
        and ("write_file" in bare(place, listed)) == place.may_write,
        op="list_tools",
    )
    script.tool("list_directory", "the directory is listed", says("[FILE] hello.txt"), {"path": str(inside)})
    script.tool("read_text_file", "a file is read", says(GREETING.strip()), {"path": str(inside / "hello.txt")})
    if place.may_write:
        script.tool(
            "write_file", "a file is written", says("Success"), {"path": str(inside / own), "content": f"by {client}"}
        )
        script.finally_("the file is on the disk", lambda _report: read(inside / own) == f"by {client}")
        script.tool(
            "write_file",
            "a path outside is refused by the server",
            failed_in_tool,
            {"path": str(outside / own), "content": "x"},
        )
    else:
        held = snapshot(inside)
        script.refused_tool("write_file", "a write is denied", {"path": str(inside / own), "content": "x"})
        script.refused_tool("write_file", "an overwrite is denied", {"path": str(inside / "hello.txt"), "content": "x"})
        script.finally_("the disk is unchanged", lambda _report: snapshot(inside) == held)
    script.tool(
        "read_text_file", "a path outside is not read", failed_in_tool, {"path": str(outside / "secret.txt")}
    )
    script.finally_("nothing outside has changed", lambda _report: snapshot(outside) == before)
    return script


def bare(place, listed):
    return {name.removeprefix(place.prefix) for name in names(listed) if name.startswith(place.prefix)}


def read(path):
    return path.read_text() if path.exists() else None


def snapshot(directory):
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}
