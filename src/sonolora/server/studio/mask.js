// Marking what is regenerated: on the spectrogram by mouse, or by keyboard; ranges snap to the model's frames of 40 ms.
import { html, useEffect, useRef, useState } from "./lib.js";
import { put } from "./api.js";
import { address } from "./datasets.js";
import { playing, position, seek, setGroup, stop } from "./player.js";
import { shapeOf } from "./sound.js";
import { Dialog, failed, seconds } from "./ui.js";

export const FRAME = 0.04;
export const snap = (at, length) => Math.max(0, Math.min(length, Math.round(at / FRAME) * FRAME));
const tidy = (at) => Math.round(at * 1000) / 1000;

// Sorted, without overlaps, none shorter than a frame.
export function merged(ranges) {
  const sorted = ranges.map(([a, b]) => [Math.min(a, b), Math.max(a, b)]).filter(([a, b]) => b - a >= FRAME / 2).sort((x, y) => x[0] - y[0]);
  const result = [];
  for (const [start, end] of sorted) {
    const last = result.at(-1);
    if (last && start <= last[1] + 1e-6) last[1] = Math.max(last[1], end);
    else result.push([start, end]);
  }
  return result.map(([start, end]) => [tidy(start), tidy(end)]);
}

export function MaskEditor({ id, clip, onClose, onSaved }) {
  const [shape, setShape] = useState(null);
  const [, redraw] = useState(0);
  // Not state: events come faster than the view is drawn, and each one builds on the one before.
  const now = useRef({ ranges: clip.mask, drag: null, cursor: 0, anchor: null }).current;
  const set = (changes) => {
    Object.assign(now, changes);
    redraw((count) => count + 1);
  };
  const { ranges, drag, cursor } = now;
  const saved = useRef(JSON.stringify(clip.mask));
  const area = useRef(null);
  const file = clip.sounds[0].file;
  const group = "mask";
  useEffect(() => void shapeOf(address(id, file, "shape")).then(setShape, failed), []);
  useEffect(() => () => stop(), []);
  setGroup(group, [{ key: "clip", url: address(id, file, "play") }]);

  const save = async (next) => {
    set({ ranges: next });
    if (JSON.stringify(next) === saved.current) return;
    saved.current = JSON.stringify(next);
    try {
      await put(`datasets/${id}/masks/${encodeURIComponent(clip.name)}`, { time_ranges: next });
    } catch (error) {
      failed(error);
    }
  };
  const at = (event) => {
    const box = area.current.getBoundingClientRect();
    return snap(((event.clientX - box.left) / box.width) * shape.seconds, shape.seconds);
  };
  const down = (event) => {
    if (!shape) return;
    area.current.setPointerCapture(event.pointerId);
    const here = at(event);
    const near = (6 / area.current.clientWidth) * shape.seconds;
    for (const [index, range] of now.ranges.entries()) {
      const edge = range.findIndex((end) => Math.abs(end - here) <= near);
      if (edge >= 0) return set({ drag: { from: range[1 - edge], to: here, rest: now.ranges.filter((_, other) => other !== index) } });
    }
    return set({ drag: { from: here, to: here, rest: now.ranges }, cursor: here });
  };
  const move = (event) => now.drag && set({ drag: { ...now.drag, to: at(event) } });
  const finish = () => {
    const done = now.drag;
    set({ drag: null, anchor: null });
    if (done) save(merged([...done.rest, [done.from, done.to]]));
  };
  const up = (event) => {
    move(event);
    finish();
  };
  const keys = (event) => {
    if (!shape) return;
    const step = event.ctrlKey ? 0.2 : FRAME;
    const moves = { ArrowLeft: -step, ArrowRight: step, Home: -1e9, End: 1e9, PageUp: -1, PageDown: 1 };
    if (event.key in moves) {
      event.preventDefault();
      const next = snap(now.cursor + moves[event.key], shape.seconds);
      const anchor = now.anchor ?? now.cursor;
      set(event.shiftKey ? { cursor: next, anchor, drag: { from: anchor, to: next, rest: now.ranges } } : { cursor: next });
    } else if (event.key === "Enter" && now.drag) {
      event.preventDefault();
      finish();
    } else if (event.key === "Escape" && now.drag) {
      event.preventDefault();
      event.stopPropagation();
      set({ drag: null, anchor: null });
    } else if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      save(now.ranges.filter(([start, end]) => !(start <= now.cursor && now.cursor <= end)));
    } else if (event.key === " ") {
      event.preventDefault();
      if (playing.value?.group === group) stop();
      else seek(group, "clip", now.cursor);
    }
  };
  // A mark that was begun with Shift is complete when Shift is let go.
  const released = (event) => event.key === "Shift" && now.anchor !== null && finish();
  const head = useRef(null);
  useEffect(() => position.subscribe((time) => {
    if (head.current && shape) {
      head.current.style.display = playing.value?.group === group ? "" : "none";
      head.current.style.left = `${(100 * time) / shape.seconds}%`;
    }
  }), [shape]);
  const shown = drag ? merged([...drag.rest, [drag.from, drag.to]]) : ranges;
  const place = (time) => `${(100 * time) / shape.seconds}%`;
  const marked = shown.reduce((sum, [start, end]) => sum + end - start, 0);
  const close = () => {
    onSaved();
    onClose();
  };
  return html`<${Dialog} title=${`Mark what is regenerated: ${clip.name}`} onClose=${close} wide>
    <p class="small soft">Drag over the spectrogram; drag an edge to move it. By keyboard: arrows move the cursor by 40 ms, with <kbd>Ctrl</kbd> by 200 ms,
      with <kbd>Shift</kbd> they mark; <kbd>Delete</kbd> removes the mark at the cursor, <kbd>space</kbd> plays.</p>
    <div class="sound tall" ref=${area} style=${{ cursor: "crosshair", touchAction: "none" }} tabindex="0" role="slider" data-keys data-testid="mask"
      aria-label="Cursor in the clip" aria-valuemin="0" aria-valuemax=${shape?.seconds ?? 0} aria-valuenow=${tidy(cursor)}
      aria-valuetext=${`${seconds(cursor)}, ${shown.some(([start, end]) => start <= cursor && cursor < end) ? "marked" : "not marked"}`}
      onPointerDown=${down} onPointerMove=${move} onPointerUp=${up} onKeyDown=${keys} onKeyUp=${released}>
      <img src=${address(id, file, "spectrogram")} alt="" draggable=${false} />
      ${shape && shown.map(([start, end]) => html`<span class="span" style=${{ left: place(start), width: place(end - start) }} />`)}
      ${shape && html`<span class="playhead" style=${{ left: place(cursor), width: "1px", opacity: 0.8 }} />`}
      <span class="playhead" ref=${head} style=${{ display: "none" }} />
    </div>
    <div class="row apart"><span class="num" data-testid="ranges">${shown.length === 0 ? "Nothing is marked." : shown.map(([start, end]) => `${start.toFixed(2)}–${end.toFixed(2)} s`).join(", ")}</span>
      <span class="soft small">${shape && `${seconds(marked)} of ${seconds(shape.seconds)} (${Math.round((100 * marked) / shape.seconds)} %)`}</span></div>
    <div class="row"><button onClick=${() => save([])} disabled=${!ranges.length}>Clear</button></div>
  <//>`;
}
