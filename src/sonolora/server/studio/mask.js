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
  const [ranges, setRanges] = useState(clip.mask);
  const [drag, setDrag] = useState(null); // {from, to}, or {edge, index}
  const [cursor, setCursor] = useState(0);
  const [anchor, setAnchor] = useState(null);
  const saved = useRef(JSON.stringify(clip.mask));
  const area = useRef(null);
  const file = clip.sounds[0].file;
  const group = "mask";
  useEffect(() => void shapeOf(address(id, file, "shape")).then(setShape, failed), []);
  useEffect(() => () => stop(), []);
  setGroup(group, [{ key: "clip", url: address(id, file, "play") }]);

  const save = async (next) => {
    setRanges(next);
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
    for (const [index, range] of ranges.entries()) {
      const edge = range.findIndex((end) => Math.abs(end - here) <= near);
      if (edge >= 0) return setDrag({ from: range[1 - edge], to: here, rest: ranges.filter((_, other) => other !== index) });
    }
    setDrag({ from: here, to: here, rest: ranges });
    setCursor(here);
  };
  const move = (event) => drag && setDrag({ ...drag, to: at(event) });
  const up = () => {
    if (drag) save(merged([...drag.rest, [drag.from, drag.to]]));
    setDrag(null);
  };
  const keys = (event) => {
    if (!shape) return;
    const step = event.ctrlKey ? 0.2 : FRAME;
    const moves = { ArrowLeft: -step, ArrowRight: step, Home: -1e9, End: 1e9, PageUp: -1, PageDown: 1 };
    if (event.key in moves) {
      event.preventDefault();
      const next = snap(cursor + moves[event.key], shape.seconds);
      if (event.shiftKey) {
        const from = anchor ?? cursor;
        setAnchor(from);
        setDrag({ from, to: next, rest: ranges });
      }
      setCursor(next);
    } else if (event.key === "Enter" && drag) {
      event.preventDefault();
      up();
      setAnchor(null);
    } else if (event.key === "Escape" && drag) {
      event.preventDefault();
      event.stopPropagation();
      setDrag(null);
      setAnchor(null);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      save(ranges.filter(([start, end]) => !(start <= cursor && cursor <= end)));
    } else if (event.key === " ") {
      event.preventDefault();
      if (playing.value?.group === group) stop();
      else seek(group, "clip", cursor);
    }
  };
  // A mark that was begun with Shift is complete when Shift is let go.
  const released = (event) => {
    if (event.key !== "Shift" || anchor === null) return;
    up();
    setAnchor(null);
  };
  const head = useRef(null);
  useEffect(() => position.subscribe((now) => {
    if (head.current && shape) {
      head.current.style.display = playing.value?.group === group ? "" : "none";
      head.current.style.left = `${(100 * now) / shape.seconds}%`;
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
      <img src=${address(id, file, "spectrogram")} alt="" draggable="false" />
      ${shape && shown.map(([start, end]) => html`<span class="span" style=${{ left: place(start), width: place(end - start) }} />`)}
      ${shape && html`<span class="playhead" style=${{ left: place(cursor), width: "1px", opacity: 0.8 }} />`}
      <span class="playhead" ref=${head} style=${{ display: "none" }} />
    </div>
    <div class="row apart"><span class="num" data-testid="ranges">${shown.length === 0 ? "Nothing is marked." : shown.map(([start, end]) => `${start.toFixed(2)}–${end.toFixed(2)} s`).join(", ")}</span>
      <span class="soft small">${shape && `${seconds(marked)} of ${seconds(shape.seconds)} (${Math.round((100 * marked) / shape.seconds)} %)`}</span></div>
    <div class="row"><button onClick=${() => save([])} disabled=${!ranges.length}>Clear</button></div>
  <//>`;
}
