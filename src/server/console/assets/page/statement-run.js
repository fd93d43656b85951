// Owns the running statement: there is one at most, and it can be cancelled.

import { post } from "../server/api.js";
import { announce, messageOf } from "./notices.js";

/** @import { Answer } from "../pure/wire.js" */

/** A cancel may arrive before its statement: it is sent so often, */
const TRIES = 3;
/** with so many milliseconds between. */
const PAUSE = 300;

/** Runs statements, one after another. */
export class StatementRun {
  /** @type {string | null} */
  #id = null;

  /**
   * Whether a statement is at work.
   *
   * @returns {boolean}
   */
  get isRunning() {
    return this.#id !== null;
  }

  /**
   * Runs a statement.
   *
   * @param {string} sql
   * @param {number} rows how many are wanted at most
   * @param {(line: any) => void} [onLine] takes the lines of a result without an end, as they come
   * @returns {Promise<Answer | null>} null behind a result that came in lines
   */
  async run(sql, rows, onLine) {
    const id = newId();
    this.#id = id;
    try {
      return await post("/query", { sql, id, rows, live: onLine !== undefined }, onLine);
    } finally {
      this.#id = null;
    }
  }

  /**
   * Cancels the statement that is at work, or says why that cannot be.
   *
   * @returns {Promise<void>}
   */
  async cancel() {
    const id = this.#id;
    if (id === null) return;
    for (let tries = 0; tries < TRIES && this.#id === id; tries++) {
      try {
        if ((await post("/query/cancel", { id })).stopped) return;
      } catch (error) {
        announce(messageOf(error), true);
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
    if (this.#id === id) announce("Statements that change tables or jobs run to their end.", true);
  }
}

/**
 * A name that cannot be guessed by other users.
 *
 * @returns {string}
 */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
