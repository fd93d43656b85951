// Owns the shapes of the server's answers, and how a result becomes objects.

/**
 * A value of a row. Integers and decimals that a number cannot hold are text; lists and structs are JSON.
 *
 * @typedef {null | boolean | number | string | object} Value
 */
/** @typedef {{ name: string, type: string, is_number: boolean }} Column */
/** @typedef {{ columns: Column[], rows: Value[][] }} Rows */
/**
 * What a statement gives. `is_cut`: there are more rows than these.
 *
 * @typedef {Rows & {
 *   is_cut: boolean, rows_written: number | null, has_changed: boolean, warnings: string[],
 * }} Answer
 */
/**
 * A line of a result without an end: the first has the columns, others rows and how many there were, the last says that
 * it is complete.
 *
 * @typedef {{
 *   columns?: Column[], rows?: Value[][], count?: number, is_complete?: boolean, warnings?: string[],
 * }} Line
 */
/**
 * A place in a statement: line and character, both from 1.
 *
 * @typedef {{ line: number, column: number }} Place
 */
/**
 * Why a request was refused. `to` is the place of the first character behind the wrong part.
 *
 * @typedef {{ message: string, help?: string | null, from?: Place | null, to?: Place | null }} Reason
 */
/**
 * What a job says of itself while it runs in this server. `lag` counts records.
 *
 * @typedef {{ lag: number | null, rows_in: number, watermark: string | null, state_rows: number | null }} JobReport
 */
/**
 * A job. `here` is missing for one that runs elsewhere, or not at all.
 *
 * @typedef {{
 *   job: string, state: string, reason: string | null, batch: number, generation: number,
 *   committed_at: string | null, here: JobReport | null,
 * }} Job
 */
/**
 * A committed batch.
 *
 * @typedef {{
 *   batch: number, generation: number, rows_in: number, rows_out: number, late_rows: number, dead_letters: number,
 *   watermark: string | null, committed_at: string, milliseconds: number,
 * }} Batch
 */
/**
 * A reprocessing run, as `system.runs` has it. A run that cannot be read has its id, its state and the reason only.
 * `done` is the part that is in the sink, or compared as long as the sink has none.
 *
 * @typedef {{
 *   run_id: string, job: string | null, state: string, reason: string | null, asked: string | null,
 *   reads: string | null, emits: string | null, emit: string | null, chunks_compared: number | null,
 *   same: number | null, changed: number | null, new: number | null, gone: number | null, unknown: number | null,
 *   chunks: number | null, rows_in: number | null, rows_out: number | null, position: string | null,
 *   done: number | null, sql_version: string | null, created_at: string | null, since: string | null,
 *   owner: string | null, heartbeat_at: string | null,
 * }} Run
 */
/** @typedef {{ table_name: string, kind: string | null }} TableEntry */

/**
 * The rows of a result as objects, by the names of the columns.
 *
 * @param {Rows} result
 * @returns {Record<string, Value>[]}
 */
export function objects({ columns, rows }) {
  return rows.map((row) => Object.fromEntries(columns.map((column, at) => [column.name, row[at]])));
}
