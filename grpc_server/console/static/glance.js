// Budget and places at the provider, beside everything else.

import { api } from "./api.js";
import { h } from "./dom.js";
import { plain, usd } from "./words.js";

const EVERY_MS = 20_000;
// Events can come by the hundred.
const SOON_MS = 2_000;
const PERIODS = { DAY: "today", MONTH: "this month", TOTAL: "in all" };

export function glance(element) {
  let ended = false;
  const read = async () => {
    if (document.hidden || ended) return;
    try {
      const { budgets = [], slots = [] } = await api.account();
      if (!ended) element.replaceChildren(...budgets.map(budget), ...slots.map(slot));
    } catch {
      // What is shown stays; the page itself tells that the server is away.
    }
  };
  let soon = 0;
  const readSoon = () => { soon ||= setTimeout(() => { soon = 0; read(); }, SOON_MS); };
  read();
  const timer = setInterval(read, EVERY_MS);
  window.addEventListener("spent", readSoon);
  document.addEventListener("visibilitychange", read);
  return () => {
    ended = true;
    clearInterval(timer);
    clearTimeout(soon);
    window.removeEventListener("spent", readSoon);
    document.removeEventListener("visibilitychange", read);
  };
}

function budget(each) {
  const inDollars = Boolean(each.limit_usd);
  const limit = Number(inDollars ? each.limit_usd : each.limit_units);
  const used = inDollars
    ? Number(each.reserved_usd) + Number(each.settled_usd)
    : Number(each.reserved_units) + Number(each.settled_units);
  const amount = (number) => (inDollars ? usd(String(number)) : `${plain(String(number))} units`);
  const text = `${amount(used)} of ${amount(limit)} ${PERIODS[each.period] ?? ""}`;
  const label = each.tenant === "*" ? "Budget of all" : "Budget";
  return h("div", { className: "gauge" }, h("span", {}, `${label}: ${text}`),
    h("meter", { min: 0, max: limit || 1, high: limit * 0.8, optimum: 0, value: limit ? used : 1, "aria-label": `${label}: ${text}` }));
}

function slot(each) {
  const free = each.free === null ? "" : `, ${each.free} free`;
  return h("div", { className: "gauge" }, h("span", {}, `${each.model_name}: ${each.yours} of yours at the provider${free}`));
}
