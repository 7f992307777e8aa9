// All videos: filters, and a grid that holds only the cards that can be seen.

import { api, follow } from "./api.js";
import { card } from "./card.js";
import { announce, errorBox, field, h, select } from "./dom.js";
import { Store, slim } from "./store.js";
import { STATES, promptOf, stateName } from "./words.js";

const GAP = 16;
const LEAST_WIDTH = 250;
const TEXT_HEIGHT = 118;
const ROWS_AROUND = 2;
const TYPING_MS = 300;
// Somebody who has scrolled further is reading.
const TOP = 200;

export function galleryPage(element) {
  const asked = new URLSearchParams(location.search);
  const controls = filters(asked, () => { remember(controls); restart(); });
  const live = h("span", { className: "live", role: "status" });
  const count = h("span", { className: "meta" });
  const fresh = h("button", { type: "button", className: "fresh primary", hidden: true, onclick: () => window.scrollTo(0, 0) });
  const grid = h("ul", { className: "grid", "aria-label": "Videos" });
  const note = h("div", {});
  element.append(
    h("div", { className: "row" }, h("h1", {}, "Videos"), count, live, fresh, h("a", { className: "button primary", href: "/console/new" }, "New video")),
    controls.element, grid, note);

  let store = null;
  let unfollow = () => {};
  let frame = 0;
  const cards = new Map();

  const schedule = () => { frame ||= requestAnimationFrame(render); };

  async function restart() {
    unfollow();
    store?.end();
    for (const each of cards.values()) each.drop();
    cards.clear();
    note.replaceChildren(h("p", { className: "empty", role: "status" }, "Loading…"));
    const fields = controls.fields();
    const mine = new Store(fields, schedule, (error) => note.replaceChildren(errorBox(error, retry)));
    store = mine;
    let token;
    try {
      token = await mine.begin();
    } catch (error) {
      if (error.name !== "AbortError" && store === mine) note.replaceChildren(errorBox(error, restart));
      return;
    }
    if (store !== mine) return;
    unfollow = follow({ filter: fields.filter, text: fields.text }, token, { onTasks: takeIn, onLive: showLive, onLost: restart });
  }

  function retry() {
    note.replaceChildren();
    schedule();
  }

  function takeIn(tasks) {
    let added = 0;
    let spent = false;
    const reading = window.scrollY > TOP;
    for (const task of tasks) {
      const known = store.put(slim(task), reading);
      if (known === "new") added += 1;
      spent ||= known !== "";
      if (known === "changed" && task.end_time) announce(`${stateName(task.state)}: ${promptOf(task).slice(0, 80)}`);
    }
    if (added) announce(added === 1 ? "A new video task" : `${added} new video tasks`);
    if (spent) window.dispatchEvent(new Event("spent"));
    if (store.overgrown && !reading) restart();
    else schedule();
  }

  function showLive(isLive) {
    live.dataset.live = isLive;
    const text = isLive ? "Live" : "Reconnecting…";
    if (live.textContent !== text) live.textContent = text;
  }

  function render() {
    frame = 0;
    if (!store?.pages.length) return;
    if (store.held.size && window.scrollY <= TOP) {
      restart();
      return;
    }
    const width = grid.clientWidth;
    const columns = Math.max(1, Math.floor((width + GAP) / (LEAST_WIDTH + GAP)));
    const cardWidth = (width - GAP * (columns - 1)) / columns;
    const rowHeight = Math.round((cardWidth * 9) / 16) + TEXT_HEIGHT + GAP;
    const total = store.length;
    grid.style.height = `${Math.ceil(total / columns) * rowHeight}px`;
    const above = Math.max(0, window.scrollY - grid.offsetTop);
    const firstRow = Math.max(0, Math.floor(above / rowHeight) - ROWS_AROUND);
    const beyondRow = Math.ceil((above + window.innerHeight) / rowHeight) + ROWS_AROUND;
    const first = firstRow * columns;
    const tasks = store.range(first, Math.min(total, beyondRow * columns));

    const seen = new Set();
    tasks.forEach((task, offset) => {
      const index = first + offset;
      const key = task ? task.name : `place ${index}`;
      seen.add(key);
      if (!cards.has(key)) cards.set(key, card());
      const each = cards.get(key);
      if (each.task !== task || !task) each.update(task);
      each.task = task;
      const { style } = each.element;
      style.width = `${cardWidth}px`;
      style.height = `${rowHeight - GAP}px`;
      style.transform = `translate(${(index % columns) * (cardWidth + GAP)}px, ${Math.floor(index / columns) * rowHeight}px)`;
      each.element.setAttribute("aria-posinset", index + 1);
      each.element.setAttribute("aria-setsize", store.complete ? total : -1);
      // The order for the keyboard is the order on the screen; what has the focus is not moved for it.
      const place = grid.children[offset];
      if (place !== each.element && !each.element.contains(document.activeElement)) grid.insertBefore(each.element, place ?? null);
    });
    for (const [key, each] of cards) {
      if (seen.has(key) || each.element.contains(document.activeElement)) continue;
      each.drop();
      cards.delete(key);
    }
    fresh.hidden = !store.held.size;
    fresh.textContent = `${store.held.size} new`;
    count.textContent = total ? `${total}${store.complete ? "" : "+"}` : "";
    if (!note.querySelector(".error")) note.replaceChildren(...footer(total));
    if (beyondRow * columns >= total && !note.querySelector(".error")) store.more();
  }

  function footer(total) {
    if (!store.complete) return [h("p", { className: "empty", role: "status" }, store.fields.text ? "Searching further…" : "Loading more…")];
    if (total) return [];
    const filtered = store.fields.filter || store.fields.text;
    return [h("div", { className: "empty" },
      h("p", {}, filtered ? "Nothing matches these filters." : "There are no videos yet."),
      filtered ? h("button", { type: "button", onclick: () => { controls.clear(); remember(controls); restart(); } }, "Clear the filters")
        : h("a", { className: "button primary", href: "/console/new" }, "Make the first one"))];
  }

  const clock = setInterval(() => { for (const each of cards.values()) each.tick(); }, 1000);
  const resized = new ResizeObserver(schedule);
  resized.observe(grid);
  window.addEventListener("scroll", schedule, { passive: true });
  restart();

  return () => {
    unfollow();
    store?.end();
    store = null;
    cancelAnimationFrame(frame);
    clearInterval(clock);
    resized.disconnect();
    window.removeEventListener("scroll", schedule);
    for (const each of cards.values()) each.drop();
  };
}

