// Drives the unmodified TypeScript SDK v1 (legacy era only) through the steps on standard input.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport, getDefaultEnvironment } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
} from "@modelcontextprotocol/sdk/types.js";
import { capabilities, drive, headers, readTask, watchedFetch } from "./driver.mjs";

const ASKS = {
  sampling: CreateMessageRequestSchema,
  elicitation: ElicitRequestSchema,
  roots: ListRootsRequestSchema,
};

const task = await readTask();
const { url, key, stdio, env, answers, era } = task.connect;
if (era !== "legacy") throw new Error("SDK v1 speaks the legacy era only");

const { fetch, seen } = watchedFetch();
const transport = stdio
  ? new StdioClientTransport({ command: stdio[0], args: stdio.slice(1), env: { ...getDefaultEnvironment(), ...env } })
  : new StreamableHTTPClientTransport(new URL(url), { fetch, requestInit: { headers: headers(key) } });

let negotiated;
transport.setProtocolVersion = ((original) => (version) => {
  negotiated = version;
  original?.call(transport, version);
})(transport.setProtocolVersion);

const client = new Client({ name: "e2e-ts-v1", version: "1.0.0" }, { capabilities: capabilities(answers) });
const sdk = {
  answer: (name, reply) => client.setRequestHandler(ASKS[name], reply),
  callTool: (params, options) => client.callTool(params, undefined, options),
  protocol: () => negotiated,
  subscribe: (uri) => client.subscribeResource({ uri }),
  unsubscribe: (uri) => client.unsubscribeResource({ uri }),
};
await drive({ client, transport, sdk, task, seen });
