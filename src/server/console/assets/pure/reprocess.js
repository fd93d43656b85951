// Owns the statements that reprocess a part of a job's past, made from the fields of a form.

import { instant } from "./instants.js";
import { literal, quoted } from "./statement.js";

/** @import { Rows } from "./wire.js" */

/**
 * The fields of the form. Those that are empty are left out of the statement.
 *
 * @typedef {{
 *   job: string, from: string, to: string, offsetsFrom: string, offsetsTo: string, rows: string, emit: string,
 *   run_id: string, late: string, withdraw: boolean, overwrite: boolean, append: boolean, chunk: string,
 *   max_rows_per_second: string, waits: boolean,
 * }} Order
 */

const EXAMPLE = "2025-09-04T10:00:00";

/** A form without entries. */
export const EMPTY_ORDER = /** @type {Order} */ ({
  job: "", from: "", to: "", offsetsFrom: "", offsetsTo: "", rows: "", emit: "", run_id: "", late: "", withdraw: false,
  overwrite: false, append: false, chunk: "", max_rows_per_second: "", waits: true,
});

/**
 * The statement, or the entry that it lacks.
 *
 * @param {Order} order
 * @param {"PLAN" | "EXPLAIN" | ""} verb
 * @returns {{ sql: string, missing: null } | { sql: null, missing: string }}
 */
export function reprocessStatement(order, verb) {
  const missing = missingIn(order);
  if (missing !== null) return { sql: null, missing };
  const lines = [`${verb} REPROCESS JOB ${quoted(order.job)}`.trim()];
  if (order.from.trim() !== "") lines.push(`FROM ${literal(order.from.trim())} TO ${literal(order.to.trim())}`);
  if (order.offsetsFrom.trim() !== "") {
    lines.push(`OFFSETS FROM ${literal(order.offsetsFrom.trim())} TO ${literal(order.offsetsTo.trim())}`);
  }
  if (order.rows.trim() !== "") lines.push(`FOR (${order.rows.trim()})`);
  if (order.emit !== "") lines.push(`EMIT ${order.emit}`);
  const options = optionsOf(order).map(([name, value]) => `${literal(name)} ${literal(value)}`);
  if (options.length > 0) lines.push(`WITH (${options.join(", ")})`);
  return { sql: lines.join("\n"), missing: null };
}

/**
 * The query of the rows that came too late for a job.
 *
 * @param {string} job
 * @returns {string}
 */
export function lateRowsOf(job) {
  return `SELECT topic, "partition", "offset" FROM system.late_rows WHERE job = ${literal(job)}`;
}

/**
 * Whether the answer to a statement that asks for a run has one: where nothing is left to do, none is made.
 *
 * @param {Rows} answer
 * @returns {boolean}
 */
export function hasRun({ rows }) {
  return rows.some(([item]) => item === "run_id");
}

/**
 * @param {Order} order
 * @returns {string | null}
 */
function missingIn({ job, from, to, offsetsFrom, offsetsTo, rows, run_id, max_rows_per_second }) {
  if (job === "") return "Choose a job.";
  const [start, end] = [instant(from.trim()), instant(to.trim())];
  if (from.trim() !== "" && start === null) return `The beginning is an invalid time: write it as ${EXAMPLE}.`;
  if (to.trim() !== "" && end === null) return `The end is an invalid time: write it as ${EXAMPLE}.`;
  if ((start === null) !== (end === null)) return "A range of event time has a beginning and an end.";
  if (start !== null && end !== null && start >= end) return "The end is after the beginning.";
  if ((offsetsFrom.trim() === "") !== (offsetsTo.trim() === "")) {
    return "A range of offsets has a beginning and an end.";
  }
  if (start === null && offsetsFrom.trim() === "" && rows.trim() === "") {
    return "Give a range of event time, a range of offsets, or a query of rows.";
  }
  if (run_id !== "" && !/^[A-Za-z0-9_.:-]{1,80}$/.test(run_id)) {
    return "The id of a run has 1 to 80 letters of ASCII, digits and _ - . :";
  }
  if (max_rows_per_second !== "" && !/^[1-9]\d*$/.test(max_rows_per_second)) {
    return "The rows of a second are a number from 1.";
  }
  return null;
}

/**
 * @param {Order} order
 * @returns {[string, string][]}
 */
function optionsOf(order) {
  /** @type {[string, string][]} */
  const all = [
    ["run_id", order.run_id],
    ["late", order.late],
    ["withdraw", order.withdraw ? "true" : ""],
    ["overwrite", order.overwrite ? "true" : ""],
    ["write", order.append ? "append" : ""],
    ["chunk", order.chunk.trim()],
    ["max_rows_per_second", order.max_rows_per_second],
    ["yield", order.waits ? "" : "false"],
  ];
  return all.filter(([, value]) => value !== "");
}
