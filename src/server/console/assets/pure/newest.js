// Owns the newest rows of a result without an end: which are kept, and how many there were.

import { count, plural } from "./format.js";

/** @import { Value } from "./wire.js" */

/** The rows that are kept, the newest last, and how many there were. */
export class NewestRows {
  #most;
  /** @type {Value[][]} */
  #rows = [];
  /** @type {Value[][]} rows that were not fetched yet */
  #fresh = [];

  /** How many rows there were. */
  count = 0;

  /**
   * @param {number} most how many are kept
   */
  constructor(most) {
    this.#most = most;
  }

  /**
   * Takes rows. There may have been more of them than came.
   *
   * @param {Value[][]} rows
   * @param {number} number
   * @returns {void}
   */
  take(rows, number) {
    this.count += number;
    this.#rows = this.#rows.concat(rows).slice(-this.#most);
    this.#fresh = this.#fresh.concat(rows).slice(-this.#most);
  }

  /**
   * The rows that are kept.
   *
   * @returns {Value[][]}
   */
  get kept() {
    return this.#rows;
  }

  /**
   * The rows since the last call that are still kept.
   *
   * @returns {Value[][]}
   */
  fresh() {
    const rows = this.#fresh;
    this.#fresh = [];
    return rows;
  }

  /**
   * How many rows there were, and which of them are shown.
   *
   * @returns {string}
   */
  get said() {
    const all = plural(this.count, "row");
    return this.#rows.length < this.count ? `${all}, of which the newest ${count(this.#rows.length)} are shown` : all;
  }
}
