// Owns the messages of the page: the line at its bottom, and boxes for errors.

import { Refused } from "../pure/answers.js";
import { byId, el } from "./dom.js";

/** Milliseconds for which an announcement is shown. */
const SHOWN = 6_000;
const ERROR_SHOWN = 12_000;

/** @type {ReturnType<typeof setTimeout> | undefined} */
let hiding;

/**
 * Says something to screen readers, where it is seen on the page anyway.
 *
 * @param {string} text
 * @returns {void}
 */
export function tell(text) {
  const status = byId("status", HTMLElement);
  status.classList.remove("shown");
  status.textContent = text;
}

/**
 * Says something to screen readers, and shows it for a while.
 *
 * @param {string} text
 * @param {boolean} isError
 * @returns {void}
 */
export function announce(text, isError = false) {
  tell(text);
  const status = byId("status", HTMLElement);
  status.classList.toggle("error", isError);
  status.classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => status.classList.remove("shown"), isError ? ERROR_SHOWN : SHOWN);
}

/**
 * A box with an error, and what helps.
 *
 * @param {unknown} error
 * @returns {HTMLElement}
 */
export function problem(error) {
  return el("div", { class: "problem", role: "alert" }, ...problemLines(error));
}

/**
 * The lines of such a box.
 *
 * @param {unknown} error
 * @returns {HTMLElement[]}
 */
export function problemLines(error) {
  const lines = [el("p", { class: "message", text: messageOf(error) })];
  if (error instanceof Refused && error.help) lines.push(el("p", { class: "help", text: error.help }));
  return lines;
}

/**
 * The message of something that was thrown.
 *
 * @param {unknown} error
 * @returns {string}
 */
export function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}
