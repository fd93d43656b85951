// Owns a result as a table.

import { bytes, cell } from "../pure/cell.js";
import { el } from "./dom.js";

/** @import { Column, Rows, Value } from "../pure/wire.js" */

/** Longer cells are shown whole only when they are opened. */
const LONG = 200;

/**
 * A table of rows, which scrolls by itself.
 *
 * @param {Rows} result
 * @param {{ label: string, showsBytes?: boolean, hasTypes?: boolean }} options `label` is for screen readers;
 *   `showsBytes` shows bytes that are text as such; `hasTypes` writes the types below the names
 * @returns {HTMLElement}
 */
export function resultTable({ columns, rows }, { label, showsBytes = false, hasTypes = true }) {
  const head = columns.map((column) =>
    el("th", { scope: "col", class: column.is_number ? "number" : null },
      el("span", { class: "name", text: column.name }),
      hasTypes ? el("span", { class: "type", text: column.type }) : null));
  const body = rows.map((row) => tableRow(row, columns, showsBytes));
  return el("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" },
    el("table", { class: "grid" },
      el("thead", {}, el("tr", {}, ...head)),
      el("tbody", {}, ...body)));
}

/**
 * A row of such a table.
 *
 * @param {Value[]} row
 * @param {Column[]} columns
 * @param {boolean} showsBytes
 * @returns {HTMLTableRowElement}
 */
export function tableRow(row, columns, showsBytes = false) {
  return el("tr", {}, ...row.map((value, at) => dataCell(value, columns[at], showsBytes)));
}

/**
 * @param {Value} value
 * @param {Column} column
 * @param {boolean} showsBytes
 * @returns {HTMLElement}
 */
function dataCell(value, column, showsBytes) {
  if (value === null) return el("td", { class: "null", text: "NULL" });
  const shown = showsBytes && column.type === "BINARY" ? bytes(value) : value;
  const text = cell(shown, column.type);
  const kind = column.is_number ? "number" : null;
  if (text.length <= LONG) return el("td", { class: kind, text });
  const whole = el("details", { class: "long" }, el("summary", { text: `${text.slice(0, LONG)}…` }));
  whole.addEventListener("toggle", () => {
    if (whole.open && whole.children.length === 1) whole.append(el("pre", { text }));
  });
  return el("td", { class: kind }, whole);
}
