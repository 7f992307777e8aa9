// Exchanges a bearer token for a session.

import { api } from "./api.js";
import { h } from "./dom.js";

export function signInPage(element, done) {
  const token = h("input", {
    id: "token", type: "password", autocomplete: "current-password", required: true, "aria-describedby": "token-hint token-error",
  });
  const problem = h("p", { id: "token-error", className: "problem", role: "alert" });
  const submit = async (event) => {
    event.preventDefault();
    problem.textContent = "";
    try {
      await api.signIn(token.value);
    } catch (error) {
      problem.textContent = error.message;
      token.value = "";
      token.focus();
      return;
    }
    done();
  };
  element.replaceChildren(
    h("form", { className: "panel narrow", onsubmit: submit },
      h("h1", {}, "Sign in"),
      h("div", { className: "field" },
        h("label", { htmlFor: "token" }, "Token"), token,
        h("p", { id: "token-hint", className: "hint" },
          "A bearer token of this server's access file. It is exchanged for a session of twelve hours, and not kept."),
        problem),
      h("button", { type: "submit", className: "primary" }, "Sign in")));
  token.focus();
}