function remember(controls) {
  history.replaceState(null, "", `${location.pathname}${controls.query()}`);
}

function filters(asked, changed) {
  const state = select("state", [["", "Any state"], ...Object.entries(STATES).map(([key, [name]]) => [key, name])], asked.get("state"));
  const model = select("model", [["", "Any model"]], "");
  const label = h("input", { id: "label", placeholder: "team=ads", value: asked.get("label") ?? "", autocomplete: "off" });
  const text = h("input", { id: "text", type: "search", placeholder: "Words of the prompt", value: asked.get("text") ?? "" });
  const wantedModel = asked.get("model") ?? "";
  if (wantedModel) model.append(h("option", { value: wantedModel, selected: true }, wantedModel));
  api.models(true).then(({ models = [] }) => {
    for (const { model_name: name } of models) if (name !== wantedModel) model.append(h("option", { value: name }, name));
  }).catch(() => {});

  let typing = 0;
  const later = () => { clearTimeout(typing); typing = setTimeout(changed, TYPING_MS); };
  for (const input of [text, label]) input.addEventListener("input", later);
  for (const choice of [state, model]) choice.addEventListener("change", changed);

  const labelParts = () => /^\s*(?:labels\.)?([a-z][a-z0-9_.-]{0,62})\s*=\s*(.+?)\s*$/.exec(label.value);
  const quoted = (value) => `"${value.replace(/[\\"]/g, "\\$&")}"`;
  const bar = h("form", { className: "filters", role: "search", "aria-label": "Filters", onsubmit: (event) => { event.preventDefault(); changed(); } },
    field("Search", text), field("State", state), field("Model", model), field("Label", label, "key=value"));

  return {
    element: bar,
    fields() {
      const parts = labelParts();
      label.setAttribute("aria-invalid", Boolean(label.value.trim() && !parts));
      bar.querySelector("#label-error").textContent = label.value.trim() && !parts ? "Write it as key=value." : "";
      const conditions = [
        state.value && `state = ${state.value}`,
        model.value && `model_name = ${quoted(model.value)}`,
        parts && `labels.${parts[1]} = ${quoted(parts[2])}`,
      ].filter(Boolean);
      return { filter: conditions.join(" AND "), text: text.value.trim(), state: state.value };
    },
    query() {
      const given = Object.entries({ text: text.value, state: state.value, model: model.value, label: label.value }).filter(([, value]) => value.trim());
      return given.length ? `?${new URLSearchParams(given)}` : "";
    },
    clear() {
      for (const control of [text, state, model, label]) control.value = "";
    },
  };
}
