// The queue and the machine: what runs where, what waits and why, in an order that can be changed.
import { html, useEffect, useState } from "./lib.js";
import { get, patch, post, session } from "./api.js";
import { titleOf } from "./runs.js";
import { Icon, Progress, State, ago, bytes, failed } from "./ui.js";

export function QueueView() {
  const [data, setData] = useState(null);
  const [dragged, setDragged] = useState(null);
  const [over, setOver] = useState(null);
  useEffect(() => {
    const load = () => document.hidden || get("queue").then(setData, () => {});
    load();
    const timer = setInterval(load, 2000);
    return () => clearInterval(timer);
  }, []);
  if (!data) return html`<p class="soft">Loading…</p>`;
  const move = (id, before) => id !== before && patch(`queue/${id}`, { before }).then(setData, failed);
  const act = (id, what) => post(`runs/${id}/${what}`).then(() => get("queue")).then(setData, failed);
  const step = (index, by) => {
    const to = index + by;
    if (to < 0 || to >= data.waiting.length) return;
    move(data.waiting[index].id, by < 0 ? data.waiting[to].id : data.waiting[to + 1]?.id ?? null);
  };
  const { machine } = data;
  const operator = session.value.key.role === "operator";
  return html`<div class="stack">
    <div class="head" style=${{ marginBottom: 0 }}><div class="grow"><h1>Queue and machine</h1><p>${operator ? "Requests of this page and over the wire." : `Those of ${session.value.key.owner}, of this page and over the wire.`}</p></div></div>
    ${data.waiting_for && html`<p class="note bad" role="alert">Nothing is started: ${data.waiting_for}.</p>`}
    <section class="panel"><div class="figures" style=${{ gridTemplateColumns: "repeat(auto-fill, minmax(13rem, 1fr))" }}>
      ${data.devices.map((one) => html`<${Meter} key=${one.device} title=${one.name ?? one.device} value=${one.memory ? one.memory_used : null} of=${one.memory}
        text=${`${one.busy ? "at work" : one.ready ? "ready" : "loading the base"}${one.load !== undefined ? ` · load ${Math.round(one.load)} %` : ""}`} />`)}
      <${Meter} title=${`Processor, ${machine.cores} cores`} value=${machine.load} of=${100} text=${`${Math.round(machine.load)} % at work`} />
      <${Meter} title="Memory" value=${machine.memory_used} of=${machine.memory} text=${`${bytes(machine.memory_used)} of ${bytes(machine.memory)}`} />
      <${Meter} title="Disk" value=${machine.disk - machine.disk_free} of=${machine.disk} text=${`${bytes(machine.disk_free)} free`} /></div></section>
    <section class="panel stack tight"><h2>Running</h2>${data.running.length === 0 && html`<p class="soft">Nothing runs.</p>`}
      ${data.running.map((one) => html`<div key=${one.id} class="stack tight" style=${{ padding: "0.4rem 0" }}><div class="row"><${Name} one=${one} /><span class="soft small grow wide">${one.progress.phase ?? "starting"} on ${one.device ?? "a device"} · ${who(one)}</span>
        <button class="small" onClick=${() => act(one.id, "pause")}>Pause</button></div><${Progress} step=${one.progress.step} steps=${one.progress.steps} label=${`Progress of ${one.name}`} /></div>`)}</section>
    <section class="panel stack tight"><div class="row apart"><h2>Waiting</h2>${operator && html`<span class="small soft">Drag to change the order, or use the arrow keys on a grip.</span>`}</div>
      ${data.waiting.length === 0 && html`<p class="soft">Nothing waits.</p>`}
      <ol class="queue" aria-label="Waiting">${data.waiting.map((one, index) => html`<li key=${one.id} draggable=${operator} class=${over === one.id ? "over" : ""}
          onDragStart=${(e) => { setDragged(one.id); e.dataTransfer.setData("text/plain", one.id); }} onDragOver=${(e) => { e.preventDefault(); setOver(one.id); }}
          onDragEnd=${() => { setDragged(null); setOver(null); }} onDrop=${(e) => { e.preventDefault(); setOver(null); if (dragged) move(dragged, one.id); }}>
        ${operator && html`<button class="plain icon grip" aria-label=${`Move ${one.name}, ${index + 1} of ${data.waiting.length}`} onKeyDown=${(e) => {
          if (e.key === "ArrowUp" || e.key === "ArrowDown") { e.preventDefault(); step(index, e.key === "ArrowUp" ? -1 : 1); }
        }}><${Icon} name="grip" /></button>`}
        <span class="num soft">${index + 1}</span><div class="grow"><${Name} one=${one} /><div class="small soft">${one.reason} · ${one.from_page ? who(one) : `over the wire, ${who(one)}`} · ${ago(one.created)}</div></div>
        <button class="small" onClick=${() => act(one.id, one.state === "paused" ? "resume" : "pause")}>${one.state === "paused" ? "Resume" : "Pause"}</button>
        <button class="small danger" onClick=${() => act(one.id, "cancel")}>Cancel</button></li>`)}</ol></section>
  </div>`;
}

const who = (one) => (one.owner && one.owner !== one.key ? `${one.key} (${one.owner})` : one.key);
const Name = ({ one }) => html`<span class="row" style=${{ gap: "0.4rem" }}>${one.kind === "train" ? html`<a href=${`#/runs/${one.id}`}><b>${one.name}</b></a>` : html`<b>${one.name}</b>`}
  <span class="badge">${one.kind === "generate" ? "sound" : titleOf(one.mode)}</span>${one.state !== "queued" && one.state !== "running" && html`<${State} state=${one.state} />`}</span>`;

function Meter({ title, value, of, text }) {
  const share = of ? Math.min(100, (100 * value) / of) : 0;
  return html`<div class="figure stack tight"><span class="row apart"><b style=${{ fontSize: "var(--text)" }}>${title}</b></span>
    <div class="bar" role="meter" aria-label=${title} aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(share)}><div style=${{ width: `${share}%` }} /></div>
    <span class="small soft">${text}</span></div>`;
}
