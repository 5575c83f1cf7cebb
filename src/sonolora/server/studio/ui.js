// Small parts that all views share: icons, messages, dialogs, words for figures, and what is kept in the browser.
import { html, signal, useEffect, useRef } from "./lib.js";

const PATHS = {
  data: "M3 12h2l2-6 3 14 3-18 3 14 2-4h3",
  run: "M5 19V9m5 10V5m5 14v-7m5 7V8",
  queue: "M4 6h16M4 12h16M4 18h10",
  key: "M14 10a4 4 0 1 0-3.5 4L13 11.500l2 2 2-2 2 2 2-2-2-1.500z",
  play: "M7 4.500v15l12-7.500z",
  pause: "M7 5h3.500v14H7zM13.500 5H17v14h-3.500z",
  plus: "M12 5v14M5 12h14",
  trash: "M5 7h14M10 7V4h4v3m-7 0 1 13h8l1-13",
  close: "M6 6l12 12M18 6 6 18",
  down: "M12 4v11m-4.500-4L12 15.500 16.500 11M5 20h14",
  cut: "M6 18 18 6M6 6l12 12M6 20a2 2 0 1 0 0-4 2 2 0 0 0 0 4zm0-12a2 2 0 1 0 0-4 2 2 0 0 0 0 4z",
  moon: "M20 14A8 8 0 1 1 10 4a6.500 6.500 0 0 0 10 10z",
  start: "M5 12h13m-5-6 6 6-6 6",
  grip: "M9 6h.01M15 6h.01M9 12h.01M15 12h.01M9 18h.01M15 18h.01",
  mask: "M4 5v14M20 5v14M8 9v6m4-9v12m4-9v6",
};

export const Icon = ({ name, size = 18 }) => html`<svg width=${size} height=${size} viewBox="0 0 24 24" aria-hidden="true"
  fill=${name === "play" || name === "pause" ? "currentColor" : "none"} stroke="currentColor" stroke-width=${name === "grip" ? 3 : 1.8}
  stroke-linecap="round" stroke-linejoin="round"><path d=${PATHS[name]} /></svg>`;

// Messages
export const toasts = signal([]);
let lastToast = 0;
export function toast(text) {
  const id = ++lastToast;
  toasts.value = [...toasts.value.slice(-3), { id, text }];
  setTimeout(() => dismiss(id), 9000);
}
const dismiss = (id) => (toasts.value = toasts.value.filter((one) => one.id !== id));
export const failed = (error) => error.name !== "AbortError" && toast(error.message);

export const Toasts = () => html`<div class="toasts" role="status" aria-live="polite">
  ${toasts.value.map((one) => html`<div class="toast" key=${one.id}><span class="grow">${one.text}</span>
    <button aria-label="Dismiss" onClick=${() => dismiss(one.id)}><${Icon} name="close" size=${14} /></button></div>`)}
</div>`;

export function Dialog({ title, onClose, children, wide }) {
  const box = useRef(null);
  useEffect(() => {
    box.current.showModal();
  }, []);
  return html`<dialog ref=${box} class=${wide ? "wide" : ""} aria-label=${title} onClose=${onClose}>
    <div class="stack"><div class="row apart"><h2>${title}</h2>
      <button class="plain icon" aria-label="Close" onClick=${() => box.current.close()}><${Icon} name="close" /></button></div>
      ${children}</div></dialog>`;
}

// Words for figures
export function seconds(value) {
  if (value == null) return "";
  if (value < 10) return `${value.toFixed(2)} s`;
  if (value < 120) return `${value.toFixed(1)} s`;
  return duration(value);
}
export function duration(value) {
  if (value == null) return "–";
  if (value < 1) return "under 1 s";
  if (value < 90) return `${Math.round(value)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}
export function bytes(value) {
  if (value >= 1e9) return `${(value / 1e9).toFixed(value >= 1e10 ? 0 : 1)} GB`;
  if (value >= 1e6) return `${(value / 1e6).toFixed(value >= 1e7 ? 0 : 1)} MB`;
  return `${Math.ceil(value / 1e3)} kB`;
}
export const dollars = (value) => (value > 0 && value < 0.01 ? "under $0.01" : `$${value < 10 ? value.toFixed(2) : Math.round(value)}`);
export const many = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
export function ago(time) {
  const passed = Date.now() / 1000 - time;
  if (passed < 60) return "just now";
  if (passed < 3600) return `${Math.floor(passed / 60)} min ago`;
  if (passed < 86400) return `${Math.floor(passed / 3600)} h ago`;
  return new Date(time * 1000).toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}
export const clock = (time) => new Date(time * 1000).toLocaleTimeString("en", { hour12: false });
export const words = (name) => name.replaceAll("_", " ").replace(/^./, (first) => first.toUpperCase());

const STATES = { finished: "good", failed: "bad", running: "accent", paused: "warn", cancelled: "" };
export const State = ({ state }) => html`<span class=${`badge ${STATES[state] || ""}`}>${state}</span>`;

export const Progress = ({ step, steps, label }) => {
  const known = steps > 0;
  return html`<div class=${`bar ${known ? "" : "wait"}`} role="progressbar" aria-label=${label}
    aria-valuemin="0" aria-valuemax=${known ? steps : undefined} aria-valuenow=${known ? step : undefined}>
    <div style=${{ width: `${known ? (100 * step) / steps : 30}%` }} /></div>`;
};

// What is kept in this browser
export function kept(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(`sonolora.${name}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}
export const keep = (name, value) => localStorage.setItem(`sonolora.${name}`, JSON.stringify(value));

// The last call, once nothing has happened for a while.
export function later(milliseconds, call) {
  let timer;
  const run = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...values), milliseconds);
  };
  run.cancel = () => clearTimeout(timer);
  return run;
}
