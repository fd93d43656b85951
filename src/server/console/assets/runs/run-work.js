// Owns the statements about runs that this page has sent: each goes on while other views are shown.

import { StatementRun } from "../page/statement-run.js";

/** @import { Answer } from "../pure/wire.js" */

/** The most rows of an answer that are shown. */
const ROWS = 1_000;

/** @type {Map<string, RunWork>} the last one of each run */
const works = new Map();

/** A statement about a run. */
export class RunWork {
  #statement = new StatementRun();
  /** @type {unknown} */
  error = null;
  /** @type {Answer | null} */
  answer = null;

  /**
   * @param {string} what it does with the run, such as "planning"
   */
  constructor(what) {
    this.what = what;
  }

  /**
   * Whether the statement is at work.
   *
   * @returns {boolean}
   */
  get isRunning() {
    return this.#statement.isRunning;
  }

  /**
   * @param {string} sql
   * @returns {Promise<void>}
   */
  async run(sql) {
    try {
      this.answer = await this.#statement.run(sql, ROWS);
    } catch (error) {
      this.error = error;
    }
  }

  /**
   * Cancels the statement: the run stands where it is.
   *
   * @returns {Promise<void>}
   */
  cancel() {
    return this.#statement.cancel();
  }
}

/**
 * Sends a statement about a run; one at a time is at work for a run.
 *
 * @param {string} runId
 * @param {string} what
 * @param {string} sql
 * @param {() => void} ended
 * @returns {RunWork}
 */
export function beginWork(runId, what, sql, ended) {
  const before = works.get(runId);
  if (before?.isRunning) return before;
  const work = new RunWork(what);
  works.set(runId, work);
  work.run(sql).then(ended);
  return work;
}

/**
 * The last statement about a run that this page has sent.
 *
 * @param {string} runId
 * @returns {RunWork | null}
 */
export function workOf(runId) {
  return works.get(runId) ?? null;
}
