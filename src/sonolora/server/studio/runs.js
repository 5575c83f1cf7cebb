// All runs, the newest first.
import { html, useEffect, useState } from "./lib.js";
import { get, modes, otherOwner } from "./api.js";
import { Progress, State, ago, duration, failed } from "./ui.js";

export const titleOf = (mode) => modes.value.modes.find((one) => one.name === mode)?.title ?? mode;

export function RunList() {
  const [runs, setRuns] = useState(null);
  const [search, setSearch] = useState("");
  const [state, setState] = useState("all");
  const [picked, setPicked] = useState([]);
  useEffect(() => {
    const load = () => document.hidden || get("runs?limit=500").then((data) => setRuns(data.runs), failed);
    load();
    const timer = setInterval(load, 4000);
    return () => clearInterval(timer);
  }, []);
  if (!runs) return html`<p class="soft">Loading…</p>`;
  const states = [...new Set(runs.map((run) => run.state))];
  const shown = runs.filter((run) => (state === "all" || run.state === state) && (!search || `${run.name} ${run.mode} ${titleOf(run.mode)} ${run.dataset?.name ?? ""}`.toLowerCase().includes(search.toLowerCase())));
  const pick = (id) => setPicked(picked.includes(id) ? picked.filter((one) => one !== id) : [...picked, id].slice(-2));
  return html`<div>
    <div class="head"><div class="grow"><h1>Runs</h1><p>Trainings from this page and over the wire.</p></div>
      <a class="button" aria-disabled=${picked.length !== 2} href=${picked.length === 2 ? `#/compare/${picked.join("/")}` : undefined} role="link">Listen to two side by side</a>
      <a class="button main" href="#/">New training</a></div>
    ${runs.length === 0 ? html`<p class="soft">None yet.</p>` : html`
    <div class="toolbar"><input type="search" aria-label="Search runs" placeholder="Search" value=${search} onInput=${(e) => setSearch(e.currentTarget.value)} />
      <div class="segmented" role="group" aria-label="Show">${["all", ...states].map((one) => html`<button aria-pressed=${state === one ? "true" : "false"} onClick=${() => setState(one)}>${one}</button>`)}</div></div>
    <div class="panel"><table class="wide"><thead><tr><th scope="col"><span class="hidden">Compare</span></th><th scope="col">Name</th><th scope="col">Mode</th><th scope="col">State</th><th scope="col">Progress</th><th scope="col">Begun</th></tr></thead>
      <tbody>${shown.map((run) => html`<tr key=${run.id}>
        <td style=${{ width: "2rem", flex: "0 0 auto" }}><input type="checkbox" aria-label=${`Compare ${run.name}`} checked=${picked.includes(run.id)} onChange=${() => pick(run.id)} /></td>
        <td><a href=${`#/runs/${run.id}`}><b>${run.name}</b></a>${run.members > 1 && html` <span class="badge">${run.members} LoRAs</span>`}<div class="small soft">${[run.dataset?.name, otherOwner(run)].filter(Boolean).join(" · ")}</div></td>
        <td>${titleOf(run.mode)}</td><td><${State} state=${run.state} /></td>
        <td style=${{ minWidth: "9rem" }}>${run.state === "running" ? html`<div class="small soft">${run.progress.phase}</div><${Progress} step=${run.progress.step} steps=${run.progress.steps} label=${`Progress of ${run.name}`} />`
          : run.state === "finished" ? html`<span class="small soft">in ${duration(run.seconds)}</span>` : html`<span class="small soft">${(run.error ?? "").slice(0, 90)}</span>`}</td>
        <td class="small soft">${ago(run.created)}</td></tr>`)}</tbody></table>${shown.length === 0 && html`<p class="soft">Nothing matches.</p>`}</div>`}
  </div>`;
}
