// What the two TypeScript drivers share: the steps, the answers to what a server asks, and the report.
// The calls themselves have the same names and shapes in both SDK generations; each driver adds what differs.

const CALL_MS = 60_000;

// Reads the task from standard input.
export async function readTask() {
  let text = "";
  for await (const chunk of process.stdin) text += chunk;
  return JSON.parse(text);
}

// Names what a client declares for the requests it is to answer.
export function capabilities(answers) {
  return Object.fromEntries(answers.map((name) => [name, {}]));
}

// Says what went wrong in the same members for every SDK.
export function failure(error, status) {
  const found = { type: error.constructor.name, message: error.message };
  if (typeof error.code === "number") found.code = error.code;
  if (error.data !== undefined) found.data = error.data;
  if (status !== undefined) found.http_status = status;
  return found;
}

// Wraps fetch so that the last refused HTTP status can be reported.
export function watchedFetch() {
  const seen = { status: undefined };
  const watched = async (...request) => {
    const response = await fetch(...request);
    // A 405 to the optional GET stream is no refusal.
    if (response.status >= 400 && response.status !== 405) seen.status = response.status;
    return response;
  };
  return { fetch: watched, seen };
}

async function pages(list, member) {
  const listed = [];
  let cursor;
  do {
    const page = await list(cursor === undefined ? undefined : { cursor });
    listed.push(...page[member]);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return listed;
}

async function callTool(callTool, step) {
  const progress = [];
  const abort = new AbortController();
  const options = { signal: abort.signal, timeout: CALL_MS };
  if (step.progress) options.onprogress = (p) => progress.push([p.progress, p.total]);
  const timer = step.cancel_after && setTimeout(() => abort.abort("cancelled by the test"), step.cancel_after * 1000);
  try {
    const result = await callTool({ name: step.name, arguments: step.arguments ?? {} }, options);
    return { ...result, progress };
  } catch (error) {
    if (abort.signal.aborted) return { cancelled: true };
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

async function awaitNotification(notifications, step) {
  for (let waited = 0; waited < step.seconds * 1000; waited += 50) {
    if (notifications.some((seen) => seen.method === step.method)) return true;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return false;
}

function operations(client, sdk, notifications) {
  return {
    list_tools: () => pages((p) => client.listTools(p), "tools"),
    list_resources: () => pages((p) => client.listResources(p), "resources"),
    list_resource_templates: () => pages((p) => client.listResourceTemplates(p), "resourceTemplates"),
    list_prompts: () => pages((p) => client.listPrompts(p), "prompts"),
    call_tool: (step) => callTool((params, options) => sdk.callTool(params, options), step),
    read_resource: (step) => client.readResource({ uri: step.uri }),
    get_prompt: (step) => client.getPrompt({ name: step.name, arguments: step.arguments }),
    complete: (step) =>
      client.complete({
        ref: step.ref,
        argument: step.argument,
        ...(step.context && { context: { arguments: step.context } }),
      }),
    ping: () => client.ping(),
    set_level: (step) => client.setLoggingLevel(step.level),
    subscribe: (step) => sdk.subscribe(step.uri),
    unsubscribe: (step) => sdk.unsubscribe(step.uri),
    await: (step) => awaitNotification(notifications, step),
  };
}

// Connects, takes every step in order, and prints the report; a failed step does not end the run.
export async function drive({ client, transport, sdk, task, seen }) {
  const notifications = [];
  const asked = [];
  client.fallbackNotificationHandler = async ({ method, params }) => notifications.push({ method, params });
  for (const name of task.connect.answers) {
    sdk.answer(name, (request) => {
      asked.push({ method: request.method, params: request.params ?? {} });
      return task.connect.reply[name];
    });
  }
  let report;
  try {
    await client.connect(transport);
    const known = operations(client, sdk, notifications);
    const steps = [];
    for (const step of task.steps) {
      try {
        steps.push({ ok: await known[step.op](step) });
      } catch (error) {
        steps.push({ error: failure(error, seen.status) });
      }
    }
    report = {
      protocol: sdk.protocol(),
      server: client.getServerVersion(),
      capabilities: client.getServerCapabilities(),
      steps,
      notifications,
      asked,
    };
  } catch (error) {
    report = { connect_error: failure(error, seen.status) };
  }
  await client.close().catch(() => {});
  process.stdout.write(JSON.stringify(report) + "\n", () => process.exit(0));
}

export function headers(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}
