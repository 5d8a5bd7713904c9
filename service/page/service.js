// Client of the service: responses, errors, stage times and the API key.

import { authorization } from "./key.js";

/** Error response or missing response, with a message for the user. `gone`: no response; `locked`:
 * the service asks for an API key, or for another one. */
export class ServiceError extends Error {
  constructor(message, { gone = false, locked = false } = {}) {
    super(message);
    Object.assign(this, { gone, locked });
  }
}

/** Return the served models, of which there is at least one. */
export async function models() {
  const { models: served } = await (await ask("models")).json();
  if (served.length) return served;
  throw new ServiceError("No model is served yet: /readyz says why. Waiting for one…", { gone: true });
}

/** Return true if the service responds and is ready. */
export async function isReady() {
  try {
    return (await fetch("readyz", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/** Explain an image (a Blob): the response with the maps of all classes, and times in ms. */
export async function explain(image, question, signal) {
  const started = performance.now();
  const query = new URLSearchParams({ ...question, target: "all" });
  const response = await ask(`explain?${query}`, {
    method: "POST",
    body: image,
    headers: { Accept: "application/json", "Content-Type": "application/octet-stream" },
    signal,
  });
  const answer = await response.json();
  const stages = timings(response.headers.get("Server-Timing") ?? "");
  const inside = Object.values(stages).reduce((sum, each) => sum + each, 0);
  return { answer, stages, network: Math.max(0, performance.now() - started - inside) };
}

async function ask(path, options) {
  let response;
  try {
    const headers = { ...options?.headers, ...authorization() };
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service does not answer. Waiting until it is back…", { gone: true });
  }
  if (response.ok) return response;
  let detail = `The service answered with ${response.status}.`;
  try {
    const problem = await response.json();
    detail = `${problem.title}: ${problem.detail}.`;
  } catch {
    // A proxy answered, in another format.
  }
  const { status } = response;
  throw new ServiceError(detail, { gone: status === 502 || status === 503, locked: status === 401 });
}

/** `queue;dur=0.1, compute;dur=1.2` -> {queue: 0.1, compute: 1.2}. */
function timings(header) {
  const found = {};
  for (const entry of header.split(",")) {
    const [name, duration] = entry.trim().split(";dur=");
    if (duration) found[name] = (found[name] ?? 0) + Number(duration);
  }
  return found;
}
