// Owns the login: asks for a name and a password until the server accepts them.

import { post } from "../server/api.js";
import { confirm } from "./dialog.js";
import { el } from "./dom.js";

/** @type {Promise<void> | null} */
let asking = null;

/**
 * Asks the user to log in. Requests that need it at the same time wait for the same dialog.
 *
 * @returns {Promise<void>}
 */
export function logIn() {
  asking ??= askLogin().finally(() => { asking = null; });
  return asking;
}

/** @returns {Promise<void>} */
async function askLogin() {
  const user = el("input", { id: "login-user", name: "username", autocomplete: "username", required: true });
  const password = el("input", {
    id: "login-password", name: "password", type: "password", autocomplete: "current-password",
  });
  let isIn = false;
  while (!isIn) {
    await confirm({
      title: "Log in",
      text: ["This server requires a login."],
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
