// Owns the history of a job on the axis of event time: batches, late rows, runs, and which part of it the archive has.

import { instant } from "./instants.js";
import { runTimes } from "./runs.js";

/** @import { Run, Value } from "./wire.js" */

/** @typedef {{ from: number, to: number }} Span a part of the axis, in milliseconds */
/** @typedef {Span & { batch: number, rows: number, late: number }} BatchSpan from the watermark before to its own */
/** @typedef {Span & { rows: number }} LateSpan a window with rows that came too late for it */
/** @typedef {Span & { run_id: string, state: string }} RunSpan */
/** @typedef {Span & { state: "archived" | "partly" | "missing", reason: string }} CoverageSpan */
/**
 * `watermark` is that of the newest batch; the axis is null if nothing has a time.
 *
 * @typedef {{
 *   axis: Span | null, watermark: number | null, batches: BatchSpan[], late: LateSpan[], runs: RunSpan[],
 *   coverage: CoverageSpan[],
 * }} Timeline
 */
/** @typedef {Record<string, Value>} Row */
/** @typedef {{ from: number, to: number, isCovered: boolean, reason: string }} OffsetRange */

/** The shortest axis, in milliseconds. */
const SHORTEST = 60_000;

/**
 * The history of a job. `coverage` has the rows of `archive_coverage` by table.
 *
 * @param {{ batches: Row[], late: Row[], runs: Run[], coverage: Map<string, Row[]> }} of
 * @returns {Timeline}
 */
export function timeline({ batches, late, runs, coverage }) {
  const ordered = [...batches].sort((one, other) => Number(one.batch) - Number(other.batch));
  const spans = batchSpans(ordered);
  const found = {
    watermark: spans.at(-1)?.to ?? null,
    batches: spans,
    late: lateSpans(late),
    runs: runs.flatMap((run) => {
      const times = runTimes(run);
      return times ? [{ ...times, run_id: run.run_id, state: run.state }] : [];
    }),
    coverage: coverageSpans(ordered, coverage),
  };
  return { ...found, axis: axisOf([...found.batches, ...found.late, ...found.runs]) };
}

/**
 * The tables that batches have read.
 *
 * @param {Row[]} batches
 * @returns {string[]}
 */
export function tablesOf(batches) {
  return [...new Set(batches.flatMap((row) => Object.keys(offsetsOf(row.offsets) ?? {})))];
}

/**
 * @param {Span[]} spans
 * @returns {Span | null}
 */
function axisOf(spans) {
  if (spans.length === 0) return null;
  let [from, to] = [Infinity, -Infinity];
  for (const span of spans) [from, to] = [Math.min(from, span.from), Math.max(to, span.to)];
  return to - from < SHORTEST ? { from: from - SHORTEST / 2, to: to + SHORTEST / 2 } : { from, to };
}

/**
 * @param {Row[]} ordered
 * @returns {BatchSpan[]}
 */
function batchSpans(ordered) {
  /** @type {BatchSpan[]} */
  const spans = [];
  for (const row of ordered) {
    const to = instant(row.watermark);
    if (to === null) continue;
    const from = Math.min(spans.at(-1)?.to ?? to, to);
    spans.push({ from, to, batch: Number(row.batch), rows: Number(row.rows_in), late: Number(row.late_rows) });
  }
  return spans;
}

/**
 * @param {Row[]} rows
 * @returns {LateSpan[]}
 */
function lateSpans(rows) {
  return rows.flatMap((row) => {
    const [from, to] = [instant(row.window_start), instant(row.window_end)];
    return from === null ? [] : [{ from, to: to ?? from, rows: Number(row.late_rows) }];
  });
}

/**
 * Which part of the axis the archives have: the offsets that a batch read lie between its watermark and the one before.
 *
 * @param {Row[]} ordered
 * @param {Map<string, Row[]>} coverage
 * @returns {CoverageSpan[]}
 */
function coverageSpans(ordered, coverage) {
  const ranges = new Map([...coverage].map(([table, rows]) => [table, rangesOf(rows)]));
  /** @type {CoverageSpan[]} */
  const spans = [];
  /** @type {{ at: number, offsets: Record<string, Record<string, number>> } | null} */
  let before = null;
  for (const row of ordered) {
    const at = instant(row.watermark);
    const offsets = offsetsOf(row.offsets);
    if (at === null || offsets === null) continue;
    const found = before ? coveredBetween(before.offsets, offsets, ranges) : null;
    if (before && found) {
      const last = spans.at(-1);
      if (last && last.state === found.state && last.reason === found.reason && last.to === before.at) last.to = at;
      else spans.push({ from: before.at, to: at, ...found });
    }
    before = { at, offsets };
  }
  return spans;
}

/**
 * @param {Row[]} rows
 * @returns {Map<string, OffsetRange[]>} by partition
 */
function rangesOf(rows) {
  /** @type {Map<string, OffsetRange[]>} */
  const ranges = new Map();
  for (const row of rows) {
    const partition = String(row.partition);
    const own = ranges.get(partition) ?? [];
    own.push({
      from: Number(row.from_offset), to: Number(row.to_offset), isCovered: row.kind === "covered",
      reason: String(row.reason ?? ""),
    });
    ranges.set(partition, own);
  }
  return ranges;
}

/**
 * The next offsets after a batch, by table and partition; null if the text has none.
 *
 * @param {Value} text
 * @returns {Record<string, Record<string, number>> | null}
 */
function offsetsOf(text) {
  try {
    const found = JSON.parse(String(text));
    return typeof found === "object" && found !== null ? found : null;
  } catch {
    return null;
  }
}

/**
 * How much of the offsets between two batches is archived; null if no archive is known for them.
 *
 * @param {Record<string, Record<string, number>>} before
 * @param {Record<string, Record<string, number>>} after
 * @param {Map<string, Map<string, OffsetRange[]>>} ranges
 * @returns {{ state: "archived" | "partly" | "missing", reason: string } | null}
 */
function coveredBetween(before, after, ranges) {
  let [all, covered, reason] = [0, 0, ""];
  for (const [table, partitions] of Object.entries(after)) {
    const known = ranges.get(table);
    if (!known) continue;
    for (const [partition, end] of Object.entries(partitions)) {
      const start = before[table]?.[partition];
      if (start === undefined) continue;
      all += Math.max(0, end - start);
      for (const range of known.get(partition) ?? []) {
        const both = Math.min(range.to, end) - Math.max(range.from, start);
        if (both <= 0) continue;
        if (range.isCovered) covered += both;
        else reason ||= range.reason;
      }
    }
  }
  if (all === 0) return null;
  if (covered >= all) return { state: "archived", reason: "" };
  return { state: covered > 0 ? "partly" : "missing", reason };
}
