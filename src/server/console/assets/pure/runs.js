// Owns the meaning of a run's state: what can be done with it, how far it is, and the name for a new one.

import { instants } from "./instants.js";

/** @import { Run } from "./wire.js" */

/** @type {Record<string, string>} */
const ADVICE = {
  PLANNING: "Its rows are compared with the published ones. Nothing is written.",
  PLANNED: "Its rows are compared, and nothing is written. Look at the changes, then apply it or abort it.",
  RUNNING: "Its chunks are written. If no process writes them, apply it again: it continues where it stands.",
  COMPLETE: "The sink has all of it.",
  ABORTED: "The sink has the chunks that were written before.",
  FAILED: "Fix the cause. A run that was being written continues when it is applied; abort one that was being planned.",
};

/** The kinds of rows of a plan, with the meaning of each. */
export const KINDS = /** @type {const} */ ([
  ["changed", "published with other values"],
  ["new", "not published"],
  ["gone", "published, and the run does not have them"],
  ["unknown", "the sink may have lost what was published"],
  ["same", "published as they are"],
]);

/** The longest part of a job's name in the id of a run. */
const LONGEST = 60;

/**
 * What the state of a run means; empty if it is unknown.
 *
 * @param {string} state
 * @returns {string}
 */
export function runAdvice(state) {
  return Object.hasOwn(ADVICE, state) ? ADVICE[state] : "";
}

/**
 * Whether a run in this state can be applied. One that was interrupted continues.
 *
 * @param {string} state
 * @returns {boolean}
 */
export function canApply(state) {
  return state === "PLANNED" || state === "RUNNING" || state === "FAILED";
}

/**
 * Whether a run in this state can be aborted.
 *
 * @param {string} state
 * @returns {boolean}
 */
export function canAbort(state) {
  return state !== "COMPLETE" && state !== "ABORTED";
}

/**
 * Which part of a run is compared, or written once it is applied, from 0 to 1; null if that is unknown.
 *
 * @param {Run} run
 * @returns {number | null}
 */
export function progress({ state, chunks, done }) {
  if (state === "COMPLETE") return 1;
  return state === "RUNNING" && !chunks ? 0 : done;
}

/**
 * The range of event time of a run, in milliseconds; null if it has none.
 *
 * @param {Run} run
 * @returns {{ from: number, to: number } | null}
 */
export function runTimes({ asked, emits }) {
  const own = instants(asked ?? "");
  const all = own.length >= 2 ? own : instants(emits ?? "");
  return all.length >= 2 ? { from: Math.min(...all), to: Math.max(...all) } : null;
}

/**
 * An id for a new run of a job: letters of ASCII, digits and _ - . : may stand in it.
 *
 * @param {string} job
 * @param {string} now a time as ISO writes it
 * @returns {string}
 */
export function newRunId(job, now) {
  const name = job.replace(/[^A-Za-z0-9_.-]+/g, "_").slice(0, LONGEST);
  return `${name}-${now.slice(0, 19).replace(/[-:]/g, "")}`;
}
