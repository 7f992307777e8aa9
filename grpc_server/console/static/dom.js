// Elements from plain calls. Text is always text: nothing here makes markup of what others have written.

/** An element with properties, attributes (`aria-…`, `data-…`, `for`, …), listeners (`onclick`) and children. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.includes("-") && name !== "list" && name !== "role") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Terms and what they mean, without those that have no meaning. */
export function facts(pairs) {
  const rows = pairs.filter(([, value]) => value !== "" && value !== undefined && value !== null && value !== false);
  return h("dl", { className: "facts" }, rows.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

/** A labelled control; `hint` and errors are tied to it. */
export function field(label, control, hint = "") {
  const hintId = `${control.id}-hint`;
  const errorId = `${control.id}-error`;
  control.setAttribute("aria-describedby", `${hintId} ${errorId}`);
  return h("div", { className: "field" },
    h("label", { htmlFor: control.id }, label), control,
    h("p", { className: "hint", id: hintId }, hint),
    h("p", { className: "problem", id: errorId }));
}

export function select(id, options, value) {
  const element = h("select", { id }, options.map(([key, text]) => h("option", { value: key }, text)));
  if (options.some(([key]) => key === value)) element.value = value;
  return element;
}

let speaking = 0;

/** Tell those who listen; what follows within a moment replaces it. */
export function announce(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => { document.getElementById("announcer").textContent = text; }, 300);
}

/** An error with what can be done about it. */
export function errorBox(error, retry) {
  return h("div", { className: "error", role: "alert" },
    h("strong", {}, error.title === "SERVER_AWAY" ? "The server does not answer" : "That did not work"),
    h("p", {}, error.message),
    retry && h("button", { type: "button", onclick: retry }, "Try again"));
}
