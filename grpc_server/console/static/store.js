// The tasks of the gallery, in pages of the server's list. Pages that are far away are forgotten and read again when
// somebody comes back, so that ten thousand tasks take no more memory than a few hundred.

import { api } from "./api.js";

const PAGE_SIZE = 60;
const KEPT_AROUND = 4;
// A first page that new tasks have made so long is read again; it is the only one that grows.
const MOST_NEW = 600;

export class Store {
  /** `changed` is called after every change, `failed` with what went wrong with a page. */
  constructor(fields, changed, failed) {
    this.fields = fields;
    this.changed = changed;
    this.failed = failed;
    this.pages = [];
    this.next = "";
    this.complete = false;
    this.loading = false;
    // New tasks that are not shown yet.
    this.held = new Set();
    this.controller = new AbortController();
  }

  get length() {
    return this.pages.reduce((sum, page) => sum + page.count, 0);
  }

  /** Read the first page; returns where to follow from. */
  async begin() {
    const page = await this.#read("");
    this.pages = [{ token: "", count: page.tasks.length, tasks: page.tasks, loading: false }];
    this.#end(page.next);
    this.changed();
    return page.resumeToken;
  }

  end() {
    this.controller.abort();
  }

  /** Read one page more, if there is one. */
  async more() {
    if (this.loading || this.complete) return;
    this.loading = true;
    try {
      const token = this.next;
      const page = await this.#read(token);
      this.pages.push({ token, count: page.tasks.length, tasks: page.tasks, loading: false });
      this.#end(page.next);
    } catch (error) {
      this.#fail(error);
      return;
    } finally {
      this.loading = false;
    }
    this.changed();
  }

  /** Tasks from index `first` to before `beyond`; null for those that are being read again. */
  range(first, beyond) {
    const found = [];
    const near = new Set([0]);
    let start = 0;
    this.pages.forEach((page, number) => {
      const end = start + page.count;
      if (start < beyond && end > first) {
        for (let n = number - KEPT_AROUND; n <= number + KEPT_AROUND; n++) near.add(n);
        for (let index = Math.max(first, start); index < Math.min(beyond, end); index++) {
          found.push(page.tasks ? page.tasks[index - start] : null);
        }
        if (!page.tasks) this.#restore(page);
      }
      start = end;
    });
    this.pages.forEach((page, number) => { if (!near.has(number) && !page.loading) page.tasks = null; });
    return found;
  }

  /**
   * Take in what has happened to a task; returns "new", "changed" or "" if it concerns nothing that is here.
   *
   * With `hold`, what would come before everything else is only counted: it would move what somebody is reading.
   */
  put(task, hold) {
    const fits = !this.fields.state || this.fields.state === task.state;
    for (const page of this.pages) {
      const index = page.tasks ? page.tasks.findIndex((each) => each.name === task.name) : -1;
      if (index < 0) continue;
      if (Number(page.tasks[index].revision) >= Number(task.revision)) return "";
      page.tasks.splice(index, 1, ...(fits ? [task] : []));
      page.count = page.tasks.length;
      return "changed";
    }
    return fits && this.#insert(task, hold) ? "new" : "";
  }

  get overgrown() {
    return this.pages.length > 0 && this.pages[0].count > MOST_NEW;
  }

  #insert(task, hold) {
    for (const [number, page] of this.pages.entries()) {
      if (!page.tasks) continue;
      const index = page.tasks.findIndex((each) => each.create_time < task.create_time);
      const isEnd = this.complete && number === this.pages.length - 1;
      if (index < 0 && !isEnd) continue;
      if (hold && number === 0 && index === 0) {
        this.held.add(task.name);
        return false;
      }
      // Before the first of a page that stands behind one that was forgotten nobody knows the place.
      if (index === 0 && number > 0 && !this.pages[number - 1].tasks) return false;
      page.tasks.splice(index < 0 ? page.tasks.length : index, 0, task);
      page.count = page.tasks.length;
      return true;
    }
    return false;
  }

  async #restore(page) {
    if (page.loading) return;
    page.loading = true;
    try {
      const { tasks } = await this.#read(page.token);
      page.tasks = tasks;
      page.count = tasks.length;
    } catch (error) {
      this.#fail(error);
      return;
    } finally {
      page.loading = false;
    }
    this.changed();
  }

  async #read(token) {
    const { filter, text } = this.fields;
    const answer = await api.list({ filter, text, page_size: PAGE_SIZE, page_token: token }, this.controller.signal);
    return { tasks: (answer.video_tasks ?? []).map(slim), next: answer.next_page_token ?? "", resumeToken: answer.resume_token };
  }

  #end(next) {
    this.next = next;
    this.complete = !next;
  }

  #fail(error) {
    if (error.name !== "AbortError") this.failed(error);
  }
}

/** As much of a task as the gallery shows. */
export function slim(task) {
  const { name, state, revision, create_time, end_time, typical_duration, cost, artifacts, upstream } = task;
  const { prompt = "", multi_prompt, model_name, duration } = task.text_to_video ?? {};
  return {
    name, state, revision, create_time, end_time, typical_duration, cost, artifacts,
    upstream: upstream && { submit_time: upstream.submit_time },
    text_to_video: { prompt: prompt.slice(0, 300), multi_prompt, model_name, duration },
  };
}
