// The server's answers: data, a refusal with its reason, or none at all.

/** No answer: the server, or the way to it, is gone. */
export class Gone extends Error {}

/** An answer that says no. */
export class Refused extends Error {
  constructor(status, { message, help, from, to }) {
    super(message);
    Object.assign(this, { status, help, from, to });
  }
}

let logIn = null;

/** `ask` is called when somebody has to log in, and resolves when that is done. */
export function onLogin(ask) {
  logIn = ask;
}

export const get = (path, signal = AbortSignal.timeout(60_000)) => call("GET", path, undefined, signal);
export const post = (path, body, signal) => call("POST", path, body, signal);

async function call(method, path, body, signal) {
  for (;;) {
    try {
      return await once(method, path, body, signal);
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 401 || path === "/login") throw error;
      await logIn();
    }
  }
}

async function once(method, path, body, signal) {
  const request = { method, signal, credentials: "same-origin" };
  if (body !== undefined) {
    request.body = JSON.stringify(body);
    request.headers = { "Content-Type": "application/json" };
  }
  let response, answer;
  try {
    response = await fetch(`/api${path}`, request);
    answer = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Gone("the server does not answer");
  }
  if (response.ok) return answer;
  if (!answer?.error) throw new Gone("the server does not answer");
  throw new Refused(response.status, answer.error);
}

/** A path of names, each as one part. */
export const path = (...parts) => parts.map((part) => `/${encodeURIComponent(part)}`).join("");

/** The rows of a result as objects. */
export function objects({ columns, rows }) {
  return rows.map((row) => Object.fromEntries(columns.map((column, at) => [column.name, row[at]])));
}
