// Owns the fields of a new run: which part of the past, and how it is published.

import { el, keyed } from "../page/dom.js";
import { closedPart } from "../page/view.js";
import { fieldText, instant } from "../pure/instants.js";
import { EMPTY_ORDER, lateRowsOf } from "../pure/reprocess.js";

/** @import { Order } from "../pure/reprocess.js" */
/** @import { Span } from "../pure/timeline.js" */

const EMITS = [["", "Changed rows, if the sink has a key"], ["CHANGED", "Changed rows"], ["ALL", "All rows"]];
const LATES = [["", "Count"], ["exclude", "Are left out"]];

/** The form. `node` has its fields. */
export class OrderForm {
  #job = el("select", { id: "run-job" });
  #from = timeField("run-from");
  #to = timeField("run-to");
  #offsetsFrom = el("input", { id: "run-offsets-from", spellcheck: "false", placeholder: '{"visits":{"0":23}}' });
  #offsetsTo = el("input", { id: "run-offsets-to", spellcheck: "false", placeholder: '{"visits":{"0":99}}' });
  #rows = el("textarea", { id: "run-rows", rows: "2", spellcheck: "false" });
  #emit = choice("run-emit", EMITS);
  #late = choice("run-late", LATES);
  #withdraw = el("input", { id: "run-withdraw", type: "checkbox" });
  #overwrite = el("input", { id: "run-overwrite", type: "checkbox" });
  #append = el("input", { id: "run-append", type: "checkbox" });
  #id = el("input", { id: "run-id", spellcheck: "false", autocapitalize: "off", autocomplete: "off" });
  #chunk = el("input", { id: "run-chunk", placeholder: "1 hour", autocomplete: "off" });
  #rate = el("input", { id: "run-rate", inputmode: "numeric", autocomplete: "off" });
  #goesOn = el("input", { id: "run-goes-on", type: "checkbox" });

  /** The choice of the job. */
  jobNode = labelled(this.#job, "Job");

  node = el("div", { class: "order" },
    el("fieldset", {}, el("legend", { text: "Event time (UTC)" }),
      labelled(this.#from, "From"), labelled(this.#to, "To, which is not in it")),
    closedPart("Offsets, or single rows",
      el("p", { class: "summary", text: "The run takes the rows that are in all of the ranges given." }),
      el("div", { class: "pair" },
        labelled(this.#offsetsFrom, "Offsets from"), labelled(this.#offsetsTo, "Offsets to")),
      labelled(this.#rows, "Rows of a query of topic, partition and offset"),
      el("button", { type: "button", text: "The job's late rows", on: { click: () => this.#takeLateRows() } })),
    el("fieldset", {}, el("legend", { text: "Result" }),
      labelled(this.#id, "Id of the run"), labelled(this.#emit, "Publishes"), labelled(this.#late, "Late rows")),
    closedPart("More options",
      checked(this.#withdraw, "Remove published rows that the run does not have from a topic"),
      checked(this.#overwrite,
        "Write although the key does not tell windows apart; in a Delta table, replace all rows of the range"),
      checked(this.#append, "Append to a Delta table, and replace nothing"),
      checked(this.#goesOn, "Do not wait while the running job falls behind"),
      el("div", { class: "pair" },
        labelled(this.#chunk, "Length of a chunk"), labelled(this.#rate, "Most rows a second"))));

  /**
   * @param {() => void} changed is called when an entry has changed
   */
  constructor(changed) {
    this.changed = changed;
    this.node.addEventListener("input", changed);
  }

  /**
   * Calls a function when another job is chosen.
   *
   * @param {(job: string) => void} chosen
   * @returns {void}
   */
  onJob(chosen) {
    this.#job.addEventListener("change", () => chosen(this.#job.value));
  }

  /**
   * Offers these jobs; the one that is chosen stays.
   *
   * @param {string[]} jobs
   * @param {string | null} job the one to choose at first
   * @returns {void}
   */
  offer(jobs, job) {
    const before = this.#job.value || (job ?? "");
    keyed(this.#job, ["", ...jobs], (name) => `job ${name}`,
      (name) => el("option", { value: name, text: name === "" ? "choose one" : name }), () => {});
    const chosen = jobs.includes(before) ? before : "";
    if (this.#job.value !== chosen) this.#job.value = chosen;
  }

  /**
   * The entries.
   *
   * @returns {Order}
   */
  get order() {
    return {
      ...EMPTY_ORDER,
      job: this.#job.value, from: this.#from.value, to: this.#to.value,
      offsetsFrom: this.#offsetsFrom.value, offsetsTo: this.#offsetsTo.value, rows: this.#rows.value,
      emit: this.#emit.value, run_id: this.#id.value, late: this.#late.value, withdraw: this.#withdraw.checked,
      overwrite: this.#overwrite.checked, append: this.#append.checked, chunk: this.#chunk.value,
      max_rows_per_second: this.#rate.value, waits: !this.#goesOn.checked,
    };
  }

  /**
   * The range of event time, if both ends are given.
   *
   * @returns {Span | null}
   */
  get range() {
    const [from, to] = [instant(this.#from.value), instant(this.#to.value)];
    return from !== null && to !== null && from < to ? { from, to } : null;
  }

  /**
   * Writes a range of event time into the fields.
   *
   * @param {Span} range
   * @returns {void}
   */
  setRange({ from, to }) {
    this.#from.value = fieldText(from);
    this.#to.value = fieldText(to);
    this.changed();
  }

  /**
   * Writes the id of the run into its field.
   *
   * @param {string} id
   * @returns {void}
   */
  setId(id) {
    this.#id.value = id;
    this.changed();
  }

  /** @returns {void} */
  #takeLateRows() {
    this.#rows.value = lateRowsOf(this.#job.value);
    this.changed();
  }
}

/**
 * @param {string} id
 * @returns {HTMLInputElement}
 */
function timeField(id) {
  return el("input", { id, placeholder: "2025-09-04T10:00:00", spellcheck: "false", autocomplete: "off", size: "24" });
}

/**
 * @param {string} id
 * @param {string[][]} options
 * @returns {HTMLSelectElement}
 */
function choice(id, options) {
  return el("select", { id }, ...options.map(([value, text]) => el("option", { value, text })));
}

/**
 * @param {HTMLElement} field
 * @param {string} text
 * @returns {HTMLElement}
 */
function labelled(field, text) {
  return el("p", { class: "field" }, el("label", { for: field.id, text }), field);
}

/**
 * @param {HTMLElement} field
 * @param {string} text
 * @returns {HTMLElement}
 */
function checked(field, text) {
  return el("p", { class: "check" }, field, el("label", { for: field.id, text }));
}
