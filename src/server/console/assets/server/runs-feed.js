// Owns the runs as the server lists them.

import { objects } from "../pure/wire.js";
import { get } from "./api.js";

/** @import { Run } from "../pure/wire.js" */

/**
 * Looks at all runs.
 *
 * @returns {Promise<Run[]>} the newest first
 */
export async function lookAtRuns() {
  const runs = /** @type {Run[]} */ (/** @type {unknown} */ (objects(await get("/runs"))));
  return runs.sort((one, other) => (other.created_at ?? "").localeCompare(one.created_at ?? ""));
}
