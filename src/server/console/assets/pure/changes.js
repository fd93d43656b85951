// Owns the changes of a run side by side: which fields of a published row and of the computed one differ.

import { time } from "./format.js";

/** @import { Rows, Value } from "./wire.js" */

/** @typedef {{ name: string, value: Value, differs: boolean }} FieldValue */
/**
 * A row that differs. A side is null where there is no such row.
 *
 * @typedef {{
 *   kind: string, chunk: string, range: string, key: string, window: string,
 *   before: FieldValue[] | null, after: FieldValue[] | null,
 * }} Change
 */

/**
 * The changes that `system.run_changes` has, with the number of all of this kind.
 *
 * @param {Rows} found with the number of all in the column `total`
 * @returns {{ changes: Change[], total: number }}
 */
export function changesOf({ columns, rows }) {
  const at = (/** @type {string} */ name) => columns.findIndex((column) => column.name === name);
  const [kind, chunk, range, key, start, end, before, after, total] =
    ["kind", "chunk", "range", "key", "window_start", "window_end", "before", "after", "total"].map(at);
  const changes = rows.map((row) => {
    const [left, right] = [fields(row[before]), fields(row[after])];
    return {
      kind: String(row[kind]), chunk: String(row[chunk] ?? ""), range: String(row[range] ?? ""),
      key: keyText(row[key]), window: windowText(row[start], row[end]), before: marked(left, right),
      after: marked(right, left),
    };
  });
  return { changes, total: rows.length > 0 ? Number(rows[0][total]) : 0 };
}

/**
 * @param {Value} start
 * @param {Value} end
 * @returns {string} empty without a window
 */
function windowText(start, end) {
  return typeof start === "string" && typeof end === "string" ? `${time(start)} to ${time(end)}` : "";
}

/**
 * A key in one line: the values of its fields with their names.
 *
 * @param {Value} key
 * @returns {string}
 */
export function keyText(key) {
  const all = fields(key);
  if (all === null) return key === null || key === undefined ? "–" : String(key);
  return [...all].map(([name, value]) => `${name} ${valueText(value)}`).join(", ");
}

/**
 * A value of a row in JSON as text.
 *
 * @param {Value} value
 * @returns {string}
 */
export function valueText(value) {
  if (value === null || value === undefined) return "NULL";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/**
 * The fields of a row, which is JSON; null if it is no row.
 *
 * @param {Value} row
 * @returns {Map<string, Value> | null}
 */
function fields(row) {
  let of = row;
  if (typeof row === "string") {
    try {
      of = JSON.parse(exact(row));
    } catch {
      return null;
    }
  }
  return typeof of === "object" && of !== null && !Array.isArray(of) ? new Map(Object.entries(of)) : null;
}

/**
 * JSON in which integers that a number cannot hold are texts.
 *
 * @param {string} json
 * @returns {string}
 */
function exact(json) {
  return json.replace(/"(?:\\.|[^"\\])*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g, (found) =>
    /^-?\d+$/.test(found) && !Number.isSafeInteger(Number(found)) ? `"${found}"` : found);
}

/**
 * @param {Map<string, Value> | null} own
 * @param {Map<string, Value> | null} other
 * @returns {FieldValue[] | null}
 */
function marked(own, other) {
  if (own === null) return null;
  return [...own].map(([name, value]) => ({
    name, value, differs: other !== null && JSON.stringify(other.get(name) ?? null) !== JSON.stringify(value ?? null),
  }));
}
