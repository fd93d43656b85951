// Questions before something changes, and the login. The browser's own dialogs: they keep the focus, and Escape closes them.

import { post } from "./api.js";
import { el, problem } from "./dom.js";

let made = 0;

/**
 * Asks before something is done. `fields` stand between the text and the buttons; `isReady` says whether it may be done;
 * `act` does it, and what it throws is shown. Resolves to what `act` gave, or nothing.
 */
export function confirm({ title, text, fields = [], action, isDangerous = false, isReady = () => true, act }) {
  const id = `dialog-${++made}`;
  const failed = el("div", {});
  const yes = el("button", { type: "submit", class: isDangerous ? "danger" : "primary", text: action });
  const no = el("button", { type: "button", text: "Cancel" });
  const form = el("form", {},
    el("h2", { id: `${id}-title`, text: title }),
    el("div", { id: `${id}-text` }, ...text.map((line) => el("p", { text: line }))),
    ...fields, failed,
    el("div", { class: "buttons" }, no, yes));
  const dialog = el("dialog", { "aria-labelledby": `${id}-title`, "aria-describedby": `${id}-text` }, form);
  const before = document.activeElement;
  return new Promise((resolve) => {
    let given;
    let isBusy = false;
    const look = () => { yes.disabled = isBusy || !isReady(); };
    form.addEventListener("input", look);
    no.addEventListener("click", () => dialog.close());
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (isBusy || !isReady()) return;
      isBusy = true;
      look();
      yes.setAttribute("aria-busy", "true");
      failed.replaceChildren();
      try {
        given = await act();
        dialog.close();
      } catch (error) {
        failed.replaceChildren(problem(error));
      }
      isBusy = false;
      yes.removeAttribute("aria-busy");
      look();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (before?.isConnected) before.focus();
      resolve(given);
    });
    document.body.append(dialog);
    look();
    dialog.showModal();
    (form.querySelector("input") ?? yes).focus();
  });
}

let asking = null;

/** Asks for a name and a password until they are right; all who wait for it wait for the same. */
export function logIn() {
  asking ??= askLogin().finally(() => { asking = null; });
  return asking;
}

async function askLogin() {
  const user = el("input", { id: "login-user", name: "username", autocomplete: "username", required: true });
  const password = el("input", { id: "login-password", name: "password", type: "password", autocomplete: "current-password" });
  let isIn = false;
  while (!isIn) {
    await confirm({
      title: "Log in",
      text: ["This server knows its users."],
      fields: [
        el("label", { for: "login-user", text: "User" }), user,
        el("label", { for: "login-password", text: "Password" }), password,
      ],
      action: "Log in",
      isReady: () => user.value !== "",
      act: async () => {
        await post("/login", { user: user.value, password: password.value });
        password.value = "";
        isIn = true;
      },
    });
  }
}
