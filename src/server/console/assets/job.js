// One job: how it is, its batches, what it has set aside, and what can be done with it.

import { get, objects, path, post } from "./api.js";
import { bars, legend } from "./chart.js";
import { confirm } from "./dialog.js";
import { announce, el, keyed, problem, setText } from "./dom.js";
import { ago, count, milliseconds, NONE, plural, rate, time } from "./format.js";
import { grid } from "./grid.js";
import { badge, setBadge } from "./jobs.js";
import { advice, lag, lookAtJobs } from "./live.js";

/** Batches in the charts. */
const SHOWN = 60;
/** What is read from the store is read again after so many times what it took, and no sooner than the jobs are. */
const EASE = 10;

const FACTS = [
  ["rate", "Rows read"], ["lag", "Behind"], ["watermark", "Watermark (UTC)"], ["batch", "Last batch"],
  ["took", "Batch time"], ["late", "Late rows"], ["dead", "Dead letters"], ["state", "Rows of state"],
];

/** The view of the job `name`. */
export function jobView(root, name, again) {
  const below = `/jobs${path(name)}`;
  let job = null;
  let batches = [];

  const state = badge("");
  // A job that fails while it is looked at says so.
  state.setAttribute("aria-live", "polite");
  const toggle = el("button", { type: "button", text: "Pause", on: { click: pauseOrResume } });
  const rewind = el("button", { type: "button", text: "Rewind…", on: { click: askRewind } });
  const note = el("div", { class: "note", hidden: true });
  const facts = el("dl", { class: "facts" });
  const charts = el("div", { class: "charts" });
  const recent = el("div", {});
  const gone = el("p", { class: "empty", hidden: true, text: "There is no such job any more." });
  const parts = el("div", {},
    note, facts,
    el("section", {}, el("h2", { text: "Batches" }), charts, recent),
    section("Partitions", "partitions", (found) => grid(found, { label: "Partitions", hasTypes: false })),
    section("Late rows", "late-rows", (found) => setAside(found, "late row")),
    section("Dead letters", "dead-letters", (found) => setAside(found, "dead letter")),
    section("Definition", "definition", (found) => el("pre", { class: "code", tabindex: "0", text: found.definition })));
  root.append(
    el("p", { class: "crumb" }, el("a", { href: "#/jobs", text: "Jobs" })),
    el("div", { class: "heading" }, el("h1", { text: name }), state,
      el("div", { class: "buttons" }, toggle, rewind)),
    gone, parts);

  const loads = [];
  const loadBatches = eased(async () => {
    const found = await get(`${below}/batches`);
    batches = objects(found);
    drawBatches(found);
  });
  loads.push(loadBatches);

  /** A part that is read when it is opened, and again after each batch while it is open. */
  function section(title, of, show) {
    const body = el("div", {}, el("p", { class: "empty", text: "reading…" }));
    const details = el("details", { class: "part" }, el("summary", {}, el("h2", { text: title })), body);
    const load = eased(async () => {
      try {
        body.replaceChildren(show(await get(`${below}/${of}`)));
      } catch (error) {
        if (!error.status) throw error;
        body.replaceChildren(problem(error));
      }
    });
    details.addEventListener("toggle", () => { if (details.open) load("opened").catch(again); });
    queueMicrotask(() => loads.push((mark) => (details.open ? load(mark) : undefined)));
    return details;
  }

  function drawBatches({ columns, rows }) {
    const last = batches.slice(-SHOWN);
    if (last.length === 0) {
      charts.replaceChildren(el("p", { class: "empty", text: "No batch was committed yet." }));
      recent.replaceChildren();
      return;
    }
    const named = (batch) => String(batch.batch);
    const tell = (batch) =>
      `batch ${count(batch.batch)}, ${time(batch.committed_at)}: ${plural(batch.rows_in, "row")} read, ` +
      `${count(batch.rows_out)} written, ${milliseconds(batch.milliseconds)}`;
    const one = last.at(-1);
    const newest = `the newest is ${tell(one)}`;
    // Side by side or one below the other, as the style has it.
    const columnsOf = charts.clientWidth > 860 ? 2 : 1;
    const width = Math.max(240, Math.round(charts.clientWidth / columnsOf) - 28);
    charts.replaceChildren(
      el("figure", {},
        el("figcaption", { text: "Milliseconds of each batch" }),
        bars(last, { width, name: named, title: tell, label: `Milliseconds of the last ${last.length} batches; ${newest}`,
          series: [{ of: (batch) => batch.milliseconds }] })),
      el("figure", {},
        el("figcaption", {}, "Rows of each batch", legend(["read", "written"])),
        bars(last, { width, name: named, title: tell, label: `Rows of the last ${last.length} batches; ${newest}`,
          series: [{ of: (batch) => batch.rows_in }, { of: (batch) => batch.rows_out }] })));
    const kept = ["batch", "generation", "rows_in", "rows_out", "late_rows", "dead_letters", "watermark", "committed_at", "milliseconds"];
    const at = kept.map((of) => columns.findIndex((column) => column.name === of)).filter((of) => of >= 0);
    const table = {
      columns: at.map((of) => columns[of]),
      rows: rows.slice(-10).reverse().map((row) => at.map((of) => row[of])),
    };
    recent.replaceChildren(grid(table, { label: "The newest batches", hasTypes: false }));
  }

  function setAside({ columns, rows }, what) {
    if (rows.length === 0) return el("p", { class: "empty", text: `There is no ${what}.` });
    const total = rows[0].at(-1);
    const shown = { columns: columns.slice(0, -1), rows: rows.map((row) => row.slice(0, -1)) };
    const said = rows.length < total ? `The newest ${count(rows.length)} of ${plural(total, what)}.` : `${plural(total, what)}.`;
    return el("div", {}, el("p", { class: "summary", text: said }), grid(shown, { label: `${what}s`, showsBytes: true }));
  }

  function fill(now) {
    setBadge(state, job.state);
    setText(toggle, canResume(job.state) ? "Resume" : "Pause");
    rewind.disabled = job.batch === 0;
    const said = [job.reason, advice(job.state)].filter(Boolean);
    note.hidden = said.length === 0;
    note.dataset.state = job.state;
    keyed(note, said, (line) => line, (line) => el("p", { text: line }), () => {});
    const sum = (of) => batches.reduce((all, batch) => all + Number(batch[of]), 0);
    const values = {
      rate: rate(job.rate),
      lag: lag(job) === null ? NONE : plural(lag(job), "row"),
      watermark: time(job.here?.watermark ?? batches.at(-1)?.watermark),
      batch: job.committed_at ? `${count(job.batch)}, ${ago(job.committed_at, now)}` : "none yet",
      took: milliseconds(batches.at(-1)?.milliseconds),
      late: `${count(sum("late_rows"))} in ${plural(batches.length, "batch", "batches")}`,
      dead: `${count(sum("dead_letters"))} in ${plural(batches.length, "batch", "batches")}`,
      state: job.here?.state_rows ? count(job.here.state_rows) : NONE,
    };
    keyed(facts, FACTS, ([of]) => of,
      ([, title]) => el("div", {}, el("dt", { text: title }), el("dd")),
      (fact, [of]) => setText(fact.lastElementChild, values[of]));
  }

  async function act(what, body = {}) {
    const { said } = await post(`${below}/${what}`, body);
    return said || "done";
  }

  async function ask(question) {
    const said = await confirm(question);
    if (said) announce(said);
    again();
  }

  function pauseOrResume() {
    if (!job) return;
    if (canResume(job.state)) {
      ask({
        title: `Resume job ${name}?`,
        text: [`It goes on behind batch ${count(job.batch)}, where it stands.`,
          ...(job.state === "FAILED" ? ["It fails again if the cause is not mended."] : [])],
        action: "Resume job",
        act: () => act("resume"),
      });
      return;
    }
    ask({
      title: `Pause job ${name}?`,
      text: ["It stops after the batch in hand, and reads and writes nothing until it is resumed.",
        "Nothing is lost: it goes on where it stands."],
      action: "Pause job",
      act: () => act("pause"),
    });
  }

  function askRewind() {
    if (!job) return;
    const newest = job.batch;
    const number = el("input", {
      id: "rewind-batch", type: "number", inputmode: "numeric", min: "0", max: String(newest), step: "1", required: true,
      value: String(Math.max(0, newest - 1)), "aria-describedby": "rewind-what",
    });
    const typed = el("input", { id: "rewind-name", autocomplete: "off", spellcheck: "false", autocapitalize: "off" });
    const what = el("p", { id: "rewind-what", class: "consequence", "aria-live": "polite" });
    const isNumber = () => number.value !== "" && number.checkValidity();
    const say = () => {
      const to = Number(number.value);
      const abandoned = newest - to;
      if (!isNumber()) setText(what, `Give a number from 0, the beginning, to ${count(newest)}.`);
      else if (abandoned === 0) setText(what, "No batch is abandoned.");
      else {
        const which = abandoned === 1
          ? `Batch ${count(newest)} is abandoned, and its input is read again`
          : `Batches ${count(to + 1)} to ${count(newest)} are abandoned, and their input is read again`;
        setText(what, `${which}${to === 0 ? ", from its beginning" : ""}.`);
      }
    };
    number.addEventListener("input", say);
    say();
    ask({
      title: `Rewind job ${name}?`,
      text: ["State and offsets become those of after the batch. A Delta table loses the rows of the batches behind it, in one commit; " +
        "what was published to a topic stays there."],
      fields: [
        el("label", { for: "rewind-batch", text: "To batch" }), number, what,
        el("label", { for: "rewind-name", text: `Type ${name} to confirm` }), typed,
      ],
      action: "Rewind job",
      isDangerous: true,
      isReady: () => isNumber() && typed.value === name,
      act: () => act("rewind", { batch: Number(number.value) }),
    });
  }

  return {
    async refresh() {
      const { now, jobs } = await lookAtJobs();
      job = jobs.find((one) => one.job === name) ?? null;
      parts.hidden = !job;
      gone.hidden = Boolean(job);
      toggle.disabled = !job;
      if (!job) {
        rewind.disabled = true;
        setBadge(state, "");
        return;
      }
      fill(now);
      const mark = `${job.generation}/${job.batch}`;
      await Promise.all(loads.map((load) => load(mark)));
      fill(now);
    },
  };
}

const canResume = (state) => state === "PAUSED" || state === "FAILED";

/** Reads when there is something new, but spends only a small part of the time on it. */
function eased(read) {
  let seen = null;
  let next = 0;
  return async (mark) => {
    const began = performance.now();
    if (mark === seen || (mark !== "opened" && began < next)) return;
    await read();
    if (mark !== "opened") seen = mark;
    next = began + (performance.now() - began) * EASE;
  };
}
