// Owns the history of the job that is to be reprocessed: reads it, shows it on its axis, and offers ranges.

import { el, setText } from "../page/dom.js";
import { problem } from "../page/notices.js";
import { Refused } from "../pure/answers.js";
import { plural } from "../pure/format.js";
import { fieldText } from "../pure/instants.js";
import { path } from "../pure/route.js";
import { tablesOf, timeline } from "../pure/timeline.js";
import { objects } from "../pure/wire.js";
import { get } from "../server/api.js";
import { TimeAxis } from "./time-axis.js";

/** @import { Row, Span, Timeline } from "../pure/timeline.js" */
/** @import { Run } from "../pure/wire.js" */

/** The history of a job. */
export class JobHistory {
  #axis;
  #pick;
  #job = "";
  /** @type {Run[]} */
  #runs = [];
  /** @type {{ batches: Row[], late: Row[], coverage: Map<string, Row[]> } | null} */
  #read = null;
  /** @type {string} the state that is shown, so that nothing is drawn twice */
  #shown = "";
  #failed = el("div", {});
  #summary = el("p", { class: "summary" });
  #picks = el("div", { class: "buttons" });
  #body = el("div", { hidden: true });

  node = el("section", { class: "job-history", hidden: true }, el("h2", { text: "History" }), this.#failed, this.#body);

  /**
   * @param {(range: Span) => void} pick is called with the range that the user picks
   */
  constructor(pick) {
    this.#pick = pick;
    this.#axis = new TimeAxis(pick);
    this.#body.append(this.#axis.node, this.#summary, this.#picks);
  }

  /**
   * Reads the history of a job.
   *
   * @param {string} job empty for none
   * @param {Run[]} runs
   * @returns {Promise<void>}
   */
  async choose(job, runs) {
    this.#job = job;
    this.#read = null;
    this.node.hidden = job === "";
    this.#body.hidden = true;
    this.#failed.replaceChildren(el("p", { class: "empty", text: "reading…" }));
    if (job === "") return;
    const below = `/jobs${path(job)}`;
    try {
      const [batches, late] = await Promise.all([get(`${below}/history`), get(`${below}/late-times`)]);
      if (this.#job !== job) return;
      this.#read = { batches: objects(batches), late: objects(late), coverage: new Map() };
      this.#failed.replaceChildren();
      this.showRuns(runs);
      await this.#readCoverage(job);
    } catch (error) {
      if (this.#job === job) this.#failed.replaceChildren(problem(error));
    }
  }

  /**
   * Shows the runs of the job beside its batches.
   *
   * @param {Run[]} runs
   * @returns {void}
   */
  showRuns(runs) {
    this.#runs = runs.filter((run) => run.job === this.#job);
    this.#draw();
  }

  /**
   * Shows the range that is chosen.
   *
   * @param {Span | null} range
   * @returns {void}
   */
  select(range) {
    this.#axis.select(range);
  }

  /**
   * Reads what the archives have. A table without an archive, or one that does not answer, is left out.
   *
   * @param {string} job
   * @returns {Promise<void>}
   */
  async #readCoverage(job) {
    const read = this.#read;
    for (const table of tablesOf(read?.batches ?? [])) {
      try {
        const found = objects(await get(`/tables${path(table)}/coverage`));
        if (this.#job !== job || this.#read !== read) return;
        read?.coverage.set(table, found);
        this.#shown = "";
        this.#draw();
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
      }
    }
  }

  /** @returns {void} */
  #draw() {
    if (!this.#read) return;
    const shown = JSON.stringify([this.#job, this.#runs.map((run) => [run.run_id, run.state])]);
    if (shown === this.#shown && !this.#body.hidden) return;
    this.#shown = shown;
    const found = timeline({ ...this.#read, runs: this.#runs });
    this.#body.hidden = found.axis === null;
    if (found.axis === null) {
      const none = "No batch of the job has a watermark: give the range as offsets, or as times that you know.";
      this.#failed.replaceChildren(el("p", { class: "empty", text: none }));
      return;
    }
    this.#failed.replaceChildren();
    this.#axis.show(found);
    setText(this.#summary, summaryOf(found));
    this.#picks.replaceChildren(...ranges(found).map(([text, range]) =>
      el("button", { type: "button", text, on: { click: () => this.#pick(range) } })));
  }
}

/**
 * @param {Timeline} found
 * @returns {string}
 */
function summaryOf({ batches, late, runs, watermark, coverage }) {
  const lateRows = late.reduce((all, span) => all + span.rows, 0);
  const all = [plural(batches.length, "batch", "batches"), plural(lateRows, "late row"), plural(runs.length, "run")];
  if (watermark !== null) all.push(`watermark ${fieldText(watermark).replace("T", " ")}`);
  const holes = coverage.filter((span) => span.state !== "archived").length;
  if (coverage.length > 0) all.push(holes === 0 ? "all of it is archived" : `${plural(holes, "part")} not archived`);
  return `${all.join(", ")}.`;
}

/**
 * Ranges that are picked with one key.
 *
 * @param {Timeline} found
 * @returns {[string, Span][]}
 */
function ranges({ axis, late, runs }) {
  /** @type {[string, Span][]} */
  const all = [];
  if (axis) all.push(["All of it", axis]);
  if (late.length > 0) {
    const [from, to] = [Math.min(...late.map((span) => span.from)), Math.max(...late.map((span) => span.to))];
    if (from < to) all.push(["The windows of late rows", { from, to }]);
  }
  if (runs.length > 0) all.push([`The range of ${runs[0].run_id}`, runs[0]]);
  return all;
}
