// A sound as a picture: its spectrogram with the waveform and the playhead over it. Click plays from there.
import { html, signal, useEffect, useRef, useState } from "./lib.js";
import { chosenOf, playing, position, seek, switchTo, toggle } from "./player.js";
import { seconds } from "./ui.js";

const shapes = new Map(); // address without signature -> promise
export function shapeOf(url) {
  const key = url.split("?")[0];
  if (!shapes.has(key)) {
    const loading = fetch(url).then(async (answer) => {
      const data = await answer.json();
      if (!answer.ok) throw new Error(data.detail?.[0]?.msg ?? data.detail ?? "This sound cannot be read.");
      return data;
    });
    loading.catch(() => shapes.delete(key));
    shapes.set(key, loading);
  }
  return shapes.get(key);
}
export const forgetShape = (url) => shapes.delete(url.split("?")[0]);

// The shape of a sound, once it is near the visible part of the page.
export function useShape(url, box) {
  const [shape, setShape] = useState(null);
  const [fault, setFault] = useState("");
  useEffect(() => {
    if (!url) return undefined;
    let alive = true;
    setShape(null);
    setFault("");
    const load = () => shapeOf(url).then((one) => alive && setShape(one), (error) => alive && setFault(error.message));
    const watcher = new IntersectionObserver(
      ([entry]) => {
        if (!entry.isIntersecting) return;
        watcher.disconnect();
        load();
      },
      { rootMargin: "300px" },
    );
    watcher.observe(box.current);
    return () => {
      alive = false;
      watcher.disconnect();
    };
  }, [url?.split("?")[0]]);
  return [shape, fault];
}

export function drawWave(canvas, shape) {
  const scale = Math.min(devicePixelRatio, 2);
  const width = (canvas.width = canvas.clientWidth * scale);
  const height = (canvas.height = canvas.clientHeight * scale);
  const paint = canvas.getContext("2d");
  paint.fillStyle = "#ffffffd0";
  const count = shape.low.length;
  for (let x = 0; x < width; x++) {
    const first = Math.floor((x / width) * count);
    const last = Math.max(first + 1, Math.floor(((x + 1) / width) * count));
    let low = 0;
    let high = 0;
    for (let index = first; index < last && index < count; index++) {
      low = Math.min(low, shape.low[index]);
      high = Math.max(high, shape.high[index]);
    }
    const top = height / 2 - (Math.min(1, high) * height) / 2;
    paint.fillRect(x, top, 1, Math.max(1, ((Math.min(1, high) - Math.max(-1, low)) * height) / 2));
  }
}

// `spectrogram`, `shape`: addresses; `group`, `voice`: whom the player knows it by; `span`: seconds of all, where sounds
// of one row have different lengths; `spans`: marked seconds; `onShape` gets its figures.
export function Sound({ spectrogram, shape: shapeUrl, group, voice, label, detail, spans = [], tall, onShape, active }) {
  const box = useRef(null);
  const canvas = useRef(null);
  const head = useRef(null);
  const [shape, fault] = useShape(shapeUrl, box);
  const [seen, setSeen] = useState(false);
  useEffect(() => {
    if (!shape) return;
    setSeen(true);
    onShape?.(shape);
    if (canvas.current) drawWave(canvas.current, shape);
  }, [shape]);
  useEffect(() => {
    if (!shape) return undefined;
    return position.subscribe((at) => {
      const here = playing.value?.group === group;
      if (!head.current) return;
      head.current.style.display = here ? "" : "none";
      head.current.style.left = `${(100 * at) / shape.seconds}%`;
    });
  }, [shape, group]);
  const heard = playing.value?.group === group && playing.value.key === voice;
  const marked = active ?? (heard || (playing.value?.group !== group && chosenOf(group) === voice));
  const click = (event) => {
    const at = shape && event.detail ? ((event.clientX - box.current.getBoundingClientRect().left) / box.current.clientWidth) * shape.seconds : null;
    if (at === null) toggle(group, voice); // by keyboard
    else if (playing.value?.group === group && playing.value.key !== voice) switchTo(group, voice);
    else seek(group, voice, at);
  };
  return html`<button ref=${box} class=${`sound ${tall ? "tall" : ""} ${heard || active ? "active" : ""}`} data-voice=${voice}
    aria-pressed=${marked ? "true" : "false"} aria-label=${`${heard ? "Pause" : "Play"} ${label}`} onClick=${click}>
    ${fault ? html`<span class="none">${fault}</span>` : seen ? html`<img src=${spectrogram} alt="" loading="lazy" />` : html`<span class="none" />`}
    ${shape && shape.seconds && spans.map(([start, end]) => html`<span class="span" style=${{
      left: `${(100 * start) / shape.seconds}%`, width: `${(100 * (end - start)) / shape.seconds}%` }} />`)}
    <canvas ref=${canvas} aria-hidden="true" />
    <span class="playhead" ref=${head} style=${{ display: "none" }} />
    ${label && html`<span class="tag">${label}</span>`}
    <span class="tag right">${detail ?? (shape ? seconds(shape.seconds) : "")}</span>
  </button>`;
}
