// A long recording becomes clips: where it is cut is previewed and can be changed.
import { html, useEffect, useMemo, useRef, useState } from "./lib.js";
import { post } from "./api.js";
import { address } from "./datasets.js";
import { playing, position, seek, setGroup, stop } from "./player.js";
import { shapeOf } from "./sound.js";
import { Dialog, failed, later, many, seconds } from "./ui.js";

export function Slicer({ id, file, length, onClose, onDone }) {
  const [options, setOptions] = useState({ by: "silence", length, minimum: Math.min(1, length), pause: 0.3, below_dbfs: -45 });
  const [shape, setShape] = useState(null);
  const [spans, setSpans] = useState(null);
  const [busy, setBusy] = useState(false);
  const drag = useRef(null); // {index, edge}
  const area = useRef(null);
  const head = useRef(null);
  const group = "slicer";
  setGroup(group, [{ key: "recording", url: address(id, file, "play") }]);
  useEffect(() => {
    shapeOf(address(id, file, "shape")).then(setShape, failed);
    return stop;
  }, []);
  const plan = useMemo(() => later(250, (wanted) => post(`datasets/${id}/slicing`, { file, ...wanted }).then((found) => setSpans(found.spans), failed)), []);
  useEffect(() => plan(options), [JSON.stringify(options)]);
  useEffect(() => position.subscribe((now) => {
    if (head.current && shape) {
      head.current.style.display = playing.value?.group === group ? "" : "none";
      head.current.style.left = `${(100 * now) / shape.seconds}%`;
    }
  }), [shape]);
  const set = (name, value) => setOptions({ ...options, [name]: value });
  const number = (name, label, help) => html`<div><label class="label" for=${`slice-${name}`}>${label}</label>
    <input id=${`slice-${name}`} inputmode="decimal" value=${options[name]} onChange=${(e) => !Number.isNaN(Number(e.currentTarget.value)) && set(name, Number(e.currentTarget.value))} />
    <p class="help">${help}</p></div>`;
  const timeAt = (event) => {
    const box = area.current.getBoundingClientRect();
    return Math.max(0, Math.min(shape.seconds, ((event.clientX - box.left) / box.width) * shape.seconds));
  };
  const down = (event) => {
    if (!shape || !spans) return;
    const here = timeAt(event);
    const near = (6 / area.current.clientWidth) * shape.seconds;
    for (const [index, span] of spans.entries()) {
      const edge = span.findIndex((end) => Math.abs(end - here) <= near);
      if (edge >= 0) {
        area.current.setPointerCapture(event.pointerId);
        drag.current = { index, edge };
        return;
      }
    }
    seek(group, "recording", here);
  };
  const move = (event) => {
    if (!drag.current) return;
    const { index: dragged, edge } = drag.current;
    const here = Math.round(timeAt(event) * 1000) / 1000;
    setSpans((now) => now.map((span, index) => {
      if (index !== dragged) return span;
      const next = [...span];
      next[edge] = here;
      return next[1] - next[0] > 0.05 ? next : span;
    }));
  };
  const make = async () => {
    setBusy(true);
    try {
      onDone(await post(`datasets/${id}/slices`, { file, spans }));
    } catch (error) {
      failed(error);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${`Slice ${file}`} onClose=${onClose} wide>
    <div class="segmented" role="group" aria-label="Cut"><button aria-pressed=${options.by === "silence" ? "true" : "false"} onClick=${() => set("by", "silence")}>At silence</button>
      <button aria-pressed=${options.by === "length" ? "true" : "false"} onClick=${() => set("by", "length")}>At a fixed length</button></div>
    <div class="fields">${number("length", options.by === "length" ? "Seconds of a clip" : "At most, seconds", "The length that is trained is a good choice.")}
      ${number("minimum", "At least, seconds", "Shorter ones are skipped.")}
      ${options.by === "silence" && number("pause", "Pause, seconds", "So much silence ends a clip.")}
      ${options.by === "silence" && number("below_dbfs", "Silence is below, dBFS", "Lower for quiet recordings.")}</div>
    <div class="sound tall" ref=${area} onPointerDown=${down} onPointerMove=${move} onPointerUp=${() => (drag.current = null)} style=${{ touchAction: "none" }}>
      <img src=${address(id, file, "spectrogram")} alt=${`Spectrogram of ${file} with the cuts`} draggable=${false} />
      ${shape && spans?.map(([start, end]) => html`<span class="span" style=${{ left: `${(100 * start) / shape.seconds}%`, width: `${(100 * (end - start)) / shape.seconds}%` }} />`)}
      <span class="playhead" ref=${head} style=${{ display: "none" }} /></div>
    <div class="log" style=${{ maxHeight: "11rem" }}>${spans?.map(([start, end], index) => html`<p class="row" key=${`${start}`}><span class="num grow">${index + 1}. ${start.toFixed(2)}–${end.toFixed(2)} s <span class="soft">(${seconds(end - start)})</span></span>
      <button class="plain small" aria-label=${`Play clip ${index + 1}`} onClick=${() => seek(group, "recording", start)}>Play</button>
      <button class="plain small" aria-label=${`Leave out clip ${index + 1}`} onClick=${() => setSpans(spans.filter((_, other) => other !== index))}>Leave out</button></p>`)}</div>
    <div class="row"><button class="main" disabled=${!spans?.length || busy} onClick=${make}>${busy ? "Cutting…" : `Make ${many(spans?.length ?? 0, "clip")}`}</button>
      <span class="soft small">The recording is removed; the clips take its place.</span></div>
  <//>`;
}
