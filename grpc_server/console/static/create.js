// Asking for a video. What can be chosen, and what it costs, comes from the server's capability map.

import { api, idOf } from "./api.js";
import { errorBox, field, h, select } from "./dom.js";
import { MODES, plain, usd } from "./words.js";

const TYPING_MS = 250;
const AXES = ["horizontal", "vertical", "pan", "tilt", "roll", "zoom"];
const MOVES = [["", "As the model likes"], ["SIMPLE", "Along one axis"], ["DOWN_BACK", "Down and back"], ["FORWARD_UP", "Forward and up"],
  ["RIGHT_TURN_FORWARD", "Turn right, forward"], ["LEFT_TURN_FORWARD", "Turn left, forward"]];

export function createPage(element, go) {
  let ended = false;
  element.append(h("h1", {}, "New video"), h("p", { className: "empty", role: "status" }, "Loading what the models can do…"));
  const load = () => api.models(false).then(
    (map) => { if (!ended) form(element, map, go); },
    (error) => { if (!ended) element.replaceChildren(h("h1", {}, "New video"), errorBox(error, load)); });
  load();
  return () => { ended = true; };
}

function form(element, map, go) {
  const models = (map.models ?? []).filter((model) => model.status !== "RETIRED");
  const prompt = h("textarea", { id: "prompt", rows: 4, required: true });
  const negative = h("textarea", { id: "negative_prompt", rows: 2 });
  const model = select("model_name", models.map((each) => [each.model_name, each.status === "SUNSET" ? `${each.model_name} (ends soon)` : each.model_name]), "");
  const labels = h("input", { id: "labels", placeholder: "team=ads, campaign=winter", autocomplete: "off" });
  const price = h("output", { className: "price", id: "price", "aria-live": "polite" }, "…");
  const problem = h("p", { className: "problem", role: "alert" });
  const send = h("button", { type: "submit", className: "primary" }, "Make the video");
  const choices = h("div", { className: "choices" });
  const extras = h("div", {});
  const note = h("p", { className: "hint" });
  let controls = {};
  let timer = 0;
  let asking = new AbortController();
  // The same wish sent twice is one video; another wish gets another id.
  let requestId = "";
  let sent = "";

  const chosen = () => models.find((each) => each.model_name === model.value);

  function choose() {
    const able = chosen();
    const kept = Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, control.type === "checkbox" ? control.checked : control.value]));
    const modes = able.modes ?? [];
    controls = {
      ...(modes.length && { mode: select("mode", modes.map((each) => [each.mode, modeText(each)]), kept.mode) }),
      duration: select("duration", (able.durations ?? []).map((each) => [String(each), `${each} s`]), kept.duration ?? "5"),
      aspect_ratio: select("aspect_ratio", (able.aspect_ratios ?? []).map((each) => [each, each]), kept.aspect_ratio),
    };
    if (!able.sound_always && modes.some((each) => each.sound)) controls.sound = select("sound", [["OFF", "Off"], ["ON", "On"]], kept.sound);
    if (able.cfg_scale) controls.cfg_scale = h("input", { id: "cfg_scale", type: "number", min: 0, max: 1, step: 0.1, value: kept.cfg_scale ?? "" });
    if (able.camera_control) {
      controls.camera = select("camera", MOVES, kept.camera);
      controls.axis = select("axis", AXES.map((axis) => [axis, axis]), kept.axis);
      controls.amount = h("input", { id: "amount", type: "number", min: -10, max: 10, step: 1, value: kept.amount ?? "5" });
    }
    if (able.multi_shot) controls.shots = h("textarea", { id: "shots", rows: 3, placeholder: "3: A boat leaves the harbour\n2: Waves, seen from above", value: kept.shots ?? "" });
    const named = {
      mode: ["Mode", ""], duration: ["Length", ""], aspect_ratio: ["Aspect ratio", ""], sound: ["Sound", soundHint()],
      cfg_scale: ["Closeness to the prompt", "0 to 1; empty leaves it to the model."], camera: ["Camera", ""], axis: ["Axis", "For “Along one axis”."],
      amount: ["Amount", "-10 to 10, not 0."], shots: ["Shots", `One per line, “seconds: what it shows”, at most ${able.max_shots}; instead of a prompt.`],
    };
    choices.replaceChildren(...Object.entries(controls).map(([name, control]) => field(named[name][0], control, named[name][1])));
    prompt.maxLength = able.prompt_limit || 2500;
    negative.maxLength = able.negative_prompt_limit || 1;
    extras.replaceChildren(...(able.negative_prompt_limit ? [field("Not to be seen", negative)] : []));
    note.textContent = able.note ?? "";
    adapt();
    ask();
  }

  function modeText(each) {
    const per = each.silent_usd_per_second || each.sound_usd_per_second;
    return [MODES[each.mode] ?? each.mode, each.resolution, per && `${usd(per)}/s`].filter(Boolean).join(" · ");
  }

  function soundHint() {
    const mode = (chosen().modes ?? []).find((each) => each.mode === controls.mode?.value);
    return mode && !mode.sound ? "Not in this mode." : "";
  }

  function adapt() {
    if (controls.sound) {
      const mode = (chosen().modes ?? []).find((each) => each.mode === controls.mode?.value);
      controls.sound.disabled = Boolean(mode && !mode.sound);
      if (controls.sound.disabled) controls.sound.value = "OFF";
      choices.querySelector("#sound-hint").textContent = soundHint();
    }
    if (controls.axis) controls.axis.disabled = controls.amount.disabled = controls.camera.value !== "SIMPLE";
    const shots = Boolean(controls.shots?.value.trim());
    prompt.required = !shots;
    prompt.disabled = shots;
    choices.querySelector("#duration").disabled = shots;
    const left = prompt.maxLength - prompt.value.length;
    element.querySelector("#prompt-hint").textContent = shots ? "The shots are used instead." : `${left} characters left`;
  }

  function wish() {
    const spec = { prompt: prompt.value.trim(), model_name: model.value, duration: Number(controls.duration.value), aspect_ratio: controls.aspect_ratio.value };
    if (controls.mode) spec.mode = controls.mode.value;
    if (controls.sound) spec.sound = controls.sound.value;
    if (negative.value.trim() && chosen().negative_prompt_limit) spec.negative_prompt = negative.value.trim();
    if (controls.cfg_scale?.value) spec.cfg_scale = Number(controls.cfg_scale.value);
    if (controls.camera?.value) {
      spec.camera_control = { type: controls.camera.value };
      if (controls.camera.value === "SIMPLE") spec.camera_control.config = { [controls.axis.value]: Number(controls.amount.value) };
    }
    const lines = (controls.shots?.value ?? "").split("\n").map((line) => line.trim()).filter(Boolean);
    if (lines.length) {
      spec.multi_shot = true;
      spec.shot_type = "CUSTOMIZE";
      spec.multi_prompt = lines.map((line) => {
        const [, seconds, text] = /^(\d+)\s*s?\s*:\s*(.*)$/.exec(line) ?? [null, "0", line];
        return { duration: Number(seconds), prompt: text };
      });
      spec.duration = spec.multi_prompt.reduce((sum, shot) => sum + shot.duration, 0);
      delete spec.prompt;
    }
    const pairs = labels.value.split(",").map((pair) => pair.trim()).filter(Boolean).map((pair) => {
      const at = pair.indexOf("=");
      return at < 0 ? [pair, ""] : [pair.slice(0, at).trim(), pair.slice(at + 1).trim()];
    });
    return { text_to_video: spec, labels: Object.fromEntries(pairs) };
  }

  /** Show what is wrong beside what it is wrong with, and the rest below. */
  function complain(violations) {
    for (const each of element.querySelectorAll(".field .problem")) each.textContent = "";
    for (const each of element.querySelectorAll("[aria-invalid]")) each.removeAttribute("aria-invalid");
    const others = [];
    for (const { field: path, description } of violations) {
      const name = path.replace(/^video_task\./, "").replace(/^text_to_video\./, "").split(/[.[]/)[0];
      const id = { camera_control: "camera", multi_prompt: "shots", multi_shot: "shots", shot_type: "shots" }[name] ?? name;
      const place = element.querySelector(`#${CSS.escape(id)}-error`);
      if (!place) { others.push(`${path}: ${description}`); continue; }
      place.textContent = description;
      element.querySelector(`#${CSS.escape(id)}`).setAttribute("aria-invalid", "true");
    }
    problem.textContent = others.join(" ");
  }

  function ask() {
    clearTimeout(timer);
    timer = setTimeout(quote, TYPING_MS);
  }

  async function quote() {
    asking.abort();
    asking = new AbortController();
    const task = wish();
    // A price is worth knowing before there is a prompt.
    const empty = !task.text_to_video.prompt && !task.text_to_video.multi_shot;
    if (empty) task.text_to_video.prompt = "-";
    try {
      const answer = await api.quote({ video_task: task }, asking.signal);
      complain([]);
      price.textContent = [usd(answer.usd), answer.units && `${plain(answer.units)} units`].filter(Boolean).join(" · ") || "not known";
      price.title = [...(answer.uncertainties ?? []), `${answer.source ?? ""} ${answer.as_of ?? ""}`].join(" ");
    } catch (error) {
      if (error.name === "AbortError") return;
      price.textContent = "–";
      complain(error.violations);
      if (!error.violations.length) problem.textContent = error.message;
    }
  }

  async function submit(event) {
    event.preventDefault();
    send.disabled = true;
    problem.textContent = "";
    const task = wish();
    const body = JSON.stringify(task);
    if (body !== sent) requestId = newId();
    sent = body;
    try {
      const made = await api.create({ video_task: task, request_id: requestId });
      window.dispatchEvent(new Event("spent"));
      go(`/console/tasks/${idOf(made)}`);
    } catch (error) {
      complain(error.violations ?? []);
      if (!error.violations?.length) problem.textContent = error.message;
      element.querySelector("[aria-invalid]")?.focus();
    } finally {
      send.disabled = false;
    }
  }

  const changed = (event) => {
    if (event.target === model) return;
    adapt();
    ask();
  };
  element.replaceChildren(h("h1", {}, "New video"),
    h("form", { className: "panel", onsubmit: submit, oninput: changed },
      field("Prompt", prompt), extras, field("Model", model), note, choices, field("Labels", labels, "key=value, separated by commas."),
      h("div", { className: "row" }, send, h("p", {}, h("label", { htmlFor: "price" }, "Price: "), price)),
      problem));
  model.addEventListener("change", choose);
  choose();
  prompt.focus();
}

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
