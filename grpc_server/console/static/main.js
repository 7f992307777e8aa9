// Which page is shown. Pages are functions: they fill an element and return what ends them.

import { api } from "./api.js";
import { createPage } from "./create.js";
import { detailPage } from "./detail.js";
import { errorBox, h } from "./dom.js";
import { galleryPage } from "./gallery.js";
import { glance } from "./glance.js";
import { signInPage } from "./signin.js";

const main = document.getElementById("main");
let session = null;
let leave = () => {};
let endGlance = () => {};

const PAGES = [
  [/^\/console\/?$/, "Videos", (element) => galleryPage(element)],
  [/^\/console\/new$/, "New video", (element) => createPage(element, go)],
  [/^\/console\/tasks\/([^/]+)$/, "Video", (element, id) => detailPage(element, decodeURIComponent(id), session)],
];

/** Show the page at an address. */
export function go(address) {
  history.pushState(null, "", address);
  window.scrollTo(0, 0);
  show(true);
}

function show(moved) {
  leave();
  leave = () => {};
  main.replaceChildren();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.pathname === location.pathname) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const [path, title, page] of PAGES) {
    const match = path.exec(location.pathname);
    if (!match) continue;
    document.title = `${title} · kling-flows`;
    leave = page(main, ...match.slice(1)) ?? leave;
    // Whoever listens hears where the link has led.
    if (moved) main.focus({ preventScroll: true });
    return;
  }
  main.append(h("h1", {}, "There is no such page"), h("p", {}, h("a", { href: "/console/" }, "All videos")));
}

function signOut() {
  endGlance();
  leave();
  leave = () => {};
  session = null;
  document.getElementById("who").replaceChildren();
  document.getElementById("glance").replaceChildren();
  document.title = "Sign in · kling-flows";
  signInPage(main, start);
}

async function start() {
  try {
    session = await api.session();
  } catch (error) {
    if (error.status === 401) signOut();
    else main.replaceChildren(errorBox(error, start));
    return;
  }
  const who = [h("span", { title: "Whose videos these are" }, "Tenant ", h("strong", {}, session.tenant))];
  if (session.signed_in) {
    const leaving = async () => { await api.signOut(); signOut(); };
    who.push(h("button", { type: "button", className: "quiet", onclick: leaving }, `Sign out ${session.name}`));
  }
  document.getElementById("who").replaceChildren(...who);
  endGlance();
  endGlance = glance(document.getElementById("glance"));
  show(false);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  const plainClick = event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
  if (!link || !plainClick || link.target || link.origin !== location.origin || link.hash || link.hasAttribute("download")) return;
  if (!session || !link.pathname.startsWith("/console/") || link.pathname.startsWith("/console/api/")) return;
  event.preventDefault();
  go(link.href);
});
window.addEventListener("popstate", () => session && show(true));
window.addEventListener("signed-out", () => session && signOut());
// A page in the browser's cache must not hold a connection.
window.addEventListener("pagehide", () => { leave(); leave = () => {}; });
window.addEventListener("pageshow", (event) => event.persisted && session && show(false));

start();
