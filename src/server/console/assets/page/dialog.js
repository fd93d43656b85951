// Owns questions before something changes, as dialogs of the browser: the focus stays in them, and Escape closes them.

import { el } from "./dom.js";
import { problem } from "./notices.js";

/**
 * A question. `fields` stand between the text and the buttons; `isReady` says whether the action may be done now; `act`
 * does it: what it throws is shown, and the dialog stays.
 *
 * @template T
 * @typedef {{
 *   title: string, text: string[], fields?: HTMLElement[], action: string, isDangerous?: boolean,
 *   isReady?: () => boolean, act: () => Promise<T>,
 * }} Question
 */

let made = 0;

/**
 * Asks before something is done.
 *
 * @template T
 * @param {Question<T>} question
 * @returns {Promise<T | undefined>} what `act` gave; nothing if the dialog was left
 */
export function confirm(question) {
  const { isReady = () => true, act } = question;
  const { dialog, form, yes, no, failed } = elements(question);
  const before = document.activeElement;
  return new Promise((resolve) => {
    /** @type {T | undefined} */
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
      if (before instanceof HTMLElement && before.isConnected) before.focus();
      resolve(given);
    });
    document.body.append(dialog);
    look();
    dialog.showModal();
    (form.querySelector("input") ?? yes).focus();
  });
}

/**
 * @template T
 * @param {Question<T>} question
 * @returns {{
 *   dialog: HTMLDialogElement, form: HTMLFormElement, failed: HTMLElement,
 *   yes: HTMLButtonElement, no: HTMLButtonElement,
 * }}
 */
function elements({ title, text, fields = [], action, isDangerous = false }) {
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
  return { dialog, form, yes, no, failed };
}
