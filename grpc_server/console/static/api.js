// The server's JSON and its events.

const BASE = "/console/api";
const RETRY_SECONDS = [1, 2, 4, 8];
// A source that closes so often without a word has a token that the server does not take.
const LOST_AFTER = 3;

/** What the server said no with: `title` is the reason, `violations` what is wrong with which field. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || `The server answered ${status}.`);
    this.status = status;
    this.title = body.title || "";
    const bad = (body.error?.details || []).find((detail) => detail["@type"].endsWith("BadRequest"));
    this.violations = bad?.field_violations || [];
  }
}

async function call(method, path, body, signal) {
  let response;
  try {
    response = await fetch(BASE + path, {
      method, signal,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { title: "SERVER_AWAY", detail: "It may be starting again. Nothing is lost: video tasks go on without this page." });
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const problem = new Problem(response.status, await response.json().catch(() => ({})));
  if (response.status === 401 && path !== "/session") window.dispatchEvent(new Event("signed-out"));
  throw problem;
}

const query = (fields) => {
  const given = Object.entries(fields).filter(([, value]) => value);
  return given.length ? `?${new URLSearchParams(given)}` : "";
};

export const api = {
  session: () => call("GET", "/session"),
  signIn: (token) => call("POST", "/session", { token }),
  signOut: () => call("DELETE", "/session"),
  list: (fields, signal) => call("GET", `/tasks${query(fields)}`, undefined, signal),
  get: (id) => call("GET", `/tasks/${encodeURIComponent(id)}`),
  create: (body) => call("POST", "/tasks", body),
  cancel: (id, body) => call("POST", `/tasks/${encodeURIComponent(id)}/cancel`, body),
  models: (retired) => call("GET", `/models${query({ show_retired: retired && "1" })}`),
  quote: (body, signal) => call("POST", "/quote", body, signal),
  account: () => call("GET", "/account"),
};

export const idOf = (task) => task.name.slice("videoTasks/".length);

export function videoUrl(task, more = {}) {
  return `${BASE}/tasks/${encodeURIComponent(idOf(task))}/video${query(more)}`;
}

/**
 * Follow tasks from a resume token on, through every restart of the server, without a gap.
 *
 * `onTasks` gets tasks after their changes, in order; `onLive` whether the server is there; `onLost` is called when
 * the token is worth nothing any more, so that everything has to be read again. Returns what ends it.
 */
export function follow(fields, token, { onTasks, onLive, onLost }) {
  let source;
  let timer;
  let silent = 0;
  let ended = false;

  function open() {
    source = new EventSource(`${BASE}/events${query({ ...fields, resume_token: token })}`);
    source.addEventListener("tasks", (event) => {
      silent = 0;
      token = event.lastEventId;
      onLive(true);
      const { video_tasks: tasks } = JSON.parse(event.data);
      if (tasks.length) onTasks(tasks);
    });
    source.addEventListener("error", () => {
      onLive(false);
      // The browser comes back by itself, unless the answer was an error.
      if (source.readyState === EventSource.CLOSED && !ended) again();
    });
  }

  function again() {
    const seconds = RETRY_SECONDS[Math.min(silent, RETRY_SECONDS.length - 1)];
    silent += 1;
    timer = setTimeout(async () => {
      try {
        await api.account();
      } catch (error) {
        if (error.status !== 401 && !ended) again();
        return;
      }
      if (ended) return;
      if (silent > LOST_AFTER) onLost();
      else open();
    }, seconds * 1000);
  }

  open();
  return () => {
    ended = true;
    clearTimeout(timer);
    source.close();
  };
}
