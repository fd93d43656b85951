// Owns how fast jobs read: the difference between samples of their counters.

import { isAtWork } from "./job-state.js";

/** @import { Job } from "./wire.js" */

/** A rate is that of about so many milliseconds. */
const WINDOW = 10_000;

/** Rows per second of each job, from what was seen of it before. */
export class Rates {
  /** @type {Map<string, { at: number, rows: number }[]>} */
  #samples = new Map();

  /**
   * Takes a sample of a job, and gives its rows per second, or null if that is not known yet.
   *
   * @param {Job} job
   * @param {number} at the time of the sample in milliseconds, by the server's clock
   * @returns {number | null}
   */
  sample({ job, state, here }, at) {
    if (!here || !isAtWork(state)) {
      this.#samples.delete(job);
      return null;
    }
    let seen = this.#samples.get(job) ?? [];
    const last = seen.at(-1);
    // A smaller number means that the job was started again.
    if (last && last.rows > here.rows_in) seen = [];
    if (!last || last.at < at) seen.push({ at, rows: here.rows_in });
    while (seen.length > 2 && at - seen[1].at >= WINDOW) seen.shift();
    this.#samples.set(job, seen);
    const [first, newest] = [seen.at(0), seen.at(-1)];
    if (!first || !newest || newest.at <= first.at) return null;
    return ((newest.rows - first.rows) * 1000) / (newest.at - first.at);
  }

  /**
   * Forgets the jobs that are not among `names`.
   *
   * @param {Set<string>} names
   * @returns {void}
   */
  keepOnly(names) {
    for (const name of this.#samples.keys()) if (!names.has(name)) this.#samples.delete(name);
  }
}
