// Owns how a job's batches, and the rows that it has set aside, are shown: which columns and rows, and in which words.

import { count, milliseconds, plural, time } from "./format.js";

/** @import { Batch, Rows } from "./wire.js" */

const SHOWN_COLUMNS = [
  "batch", "generation", "rows_in", "rows_out", "late_rows", "dead_letters", "watermark", "committed_at",
  "milliseconds",
];
const SHOWN_ROWS = 10;

/**
 * The newest batches, the newest first, with the columns that are worth a look.
 *
 * @param {Rows} found
 * @returns {Rows}
 */
export function newestBatches({ columns, rows }) {
  const at = SHOWN_COLUMNS.map((name) => columns.findIndex((column) => column.name === name));
  const kept = at.filter((index) => index >= 0);
  return {
    columns: kept.map((index) => columns[index]),
    rows: rows.slice(-SHOWN_ROWS).reverse().map((row) => kept.map((index) => row[index])),
  };
}

/**
 * A batch in one line.
 *
 * @param {Batch} batch
 * @returns {string}
 */
export function describeBatch(batch) {
  return `batch ${count(batch.batch)}, ${time(batch.committed_at)}: ${plural(batch.rows_in, "row")} read, ` +
    `${count(batch.rows_out)} written, ${milliseconds(batch.milliseconds)}`;
}

/**
 * The sum of a column over batches, with the number of batches.
 *
 * @param {Batch[]} batches
 * @param {"late_rows" | "dead_letters"} name
 * @returns {string}
 */
export function totalOf(batches, name) {
  const sum = batches.reduce((all, batch) => all + Number(batch[name]), 0);
  return `${count(sum)} in ${plural(batches.length, "batch", "batches")}`;
}

/**
 * The rows that a job has set aside without their last column, which has the number of all; and a sentence with it.
 *
 * @param {Rows} found at least one row
 * @param {string} what one of the rows is
 * @returns {{ summary: string, shown: Rows }}
 */
export function setAsideRows({ columns, rows }, what) {
  const total = Number(rows[0].at(-1));
  const all = plural(total, what);
  return {
    summary: rows.length < total ? `The newest ${count(rows.length)} of ${all}.` : `${all}.`,
    shown: { columns: columns.slice(0, -1), rows: rows.map((row) => row.slice(0, -1)) },
  };
}
