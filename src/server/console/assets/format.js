// Values as people read them.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** A dash for what is not known. */
export const NONE = "–";

export const count = (value) => (value === null || value === undefined ? NONE : grouped.format(value));

/** A number for an axis. */
export const compact = (value) => short.format(value);

/** Rows per second. */
export function rate(value) {
  if (value === null || value === undefined) return NONE;
  return `${value >= 100 ? grouped.format(value) : precise.format(value)}/s`;
}

/** A time as it is in the data: UTC, without a T. */
export const time = (iso) => (iso ? iso.replace("T", " ").replace(/Z$/, "").replace(/\.0+$/, "") : NONE);

/** How long ago, by the server's clock. */
export function ago(iso, now) {
  if (!iso) return NONE;
  const seconds = Math.max(0, (Date.parse(now) - Date.parse(iso)) / 1000);
  return seconds < 1 ? "now" : `${span(seconds)} ago`;
}

/** A number of seconds in its two largest units. */
export function span(seconds) {
  const units = [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]];
  const at = units.findIndex(([, size]) => seconds >= size);
  if (at < 0) return "0 s";
  const [unit, size] = units[at];
  const whole = Math.floor(seconds / size);
  const next = units[at + 1];
  const rest = next ? Math.floor((seconds - whole * size) / next[1]) : 0;
  return rest > 0 && whole < 10 ? `${whole} ${unit} ${rest} ${next[0]}` : `${whole} ${unit}`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return NONE;
  return value < 10_000 ? `${grouped.format(value)} ms` : span(value / 1000);
}

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** A cell of a result as text. */
export function cell(value, type) {
  if (value === null) return "NULL";
  if (typeof value === "object") return JSON.stringify(value);
  if (type?.startsWith("TIMESTAMP") && typeof value === "string") return time(value);
  return String(value);
}

/** Bytes, which come as hexadecimal digits, as the text they are, if they are. */
export function bytes(hex) {
  if (typeof hex !== "string" || hex === "") return hex;
  const all = Uint8Array.from(hex.match(/../g), (digits) => parseInt(digits, 16));
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(all);
    return /[\u0000-\u0008\u000e-\u001f]/.test(text) ? hex : text;
  } catch {
    return hex;
  }
}
