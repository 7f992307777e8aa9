// One video: the file, what has happened to it, what was asked for, and what it costs.

import { api, follow, idOf, videoUrl } from "./api.js";
import { announce, errorBox, facts, field, h } from "./dom.js";
import { MODES, STATES, bytes, duration, elapsed, hex, isFinal, progress, promptOf, stateName, time, units, usd, videoOf } from "./words.js";

export function detailPage(element, id, session) {
  let unfollow = () => {};
  let ended = false;
  let clock = 0;
  element.append(h("p", { className: "empty", role: "status" }, "Loading…"));

  async function load() {
    unfollow();
    let answer;
    try {
      answer = await api.get(id);
    } catch (error) {
      if (!ended) element.replaceChildren(h("h1", {}, error.status === 404 ? "There is no such video" : "Video"), errorBox(error, error.status !== 404 && load));
      return;
    }
    if (ended) return;
    const view = show(element, answer.video_task, answer.events ?? [], session);
    clearInterval(clock);
    clock = setInterval(view.tick, 1000);
    unfollow = follow({ name: answer.video_task.name }, answer.resume_token, {
      onTasks: (tasks) => {
        tasks.forEach(view.update);
        window.dispatchEvent(new Event("spent"));
      },
      onLive: view.live,
      onLost: load,
    });
  }

  load();
  return () => {
    ended = true;
    clearInterval(clock);
    unfollow();
  };
}

function show(element, first, events, session) {
  let task = first;
  const status = h("p", { className: "status" });
  const live = h("span", { className: "live", role: "status" });
  const stage = h("div", { className: "stage" });
  const actions = h("div", { className: "row actions" });
  const timeline = h("ol", { className: "timeline", "aria-label": "Events" });
  const sections = h("div", { className: "sections" });
  const dialog = cancelDialog(() => task, (changed) => update(changed));
  const mayWrite = session.scopes.includes("write");

  element.replaceChildren(
    h("p", {}, h("a", { href: "/console/" }, "All videos")),
    h("div", { className: "row" }, h("h1", { className: "prompt" }, promptOf(first).length > 160 ? `${promptOf(first).slice(0, 160)}…` : promptOf(first)), live),
    h("div", { className: "detail" },
      h("div", {}, stage, status, actions, h("section", { className: "panel" }, h("h2", {}, "What has happened"), timeline)),
      sections),
    dialog.element);
  document.title = `${promptOf(first).slice(0, 60)} · kling-flows`;

  let before = null;
  function addEvent(event) {
    if (before && Number(event.revision) <= Number(before.revision)) return;
    timeline.append(h("li", {},
      h("span", { className: "state", "data-state": event.state }, stateName(event.state)), " ",
      h("time", { dateTime: event.update_time }, time(event.update_time)),
      h("span", { className: "meta" }, ` revision ${event.revision}`),
      h("p", {}, whatChanged(before, event))));
    before = event;
  }

  function showStage() {
    const wanted = videoOf(task) ? "video" : "none";
    if (stage.dataset.shows === wanted && wanted === "video") return;
    stage.dataset.shows = wanted;
    if (wanted === "video") {
      stage.replaceChildren(h("video", { controls: true, preload: "metadata", playsInline: true, src: videoUrl(task), "aria-label": promptOf(task).slice(0, 120) }));
    } else {
      const bar = isFinal(task) ? null : h("progress", { max: 1, "aria-label": "Progress at the provider" });
      stage.replaceChildren(h("p", { className: "glyph" }, isFinal(task) ? "There is no video" : stateName(task.state)), ...(bar ? [bar] : []));
    }
  }

  function tick() {
    const at = progress(task);
    const bar = stage.querySelector("progress");
    if (bar && at) bar.value = at.share;
    const parts = [STATES[task.state]?.[1] ?? "", `${isFinal(task) ? "took" : "for"} ${duration(elapsed(task))}`];
    if (at) parts.push(`about ${duration(at.left)} left`);
    if (task.video_pending) parts.push("the video is still to come");
    status.replaceChildren(h("span", { className: "state", "data-state": task.state }, stateName(task.state)), ` ${parts.join(" · ")}`);
  }

  function showActions() {
    const video = videoOf(task);
    actions.replaceChildren(...[
      video && h("a", { className: "button", href: videoUrl(task, { download: "1" }), download: "" }, "Download"),
      task.flow_run?.url && h("a", { className: "button", href: task.flow_run.url, target: "_blank", rel: "noreferrer noopener" }, "Prefect run (new tab)"),
      !isFinal(task) && mayWrite && h("button", { type: "button", className: "danger", onclick: dialog.open }, "Cancel…"),
    ].filter(Boolean));
  }

  function update(next) {
    if (Number(next.revision) <= Number(task.revision) && next !== task) return;
    if (next.state !== task.state) announce(`${stateName(next.state)}: ${STATES[next.state]?.[1] ?? ""}`);
    task = next;
    addEvent(task);
    refresh();
  }

  function refresh() {
    showStage();
    tick();
    showActions();
    // What somebody has unfolded stays so.
    const unfolded = sections.querySelector("details")?.open;
    sections.replaceChildren(...describe(task));
    if (unfolded) sections.querySelector("details").open = true;
  }

  events.forEach(addEvent);
  refresh();
  return {
    update, tick,
    live(isLive) {
      live.dataset.live = isLive;
      const text = isLive ? "Live" : "Reconnecting…";
      if (live.textContent !== text) live.textContent = text;
    },
  };
}

