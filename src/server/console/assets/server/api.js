// Owns the requests to the server: JSON over HTTP, and the login when the server asks for one.

import { dataOf, Gone, isLast, Refused } from "../pure/answers.js";
import { Lines } from "../pure/lines.js";

/** Milliseconds that reading may take. */
const PATIENCE = 60_000;
/** The type of an answer that comes in lines. */
const LINES = "application/x-ndjson";

/** @type {(() => Promise<void>) | null} */
let logIn = null;

/**
 * Sets the function that is called when the user has to log in; it resolves when that is done.
 *
 * @param {() => Promise<void>} ask
 * @returns {void}
 */
export function onLogin(ask) {
  logIn = ask;
}

/**
 * Reads something; gives the data of the answer.
 *
 * @param {string} path below `/api`
 * @returns {Promise<any>}
 */
export function get(path) {
  return call(path, () => ({ method: "GET", signal: AbortSignal.timeout(PATIENCE) }));
}

/**
 * Sends something, for as long as it takes; gives the data of the answer.
 *
 * @param {string} path below `/api`
 * @param {unknown} body
 * @param {(line: any) => void} [onLine] is called with each line of an answer that comes in lines; its data are null
 * @returns {Promise<any>}
 */
export function post(path, body, onLine) {
  const headers = { "Content-Type": "application/json" };
  return call(path, () => ({ method: "POST", body: JSON.stringify(body), headers }), onLine);
}

/**
 * Sends a request, again after each login that the server asks for.
 *
 * @param {string} path
 * @param {() => RequestInit} request makes the request
 * @param {(line: any) => void} [onLine]
 * @returns {Promise<any>}
 */
async function call(path, request, onLine) {
  for (;;) {
    try {
      return await once(path, request(), onLine);
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 401 || path === "/login" || !logIn) throw error;
      await logIn();
    }
  }
}

/**
 * @param {string} path
 * @param {RequestInit} request
 * @param {(line: any) => void} [onLine]
 * @returns {Promise<any>}
 */
async function once(path, request, onLine) {
  let status, body;
  try {
    const response = await fetch(`/api${path}`, { ...request, credentials: "same-origin" });
    if (onLine && response.body && response.headers.get("Content-Type") === LINES) {
      await readLines(response.body, onLine);
      return null;
    }
    status = response.status;
    body = await response.json();
  } catch (error) {
    if (error instanceof Refused || (error instanceof Error && error.name === "AbortError")) throw error;
    throw new Gone();
  }
  return dataOf(status, body);
}

/**
 * Reads an answer that comes in lines to its end.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @param {(line: any) => void} onLine
 * @returns {Promise<void>}
 * @throws {Refused} a line is an error
 */
async function readLines(body, onLine) {
  const [reader, decoder, lines] = [body.getReader(), new TextDecoder(), new Lines()];
  let isComplete = false;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    for (const line of lines.take(decoder.decode(value, { stream: true }))) {
      isComplete = isLast(line);
      onLine(line);
    }
  }
  if (!isComplete) throw new Gone();
}
