// Owns the batches of a job: as charts of their time and rows, and the newest as a table.

import { groupedBars } from "../chart/bars.js";
import { legend } from "../chart/frame.js";
import { el } from "../page/dom.js";
import { resultTable } from "../page/result-table.js";
import { describeBatch, newestBatches } from "../pure/batches.js";
import { eased } from "../pure/eased.js";
import { objects } from "../pure/wire.js";
import { get } from "../server/api.js";

/** @import { Batch, Rows } from "../pure/wire.js" */

/** Batches in the charts. */
const SHOWN = 60;
/** Pixels from which on the two charts are side by side, as the style has it. */
const SIDE_BY_SIDE = 860;

/**
 * The batches of a job. `load` reads them if `mark`, which stands for the newest, is another than before; `all` gives
 * those that were read last, the oldest first.
 *
 * @param {string} below the address of the job
 * @returns {{ node: HTMLElement, load: (mark: string) => Promise<void>, all: () => Batch[] }}
 */
export function jobBatches(below) {
  /** @type {Batch[]} */
  let batches = [];
  const charts = el("div", { class: "charts" });
  const recent = el("div", {});
  const load = eased(async () => {
    /** @type {Rows} */
    const found = await get(`${below}/batches`);
    batches = /** @type {any[]} */ (objects(found));
    if (batches.length === 0) {
      charts.replaceChildren(el("p", { class: "empty", text: "No batch was committed yet." }));
      recent.replaceChildren();
      return;
    }
    drawCharts(charts, batches.slice(-SHOWN));
    recent.replaceChildren(resultTable(newestBatches(found), { label: "The newest batches", hasTypes: false }));
  }, () => performance.now());
  const node = el("section", {}, el("h2", { text: "Batches" }), charts, recent);
  return { node, load, all: () => batches };
}

/**
 * @param {HTMLElement} charts
 * @param {Batch[]} last at least one
 * @returns {void}
 */
function drawCharts(charts, last) {
  const columns = charts.clientWidth > SIDE_BY_SIDE ? 2 : 1;
  const width = Math.max(240, Math.round(charts.clientWidth / columns) - 28);
  const newest = `the newest is ${describeBatch(last[last.length - 1])}`;
  const shared = { width, title: describeBatch, name: (/** @type {Batch} */ batch) => String(batch.batch) };
  charts.replaceChildren(
    el("figure", {},
      el("figcaption", { text: "Milliseconds of each batch" }),
      groupedBars(last, {
        ...shared, label: `Milliseconds of the last ${last.length} batches; ${newest}`,
        series: [(batch) => batch.milliseconds],
      })),
    el("figure", {},
      el("figcaption", {}, "Rows of each batch", legend(["read", "written"])),
      groupedBars(last, {
        ...shared, label: `Rows of the last ${last.length} batches; ${newest}`,
        series: [(batch) => batch.rows_in, (batch) => batch.rows_out],
      })));
}
