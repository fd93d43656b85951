// Owns the summary of a result, and the choice of the columns that its chart begins with.

import { plural } from "./format.js";
import { isTime } from "./points.js";

/** @import { Answer, Column } from "./wire.js" */

/**
 * Whether a result is no table but lines that say what was done.
 *
 * @param {Answer} answer
 * @returns {boolean}
 */
export function isStatus({ columns, has_changed }) {
  return has_changed && columns.length === 1 && columns[0].name === "status";
}

/**
 * How many rows were written or are shown.
 *
 * @param {Answer} answer
 * @returns {string}
 */
export function describeRows({ rows, is_cut, rows_written }) {
  const all = rows_written !== null ? `${plural(rows_written, "row")} written` : plural(rows.length, "row");
  return is_cut ? `the first ${all}, there are more` : all;
}

/**
 * The numbers of the columns that a chart begins with: y is the first one with numbers that is not the first of all, if
 * there is one; x is the first other one. A line is drawn over numbers and times, bars over the rest.
 *
 * @param {Column[]} columns
 * @returns {{ x: number, y: number, isLine: boolean } | null} null if no column has numbers
 */
export function firstChart(columns) {
  const numbers = columns.flatMap((column, at) => (column.is_number ? [at] : []));
  if (numbers.length === 0) return null;
  const y = numbers.find((at) => at !== 0) ?? numbers[0];
  const x = y === 0 && columns.length > 1 ? 1 : 0;
  return { x, y, isLine: columns[x].is_number || isTime(columns[x]) };
}
