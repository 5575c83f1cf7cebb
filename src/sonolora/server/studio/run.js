// One run: how far it is, what it learns, and then its sounds.
import { html, useEffect, useRef, useState } from "./lib.js";
import { follow, get, patch, post } from "./api.js";
import { Curves } from "./curves.js";
import { Editable } from "./datasets.js";
import { Listen } from "./listen.js";
import { BlindTest } from "./abx.js";
import { Sweep } from "./sweep.js";
import { Take } from "./take.js";
import { titleOf } from "./runs.js";
import { Progress, State, clock, duration, failed } from "./ui.js";

const TABS = [["progress", "Progress"], ["listen", "Listen"], ["test", "Blind test"], ["take", "Take it"]];

export function RunView({ id, tab }) {
  const [run, setRun] = useState(null);
  const [gone, setGone] = useState(false);
  const [log, setLog] = useState([]);
  const [metrics, setMetrics] = useState(new Map());
  const [previews, setPreviews] = useState([]);
  const [lost, setLost] = useState(false);
  const details = () => get(`runs/${id}`).then((found) => {
    setRun((now) => ({ ...now, ...found }));
    setPreviews(found.previews);
  }, (error) => (error.status === 404 ? setGone(true) : failed(error)));
  useEffect(() => {
    details();
    return follow(id, {
      run: (state) => setRun((now) => ({ ...now, ...state })),
      log: (lines) => setLog((now) => [...now, ...lines.filter((line) => line.number > (now.at(-1)?.number ?? 0))]),
      metrics: (rows) => setMetrics((now) => {
        const next = new Map(now);
        for (const row of rows) next.set(row.step, row);
        if (rows.some((row) => row.held_out_change)) details(); // how the members of a sweep stand now
        return next;
      }),
      previews: setPreviews,
      end: details,
      lost: () => setLost(true),
      found: () => setLost(false),
    });
  }, [id]);
  if (gone) return html`<p class="note bad">There is no such run. <a href="#/runs">All runs</a></p>`;
  if (!run?.fields) return html`<p class="soft">Loading…</p>`;
  const act = (what) => post(`runs/${id}/${what}`).then((found) => {
    if (what === "retry") location.hash = `#/runs/${found.id}`;
    else setRun((now) => ({ ...now, ...found }));
  }, failed);
  const done = ["finished", "failed", "cancelled"].includes(run.state);
  const shared = { run, previews, metrics };
  return html`<div>
    <div class="head"><div class="grow"><h1><${Editable} value=${run.name} label="Name of the run" onChange=${(name) => patch(`runs/${id}`, { name }).then((found) => setRun((now) => ({ ...now, ...found })), failed)} /></h1>
        <p><${State} state=${run.state} /> ${titleOf(run.mode)} on ${run.base ?? "the server's base"}${run.dataset && html` · <a href=${`#/datasets/${run.dataset.id}`}>${run.dataset.name}</a>`}</p></div>
      ${run.state === "running" || run.state === "queued" ? html`<button onClick=${() => act("pause")}>Pause</button>` : ""}
      ${run.state === "paused" || run.state === "pausing" ? html`<button class="main" onClick=${() => act("resume")}>Resume</button>` : ""}
      ${!done && html`<button class="danger" onClick=${() => confirm("End this run? Its previews and its last saved state stay.") && act("cancel")}>Cancel</button>`}
      ${done && run.state !== "finished" && html`<button class="main" onClick=${() => act("retry")}>Retry</button>`}
      ${done && run.dataset && html`<a class="button" href=${`#/start/${run.dataset.id}/${id}`}>Use as a start</a>`}</div>
    <nav class="tabs" aria-label="Run">${TABS.map(([name, label]) => html`<a href=${`#/runs/${id}/${name}`} aria-current=${tab === name ? "page" : undefined}>${label}</a>`)}</nav>
    ${lost && !done && html`<p class="note warn" role="status">The connection is lost. What happens meanwhile is shown as soon as it is back.</p>`}
    ${tab === "progress" && html`<${Watch} ...${shared} log=${log} />`}
    ${tab === "listen" && html`<${Listen} ...${shared} />`}
    ${tab === "test" && html`<${BlindTest} ...${shared} />`}
    ${tab === "take" && html`<${Take} run=${run} onChange=${details} />`}
  </div>`;
}

