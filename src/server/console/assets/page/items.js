// Owns facts with names, as DESCRIBE and EXPLAIN give them: rows of two columns.

import { cell } from "../pure/cell.js";
import { el } from "./dom.js";

/** @import { Rows } from "../pure/wire.js" */

/**
 * The rows of a result as names and values. Of more than two columns the last one is the value.
 *
 * @param {Rows} result
 * @returns {HTMLElement}
 */
export function items({ columns, rows }) {
  const last = columns.length - 1;
  return el("dl", { class: "items" }, ...rows.flatMap((row) => [
    el("dt", { text: cell(row[0], columns[0].type) }),
    el("dd", { text: last > 0 ? cell(row[last], columns[last].type) : "" }),
  ]));
}
