// Owns the names of tables, columns, functions, jobs and runs that the editor completes, as the server has them.

import { path } from "../pure/route.js";
import { SYSTEM_TABLES } from "../pure/sql-words.js";
import { objects } from "../pure/wire.js";
import { get } from "./api.js";

/** @import { Names, Source, Wanted } from "../pure/completion.js" */
/** @import { Job } from "../pure/wire.js" */

/** Milliseconds for which what the server said is used. */
const FRESH = 20_000;

/** @type {Map<string, { at: number, answer: Promise<any> }>} answers by their address */
const known = new Map();

/**
 * The names that may be wanted. What the server refuses, or has not, gives none.
 *
 * @param {Wanted} wanted
 * @returns {Promise<Names>}
 */
export async function namesFor({ place, sources }) {
  const needs = (/** @type {string[]} */ ...places) => places.includes(place);
  const [tables, jobs, runs, functions] = await Promise.all([
    needs("table", "column", "any") ? column("/tables", "table_name") : [],
    needs("job") ? jobNames() : [],
    needs("run") ? column("/runs", "run_id") : [],
    needs("any") ? column("/functions", "routine_name") : [],
  ]);
  const isThere = (/** @type {Source} */ { schema, table }) =>
    (schema === "system" ? SYSTEM_TABLES : tables).includes(table);
  const columns = needs("column", "any") ? sources.filter(isThere).map(columnsOf) : [];
  return { tables, jobs, runs, functions, columns: (await Promise.all(columns)).flat() };
}

/**
 * @param {Source} source
 * @returns {Promise<{ name: string, type: string }[]>}
 */
async function columnsOf({ schema, table }) {
  const rows = await asked(`${schema === "system" ? "/system" : "/tables"}${path(table)}/columns`);
  const found = rows ? objects(rows) : [];
  return found.map((row) => ({ name: String(row.column_name), type: String(row.data_type) }));
}

/** @returns {Promise<string[]>} */
async function jobNames() {
  const found = await asked("/jobs");
  return found ? found.jobs.map((/** @type {Job} */ { job }) => job) : [];
}

/**
 * @param {string} address
 * @param {string} name
 * @returns {Promise<string[]>}
 */
async function column(address, name) {
  const rows = await asked(address);
  return rows ? objects(rows).map((row) => String(row[name])) : [];
}

/**
 * @param {string} address
 * @returns {Promise<any>} null if there is no answer
 */
function asked(address) {
  const now = Date.now();
  const before = known.get(address);
  if (before && now - before.at < FRESH) return before.answer;
  const answer = get(address).catch(() => null);
  known.set(address, { at: now, answer });
  return answer;
}
