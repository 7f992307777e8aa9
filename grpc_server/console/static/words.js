// Values as people read them.

export const STATES = {
  QUEUED: ["Queued", "waits for its turn; nothing is spent"],
  SUBMITTING: ["Submitting", "on its way to the provider"],
  SUBMITTED: ["Submitted", "accepted by the provider; from here on it costs money"],
  PROCESSING: ["Processing", "being generated"],
  ARCHIVING: ["Archiving", "made, and being copied into the archive"],
  SUCCEEDED: ["Succeeded", "in the archive"],
  FAILED: ["Failed", "there is no video"],
  CANCELLED: ["Cancelled", "nobody wants it any more"],
  EXPIRED: ["Expired", "its deadline has passed"],
  UNRESOLVED: ["Unresolved", "it is unknown whether the provider has accepted it; a person decides"],
  LOST: ["Lost", "made and billed, and deleted by the provider before it could be archived"],
};

const FINAL = new Set(["SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "LOST"]);

export const isFinal = (task) => FINAL.has(task.state);
export const stateName = (state) => STATES[state]?.[0] ?? state;
export const MODES = { STD: "Standard", PRO: "Professional", FOUR_K: "4K" };

const stamp = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

export const time = (text) => (text ? stamp.format(new Date(text)) : "");
export const shortTime = (text) => day.format(new Date(text));

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const [hours, minutes, rest] = parts;
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

const between = (from, to) => (new Date(to) - new Date(from)) / 1000;

/** Seconds from creation to the end, or until now. */
export const elapsed = (task) => between(task.create_time, task.end_time ?? new Date());

/** How far the provider is: a share from 0 to 1 and the seconds that are left; null while nobody knows. */
export function progress(task) {
  const typical = Number.parseFloat(task.typical_duration);
  const since = task.upstream?.submit_time;
  if (!typical || !since || isFinal(task)) return null;
  const spent = between(since, new Date());
  return { share: Math.min(spent / typical, 0.97), left: Math.max(0, typical - spent) };
}

/** Number text without needless zeros. */
export const plain = (text) => (text ? String(Number(text)) : "");
export const units = (text) => (text ? `${plain(text)} units` : "");
export const usd = (text) => (text ? `US$ ${Number(text).toFixed(2)}` : "");

export const bytes = (text) => {
  const number = Number(text);
  return number < 1e6 ? `${(number / 1e3).toFixed(1)} kB` : `${(number / 1e6).toFixed(1)} MB`;
};

/** Hex of what protobuf's JSON holds as base64. */
export const hex = (base64) => Array.from(atob(base64), (c) => c.charCodeAt(0).toString(16).padStart(2, "0")).join("");

export const videoOf = (task) => (task.artifacts ?? []).find((artifact) => artifact.kind === "VIDEO");
export const promptOf = (task) => {
  const spec = task.text_to_video ?? {};
  return spec.prompt || (spec.multi_prompt ?? []).map((shot) => shot.prompt).join(" / ") || "(no prompt)";
};