function whatChanged(before, event) {
  const parts = [];
  const upstream = event.upstream ?? {};
  const was = before?.upstream ?? {};
  if (!before) parts.push("Created");
  if (upstream.task_id && upstream.task_id !== was.task_id) parts.push(`${upstream.provider} calls it ${upstream.task_id}`);
  if (upstream.status && upstream.status !== was.status) parts.push(`its status there: ${upstream.status}`);
  if (event.flow_run?.name && event.flow_run.name !== before?.flow_run?.name) parts.push(`carried by ${event.flow_run.name}`);
  if (event.cost?.settled_units && event.cost.settled_units !== before?.cost?.settled_units) parts.push(`cost ${units(event.cost.settled_units)}`);
  if ((event.artifacts ?? []).length > (before?.artifacts ?? []).length) parts.push("in the archive");
  if (event.error?.message && event.error.message !== before?.error?.message) parts.push(event.error.message);
  return parts.join("; ");
}

function describe(task) {
  const spec = task.text_to_video ?? {};
  const upstream = task.upstream ?? {};
  const cost = task.cost ?? {};
  const panel = (title, ...content) => h("section", { className: "panel" }, h("h2", {}, title), ...content);
  const labels = Object.entries(task.labels ?? {}).sort().map(([key, value]) => h("span", { className: "label" }, `${key}=${value}`));
  return [
    task.error && panel("What went wrong", h("p", {}, task.error.message), h("p", { className: "meta" }, (task.error.details ?? []).map((detail) => detail.reason).filter(Boolean).join(", "))),
    panel("What was asked for", facts([
      ["Prompt", spec.prompt], ["Not to be seen", spec.negative_prompt], ["Model", spec.model_name], ["Mode", MODES[spec.mode] ?? spec.mode],
      ["Length", spec.duration && `${spec.duration} s`], ["Aspect ratio", spec.aspect_ratio], ["Sound", spec.sound === "ON" ? "on" : "off"],
      ["Closeness to the prompt", spec.cfg_scale], ["Camera", spec.camera_control?.type],
      ["Shots", (spec.multi_prompt ?? []).map((shot) => `${shot.duration} s: ${shot.prompt}`).join(" / ")],
      ["Labels", labels.length ? h("span", {}, labels) : ""], ["Priority", task.priority], ["Deadline", time(task.deadline)],
    ]), h("details", {}, h("summary", {}, "As JSON"), h("pre", { tabIndex: 0 }, JSON.stringify({ name: task.name, text_to_video: spec, labels: task.labels ?? {} }, null, 2)))),
    panel("Price", facts([
      ["Quoted", [units(cost.quoted_units), usd(cost.quoted_usd)].filter(Boolean).join(" · ")],
      ["Settled", units(cost.settled_units) || "not yet"], ["Uncertain", (cost.uncertainties ?? []).join(" ")],
    ])),
    ...(task.artifacts ?? []).map((artifact) => panel(artifact.kind === "VIDEO" ? "Archive" : "Archive, with watermark", facts([
      ["Where", h("code", {}, artifact.uri)], ["SHA-256", h("code", {}, hex(artifact.sha256 ?? ""))], ["Size", bytes(artifact.size_bytes)],
      ["Type", artifact.media_type], ["Manifest", h("code", {}, artifact.manifest_uri ?? "")],
    ]))),
    panel("Where it is", facts([
      ["Name", h("code", {}, task.name)], ["Provider", [upstream.provider, upstream.dialect].filter(Boolean).join(", ")],
      ["Its id there", upstream.task_id && h("code", {}, upstream.task_id)], ["Our id there", upstream.external_task_id && h("code", {}, upstream.external_task_id)],
      ["Submitted", time(upstream.submit_time)], ["Sent", upstream.submit_attempts > 1 && `${upstream.submit_attempts} times, with one id`],
      ["Prefect run", task.flow_run?.url ? h("a", { href: task.flow_run.url, target: "_blank", rel: "noreferrer noopener" }, task.flow_run.name) : task.flow_run?.name],
    ])),
  ].filter(Boolean);
}

function cancelDialog(current, done) {
  const reason = h("input", { id: "reason", maxLength: 255, autocomplete: "off" });
  const keep = h("input", { id: "keep", type: "checkbox" });
  const problem = h("p", { className: "problem", role: "alert" });
  const submit = async (event) => {
    event.preventDefault();
    problem.textContent = "";
    try {
      done(await api.cancel(idOf(current()), { reason: reason.value, on_cancel: keep.checked ? "KEEP_VIDEO" : "DISCARD" }));
    } catch (error) {
      problem.textContent = error.message;
      return;
    }
    element.close();
  };
  const element = h("dialog", { "aria-labelledby": "cancel-title" }, h("form", { onsubmit: submit },
    h("h2", { id: "cancel-title" }, "Cancel this video?"),
    h("p", {}, "The provider has no cancel: what it has accepted is generated and billed all the same."),
    field("Reason", reason, "For whoever looks at it later; may be empty."),
    h("p", {}, keep, " ", h("label", { htmlFor: "keep" }, "Keep the video if it was accepted already")),
    problem,
    h("div", { className: "row" },
      h("button", { type: "submit", className: "danger" }, "Cancel the video"),
      h("button", { type: "button", onclick: () => element.close() }, "Go back"))));
  return { element, open: () => { problem.textContent = ""; element.showModal(); } };
}
