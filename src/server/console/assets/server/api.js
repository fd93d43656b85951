// Owns the requests to the server: JSON over HTTP, and the login when the server asks for one.

import { dataOf, Gone, Refused } from "../pure/answers.js";

/** Milliseconds that reading may take. */
const PATIENCE = 60_000;

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
 * @returns {Promise<any>}
 */
export function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return call(path, () => ({ method: "POST", body: JSON.stringify(body), headers }));
}

/**
 * Sends a request, again after each login that the server asks for.
 *
 * @param {string} path
 * @param {() => RequestInit} request makes the request
 * @returns {Promise<any>}
 */
async function call(path, request) {
  for (;;) {
    try {
      return await once(path, request());
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 401 || path === "/login" || !logIn) throw error;
      await logIn();
    }
  }
}

/**
 * @param {string} path
 * @param {RequestInit} request
 * @returns {Promise<any>}
 */
async function once(path, request) {
  let status, body;
  try {
    const response = await fetch(`/api${path}`, { ...request, credentials: "same-origin" });
    status = response.status;
    body = await response.json();
  } catch (error) {
    if (error instanceof Error && error.name === "AbortError") throw error;
    throw new Gone();
  }
  return dataOf(status, body);
}
