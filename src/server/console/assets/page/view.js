// Owns the shape of a view, which fills the main element and can be refreshed, and of its closed parts.

import { el } from "./dom.js";

/**
 * `refresh` reads what the view shows from the server; it fails if the server does not answer.
 *
 * @typedef {{ refresh: () => Promise<unknown> }} View
 */

/**
 * A part of a view that can be opened and closed.
 *
 * @param {string} title
 * @param {...Node} children
 * @returns {HTMLDetailsElement}
 */
export function closedPart(title, ...children) {
  return el("details", { class: "part" }, el("summary", {}, el("h2", { text: title })), ...children);
}
