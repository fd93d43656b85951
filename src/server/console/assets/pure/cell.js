// Owns how a value of a result becomes text.

import { time } from "./format.js";

/** @import { Value } from "./wire.js" */

/**
 * A value of a column of the SQL type `type`.
 *
 * @param {Value} value
 * @param {string} type
 * @returns {string}
 */
export function cell(value, type) {
  if (value === null) return "NULL";
  if (typeof value === "object") return JSON.stringify(value);
  if (type.startsWith("TIMESTAMP") && typeof value === "string") return time(value);
  return String(value);
}

/**
 * Bytes, which come as hexadecimal digits, as the text that they encode; as they came if they are not text.
 *
 * @param {Value} hex
 * @returns {Value}
 */
export function bytes(hex) {
  if (typeof hex !== "string" || hex === "") return hex;
  const all = Uint8Array.from(hex.match(/../g) ?? [], (digits) => parseInt(digits, 16));
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(all);
    return hasControls(text) ? hex : text;
  } catch {
    return hex;
  }
}

/**
 * Whether a text has control characters other than white space.
 *
 * @param {string} text
 * @returns {boolean}
 */
function hasControls(text) {
  return [...text].some((character) => character < "\t" || (character > "\r" && character < " "));
}
