// Owns the view of a statement that failed: the message, the place in the text, and the help.

import { el } from "../page/dom.js";
import { problemLines } from "../page/notices.js";
import { excerpt } from "../pure/place.js";

/** @import { Part } from "../pure/place.js" */

/**
 * @param {unknown} error
 * @param {string} text of the editor
 * @param {Part | null} part the wrong part of it
 * @param {(part: Part) => void} mark shows it in the editor
 * @returns {HTMLElement}
 */
export function errorView(error, text, part, mark) {
  const [message, ...help] = problemLines(error);
  const box = el("div", { class: "problem", role: "alert" }, message);
  if (part) {
    const where = `line ${part.line}, column ${part.column}`;
    box.append(
      el("pre", { class: "place", text: excerpt(text, part) }),
      el("p", {}, el("button", { type: "button", class: "link", text: where, on: { click: () => mark(part) } })));
  }
  box.append(...help);
  return box;
}
