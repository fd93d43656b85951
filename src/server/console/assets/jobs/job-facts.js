// Owns the facts of a job: its rates, its last batch, and the rows that its last batches set aside.

import { el, keyed, setText, within } from "../page/dom.js";
import { totalOf } from "../pure/batches.js";
import { ago, count, milliseconds, NONE, plural, rate, time } from "../pure/format.js";
import { lag } from "../pure/job-state.js";

/** @import { Batch } from "../pure/wire.js" */
/** @import { SeenJob } from "../server/jobs-feed.js" */

/**
 * @returns {{ node: HTMLElement, fill: (job: SeenJob, batches: Batch[], now: string) => void }}
 */
export function jobFacts() {
  const node = el("dl", { class: "facts" });
  return {
    node,
    fill(job, batches, now) {
      keyed(node, factsOf(job, batches, now), ([title]) => title,
        ([title]) => el("div", {}, el("dt", { text: title }), el("dd")),
        (fact, [, value]) => setText(within(fact, "dd"), value));
    },
  };
}

/**
 * The title and the text of each fact.
 *
 * @param {SeenJob} job
 * @param {Batch[]} batches
 * @param {string} now
 * @returns {[string, string][]}
 */
function factsOf(job, batches, now) {
  const behind = lag(job);
  const last = batches.at(-1);
  return [
    ["Rows read", rate(job.rate)],
    ["Behind", behind === null ? NONE : plural(behind, "row")],
    ["Watermark (UTC)", time(job.here?.watermark ?? last?.watermark)],
    ["Last batch", job.committed_at ? `${count(job.batch)}, ${ago(job.committed_at, now)}` : "none yet"],
    ["Batch time", milliseconds(last?.milliseconds)],
    ["Late rows", totalOf(batches, "late_rows")],
    ["Dead letters", totalOf(batches, "dead_letters")],
    ["Rows of state", job.here?.state_rows ? count(job.here.state_rows) : NONE],
  ];
}
