// Owns the places of errors: from lines and characters in a statement to offsets in the text of the editor.

/** @import { Place } from "./wire.js" */

/**
 * A part of a text. `start` and `end` are offsets; `line` and `column` are those of its start, from 1.
 *
 * @typedef {{ start: number, end: number, line: number, column: number }} Part
 */

/**
 * The offset of a place in a text, in UTF-16 units as the editor counts them.
 *
 * @param {string} text
 * @param {Place} place
 * @returns {number}
 */
export function offset(text, { line, column }) {
  const lines = text.split("\n");
  const before = lines.slice(0, line - 1).reduce((all, one) => all + one.length + 1, 0);
  return before + [...(lines[line - 1] ?? "")].slice(0, column - 1).join("").length;
}

/**
 * The wrong part of `text`, of which `sql`, found at the offset `at`, was run. It has at least one character.
 *
 * @param {string} text
 * @param {string} sql
 * @param {number} at
 * @param {Place} from
 * @param {Place | null} to
 * @returns {Part}
 */
export function wrongPart(text, sql, at, from, to) {
  const first = offset(sql, from);
  const behind = Math.max(to ? offset(sql, to) : 0, first + 1);
  const [start, end] = [first + at, behind + at];
  const before = text.slice(0, start).split("\n");
  return { start, end, line: before.length, column: [...(before.at(-1) ?? "")].length + 1 };
}

/**
 * The line that a part begins in, with marks below its characters. Tabs stay, so that the marks are in the right place.
 *
 * @param {string} text
 * @param {Part} part
 * @returns {string}
 */
export function excerpt(text, { start, end, line }) {
  const before = text.slice(0, start).split("\n").at(-1) ?? "";
  const wide = Math.max(1, [...text.slice(start, end).split("\n")[0]].length);
  const pad = [...before].map((character) => (character === "\t" ? "\t" : " ")).join("");
  return `${text.split("\n")[line - 1]}\n${pad}${"^".repeat(wide)}`;
}
