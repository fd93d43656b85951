// Owns the badge of a job: its state as a word with a colour.

import { el, setAttribute, setText } from "./dom.js";

/**
 * @param {string} state
 * @returns {HTMLElement}
 */
export function badge(state) {
  const made = el("span", { class: "badge" });
  setBadge(made, state);
  return made;
}

/**
 * Changes the state that a badge shows; an empty one hides it.
 *
 * @param {Element} of
 * @param {string} state
 * @returns {void}
 */
export function setBadge(of, state) {
  setText(of, state);
  setAttribute(of, "data-state", state);
}
