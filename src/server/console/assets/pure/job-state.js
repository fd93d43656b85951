// Owns the meaning of a job's state: whether the job works, what helps, and whether it can be resumed.

/** @import { Job } from "./wire.js" */

/** @type {Record<string, string>} */
const ADVICE = {
  WAITING: "It retries until the cause has passed.",
  PAUSED: "It continues where it stands when it is resumed.",
  FAILED: "Fix the cause, then resume it. docs/jobs.md has the remedy for each reason.",
  ACTIVE:
    "It should run, and no process has written a heartbeat for half a minute. " +
    "If none runs it, start one with its files.",
};

/**
 * Whether what a job says of itself is of now.
 *
 * @param {string} state
 * @returns {boolean}
 */
export function isAtWork(state) {
  return state === "RUNNING" || state === "WAITING";
}

/**
 * Whether a job in this state can be resumed; one that cannot can be paused.
 *
 * @param {string} state
 * @returns {boolean}
 */
export function canResume(state) {
  return state === "PAUSED" || state === "FAILED";
}

/**
 * Records that are there and not read yet, if that is known.
 *
 * @param {Job} job
 * @returns {number | null}
 */
export function lag({ state, here }) {
  return here && isAtWork(state) ? here.lag : null;
}

/**
 * What to do about the state of a job; empty if there is nothing to do.
 *
 * @param {string} state
 * @returns {string}
 */
export function advice(state) {
  return ADVICE[state] ?? "";
}
