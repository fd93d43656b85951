// Owns the lanes of a job's history: which spans stand in each, how high they are, and what they say.

import { count, plural } from "./format.js";
import { fieldText } from "./instants.js";

/** @import { Span, Timeline } from "./timeline.js" */

/**
 * The lanes of the axis, each with its spans. `part` is the height of a span in its lane, from 0 to 1.
 *
 * @param {Timeline} timeline
 * @returns {{ name: string, spans: { span: Span, kind: string, part: number, title: string }[] }[]}
 */
export function lanesOf({ batches, late, runs, coverage }) {
  const most = Math.max(1, ...batches.map((span) => span.rows));
  const mostLate = Math.max(1, ...late.map((span) => span.rows));
  const lanes = [
    { name: "Batches", spans: batches.map((span) => ({
      span, kind: span.late > 0 ? "batch late" : "batch", part: span.rows / most,
      title: `batch ${count(span.batch)}, ${plural(span.rows, "row")}, ${count(span.late)} late, ` +
        `watermark ${said(span.to)}`,
    })) },
    { name: "Late rows", spans: late.map((span) => ({
      span, kind: "late", part: span.rows / mostLate,
      title: `${plural(span.rows, "late row")} of ${said(span.from)} to ${said(span.to)}`,
    })) },
    { name: "Archive", spans: coverage.map((span) => ({
      span, kind: `coverage ${span.state}`, part: 0.6,
      title: `${span.state === "partly" ? "partly archived" : span.state}${span.reason ? `: ${span.reason}` : ""}`,
    })) },
    { name: "Runs", spans: runs.map((span) => ({
      span, kind: "run", part: 0.6, title: `${span.run_id}, ${span.state}: ${said(span.from)} to ${said(span.to)}`,
    })) },
  ];
  return lanes.filter(({ name, spans }) => name === "Batches" || spans.length > 0);
}

/**
 * A time in words.
 *
 * @param {number} at
 * @returns {string}
 */
export function said(at) {
  return fieldText(at).replace("T", " ");
}
