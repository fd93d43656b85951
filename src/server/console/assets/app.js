// The page: which view is shown, and whether the server is there.

import { get, Gone, onLogin, post } from "./api.js";
import { logIn } from "./dialog.js";
import { announce, el, problem, setAttribute, setText } from "./dom.js";
import { jobView } from "./job.js";
import { jobsView } from "./jobs.js";
import { queryView } from "./query.js";
import { tablesView } from "./tables.js";

/** Milliseconds between two looks. A server that needs long for one is looked at less often. */
const EVERY = 2_000;
const EASE = 5;

const main = document.getElementById("main");
const banner = document.getElementById("banner");
const connection = document.getElementById("connection");
const logout = document.getElementById("logout");

let view = null;
let timer = null;
let looks = 0;
let lastAnswer = null;
let wasGone = false;

onLogin(async () => {
  await logIn();
  await who();
});
logout.addEventListener("click", async () => {
  await post("/logout", {});
  location.reload();
});
window.addEventListener("hashchange", route);
document.addEventListener("visibilitychange", look);
route();
who().catch(() => {});

function route() {
  const parts = location.hash.replace(/^#\/?/, "").split("/");
  // Other anchors are places in the page.
  if (location.hash && !location.hash.startsWith("#/")) return;
  const [name, ...rest] = parts;
  const chosen = rest.length > 0 ? decoded(rest.join("/")) : null;
  const views = { jobs: "Jobs", tables: "Tables", query: "Query" };
  const shown = name in views ? name : "jobs";
  document.title = `${chosen ?? views[shown]} – Anabranch`;
  for (const link of document.querySelectorAll("[data-view]")) {
    setAttribute(link, "aria-current", link.dataset.view === shown ? "page" : null);
  }
  const isFirst = view === null;
  main.replaceChildren();
  if (shown === "query") view = queryView(main);
  else if (shown === "tables") view = tablesView(main, chosen);
  else if (chosen !== null) view = jobView(main, chosen, look);
  else view = jobsView(main);
  // Who comes by keyboard begins at the new view.
  if (!isFirst && shown !== "query") main.focus({ preventScroll: true });
  scrollTo(0, 0);
  look();
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Looks now, and again after a while; not while nobody sees it. */
async function look() {
  clearTimeout(timer);
  const mine = ++looks;
  if (document.hidden) return;
  const [began, looked] = [performance.now(), view];
  try {
    await looked.refresh();
    if (mine === looks) answered();
  } catch (error) {
    if (mine === looks) failed(error);
  }
  if (mine !== looks) return;
  const wait = wasGone ? EVERY : Math.max(EVERY, (performance.now() - began) * EASE);
  timer = setTimeout(look, wait);
}

function answered() {
  lastAnswer = new Date();
  banner.hidden = true;
  setState("live", "live");
  if (wasGone) {
    wasGone = false;
    announce("the server answers again");
    who().catch(() => {});
  }
}

function failed(error) {
  if (error instanceof Gone) {
    const since = lastAnswer ? ` since ${lastAnswer.toLocaleTimeString()}` : "";
    say(`The server has not answered${since}. What is shown is of then; the page tries again.`);
    setState("gone", "no answer");
    wasGone = true;
    return;
  }
  setState("live", "live");
  banner.replaceChildren(problem(error));
  banner.hidden = false;
}

/** What is said already is not said again. */
function say(text) {
  if (banner.hidden || banner.textContent !== text) banner.replaceChildren(el("p", { text }));
  banner.hidden = false;
}

function setState(state, text) {
  setText(connection, text);
  setAttribute(connection, "data-state", state);
}

async function who() {
  const { user, version } = await get("/about");
  setText(document.getElementById("user"), user ?? "");
  setAttribute(connection, "title", `anabranch ${version}`);
  logout.hidden = user === null;
}
