// Owns the words for the effect of a rewind.

import { count } from "./format.js";

/**
 * What a rewind abandons.
 *
 * @param {number | null} to the batch to go back to; null if none is given that could be
 * @param {number} newest the job's newest batch
 * @returns {string}
 */
export function consequence(to, newest) {
  if (to === null) return `Give a number from 0, the beginning, to ${count(newest)}.`;
  const abandoned = newest - to;
  if (abandoned === 0) return "No batch is abandoned.";
  const which = abandoned === 1
    ? `Batch ${count(newest)} is abandoned, and its input is read again`
    : `Batches ${count(to + 1)} to ${count(newest)} are abandoned, and their input is read again`;
  return `${which}${to === 0 ? ", from its beginning" : ""}.`;
}