function Watch({ run, metrics, log }) {
  const rows = [...metrics.values()].sort((a, b) => a.step - b.step);
  const steps = run.fields.number_of_steps ?? 2000;
  const latest = rows.filter((row) => row.loss !== undefined).at(-1);
  const evaluated = rows.filter((row) => row.train_eval_loss !== undefined);
  const held = run.evaluation;
  const rate = run.progress.steps_per_second;
  const end = run.progress.estimated_end;
  const box = useRef(null);
  const stick = useRef(true);
  useEffect(() => {
    if (stick.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [log.length]);
  return html`<div class="stack">
    ${run.state === "running" || run.state === "pausing" || run.state === "cancelling" ? html`<section class="panel stack tight" aria-live="off">
      <div class="row apart"><h2>${sentence(run.progress)}</h2><span class="soft num">${run.progress.note}</span></div>
      <${Progress} step=${run.progress.step} steps=${run.progress.steps} label=${run.progress.phase ?? "starting"} />
      <div class="figures" style=${{ marginTop: "0.6rem" }}>
        <${Figure} value=${latest ? `${latest.step} / ${steps}` : `0 / ${steps}`} label="training steps" />
        <${Figure} value=${rate ? `${rate}` : "–"} label="steps a second" />
        <${Figure} value=${end ? clock(end) : "–"} label="end of this phase" />
        <${Figure} value=${end ? duration(Math.max(0, end - Date.now() / 1000)) : "–"} label="left of it" /></div></section>` : ""}
    ${run.state === "queued" && html`<p class="note">In the queue: ${run.position ? `${run.position} before it` : "next"}. <a href="#/queue">The queue</a></p>`}
    ${run.state === "paused" && html`<p class="note warn">Paused. Its state is saved; it continues where it stopped.</p>`}
    ${run.error && run.state === "failed" && html`<div class="note bad" role="alert"><b>It failed.</b> ${Array.isArray(run.detail) ? run.detail.map((one) => html`<div>${one.msg}</div>`) : run.error}</div>`}
    ${run.state === "finished" && html`<section class="panel figures">
      <${Figure} value=${duration(run.seconds)} label="in all" /><${Figure} value=${steps} label="steps" />
      ${evaluated.length > 1 && html`<${Figure} value=${`${(100 * (evaluated.at(-1).train_eval_loss / evaluated[0].train_eval_loss - 1)).toFixed(1).replace("-", "−")} %`} label="loss on training clips, against the base" />`}
      ${held?.best && html`<${Figure} value=${held.best.step} label="best step on held-out clips" />`}
      <div class="row" style=${{ flexWrap: "nowrap", alignItems: "flex-start" }}><a class="button main" href=${`#/runs/${run.id}/listen`}>Listen</a><a class="button" href=${`#/runs/${run.id}/take`}>Take it</a></div></section>`}
    ${run.sweep && html`<${Sweep} run=${run} />`}
    ${held?.summary && html`<${Verdict} evaluation=${held} />`}
    <section class="panel stack tight"><h2>Loss</h2><${Curves} rows=${rows} evaluation=${held} steps=${steps} /></section>
    <section class="panel stack tight"><div class="row apart"><h2>Log</h2></div>
      <div class="log" ref=${box} tabindex="0" role="log" aria-label="Log of the run" onScroll=${(e) => (stick.current = e.currentTarget.scrollHeight - e.currentTarget.scrollTop - e.currentTarget.clientHeight < 30)}>
        ${log.length === 0 && html`<span class="soft">Nothing yet.</span>`}
        ${log.map((line) => html`<div key=${line.number} class=${line.level}><span class="soft num">${clock(line.time)}</span><span>${line.message}</span></div>`)}</div></section>
  </div>`;
}

const KINDS = { learning: "good", plateau: "", open: "", memorising: "warn", worse: "bad" };
const signed = (value) => (value === null || value === undefined ? "–" : `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(4)}`);

// What clips that the training never saw say of it.
function Verdict({ evaluation }) {
  const { clips = [], copies = [], effect } = evaluation;
  return html`<section class="panel stack tight"><div class="row"><h2>On held-out clips</h2>
      ${evaluation.status && html`<span class=${`badge ${KINDS[evaluation.status] ?? ""}`}>${evaluation.status}</span>`}
      ${effect?.verdict && html`<span class=${`badge ${effect.verdict === "healthy" ? "good" : "warn"}`}>effect: ${effect.verdict}</span>`}</div>
    <p>${evaluation.summary}</p>
    ${evaluation.held_out?.note && html`<p class="small soft">${evaluation.held_out.note}</p>`}
    ${clips.length > 0 && html`<details><summary>Clip by clip, hardest first</summary><div class="log" style=${{ maxHeight: "16rem" }} tabindex="0" role="region" aria-label="Clips"><table><thead><tr><th scope="col">Clip</th><th scope="col">Loss</th><th scope="col">Base</th><th scope="col">Difference</th><th scope="col">Remark</th></tr></thead>
      <tbody>${clips.map((clip) => html`<tr key=${clip.name}><td>${clip.name} ${clip.held_out && html`<span class="badge accent">held out</span>`}</td><td class="num">${clip.loss?.toFixed(4)}</td><td class="num">${clip.base?.toFixed(4)}</td><td class="num">${signed(clip.difference)}</td><td class="small soft">${clip.remark}</td></tr>`)}</tbody></table></div></details>`}
    ${copies.length > 0 && html`<details><summary>Are the previews copies?</summary>${copies.map((one) => html`<p class="small" key=${one.number}>“${one.prompt}” is most like ${one.training.clip} (likeness ${one.training.likeness.toFixed(2)})${one.held_out ? `; of the held-out clips most like ${one.held_out.clip} (${one.held_out.likeness.toFixed(2)})` : ""}.</p>`)}</details>`}
  </section>`;
}

function sentence({ phase, step, steps }) {
  if (!phase) return "Starting";
  const first = phase.replace(/^./, (letter) => letter.toUpperCase());
  return steps ? `${first}: ${step} of ${steps}` : first;
}

const Figure = ({ value, label }) => html`<div class="figure"><b>${value}</b><span class="small soft">${label}</span></div>`;
