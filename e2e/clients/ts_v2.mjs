// Drives the unmodified TypeScript SDK v2 client, in either era, through the steps on standard input.

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport, getDefaultEnvironment } from "@modelcontextprotocol/client/stdio";
import { capabilities, drive, headers, readTask, watchedFetch } from "./driver.mjs";

const ERAS = { legacy: "legacy", modern: { pin: "2026-07-28" }, auto: "auto" };
const ASKS = { sampling: "sampling/createMessage", elicitation: "elicitation/create", roots: "roots/list" };

const task = await readTask();
const { url, key, stdio, env, answers, era } = task.connect;

const { fetch, seen } = watchedFetch();
const transport = stdio
  ? new StdioClientTransport({ command: stdio[0], args: stdio.slice(1), env: { ...getDefaultEnvironment(), ...env } })
  : new StreamableHTTPClientTransport(new URL(url), { fetch, requestInit: { headers: headers(key) } });

const client = new Client(
  { name: "e2e-ts-v2", version: "1.0.0" },
  { capabilities: capabilities(answers), versionNegotiation: { mode: ERAS[era] } },
);

const streams = new Map();
const modern = () => client.getProtocolEra() === "modern";
const sdk = {
  answer: (name, reply) => client.setRequestHandler(ASKS[name], reply),
  callTool: (params, options) => client.callTool(params, options),
  protocol: () => client.getNegotiatedProtocolVersion(),
  async subscribe(uri) {
    if (!modern()) return client.subscribeResource({ uri });
    const stream = await client.listen({ resourceSubscriptions: [uri] });
    streams.set(uri, stream);
    return stream.honoredFilter;
  },
  async unsubscribe(uri) {
    if (!modern()) return client.unsubscribeResource({ uri });
    await streams.get(uri).close();
    return {};
  },
};
await drive({ client, transport, sdk, task, seen });
