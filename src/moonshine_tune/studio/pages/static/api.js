// The server: requests, its errors in words, and its events.

/** An answer that is an error; `isTemporary` where the same request may work a little later. */
export class StudioError extends Error {
  constructor(message, next = "", status = 0) {
    super(message);
    this.next = next;
    this.status = status;
  }

  get isTemporary() {
    return this.status === 0 || this.status === 503;
  }
}

/** A request; its answer is JSON. A plain object as the body is sent as JSON, all else as it is. */
export async function request(method, path, body, type) {
  const isPlain = body !== undefined && type === undefined;
  let response;
  try {
    response = await fetch(path, {
      method,
      body: isPlain ? JSON.stringify(body) : body,
      headers: body === undefined ? {} : { "Content-Type": type ?? "application/json" },
    });
  } catch {
    throw new StudioError("The studio does not answer.",
      "Start it again in the terminal with moonshine-tune studio, and open the address that it shows. Nothing that was accepted is lost.");
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) {
    const error = answer?.error ?? {};
    const expired = response.status === 401 || response.status === 403;
    throw new StudioError(error.message ?? `The studio answers with status ${response.status}.`,
      error.next ?? (expired ? "Open the address that the terminal shows." : ""), response.status);
  }
  return answer;
}

export const get = (path) => request("GET", path);
export const post = (path, body = {}) => request("POST", path, body);

const listeners = new Set();

/** Calls `listener` with each `{job}`, `{clip}`, `{project}` and `{connected}`; returns how to stop it. */
export function onEvent(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const publish = (event) => { for (const listener of [...listeners]) listener(event); };

/** Listens for as long as the page is open; the browser connects again by itself. */
export function openEvents() {
  const source = new EventSource("/api/events");
  source.addEventListener("open", () => publish({ connected: true }));
  source.addEventListener("message", (event) => publish(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    publish({ connected: false });
    // After an answer with an error status the browser gives up.
    if (source.readyState === EventSource.CLOSED) setTimeout(openEvents, 3000);
  });
}

const followed = new Set();
let asking;

/** Settles the jobs that are waited for; what happened while the connection was lost is asked for. */
async function askForJobs() {
  clearTimeout(asking);
  if (!followed.size) return;
  try {
    const jobs = new Map((await get("/api/jobs")).jobs.map((job) => [job.id, job]));
    for (const waiter of [...followed]) if (jobs.has(waiter.id)) waiter.settle(jobs.get(waiter.id));
  } catch { /* asked again */ }
  asking = setTimeout(askForJobs, 3000);
}

onEvent((event) => {
  if (event.connected) askForJobs();
  for (const waiter of [...followed]) if (event.job?.id === waiter.id) waiter.settle(event.job);
});

/** Waits until a job ends, calling `show` with each state of it. Its error is thrown. */
export function follow(job, show = () => {}) {
  return new Promise((resolve, reject) => {
    const waiter = { id: job.id, settle: (state) => {
      show(state);
      if (!["done", "failed", "stopped"].includes(state.state)) return;
      followed.delete(waiter);
      if (state.state === "failed") reject(new StudioError(state.error?.message ?? "This did not work.", state.error?.next, 500));
      else resolve(state);
    } };
    followed.add(waiter);
    waiter.settle(job);
    clearTimeout(asking);
    asking = setTimeout(askForJobs, 1000);
  });
}
