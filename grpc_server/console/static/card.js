// One task in the gallery.

import { idOf, videoUrl } from "./api.js";
import { h } from "./dom.js";
import { poster } from "./posters.js";
import { duration, elapsed, isFinal, progress, promptOf, shortTime, stateName, usd, videoOf } from "./words.js";

/** The element of a task; `update(task)` shows it as it is by now, `tick()` lets time pass, `drop()` ends it. */
export function card() {
  let task = null;
  let endPoster = () => {};
  let shown = "";
  const picture = h("div", { className: "picture" });
  const link = h("a", { className: "title" });
  const state = h("span", { className: "state" });
  const facts = h("span", { className: "meta" });
  const bar = h("progress", { max: 1 });
  const remaining = h("span", { className: "meta" });
  const element = h("li", { className: "card" }, picture, h("div", { className: "text" }, link, h("p", {}, state, " ", facts),
    h("p", { className: "progress" }, bar, remaining)));

  function showPicture() {
    const wanted = task && videoOf(task) ? task.name : "";
    if (wanted === shown && picture.firstChild) return;
    shown = wanted;
    endPoster();
    endPoster = () => {};
    if (!wanted) {
      picture.replaceChildren(h("span", { className: "glyph", "aria-hidden": "true" }, task && isFinal(task) ? "–" : "…"));
      return;
    }
    const canvas = h("canvas", { "aria-hidden": "true" });
    const play = h("button", { type: "button", className: "play", "aria-label": `Play: ${promptOf(task).slice(0, 80)}`, onclick: playHere }, "▶");
    picture.replaceChildren(canvas, play);
    endPoster = poster(canvas, videoUrl(task));
  }

  function playHere() {
    endPoster();
    const video = h("video", { controls: true, autoplay: true, playsInline: true, src: videoUrl(task), "aria-label": promptOf(task).slice(0, 80) });
    picture.replaceChildren(video);
    video.focus();
  }

  function tick() {
    if (!task || isFinal(task)) return;
    const at = progress(task);
    remaining.textContent = at ? `${duration(elapsed(task))} · about ${duration(at.left)} left` : duration(elapsed(task));
    if (at) bar.value = at.share;
    else bar.removeAttribute("value");
  }

  function update(next) {
    task = next;
    element.classList.toggle("pending", !task);
    if (!task) {
      link.textContent = "…";
      link.removeAttribute("href");
      return;
    }
    const spec = task.text_to_video ?? {};
    link.textContent = promptOf(task);
    link.title = promptOf(task).slice(0, 300);
    link.href = `/console/tasks/${idOf(task)}`;
    state.textContent = stateName(task.state);
    state.dataset.state = task.state;
    facts.textContent = [spec.model_name, `${spec.duration} s`, usd(task.cost?.quoted_usd)].filter(Boolean).join(" · ");
    element.classList.toggle("final", isFinal(task));
    if (isFinal(task)) remaining.textContent = `${shortTime(task.create_time)} · took ${duration(elapsed(task))}`;
    bar.setAttribute("aria-label", `Progress of ${promptOf(task).slice(0, 60)}`);
    showPicture();
    tick();
  }

  function drop() {
    endPoster();
    const video = picture.querySelector("video");
    if (video) {
      video.removeAttribute("src");
      video.load();
    }
    element.remove();
  }

  return { element, update, tick, drop };
}
